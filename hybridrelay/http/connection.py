"""Serving one connection, request by request.

Theory of operation. One task reads a request (`head`), calls its handler, sends the response (`exchange`), and starts
over. Pipelined requests stay in the socket, except for those that the last read has returned. There is one other
task, for routes that ask for it (`Route.until_client_leaves`): during a request, it detects that the client has left.

Every wait has a deadline from `Limits`. The connection is aborted when a write misses its deadline, and whenever a
response cannot be completed, so that the client does not mistake a part for the whole. An abort does not wait, so a
client that does not read delays neither a cancellation nor a shutdown.
"""

from __future__ import annotations

import attrs
import h11
import trio

from .body import ClientGone
from .exchange import Exchange, ResponseSender, unparsed_request
from .failure import Failure, RequestError
from .head import Head, HeadReader
from .request import Request
from .service import Access, Service
from .stopping import Stop
from .wire import Wire

__all__ = ["Upgraded", "refuse_connection", "serve_connection"]


#: For callers that end connections only by cancellation.
_NEVER = Stop()


@attrs.frozen(eq=False)
class Upgraded:
    """A connection that another protocol takes over. Code that receives this object owns the stream."""

    request: Request
    stream: trio.abc.Stream
    #: Bytes that were received after the request: the first ones of the other protocol.
    received: bytes = attrs.field(repr=False)


async def serve_connection(
    stream: trio.abc.Stream, service: Service, *, stop: Stop | None = None, peer: object = None
) -> Upgraded | None:
    """Serve requests on one connection until it ends or is upgraded.

    Args:
        stream: the connection, after any TLS handshake. It is always closed, unless the connection is upgraded.
        service: routes, limits and hooks.
        stop: ends the connection, at once if it waits for a request, otherwise after the response.
        peer: passed to handlers as `Request.peer`.

    Returns:
        The connection if a handler returned `SwitchProtocols`; its stream is still open. Otherwise None.

    Raises:
        RequestError: a request could not be parsed, or did not arrive in time. It has been answered.
        ClientGone: the client left before its first request or during one, or did not read a response.
        Exception: what `Service.on_crash` raised.

    If cancelled, it closes the connection without waiting. A response that was sent in part ends with a reset.
    """
    wire = Wire(stream, service.limits)
    request: Request | None = None
    try:
        request = await _serve(wire, service, stop or _NEVER, peer)
    except RequestError:
        await wire.linger()
        raise
    finally:
        if request is None:
            await wire.close()
    return None if request is None else Upgraded(request, stream, wire.take_ahead())


async def refuse_connection(stream: trio.abc.Stream, service: Service, failure: Failure) -> None:
    """Answer a connection with `failure` without reading a request, and close it.

    This takes at most the sum of `Limits.write_seconds` and `Limits.linger_seconds`. A lost connection is not an
    error. If cancelled, it closes the connection without waiting.
    """
    wire = Wire(stream, service.limits)
    try:
        await ResponseSender(wire, h11.Connection(h11.SERVER), service, is_head=False).send(failure, close=True)
        await wire.linger()
    except ClientGone:
        pass
    finally:
        await wire.close()


async def _serve(wire: Wire, service: Service, stop: Stop, peer: object) -> Request | None:
    """Serve requests until the connection ends. If a request upgrades it, return that request, otherwise None."""
    served = 0
    while True:
        reader = HeadReader(service.limits)
        try:
            head = await _read_head(wire, service, stop, reader, is_first=served == 0)
        except RequestError as exc:
            await _send_failure(wire, service, reader, exc.failure, peer)
            raise
        if head is None:
            return None
        served += 1
        exchange = Exchange(wire, service, stop, peer, head, reader.connection, served=served)
        del reader
        request = await exchange.run()
        if request is not None:
            return request
        if not await exchange.may_go_on():
            await wire.linger()
            return None


async def _read_head(wire: Wire, service: Service, stop: Stop, reader: HeadReader, *, is_first: bool) -> Head | None:
    """Read the head of the next request; None if the connection ends between requests.

    Raises:
        RequestError: the head is malformed, or did not arrive in time.
        ClientGone: no first request arrived, or the connection ended within a head.
    """
    limits = service.limits
    # Input that has already arrived needs no deadline. Setting one would cost as much as routing the request.
    await trio.lowlevel.checkpoint()
    data = wire.receive_nowait()
    if data and reader.receive_untrusted(data):
        return _take(wire, reader)
    seconds = limits.head_seconds if is_first or data else limits.idle_seconds
    with trio.CancelScope(deadline=trio.current_time() + seconds) as scope:
        if reader.is_empty:
            stop.add_idle(scope)
        try:
            while True:
                was_empty = reader.is_empty
                data = await wire.receive()
                if not data:
                    if was_empty and not is_first:
                        return None
                    raise wire.lose("the connection ended before a request did")
                if was_empty:
                    stop.discard_idle(scope)
                    if not is_first:
                        scope.deadline = trio.current_time() + limits.head_seconds
                if reader.receive_untrusted(data):
                    return _take(wire, reader)
        finally:
            stop.discard_idle(scope)
    if not reader.is_empty:
        raise RequestError(Failure(408, "the request head took too long", close=True))
    if is_first and not stop.is_set():
        raise wire.lose("no request arrived")
    return None


def _take(wire: Wire, reader: HeadReader) -> Head:
    head, rest = reader.take()
    wire.unreceive(rest)
    return head


async def _send_failure(wire: Wire, service: Service, reader: HeadReader, failure: Failure, peer: object) -> None:
    # h11 may not have parsed the request line. It would then expect a body in the response to HEAD.
    connection = unparsed_request("HEAD") if reader.is_head_request else reader.connection
    sender = ResponseSender(wire, connection, service, is_head=reader.is_head_request)
    try:
        await sender.send(failure, close=True)
    finally:
        if service.on_access is not None:
            service.on_access(
                Access(
                    method=None,
                    path=None,
                    pattern=None,
                    peer=peer,
                    status=sender.status,
                    is_complete=not wire.is_unfinished,
                    received_bytes=0,
                    sent_bytes=sender.sent_bytes,
                    seconds=0.0,
                )
            )
