"""What the tests put behind the connector, and what they do to it from the other end."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial

import trio

from ..receiving import send_and_receive

#: One piece of test data: no multiple of any frame, buffer or record.
PIECE_BYTES = 1_000_003
#: What an honest connection waits from a piece that is back to the next one.
_PAUSE_SECONDS = 0.1

Handler = Callable[[trio.SocketStream], Awaitable[None]]


async def serve(nursery: trio.Nursery, handler: Handler) -> tuple[str, int]:
    """Listen; the address. The handler's connection is closed when it returns or the peer breaks it."""

    async def handle(stream: trio.SocketStream) -> None:
        async with stream:
            # A test that wants to know whether a connection broke looks at its other end.
            with suppress(trio.BrokenResourceError):
                await handler(stream)

    listeners: list[trio.SocketListener] = await nursery.start(partial(trio.serve_tcp, handle, 0, host="127.0.0.1"))
    address, port = listeners[0].socket.getsockname()
    return address, port


async def echo(stream: trio.SocketStream) -> None:
    """Send back whatever comes, and end when the peer does."""
    async for data in stream:
        await stream.send_all(data)
    await stream.send_eof()


async def flood(stream: trio.SocketStream) -> None:
    """Send without end."""
    data = os.urandom(PIECE_BYTES)
    while True:
        await stream.send_all(data)


def random_pieces(size: int) -> Iterator[bytes]:
    """`size` random bytes."""
    while size > 0:
        piece = os.urandom(min(size, PIECE_BYTES))
        size -= len(piece)
        yield piece


async def send_random(stream: trio.SocketStream, size: int) -> bytes:
    """Send `size` random bytes and end the sending side; their hash."""
    digest = hashlib.sha256()
    for piece in random_pieces(size):
        digest.update(piece)
        await stream.send_all(piece)
    await stream.send_eof()
    return digest.digest()


async def receive_hash(stream: trio.SocketStream) -> tuple[int, bytes]:
    """Receive up to the end; how much it was, and its hash."""
    digest, size = hashlib.sha256(), 0
    async for data in stream:
        digest.update(data)
        size += len(data)
    return size, digest.digest()


async def ask(stream: trio.SocketStream, text: bytes) -> bytes:
    """Send a text; what is received next."""
    await stream.send_all(text)
    return await stream.receive_some()


async def exchange(port: int, data: bytes) -> bytes:
    """Connect, send, end the sending side; the whole answer."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        return await send_and_receive(stream, data)


async def is_served(port: int) -> bool:
    """Whether an exchange with an echo works now."""
    data = os.urandom(1000)
    answer = b""
    try:
        answer = await exchange(port, data)
    except* (OSError, trio.BrokenResourceError):
        pass
    return answer == data


@asynccontextmanager
async def steady_echo(port: int) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """An honest connection that goes on exchanging data, piece by piece, during the block.

    Gives a function that waits until one more piece has gone there and back. The block fails where data is lost.
    """
    condition = trio.Condition()
    rounds = wanted = 0

    async def one_more() -> None:
        nonlocal wanted
        async with condition:
            mine = wanted = rounds + 2  # the one under way may have begun before
            condition.notify_all()
            while rounds < mine:
                await condition.wait()

    async def run(stream: trio.SocketStream) -> None:
        nonlocal rounds
        while True:
            data = os.urandom(50_000)
            await stream.send_all(data)
            received = bytearray()
            while len(received) < len(data):
                block = await stream.receive_some()
                assert block, "the honest connection ended"
                received += block
            assert received == data
            async with condition:
                rounds += 1
                condition.notify_all()
                # A pause, unless somebody waits: this connection need not keep the processors busy.
                with trio.move_on_after(_PAUSE_SECONDS):
                    while rounds >= wanted:
                        await condition.wait()

    async with await trio.open_tcp_stream("127.0.0.1", port) as stream, trio.open_nursery() as nursery:
        nursery.start_soon(run, stream)
        await one_more()
        yield one_more
        nursery.cancel_scope.cancel()
