"""Raises the limit on open descriptors, because ten thousand streams need at least as many in each process."""

from __future__ import annotations

import contextlib

#: The descriptors for ten thousand streams: two for each, because some programs hold both ends, and a connector gives
#: a single application half of its descriptors. Further ones to spare.
WANTED = 24_000


def raise_descriptor_limit() -> int:
    """Raise the limit of this process, and of those that it starts, as far as needed and allowed.

    Returns:
        The new limit.
    """
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return WANTED
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < WANTED:
        with contextlib.suppress(ValueError, OSError):  # only root may
            resource.setrlimit(resource.RLIMIT_NOFILE, (WANTED, WANTED))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = WANTED if hard == resource.RLIM_INFINITY else min(hard, WANTED)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return WANTED if soft == resource.RLIM_INFINITY else soft
