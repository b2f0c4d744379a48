"""Which failures may pass while somebody waits for a session, and how many may wait. Pure, except for one limit read
from the operating system."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from ..connectivity.dialing import FailureKind
from ..connectivity.report import NoRouteWorks
from ..errors import HybridRelayError, RelayIdentityError
from ..protocol.reasons import Reason

#: How long a new stream waits for a session by default (seconds). Outlasts the restart of a relay or of a connector;
#: database drivers give up after 15 to 60 s.
OPEN_PATIENCE = 10.0
#: Streams that may wait for a session at the same time. Each that comes from an application's connection holds a
#: descriptor.
MAX_WAITING = 1024
#: Descriptors that waiting connections leave free: the session they wait for needs some, and so does everything else.
_RESERVED_DESCRIPTORS = 64

#: For every reason with which opening a session can fail: whether it may be gone a few seconds later without anybody
#: doing anything about it. `may_pass` reads it; a test makes sure that no reason is missing.
MAY_PASS: Mapping[Reason, bool] = {
    Reason.NO_ERROR: False,
    # What the target or the connector's policy said about one stream is an answer, and is passed on at once.
    Reason.TARGET_REFUSED: False,
    Reason.TARGET_UNREACHABLE: False,
    Reason.TARGET_NAME_NOT_FOUND: False,
    Reason.TARGET_TIMEOUT: False,
    Reason.TARGET_RESET: False,
    Reason.DENIED_BY_POLICY: False,
    Reason.TARGET_NAME_SERVICE_FAILED: False,
    Reason.OUT_OF_RESOURCES: False,
    # Somebody is restarting, overloaded, or out of reach.
    Reason.LIMIT: True,
    Reason.CANCELLED: True,
    Reason.SESSION_LOST: True,
    Reason.GOING_AWAY: True,
    Reason.INTERNAL_ERROR: True,
    Reason.PROTOCOL_ERROR: True,
    Reason.PEER_SILENT: True,
    Reason.SESSION_UNKNOWN: True,
    Reason.SUPERSEDED: True,
    Reason.TLS_FAILED: True,
    # A clock is wrong. Clocks are often set a moment after a machine has started.
    Reason.TOKEN_EXPIRED: True,
    # Somebody has to change a version, an identity, a key, or a port.
    Reason.KIND_NOT_OFFERED: False,
    Reason.METADATA_NOT_UNDERSTOOD: False,
    Reason.VERSION_MISMATCH: False,
    Reason.IDENTITY_SHUT_OUT: False,
    Reason.IDENTITY_WRONG_ROLE: False,
    Reason.IDENTITY_WRONG_CONNECTION: False,
    Reason.IDENTITY_EXPIRED: False,
    Reason.IDENTITY_WRONG_AUTHORITY: False,
    Reason.IDENTITY_CHANGED: False,
    Reason.TOKEN_MALFORMED: False,
    Reason.WRONG_KEY: False,
    Reason.UNKNOWN_RULE: False,
    Reason.RIGHT_MISSING: False,
    Reason.UNKNOWN_CONNECTION: False,
    Reason.WRONG_AUDIENCE: False,
    Reason.KEY_REVOKED: False,
    Reason.WRONG_PORT: False,
    # The connector or the relay is not there now, or is busy.
    Reason.NO_LISTENER: True,
    Reason.LISTENER_ABSENT: True,
    Reason.LISTENER_GONE: True,
    Reason.LISTENER_SILENT: True,
    Reason.TICKET_UNKNOWN: True,
    # Several relays have one name: the next data channel may come to the right one.
    Reason.TICKET_OF_ANOTHER_RELAY: True,
    Reason.PEER_ABSENT: True,
    Reason.LISTENER_CANNOT_DIAL: True,
    Reason.LISTENER_DECLINED: True,
    Reason.BUSY: True,
}


def may_pass(error: HybridRelayError) -> bool:
    """Whether waiting and trying again may help a stream for which no session could be opened."""
    # Something answers in the relay's place, or the pin is wrong: that is for a person to look at.
    if isinstance(error, NoRouteWorks):
        failures = (attempt.failure for attempt in error.report.failures)
        if any(failure is not None and failure.kind is FailureKind.WRONG_IDENTITY for failure in failures):
            return False
    return not isinstance(error, RelayIdentityError) and MAY_PASS[error.reason]


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
