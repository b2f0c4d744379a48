"""Opening the target, and saying why that failed."""

from __future__ import annotations

import errno
import socket

import trio

from .._descriptors import is_reserved
from .._shortage import OUT_OF_DESCRIPTORS, Shortage, shortage_of
from ..failure import causes
from ..protocol.reasons import Reason
from ..security import HostPort
from ..streams.connecting import open_tcp
from ..streams.sockets import abort_stream, tune_socket

#: To resolve and connect (seconds). Outlasts two lost SYN packets; below what database drivers allow themselves.
DIAL_SECONDS = 10.0

_BY_ERRNO = {
    errno.ECONNREFUSED: Reason.TARGET_REFUSED,
    errno.ECONNRESET: Reason.TARGET_REFUSED,
    errno.ETIMEDOUT: Reason.TARGET_TIMEOUT,
}
_NAME_NOT_FOUND = {
    getattr(socket, name) for name in ("EAI_NONAME", "EAI_NODATA", "EAI_ADDRFAMILY") if hasattr(socket, name)
}


class TargetError(Exception):
    """The target could not be opened. Text and `reason` go to the client, `remedy` to the operator."""

    def __init__(self, message: str, reason: Reason, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.remedy = remedy


async def open_target(target: HostPort, *, seconds: float = DIAL_SECONDS) -> trio.SocketStream:
    """Connect to the target; its name is resolved on every call.

    Raises:
        TargetError: with one of the TARGET reasons, or `Reason.OUT_OF_RESOURCES` where this machine is at fault. The
            text names no address, since it goes to the client.
    """
    with trio.move_on_after(seconds):
        try:
            stream = await open_tcp(target.host, target.port, keep_reset=True)
        except OSError as exc:
            raise _target_error(exc) from exc
        if is_reserved(stream.socket.fileno()):
            await abort_stream(stream)
            raise _out_of(OUT_OF_DESCRIPTORS)
        tune_socket(stream.socket, user_timeout=False)  # a target may pause for as long as it likes
        return stream
    raise TargetError(f"the target did not answer within {seconds:g} s", Reason.TARGET_TIMEOUT)


def _target_error(exc: OSError) -> TargetError:
    """What to say about the failures of all addresses that were tried."""
    # `open_tcp` raises one error for all addresses, whose cause has the error of each.
    failed = [cause for cause in causes(exc) if isinstance(cause, OSError)]
    for cause in failed:
        if (shortage := shortage_of(cause)) is not None:
            return _out_of(shortage)
    # A refusal says that the host is there, which is more useful to know than that its other address has no route.
    reason = max(map(_reason, failed), key=lambda one: one.specificity, default=Reason.TARGET_UNREACHABLE)
    return TargetError(reason.describe, reason)


def _out_of(shortage: Shortage) -> TargetError:
    return TargetError(f"the connector {shortage.text}", Reason.OUT_OF_RESOURCES, remedy=shortage.remedy)


def _reason(cause: OSError) -> Reason:
    if isinstance(cause, socket.gaierror):
        known = cause.errno in _NAME_NOT_FOUND
        return Reason.TARGET_NAME_NOT_FOUND if known else Reason.TARGET_NAME_SERVICE_FAILED
    return _BY_ERRNO.get(cause.errno or 0, Reason.TARGET_UNREACHABLE)
