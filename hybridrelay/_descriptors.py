"""How many descriptors this process may have open, and how many of them it keeps for itself.

The programs raise the limit when they start (`raise_descriptor_limit`). Library calls change nothing about the
process that they run in: they read the limit, and stay below it.
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

#: Descriptors that no accepted connection and no target may take. A program needs some to reconnect to its relay, to
#: resolve names and to reload files; without them it would lose all its connections when it is full.
_RESERVED = 64


def descriptor_limit() -> int | None:
    """The limit that is in force now, or None where there is none or it is unknown (Windows)."""
    if sys.platform == "win32":
        return None
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def reserved_descriptors(limit: int) -> int:
    """How many descriptors of `limit` are kept for the program itself: a fourth of them, but no more than 64."""
    return min(_RESERVED, limit // 4)


def is_reserved(descriptor: int) -> bool:
    """Whether a descriptor that was just opened is one of those that are kept for the program itself.

    The system always gives the lowest number that is free: a number near the limit says that all below it are taken.
    """
    limit = descriptor_limit()
    return limit is not None and descriptor >= limit - reserved_descriptors(limit)


def missing_descriptors(count: int) -> OSError | None:
    """The system's error if this process cannot open `count` files at this moment, else None."""
    with contextlib.ExitStack() as opened:
        try:
            for _ in range(count):
                opened.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        except OSError as exc:
            return exc if is_descriptor_shortage(exc) else None
    return None


def is_descriptor_shortage(error: OSError) -> bool:
    """Whether an error says that this process, or the system, cannot open another file."""
    return error.errno in (errno.EMFILE, errno.ENFILE)


def raise_descriptor_limit() -> int | None:
    """Raise this process's limit of open descriptors as far as it may go without privileges.

    Every connection takes a descriptor; in the relay a joined pair takes two and, while bytes stall in it, four more.
    The usual soft limit of 1024 exists for the sake of programs that call `select`, which Trio never does.

    Returns:
        The limit now in force, or None where the platform has none that can be asked for.
    """
    if sys.platform == "win32":
        return None
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # macOS reports an infinite hard limit and refuses it as a soft one; 10240 is its OPEN_MAX.
    for wanted in (hard, 10240):
        if wanted != resource.RLIM_INFINITY and (soft == resource.RLIM_INFINITY or wanted <= soft):
            break
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (ValueError, OSError):
            continue
        return wanted
    return soft
