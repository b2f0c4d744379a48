"""Our server and foreign WebSocket clients, each with a codec and a handshake of its own."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio
import trio_websocket
import websockets.exceptions
import websockets.sync.client
from websockets import Subprotocol

from hybridrelay.abc import Binding, Incoming, Listener, Purpose
from hybridrelay_websocket import PATH, SUBPROTOCOL, transport

#: Gets the stream of each connection, which is closed after it.
Handler = Callable[[trio.abc.HalfCloseableStream], Awaitable[None]]


@contextlib.asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[int]:
    """A WebSocket server on loopback; yields its port. The handler gets our stream."""

    async def accept(listener: Listener) -> None:
        while True:
            nursery.start_soon(serve, await listener.accept())

    async def serve(incoming: Incoming) -> None:
        connection = await incoming.handshake()
        assert connection is not None
        async with connection.stream:
            await handler(connection.stream)

    async with await transport.listen(Binding("127.0.0.1", 0)) as listener, trio.open_nursery() as nursery:
        nursery.start_soon(accept, listener)
        yield listener.bound[0].port
        nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def foreign_client(port: int) -> AsyncIterator[trio_websocket.WebSocketConnection]:
    """trio-websocket's client on a connection that this function closes, because trio-websocket does not close it."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as connection, trio.open_nursery() as nursery:
        async with await trio_websocket.wrap_client_stream(
            nursery, connection, "127.0.0.1", PATH, subprotocols=[SUBPROTOCOL]
        ) as ws:
            yield ws


def close_code(closed: trio_websocket.ConnectionClosed) -> int:
    assert closed.reason is not None
    return int(closed.reason.code)


async def echo(stream: trio.abc.HalfCloseableStream) -> None:
    while data := await stream.receive_some():
        await stream.send_all(data)
    await stream.send_eof()


def blocking_client(port: int, messages: list[bytes]) -> bytes:
    """Speaks blocking `websockets`, with every kind of message, and pings in between."""
    with websockets.sync.client.connect(
        f"ws://127.0.0.1:{port}{PATH}", subprotocols=[Subprotocol(SUBPROTOCOL)], max_size=None, compression="deflate"
    ) as ws:
        assert ws.subprotocol == SUBPROTOCOL
        received = bytearray()
        for message in messages:
            pong = ws.ping()
            ws.send([message[: len(message) // 2], b"", message[len(message) // 2 :]])  # in fragments
            while len(received) < sum(map(len, messages[: messages.index(message) + 1])):
                piece = ws.recv()
                assert isinstance(piece, bytes)
                received += piece
            assert pong.wait(10)
        ws.send(b"")
        assert ws.recv() == b""
        with pytest.raises(websockets.exceptions.ConnectionClosedOK):
            ws.recv()
    return bytes(received)


async def test_a_blocking_client_of_websockets_exchanges_messages() -> None:
    messages = [random.Random(size).randbytes(size) for size in (1, 126, 70_000, 1_000_000)]
    async with serving(echo) as port:
        received = await trio.to_thread.run_sync(blocking_client, port, messages, abandon_on_cancel=True)
    assert hashlib.sha256(received).digest() == hashlib.sha256(b"".join(messages)).digest()


async def test_a_client_of_trio_websocket_exchanges_messages_and_is_closed_normally() -> None:
    async with serving(echo) as port:
        async with foreign_client(port) as ws:
            await ws.send_message(b"hello")
            assert await ws.get_message() == b"hello"
            await ws.ping(b"are you there")
            await ws.send_message(b"")
            assert await ws.get_message() == b""
            with pytest.raises(trio_websocket.ConnectionClosed) as caught:
                await ws.get_message()
    assert close_code(caught.value) == 1000


async def test_a_text_message_is_a_violation() -> None:
    outcome = []

    async def read(stream: trio.abc.HalfCloseableStream) -> None:
        with pytest.raises(trio.BrokenResourceError, match="opcode 1") as caught:
            await stream.receive_some()
        outcome.append(caught)

    async with serving(read) as port:
        async with foreign_client(port) as ws:
            await ws.send_message("text")
            with pytest.raises(trio_websocket.ConnectionClosed) as caught:
                await ws.get_message()
    assert close_code(caught.value) == 1002
    assert outcome


async def test_a_foreign_close_is_a_break() -> None:
    broke = trio.Event()

    async def read(stream: trio.abc.HalfCloseableStream) -> None:
        assert await stream.receive_some() == b"half a"
        with pytest.raises(trio.BrokenResourceError, match="1000"):
            await stream.receive_some()
        broke.set()

    async with serving(read) as port:
        async with foreign_client(port) as ws:
            await ws.send_message(b"half a")
        await broke.wait()


def test_all_purposes_share_a_port() -> None:
    assert all(route.port_for(purpose) == route.port for route in transport.routes for purpose in Purpose)
