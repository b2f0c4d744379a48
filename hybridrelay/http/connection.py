"""Serving one connection: requests, one after the other.

Theory of operation. One task reads a request (`head`), calls its handler, sends the response (`exchange`), and begins
again. Requests that a client sends ahead (pipelining) stay in the socket, except for one read's worth
of them. The only other task notices that a client leaves, and it lives inside the request that asked for it
(`Route.until_client_leaves`).

Every wait has a deadline: `Limits` says which. A write that misses its deadline aborts the connection, and so does
everything that ends a response in the middle: the client must not take a part for the whole. Aborting waits for
nothing, so a client that does not read delays neither a cancellation nor the end of the server.
"""

from __future__ import annotations

import attrs
import h11
import trio

from .body import ClientGone
from .exchange import Exchange, Sender
from .failure import Failure, RequestError
from .head import Head, HeadReader
from .request import Request
from .service import Access, Service
from .stopping import Stop
from .wire import Wire

__all__ = ["Upgraded", "refuse_connection", "serve_connection"]


#: For connections whose server ends only by cancellation.
_NEVER = Stop()


@attrs.frozen(eq=False)
class Upgraded:
    """A connection that another protocol has taken over. The stream belongs to whoever receives this."""

    request: Request
    stream: trio.abc.Stream
    #: What was received after the request: the first bytes of the other protocol.
    received: bytes = attrs.field(repr=False)


async def serve_connection(
    stream: trio.abc.Stream, service: Service, *, stop: Stop | None = None, peer: object = None
) -> Upgraded | None:
    """Serve requests on one connection until it ends or is upgraded.

    Args:
        stream: the connection; of TLS, one that has made its handshake or makes it by itself. Unless it is upgraded,
            it is closed at the end in any case.
        service: what is served.
        stop: ends the connection: at once while it waits for a request, otherwise after the response.
        peer: handed to handlers as `Request.peer`.

    Returns:
        None, or the connection if a handler returned `SwitchProtocols`; its stream was not closed then.

    Raises:
        RequestError: what came was no request that could be parsed, or did not come in time; it has been answered.
        ClientGone: the client left before its first request or within one, or did not read the response.
        Exception: what `Service.on_crash` raised.

    Cancelled, it closes the connection without waiting for anything; a response that is under way is cut off with a
    reset.
    """
    wire = Wire(stream, service.limits)
    request: Request | None = None
    try:
        request = await _serve(wire, service, stop or _NEVER, peer)
        if request is None:
            await wire.linger()
    except RequestError:
        await wire.linger()
        raise
    finally:
        if request is None:
            await wire.close()
    return None if request is None else Upgraded(request, stream, wire.take_ahead())


async def refuse_connection(stream: trio.abc.Stream, service: Service, failure: Failure) -> None:
    """Answer a connection with `failure` without reading a request, and close it.

    Takes no longer than `Limits.write_seconds` and `Limits.linger_seconds`. A client that is gone is no error.
    """
    wire = Wire(stream, service.limits)
    try:
        await Sender(wire, h11.Connection(h11.SERVER), service, is_head=False).send(failure, close=True)
        await wire.linger()
    except ClientGone:
        pass
    finally:
        await wire.close()


async def _serve(wire: Wire, service: Service, stop: Stop, peer: object) -> Request | None:
    """Serve requests until the connection ends, or is upgraded by the request that is returned."""
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
            return None


async def _read_head(wire: Wire, service: Service, stop: Stop, reader: HeadReader, *, is_first: bool) -> Head | None:
    """The head of the next request, or None where the connection ends in good order.

    Raises:
        RequestError: it is malformed, or did not come in time.
        ClientGone: there was no first request, or the client left within a head.
    """
    limits = service.limits
    # What is there already needs no deadline, which would be a fourth of the price of a small request.
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
        raise wire.lose("no request came")
    return None


def _take(wire: Wire, reader: HeadReader) -> Head:
    head, rest = reader.take()
    wire.unreceive(rest)
    return head


async def _send_failure(wire: Wire, service: Service, reader: HeadReader, failure: Failure, peer: object) -> None:
    sender = Sender(wire, reader.connection, service, is_head=reader.is_head_request)
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
