"""Serving one request: calling its handler and sending the response."""

from __future__ import annotations

import email.utils

import h11
import trio

from .._exception_groups import leaves
from .body import Body, ClientGone, too_large
from .encoding import ResponseEncoder, encode_switch
from .failure import Failure, RequestError
from .head import Head
from .persistence import Next, announce, conclude
from .request import Handler, Reply, Request
from .response import Response, StreamedResponse, SwitchProtocols, has_no_body, text_response
from .router import Allowed, Match
from .service import Access, Service
from .stopping import Stop
from .wire import Wire

__all__ = ["Exchange", "ResponseSender"]


class ResponseSender:
    """Sends one response.

    Args:
        wire: the connection.
        connection: h11's state after it has parsed the request, or as much of it as could be parsed.
        service: renders failures, and has the clock.
        is_head: whether the method is HEAD, so that the body is left out.
    """

    def __init__(self, wire: Wire, connection: h11.Connection, service: Service, *, is_head: bool) -> None:
        self._wire = wire
        self._service = service
        self._is_head = is_head
        self._encoder = ResponseEncoder(connection)
        self._sent_before = wire.sent_bytes
        #: The status of the response; None until its head is sent.
        self.status: int | None = None

    @property
    def sent_bytes(self) -> int:
        """The size of the response so far (bytes)."""
        return self._wire.sent_bytes - self._sent_before

    async def send_continue(self) -> None:
        """Send "100 Continue", unless the head of the response was already sent. Raises ClientGone."""
        if self.status is None:
            await self._wire.send(self._encoder.encode_continue())
            self._wire.is_unfinished = False

    async def send_switch(self, reply: SwitchProtocols) -> None:
        """Send 101. Raises ClientGone, ValueError."""
        data = encode_switch(reply.headers)
        self.status = 101
        await self._wire.send(data)
        self._wire.is_unfinished = False

    async def send(self, reply: Response | StreamedResponse | Failure, *, close: bool) -> None:
        """Send a response with its body.

        Raises:
            ClientGone: see `Wire.send`.
            h11.LocalProtocolError: a header field is malformed, or a body does not have the announced length.
            Exception: what `StreamedResponse.write` raises.
        """
        if isinstance(reply, Failure):
            reply = self._service.render_failure(reply)
        encoder = self._encoder
        length = len(reply.body) if isinstance(reply, Response) else reply.length
        headers = (("Date", email.utils.formatdate(self._service.clock(), usegmt=True)), *reply.headers)
        data = encoder.encode_head(reply.status, headers, length=length, close=close)
        self.status = reply.status
        self._wire.is_unfinished = True
        without_body = self._is_head or has_no_body(reply.status)
        if isinstance(reply, Response):
            body = b"" if without_body or not reply.body else encoder.encode_data(reply.body)
            await self._wire.send(data, body)
        else:
            await self._wire.send(data)
            if not without_body:
                await reply.write(self._send_piece)
        await self._wire.send(encoder.encode_end())
        self._wire.is_unfinished = False

    async def _send_piece(self, data: bytes) -> None:
        if data:
            await self._wire.send(self._encoder.encode_data(data))
        # A client that reads as fast as the handler sends must not starve other tasks.
        await trio.lowlevel.checkpoint()


class _Source:
    """The `BodySource` of a request."""

    def __init__(self, wire: Wire, sender: ResponseSender) -> None:
        self.receive = wire.receive
        self.unreceive = wire.unreceive
        self.has_received = wire.has_received
        self.send_continue = sender.send_continue


