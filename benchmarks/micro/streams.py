"""Streams over a pair of sockets: TLS as on data channels, and WebSocket. Times are for one block there and back."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Awaitable, Callable

import trio

from hybridrelay.security import Role, create_authority, data_client_context, data_server_context
from hybridrelay.streams import TLSStream, receive_exactly
from hybridrelay_websocket import WebSocketStream

from .cores import Runner

_SIZES = (64, 65536, 1 << 20)
_Pair = tuple[trio.abc.Stream, trio.abc.Stream]


def add(runner: Runner) -> None:
    """Add the benchmarks."""
    for name, make in (("socket", _sockets), ("tls", _tls), ("websocket", _websocket)):
        for size in _SIZES:
            runner.bench_time_func(f"{name}: there and back, {size} bytes", _measure, make, size)


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
            await receive_exactly(near, size)

        nursery.start_soon(echo)
        began = time.perf_counter()
        for _ in range(loops):
            async with trio.open_nursery() as both:
                both.start_soon(near.send_all, data)
                both.start_soon(receive)
        took = time.perf_counter() - began
        nursery.cancel_scope.cancel()
    return took


async def _sockets() -> _Pair:
    near, far = (trio.socket.from_stdlib_socket(sock) for sock in socket.socketpair())
    return trio.SocketStream(near), trio.SocketStream(far)


async def _tls() -> _Pair:
    now = time.time()
    authority = create_authority("bench", now=now)
    near, far = await _sockets()
    client = data_client_context(authority.issue(Role.APPLICATION, "a", now=now), authority.certificate)
    server = data_server_context(authority.issue(Role.CONNECTOR, "c", now=now), authority.certificate)
    streams = TLSStream(near, client), TLSStream(far, server, server_side=True)
    async with trio.open_nursery() as nursery:
        for stream in streams:
            nursery.start_soon(stream.do_handshake)
    return streams


async def _websocket() -> _Pair:
    near, far = await _sockets()
    return WebSocketStream(near, client=True), WebSocketStream(far, client=False)
