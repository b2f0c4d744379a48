"""Opening the target, and saying why that failed."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

import trio

from ..protocol.reasons import Reason
from ..security import HostPort
from ..streams.connecting import open_tcp
from ..streams.sockets import tune_socket

#: To resolve and connect (seconds). Outlasts two lost SYN packets; below what database drivers allow themselves.
DIAL_SECONDS = 10.0

_BY_ERRNO = {
    errno.ECONNREFUSED: Reason.TARGET_REFUSED,
    errno.ECONNRESET: Reason.TARGET_REFUSED,
    errno.ETIMEDOUT: Reason.TARGET_TIMEOUT,
}


class TargetError(Exception):
    """The target could not be opened; `reason` goes to the client."""

    def __init__(self, message: str, reason: Reason) -> None:
        super().__init__(message)
        self.reason = reason


async def open_target(target: HostPort, *, seconds: float = DIAL_SECONDS) -> trio.SocketStream:
    """Connect to the target; its name is resolved on every call.

    Raises:
        TargetError: with one of the TARGET reasons. The text names no address, since it goes to the client.
    """
    with trio.move_on_after(seconds):
        try:
            stream = await open_tcp(target.host, target.port, keep_reset=True)
        except OSError as exc:
            reason = _reason(exc)
            raise TargetError(reason.describe, reason) from exc
        tune_socket(stream.socket, user_timeout=False)  # a target may pause for as long as it likes
        return stream
    raise TargetError(f"the target did not answer within {seconds:g} s", Reason.TARGET_TIMEOUT)


def _reason(exc: OSError) -> Reason:
    """The most telling reason among those of all addresses that were tried."""
    reasons = [
        Reason.TARGET_NAME_NOT_FOUND
        if isinstance(cause, socket.gaierror)
        else _BY_ERRNO.get(cause.errno or 0, Reason.TARGET_UNREACHABLE)
        for cause in _causes(exc)
    ]
    # Refused means that the host is there: more useful to know than that its other address is not.
    return min(reasons, default=Reason.TARGET_UNREACHABLE)


def _causes(exc: BaseException) -> Iterator[OSError]:
    if isinstance(exc, BaseExceptionGroup):
        for inner in exc.exceptions:
            yield from _causes(inner)
    elif isinstance(exc, OSError):
        nested = list(_causes(exc.__cause__)) if exc.__cause__ is not None else []
        # `open_tcp` wraps the failures of all addresses in one OSError without errno.
        if nested and exc.errno is None:
            yield from nested
        else:
            yield exc