class Exchange:
    """Serves one request.

    Args:
        wire, service, stop, peer: those of the connection.
        head: the head of the request.
        connection: h11's state after it has parsed the head.
        served: the number of requests on this connection so far, including this one.
    """

    def __init__(
        self,
        wire: Wire,
        service: Service,
        stop: Stop,
        peer: object,
        head: Head,
        connection: h11.Connection,
        *,
        served: int,
    ) -> None:
        self._wire = wire
        self._service = service
        self._stop = stop
        self._peer = peer
        self._head = head
        self._served = served
        self._sender = ResponseSender(wire, connection, service, is_head=head.method == "HEAD")
        resolved = self._resolve()
        self._resolved = resolved
        limit = resolved.route.max_body_bytes if isinstance(resolved, Match) else None
        self._max_body_bytes = service.limits.max_body_bytes if limit is None else limit
        self._body = Body(
            _Source(wire, self._sender),
            head.framing,
            service.limits,
            max_bytes=self._max_body_bytes,
            expects_continue=head.expects_continue,
        )
        self._next = Next.CLOSE

    def _resolve(self) -> Match[Handler] | Allowed | Failure:
        hosts, authority = self._service.hosts, self._head.authority
        if hosts is not None and (authority is None or authority.host not in hosts):
            return Failure(421, "this server has a different name")
        return self._service.router.resolve(self._head.method, self._head.target)

    async def run(self) -> Request | None:
        """Call the handler and send its response.

        Returns:
            The request if it has upgraded the connection, else None; see `may_go_on`.

        Raises:
            ClientGone: the connection is lost, or the client does not read.
            Exception: what `Service.on_crash` raised.
        """
        began = trio.current_time()
        try:
            return await self._run()
        except Exception as exc:  # noqa: BLE001  # handlers may raise anything; `_fail` distinguishes
            await self._fail(exc)
            return None
        finally:
            self._report(began)

    async def may_go_on(self) -> bool:
        """Drop the rest of the body and return whether the next request can be read. Raises ClientGone."""
        if self._wire.is_unfinished:
            return False
        match conclude(self._next, self._body.state, is_stopping=self._stop.is_set()):
            case Next.CLOSE:
                return False
            case Next.DRAIN:
                return await self._body.drain()
            case Next.KEEP:
                return True

    async def _run(self) -> Request | None:
        resolved, length = self._resolved, self._head.framing.length
        if length is not None and length > self._max_body_bytes:
            raise too_large()
        if not isinstance(resolved, Match) and self._service.limits.unrouted_seconds:
            await trio.sleep(self._service.limits.unrouted_seconds)
        if isinstance(resolved, Failure):
            await self._send(resolved)
        elif isinstance(resolved, Allowed):
            await self._send(Response(204, headers=(("Allow", ", ".join(resolved.methods)),)))
        elif resolved.route.until_client_leaves and self._body.state.is_complete:
            return await self._serve_watched(resolved)
        else:
            return await self._serve(resolved)
        return None

    async def _serve_watched(self, match: Match[Handler]) -> Request | None:
        why = ""
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                nonlocal why
                why = await self._wire.wait_left()
                nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            upgraded = await self._serve(match)
            nursery.cancel_scope.cancel()
        if self._sender.status is None or self._wire.is_unfinished:
            raise self._wire.lose(why)
        return upgraded

    async def _serve(self, match: Match[Handler]) -> Request | None:
        head = self._head
        request = Request(
            method=head.method,
            path=head.target.path,
            query=head.target.query,
            is_http11=head.is_http11,
            headers=head.headers,
            authority=head.authority,
            params=match.params,
            body=self._body,
            peer=self._peer,
            stop=self._stop,
        )
        reply: Reply = await match.route.handler(request)
        if isinstance(reply, SwitchProtocols):
            if head.method != "GET" or not head.framing.is_empty or not head.headers.all("upgrade"):
                raise ValueError("SwitchProtocols is for GET requests that have an Upgrade field and no body")
            await self._sender.send_switch(reply)
            return request
        await self._send(reply)
        return None

    async def _send(self, reply: Response | StreamedResponse | Failure) -> None:
        self._next = announce(
            self._head,
            self._body.state,
            self._service.limits,
            wants_close=reply.close,
            is_stopping=self._stop.is_set(),
            served=self._served,
        )
        await self._sender.send(reply, close=self._next is Next.CLOSE)

    async def _fail(self, exc: Exception) -> None:
        """Handle an exception that was raised before or during the response."""
        causes = leaves(exc)
        refusals = [cause for cause in causes if isinstance(cause, RequestError)]
        departures = [cause for cause in causes if isinstance(cause, ClientGone)]
        if len(refusals) + len(departures) < len(causes):
            await self._crash(exc)
        elif departures:
            raise departures[0]
        elif self._sender.status is None:
            try:
                await self._send(refusals[0].failure)
            except ClientGone:
                raise
            except Exception as broken:  # noqa: BLE001  # the failure itself is malformed
                await self._crash(broken)
        # Otherwise the head was already sent, and closing the wire aborts the response.

    async def _crash(self, exc: Exception) -> None:
        self._next = Next.CLOSE
        if self._sender.status is None:
            # Start again with a new h11 state, because h11 accepts nothing more after it has refused a malformed
            # response.
            is_head = self._head.method == "HEAD"
            self._sender = ResponseSender(
                self._wire, unparsed_request(self._head.method), self._service, is_head=is_head
            )
            try:
                await self._sender.send(
                    text_response(500, "this request failed; the server's log says why"), close=True
                )
            except ClientGone:
                pass
            except BaseException:
                self._service.on_crash(exc)
                raise
        self._service.on_crash(exc)

    def _report(self, began: float) -> None:
        if self._service.on_access is not None:
            pattern = self._resolved.route.pattern if isinstance(self._resolved, Match) else None
            self._service.on_access(
                Access(
                    method=self._head.method,
                    path=self._head.target.path,
                    pattern=pattern,
                    peer=self._peer,
                    status=self._sender.status,
                    is_complete=self._sender.status is not None and not self._wire.is_unfinished,
                    received_bytes=self._body.received_bytes,
                    sent_bytes=self._sender.sent_bytes,
                    seconds=trio.current_time() - began,
                )
            )


def unparsed_request(method: str) -> h11.Connection:
    """Return h11's state after an HTTP/1.0 request: HEAD if this is the method, otherwise GET. This is sufficient to
    encode a response."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(b"HEAD / HTTP/1.0\r\n\r\n" if method == "HEAD" else b"GET / HTTP/1.0\r\n\r\n")
    connection.next_event()
    return connection
