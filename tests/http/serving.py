"""A service over every kind of connection, and clients for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from typing import TypedDict, TypeVar, Unpack

import attrs
import h11
import trio

from hybridrelay.http import (
    Access,
    ClientGone,
    Failure,
    Handler,
    Limits,
    RenderFailure,
    Request,
    RequestError,
    Response,
    Route,
    Router,
    Send,
    Service,
    Stop,
    StreamedResponse,
    SwitchProtocols,
    Upgraded,
    plain_text,
    serve_connection,
)


async def hello(request: Request) -> Response:
    return Response(200, b"hello\n", (("Content-Type", "text/plain"),))


async def echo(request: Request) -> Response:
    return Response(200, await request.body.read())


async def name(request: Request) -> Response:
    return Response(200, request.param("name").encode())


async def streamed(request: Request) -> StreamedResponse:
    async def write(send: Send) -> None:
        for piece in (b"one ", b"", b"two ", b"three"):
            await send(piece)

    return StreamedResponse(200, write)


async def known_length(request: Request) -> StreamedResponse:
    async def write(send: Send) -> None:
        await send(b"four")

    return StreamedResponse(200, write, length=4)


async def echo_streamed(request: Request) -> StreamedResponse:
    async def write(send: Send) -> None:
        async for piece in request.body:
            await send(piece)

    return StreamedResponse(200, write)


async def nothing(request: Request) -> Response:
    return Response(204)


async def crash(request: Request) -> Response:
    raise KeyError("a secret of the peer")


async def crash_late(request: Request) -> StreamedResponse:
    async def write(send: Send) -> None:
        await send(b"half")
        raise KeyError("a secret of the peer")

    return StreamedResponse(200, write)


async def refuse(request: Request) -> Response:
    raise RequestError(Failure(409, "not now", members={"code": "busy"}))


async def upgrade(request: Request) -> SwitchProtocols | Failure:
    if "other" not in request.headers.tokens("upgrade"):
        return Failure(426, "upgrade to other", (("Upgrade", "other"),))
    return SwitchProtocols((("Upgrade", "other"),))


async def endless(request: Request) -> StreamedResponse:
    """An event stream that ends normally when the server stops."""

    async def write(send: Send) -> None:
        await send(b"first\n")
        await request.stop.wait()
        await send(b"last\n")

    return StreamedResponse(200, write, (("Content-Type", "text/event-stream"),))


async def flood(request: Request) -> StreamedResponse:
    async def write(send: Send) -> None:
        while True:
            await send(bytes(64 * 1024))

    return StreamedResponse(200, write)


ROUTES: Sequence[Route[Handler]] = (
    Route("GET", "/", hello),
    Route("POST", "/echo", echo),
    Route("POST", "/small", echo, max_body_bytes=10),
    Route("POST", "/ignore", hello),
    Route("GET", "/names/{name}", name),
    Route("GET", "/streamed", streamed),
    Route("GET", "/known", known_length),
    Route("POST", "/echo-streamed", echo_streamed),
    Route("GET", "/nothing", nothing),
    Route("GET", "/crash", crash),
    Route("GET", "/crash-late", crash_late),
    Route("GET", "/refuse", refuse),
    Route("GET", "/upgrade", upgrade),
    Route("GET", "/endless", endless),
    Route("GET", "/events", endless, until_client_leaves=True),
    Route("GET", "/flood", flood),
)


class Changes(TypedDict, total=False):
    """What differs from the service of most tests."""

    routes: Sequence[Route[Handler]]
    hosts: Collection[str]
    render_failure: RenderFailure


@attrs.define
class Observed:
    """What a service reported about what it served."""

    accesses: list[Access] = attrs.field(factory=list)
    crashes: list[Exception] = attrs.field(factory=list)
    #: How `serve_connection` ended.
    ended: BaseException | Upgraded | None = None


def make_service(
    observed: Observed | None = None, limits: Limits | None = None, **changes: Unpack[Changes]
) -> Service:
    observed = observed or Observed()
    return Service(
        router=Router(changes.get("routes", ROUTES)),
        hosts=changes.get("hosts"),
        render_failure=changes.get("render_failure", plain_text),
        limits=limits or Limits(),
        on_access=observed.accesses.append,
        on_crash=observed.crashes.append,
        clock=lambda: 0.0,
    )


async def run_connection(stream: trio.abc.Stream, service: Service, observed: Observed, stop: Stop | None) -> None:
    try:
        observed.ended = await serve_connection(stream, service, stop=stop, peer="somebody")
    except (RequestError, ClientGone) as exc:
        observed.ended = exc


S = TypeVar("S", bound=trio.abc.Stream)


@asynccontextmanager
async def served(
    pair: tuple[S, trio.abc.Stream],
    limits: Limits | None = None,
    *,
    stop: Stop | None = None,
    **changes: Unpack[Changes],
) -> AsyncIterator[tuple[S, Observed]]:
    """A client's stream whose other end is served. At the end the server has to end by itself."""
    observed = Observed()
    client, server = pair
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_connection, server, make_service(observed, limits, **changes), observed, stop)
        try:
            yield client, observed
        finally:
            await trio.aclose_forcefully(client)


@attrs.frozen
class Answer:
    """A response as h11's client understands it."""

    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """h11's client: the other core."""

    def __init__(
        self,
        stream: trio.abc.Stream,
        *,
        host: str = "x",
        cut: Callable[[bytes], list[bytes]] = lambda data: [data],
    ) -> None:
        self.stream = stream
        self._host = host
        self.connection = h11.Connection(h11.CLIENT)
        self._cut = cut
        self.informational: list[int] = []

    async def send(self, event: h11.Event) -> None:
        for piece in self._cut(self.connection.send(event) or b""):
            await self.stream.send_all(piece)

    async def request(self, method: str, target: str, body: bytes | list[bytes] = b"", **headers: str) -> Answer:
        fields = [
            ("Host", headers.pop("Host", self._host)),
            *((key.replace("_", "-"), value) for key, value in headers.items()),
        ]
        if isinstance(body, list):
            fields.append(("Transfer-Encoding", "chunked"))
        elif body:
            fields.append(("Content-Length", str(len(body))))
        await self.send(h11.Request(method=method, target=target, headers=fields))
        for piece in body if isinstance(body, list) else [body]:
            await self.send(h11.Data(data=piece))
        await self.send(h11.EndOfMessage())
        return await self.answer()

    async def next_event(self) -> h11.Event:
        while (event := self.connection.next_event()) is h11.NEED_DATA:
            self.connection.receive_data(bytes(await self.stream.receive_some(65536)))
        assert isinstance(event, h11.Event)
        return event

    async def answer(self) -> Answer:
        while isinstance(event := await self.next_event(), h11.InformationalResponse):
            self.informational.append(event.status_code)
        assert isinstance(event, h11.Response), event
        body = bytearray()
        while isinstance(data := await self.next_event(), h11.Data):
            body += data.data
        assert isinstance(data, h11.EndOfMessage), data
        if self.connection.our_state is h11.DONE and self.connection.their_state is h11.DONE:
            self.connection.start_next_cycle()
        fields = {key.decode(): value.decode() for key, value in event.headers}
        return Answer(event.status_code, fields, bytes(body))
