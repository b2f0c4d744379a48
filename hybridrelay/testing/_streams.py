"""Checks of a transport's streams: data, the end of data, and what happens when the peer does not read."""

from __future__ import annotations

import contextlib
import hashlib
import random

import trio
import trio.testing

from ..abc import Purpose, Route, Transport
from ..errors import TransportError
from ._pairs import address_of, connect_pair, listening, make_dialer, stream_pair
from .middlebox import open_middlebox

#: How much the check of a large transfer sends in each direction (bytes): more than any buffer between the two ends.
BULK_BYTES = 16 * 1024 * 1024
#: More than a connection on loopback accepts while the peer does not read (bytes).
CLOGGING_BYTES = 64 * 1024 * 1024


async def check_routes(transport: Transport, route: Route) -> None:
    """Check that the declarations are consistent, and that every port of the route carries bytes."""
    assert transport.name
    assert route in transport.routes
    for purpose in Purpose:
        near, far = await connect_pair(transport, route, purpose=purpose)
        assert near.remote, "a connection names its other end"
        assert far.remote, "a connection names its other end"
        client, server = near.stream, far.stream
        async with client, server:
            await client.send_all(b"request")
            assert await _receive(server, 7) == b"request"
            await server.send_all(b"response")
            assert await _receive(client, 8) == b"response"


async def check_stream_contract(transport: Transport, route: Route) -> None:
    """Check that the streams at both ends meet Trio's contract for half-closeable streams."""

    async def client_first() -> tuple[trio.abc.HalfCloseableStream, trio.abc.HalfCloseableStream]:
        return await stream_pair(transport, route)

    async def server_first() -> tuple[trio.abc.HalfCloseableStream, trio.abc.HalfCloseableStream]:
        client, server = await stream_pair(transport, route)
        return server, client

    await trio.testing.check_half_closeable_stream(client_first, None)
    await trio.testing.check_half_closeable_stream(server_first, None)


async def check_kernel_socket(transport: Transport, route: Route) -> None:
    """Check that the bytes on `Connection.kernel_socket` are those of the stream, so that the kernel can move
    them."""
    for client_side in (True, False):
        near, far = await connect_pair(transport, route)
        mine, other = (near, far) if client_side else (far, near)
        async with mine.stream, other.stream:
            if mine.kernel_socket is None:
                continue
            assert await mine.kernel_socket.send(b"past the stream") == 15
            assert await _receive(other.stream, 15) == b"past the stream"
            await other.stream.send_all(b"answer")
            assert await mine.kernel_socket.recv(100) == b"answer"


async def check_dropped(transport: Transport, route: Route) -> None:
    """Check that a connection that is dropped before its handshake is closed, and that cancelling accept loses
    nothing."""
    port = route.port
    if port.outer_tls:
        return  # the listener gets the connection only after the outer TLS handshake
    async with listening(transport, port) as listener, trio.open_nursery() as nursery:
        with trio.move_on_after(0) as scope:
            await listener.accept()
        assert scope.cancelled_caught

        async def connect() -> None:
            try:
                connection = await transport.connect(address_of(port, listener), make_dialer(port, listener))
            except (TransportError, OSError, trio.BrokenResourceError):
                return
            async with connection.stream:
                with contextlib.suppress(trio.BrokenResourceError):
                    assert not await connection.stream.receive_some()

        nursery.start_soon(connect)
        incoming = await listener.accept()
        await incoming.aclose()
        await incoming.aclose()
    try:
        await listener.accept()
    except trio.ClosedResourceError:
        return
    raise AssertionError("a closed listener accepts")


async def check_byte_at_a_time(transport: Transport, route: Route) -> None:
    """Check that the handshake and data survive a path that delivers single bytes."""
    data = _random_bytes(1, 2000)
    async with open_middlebox(piece_bytes=1) as box:
        client, server = await stream_pair(transport, route, insert=box.insert)
        async with client, server, trio.open_nursery() as nursery:
            for source, sink in ((client, server), (server, client)):
                nursery.start_soon(_send_and_end, source, data)
                nursery.start_soon(_expect, sink, data)


async def check_bulk(transport: Transport, route: Route) -> None:
    """Check that large transfers in both directions at the same time, written in pieces of many sizes, arrive
    unchanged."""
    client, server = await stream_pair(transport, route)
    async with client, server, trio.open_nursery() as nursery:
        for seed, (source, sink) in enumerate(((client, server), (server, client))):
            data = _random_bytes(seed, BULK_BYTES)
            nursery.start_soon(_send_pieces, source, data, seed)
            nursery.start_soon(_expect_digest, sink, hashlib.sha256(data).digest())


