"""The limit on this process's open descriptors, and how many of them the program keeps for its own needs.

The programs raise the limit when they start (`raise_descriptor_limit`). Library calls do not change the limits of the
process in which they run: they read the limit, and stay below it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import Final

__all__ = [
    "RAISE_LIMIT",
    "descriptor_limit",
    "is_descriptor_shortage",
    "is_reserved",
    "missing_descriptors",
    "raise_descriptor_limit",
    "reserved_descriptors",
]

#: The remedy for a process that has run out of descriptors.
RAISE_LIMIT: Final = "raise the limit of open files: ulimit -n, LimitNOFILE= in the service's unit"

#: The number of descriptors that are not used for accepted connections and targets. A program needs some to reconnect
#: to its relay, to resolve names and to reload files; without them, a program that has reached the limit would lose
#: all connections.
_RESERVED = 64


def descriptor_limit() -> int | None:
    """Return the current limit; None if there is none or it is unknown (Windows)."""
    if sys.platform == "win32":
        return None
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def reserved_descriptors(limit: int) -> int:
    """Return how many of `limit` descriptors are kept for the program itself: a quarter, but no more than 64."""
    return min(_RESERVED, limit // 4)


def is_reserved(descriptor: int) -> bool:
    """Return whether a descriptor that was just opened is one of those that are kept for the program itself.

    The system always assigns the lowest free number, so a number near the limit means that all lower ones are in use.
    """
    limit = descriptor_limit()
    return limit is not None and descriptor >= limit - reserved_descriptors(limit)


def missing_descriptors(count: int) -> OSError | None:
    """Return the system's error if this process cannot open `count` more files now; None if it can."""
    with contextlib.ExitStack() as opened:
        try:
            for _ in range(count):
                opened.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        except OSError as exc:
            return exc if is_descriptor_shortage(exc) else None
    return None


def is_descriptor_shortage(error: OSError) -> bool:
    """Return whether the error means that this process, or the system, cannot open another file."""
    return error.errno in (errno.EMFILE, errno.ENFILE)


def raise_descriptor_limit() -> int | None:
    """Raise this process's limit of open descriptors as far as is allowed without privileges.

    Every connection takes a descriptor; in the relay, a pair takes two and, while bytes wait in it, four more. The
    usual soft limit of 1024 exists only for programs that call `select`, which Trio does not use.

    Returns:
        The new limit, which is `resource.RLIM_INFINITY` if there is none; None if it is unknown (Windows).
    """
    if sys.platform == "win32":
        return None
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # macOS reports an infinite hard limit but refuses it as a soft limit. 10240 is its OPEN_MAX.
    for wanted in (hard, 10240):
        if wanted != resource.RLIM_INFINITY and (soft == resource.RLIM_INFINITY or wanted <= soft):
            break
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (ValueError, OSError):
            continue
        return wanted
    return soft
