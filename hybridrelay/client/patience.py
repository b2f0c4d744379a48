"""Which failures to wait out when a session cannot be opened, and how many callers may wait.

Pure, except that it reads the operating system's limit of descriptors.
"""

from __future__ import annotations

import sys

from ..errors import HybridRelayError, RelayIdentityError, RelayUnreachable
from ..failure import FailureKind
from ..protocol.reasons import Duration

#: How many streams may wait for a session at the same time. Each that belongs to an application's connection holds a
#: descriptor.
MAX_WAITING = 1024
#: Descriptors that waiting connections leave free, for the session that they wait for and for everything else.
_RESERVED_DESCRIPTORS = 64


def may_pass(error: HybridRelayError) -> bool:
    """Return whether another attempt to open a session may succeed after this error."""
    # Something else answers in place of the relay, or the pin is wrong: somebody has to investigate.
    failure = error.failure if isinstance(error, RelayUnreachable) else None
    if isinstance(error, RelayIdentityError) or (failure is not None and failure.kind is FailureKind.WRONG_IDENTITY):
        return False
    return error.reason.duration is Duration.PASSING


def check_patience(seconds: float) -> float:
    """Return `seconds` if it is a valid duration.

    Raises:
        ValueError: it is negative or not a number.
    """
    if not seconds >= 0:  # also true for NaN
        raise ValueError("open_patience is a number of seconds, 0 or more")
    return seconds


def max_waiting() -> int:
    """Return how many streams may wait now: `MAX_WAITING`, or fewer if this process may open only few descriptors."""
    if sys.platform == "win32":
        return MAX_WAITING
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MAX_WAITING
    return max(1, min(MAX_WAITING, (soft - _RESERVED_DESCRIPTORS) // 2))
