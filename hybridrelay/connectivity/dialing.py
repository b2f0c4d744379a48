"""Opening TCP connections and UDP sockets to a relay or a proxy."""

from __future__ import annotations

import socket

import trio

from .._shortage import socket_shortage_of
from ..abc import Dialer
from ..failure import Failure, FailureKind, Step, causes, kind_of_error
from ..streams.connecting import open_tcp, resolve_host
from ..streams.sockets import tune_socket

_NAME_NOT_FOUND = {
    getattr(socket, name) for name in ("EAI_NONAME", "EAI_NODATA", "EAI_ADDRFAMILY") if hasattr(socket, name)
}


class DialError(OSError):
    """A connection could not be opened. `failure` says why; `str()` gives its text."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.text)
        self.failure = failure.at(Step.DIAL)


class ProxyError(DialError):
    """A `Dial` through a proxy failed: the proxy was not reached, failed, or refused."""


async def dial_directly(host: str, port: int) -> trio.SocketStream:
    """Open a TCP connection, tuned for channels. This is the `Dial` that uses no proxy.

    The name is resolved on every call, since addresses may change while a program runs; several addresses are tried
    in a staggered race (RFC 8305).

    Raises:
        DialError: no connection could be opened; `failure` says why.

    The caller sets the deadline. If cancelled, nothing stays open.
    """
    try:
        stream = await open_tcp(host, port)
    except OSError as exc:
        raise DialError(dial_failure(exc)) from exc
    tune_socket(stream.socket)
    return stream


async def dial_udp_directly(host: str, port: int) -> trio.socket.SocketType:
    """Open a UDP socket that is connected to the first address of a host. This is the `DialUDP` that uses no proxy.

    Connecting sends nothing, so this does not detect an address that does not answer.

    Raises:
        DialError: the name cannot be resolved, or there is no route; `failure` says why.

    The caller sets the deadline. If cancelled, nothing stays open.
    """
    try:
        family, kind, protocol, _, address = (await resolve_host(host, port, socket.SOCK_DGRAM))[0]
        sock = trio.socket.socket(family, kind, protocol)
        try:
            await sock.connect(address)
        except BaseException:
            sock.close()
            raise
    except OSError as exc:
        raise DialError(dial_failure(exc)) from exc
    return sock


#: A dialer without a proxy and without a command.
DIRECTLY = Dialer(dial_directly, dial_udp_directly)


def command_failure(error: OSError) -> Failure:
    """Return the failure for an error of `Dialer.process`: why the command that leads to the relay could not be
    started."""
    failure = dial_failure(error)
    if isinstance(error, DialError) or failure.kind is FailureKind.OUT_OF_RESOURCES:
        return failure
    usual = Failure.of(FailureKind.COMMAND_FAILED)
    why = error.strerror or str(error) or type(error).__name__
    of_file = f" ({error.filename})" if error.filename else ""
    return usual.with_text(f"{usual.text}: {why}{of_file}")


def dial_failure(error: OSError) -> Failure:
    """Return why a connection could not be opened, or a name could not be resolved.

    Args:
        error: the exception. A `DialError` already has its failure. For any other, the errno of the exception and of
            its causes decides (`open_tcp` raises one exception for several addresses). A `Dial` of the application
            may raise exceptions without an errno; then only the text is known.
    """
    if isinstance(error, DialError):
        return error.failure
    found: list[Failure] = []
    for cause in causes(error):
        if isinstance(cause, socket.gaierror):
            known = cause.errno in _NAME_NOT_FOUND
            return Failure.of(FailureKind.NAME_NOT_FOUND if known else FailureKind.NAME_SERVICE_FAILED, Step.RESOLVE)
        if isinstance(cause, OSError) and (shortage := socket_shortage_of(cause)) is not None:
            # If this machine lacks a resource, the failures at other addresses are irrelevant.
            return Failure(FailureKind.OUT_OF_RESOURCES, f"this machine {shortage.text}", shortage.remedy)
        if (kind := kind_of_error(cause)) is not None:
            found.append(Failure.of(kind))
    if found:
        return max(found, key=lambda failure: failure.specificity)
    return Failure(FailureKind.OTHER, str(error) or type(error).__name__)