async def check_half_close(transport: Transport, route: Route) -> None:
    """Check that an end of data in one direction does not affect the other direction, whichever side ends first."""
    data = _random_bytes(2, 300_000)
    for client_first in (True, False):
        client, server = await stream_pair(transport, route)
        first, second = (client, server) if client_first else (server, client)
        async with first, second:
            for source, sink in ((first, second), (second, first)):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_send_and_end, source, data)
                    nursery.start_soon(_expect, sink, data)
            for stream in (first, second):
                assert await stream.receive_some() == b"", "the end of data lasts"


async def check_cut(transport: Transport, route: Route) -> None:
    """Check that a connection that is cut between the two ends is broken, and never seems to end normally."""
    for reset in (True, False):
        async with open_middlebox() as box:
            client, server = await stream_pair(transport, route, insert=box.insert)
            async with client, server:
                if not reset and isinstance(server, trio.SocketStream):
                    continue  # TCP alone cannot tell which party sent the end of file
                await client.send_all(b"x")
                assert await _receive(server, 1) == b"x"
                await box.cut(reset=reset)
                for stream in (client, server):
                    await _expect_broken(stream)


async def check_forceful_close(transport: Transport, route: Route) -> None:
    """Check that closing while cancelled sends no end of data, so that a peer sees a broken connection, if it can
    distinguish the two."""
    for client_closes in (True, False):
        client, server = await stream_pair(transport, route)
        closing, other = (client, server) if client_closes else (server, client)
        async with closing, other:
            await trio.aclose_forcefully(closing)
            if not isinstance(server, trio.SocketStream):
                await _expect_broken(other)


async def check_clogged(transport: Transport, route: Route) -> None:
    """Check that a peer that does not read blocks only sending, and that closing either end wakes the sender."""
    for client_sends in (True, False):
        for close_sender in (True, False):
            client, server = await stream_pair(transport, route)
            sender, idle = (client, server) if client_sends else (server, client)
            async with trio.open_nursery() as nursery:
                expected = trio.ClosedResourceError if close_sender else trio.BrokenResourceError
                nursery.start_soon(_send_until, sender, expected)
                await trio.testing.wait_all_tasks_blocked()
                # Receiving still works.
                await idle.send_all(b"meanwhile")
                assert await _receive(sender, 9) == b"meanwhile"
                await _expect_busy(sender)
                await trio.aclose_forcefully(sender if close_sender else idle)
            await trio.aclose_forcefully(client)
            await trio.aclose_forcefully(server)


CHECKS = (
    check_routes,
    check_stream_contract,
    check_kernel_socket,
    check_dropped,
    check_byte_at_a_time,
    check_bulk,
    check_half_close,
    check_cut,
    check_forceful_close,
    check_clogged,
)


def _random_bytes(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)  # noqa: S311


async def _receive(stream: trio.abc.ReceiveStream, count: int) -> bytes:
    received = b""
    while len(received) < count:
        chunk = await stream.receive_some(count - len(received))
        assert chunk, "an end of data that the peer has not sent"
        received += chunk
    return received


async def _expect(stream: trio.abc.ReceiveStream, expected: bytes) -> None:
    received = bytearray()
    while chunk := await stream.receive_some():
        received += chunk
    assert received == expected


async def _expect_digest(stream: trio.abc.ReceiveStream, expected: bytes) -> None:
    digest = hashlib.sha256()
    while chunk := await stream.receive_some():
        digest.update(chunk)
    assert digest.digest() == expected, "what arrived is not what was sent"


async def _expect_broken(stream: trio.abc.ReceiveStream) -> None:
    try:
        data = await stream.receive_some()
    except trio.BrokenResourceError:
        return
    raise AssertionError(f"a cut connection reads as {'data' if data else 'an end of data'}")


async def _expect_busy(stream: trio.abc.SendStream) -> None:
    try:
        await stream.send_all(b"x")
    except trio.BusyResourceError:
        return
    raise AssertionError("two tasks could send at the same time")


async def _send_and_end(stream: trio.abc.HalfCloseableStream, data: bytes) -> None:
    await stream.send_all(data)
    await stream.send_eof()


async def _send_pieces(stream: trio.abc.HalfCloseableStream, data: bytes, seed: int) -> None:
    sizes = random.Random(seed)  # noqa: S311
    view = memoryview(data)
    while view:
        size = sizes.choice((1, 125, 126, 16 * 1024 + 1, 65_535, 65_536, 256 * 1024, 1024 * 1024))
        await stream.send_all(view[:size])
        view = view[size:]
    await stream.send_eof()


async def _send_until(stream: trio.abc.SendStream, expected: type[Exception]) -> None:
    piece = bytes(CLOGGING_BYTES // 64)
    try:
        for _ in range(64):
            await stream.send_all(piece)
    except expected:
        return
    raise AssertionError(f"sending to a peer that never reads did not end with {expected.__name__}")
