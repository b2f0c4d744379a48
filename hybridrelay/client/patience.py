"""Which failures may pass while somebody waits for a session, and how many may wait. Pure, except for one limit read
from the operating system."""

from __future__ import annotations

import sys

from ..errors import HybridRelayError, RelayIdentityError, RelayUnreachable
from ..failure import FailureKind
from ..protocol.reasons import Duration

#: Streams that may wait for a session at the same time. Each that comes from an application's connection holds a
#: descriptor.
MAX_WAITING = 1024
#: Descriptors that waiting connections leave free: the session they wait for needs some, and so does everything else.
_RESERVED_DESCRIPTORS = 64


def may_pass(error: HybridRelayError) -> bool:
    """Whether waiting and trying again may help a stream for which no session could be opened."""
    # Something answers in the relay's place, or the pin is wrong: a person has to look at that.
    failure = error.failure if isinstance(error, RelayUnreachable) else None
    if isinstance(error, RelayIdentityError) or (failure is not None and failure.kind is FailureKind.WRONG_IDENTITY):
        return False
    return error.reason.duration is Duration.PASSING


def check_patience(seconds: float) -> float:
    """`seconds`, if that can be a time to wait.

    Raises:
        ValueError: it is negative or not a number.
    """
    if not seconds >= 0:  # also true of nan
        raise ValueError("open_patience is a number of seconds, 0 or more")
    return seconds


def max_waiting() -> int:
    """How many streams may wait now: `MAX_WAITING`, or fewer where this process may open few descriptors."""
    if sys.platform == "win32":
        return MAX_WAITING
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MAX_WAITING
    return max(1, min(MAX_WAITING, (soft - _RESERVED_DESCRIPTORS) // 2))
