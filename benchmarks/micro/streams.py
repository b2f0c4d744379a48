"""Benchmarks of streams over a pair of sockets (TLS as on data channels, WebSocket), and of a tunnel without the
relay.

Times are for one block in both directions. "Without waiting" is how bridges, sessions and the relay use streams.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Awaitable, Callable

import trio

from hybridrelay.mux import Session, SessionRole, bridge
from hybridrelay.security import Role, create_authority, data_client_context, data_server_context
from hybridrelay.streams import TLSStream
from hybridrelay.streams.nowait import NowaitStream, nowait
from hybridrelay_websocket.stream import WebSocketStream

from .cores import Runner

_SIZES = (64, 65536, 1 << 20)
#: Both ends are used by one task, so a block has to fit into the socket.
_NOWAIT_SIZES = (64, 65536)
_Pair = tuple[trio.abc.Stream, trio.abc.Stream]


def add(runner: Runner) -> None:
    """Add the benchmarks."""
    for name, make in (("socket", sockets), ("tls", tls), ("websocket", _websocket)):
        for size in _SIZES:
            runner.bench_time_func(f"{name}: there and back, {size} bytes", _measure, make, size)
        for size in _NOWAIT_SIZES:
            title = f"{name}, without waiting: there and back, {size} bytes"
            runner.bench_time_func(title, _measure_nowait, make, size)
    runner.bench_time_func("two bridges and a session: there and back, 64 bytes", _measure_bridges, 64)


def _measure(loops: int, make: Callable[[], Awaitable[_Pair]], size: int) -> float:
    return trio.run(_there_and_back, make, loops, size)


async def _there_and_back(make: Callable[[], Awaitable[_Pair]], loops: int, size: int) -> float:
    data = bytes(size)
    near, far = await make()
    async with near, far, trio.open_nursery() as nursery:

        async def echo() -> None:
            # A stream that is closed under its reader ends the measurement.
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                while block := await far.receive_some():
                    await far.send_all(block)

        async def receive() -> None:
            left = size
            while left:
                left -= len(await near.receive_some())

        nursery.start_soon(echo)
        began = time.perf_counter()
        for _ in range(loops):
            async with trio.open_nursery() as both:
                both.start_soon(near.send_all, data)
                both.start_soon(receive)
        took = time.perf_counter() - began
        nursery.cancel_scope.cancel()
    return took


def _measure_nowait(loops: int, make: Callable[[], Awaitable[_Pair]], size: int) -> float:
    async def main() -> float:
        near, far = await make()
        async with near, far:
            return await exchange(nowait(near), nowait(far), loops, size)

    return trio.run(main)


async def drain(sink: NowaitStream, size: int) -> None:
    """Receive so many bytes, and drop them."""
    left = size
    while left:
        block = sink.receive_nowait()
        if block is None:
            await sink.wait_readable()
        else:
            left -= len(block)


async def exchange(near: NowaitStream, far: NowaitStream, loops: int, size: int) -> float:
    """Send a block there and back `loops` times in the calling task. Return how long this took (seconds)."""
    data = bytes(size)
    began = time.perf_counter()
    for _ in range(loops):
        for source, sink in ((near, far), (far, near)):
            if not source.send_nowait(data):
                raise BlockingIOError("the block does not fit into the socket")
            await drain(sink, size)
    return time.perf_counter() - began


def _measure_bridges(loops: int, size: int) -> float:
    async def main() -> float:
        (application, local), (remote, target) = await sockets(), await sockets()
        channels = await tls()
        client, server = Session.create(SessionRole.INITIATOR), Session.create(SessionRole.ACCEPTOR)
        async with application, target, trio.open_nursery() as nursery:
            nursery.start_soon(client.run, channels[0])
            nursery.start_soon(server.run, channels[1])
            await client.wait_attached()
            nursery.start_soon(bridge, client.open_stream_nowait(), local)
            offer = await server.offers.receive()
            nursery.start_soon(bridge, offer.accept(), remote)
            took = await exchange(nowait(application), nowait(target), loops, size)
            nursery.cancel_scope.cancel()
        return took

    return trio.run(main)


async def sockets() -> tuple[trio.SocketStream, trio.SocketStream]:
    """Return a pair of connected sockets."""
    near, far = (trio.socket.from_stdlib_socket(sock) for sock in socket.socketpair())
    return trio.SocketStream(near), trio.SocketStream(far)


async def tls() -> _Pair:
    """Return both ends of a TLS connection as on data channels, after the handshake."""
    now = time.time()
    authority = create_authority("bench", now=now)
    near, far = await sockets()
    client = data_client_context(authority.issue(Role.APPLICATION, "a", now=now), authority.certificate)
    server = data_server_context(authority.issue(Role.CONNECTOR, "c", now=now), authority.certificate)
    streams = TLSStream(near, client), TLSStream(far, server, server_side=True)
    async with trio.open_nursery() as nursery:
        for stream in streams:
            nursery.start_soon(stream.do_handshake)
    return streams


async def _websocket() -> _Pair:
    near, far = await sockets()
    return WebSocketStream(near, client=True), WebSocketStream(far, client=False)
