"""Checks of a transport's handshake: peers that speak something else, stop half way, or are given up on."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable

import trio
import trio.testing

from ..abc import Purpose, Route, Transport
from ..errors import TransportError
from ._pairs import HOST, accept_options, connect_options, connect_pair
from .middlebox import tcp_pair

#: What other programs say first, each of them again and again.
GARBAGE = {
    "nothing": b"",
    "zeros": bytes(1024),
    "no line ever ends": b"A" * 1024,
    "one header without end": b"GET / HTTP/1.1\r\nA: " + b"a" * 64 * 1024,
    "empty lines": b"\r\n" * 512,
    "TLS": bytes.fromhex("1603010200010001fc0303") + bytes(range(256)) * 4,
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n" * 50,
    "an HTTP answer": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" * 50,
    "high bytes": bytes(range(128, 256)) * 8,
}
#: A side that has not given up after this much of it (bytes) never will. Most of it fits into no kernel buffer.
GARBAGE_BYTES = 64 * 1024 * 1024
#: In how many places the client's handshake is broken off.
TRUNCATIONS = 40


async def check_garbage_to_accept(transport: Transport, route: Route) -> None:
    """Whoever speaks something else is refused and closed, having had little read of what it sent."""
    for name, garbage in GARBAGE.items():
        if not await _is_refused(transport, route, functools.partial(_flood, garbage=garbage, name=name)):
            return  # a transport that adds nothing to TCP: nothing is garbage to it


async def check_garbage_to_connect(transport: Transport, route: Route) -> None:
    """A server of something else is an error at once, and nothing stays open."""
    port = route.ports[Purpose.DATA]
    for name, garbage in GARBAGE.items():

        async def serve(stream: trio.SocketStream, garbage: bytes = garbage, name: str = name) -> None:
            await _flood(stream, garbage, name)

        async with _serving(serve) as listener:
            dial = _WatchedDial()
            try:
                stream = await transport.connect(connect_options(port, listener, dial))
            except (TransportError, OSError):
                assert dial.closed, f"connect failed on {name!r} and left the connection open"
            else:
                await trio.aclose_forcefully(stream)
                return  # a transport that adds nothing to TCP


async def check_truncated_handshake(transport: Transport, route: Route) -> None:
    """A client that goes away during its handshake is an error, and one that falls silent can be given up on."""
    dial = _WatchedDial()
    client, server = await connect_pair(transport, route, dial=dial)
    await trio.aclose_forcefully(client)
    await trio.aclose_forcefully(server)
    handshake = bytes(dial.sent)
    step = max(1, len(handshake) // TRUNCATIONS)
    for size in range(0, len(handshake), step):
        for silent in (True, False):

            async def begin(stream: trio.SocketStream, size: int = size, silent: bool = silent) -> None:
                with contextlib.suppress(trio.BrokenResourceError):
                    await stream.send_all(handshake[:size])
                    if not silent:
                        await stream.send_eof()

            assert await _is_refused(transport, route, begin, cancel=silent), "half a handshake was taken for a whole"


async def check_connect_cancelled(transport: Transport, route: Route) -> None:
    """Cancelled before any of its operations on the connection, connect closes it."""
    port = route.ports[Purpose.DATA]

    async def serve(stream: trio.SocketStream) -> None:
        with contextlib.suppress(TransportError):
            accepted = await transport.accept(stream, accept_options(port))
            assert accepted is not None
            await trio.aclose_forcefully(accepted)

    for operation in itertools.count(1):
        async with _serving(serve) as listener:
            with trio.CancelScope() as scope:
                dial = _WatchedDial(cancel_at=(operation, scope))
                stream = await transport.connect(connect_options(port, listener, dial))
                await trio.aclose_forcefully(stream)
        assert dial.closed, f"connect, cancelled at operation {operation}, left the connection open"
        if dial.operations < operation:
            break  # it came through


CHECKS = (
    check_garbage_to_accept,
    check_garbage_to_connect,
    check_truncated_handshake,
    check_connect_cancelled,
)


@contextlib.asynccontextmanager
async def _serving(
    handler: Callable[[trio.SocketStream], Awaitable[None]],
) -> AsyncIterator[trio.SocketListener]:
    """A listener on loopback whose connections are closed when the handler is done, or the block."""

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await handler(stream)

    [listener] = await trio.open_tcp_listeners(0, host=HOST)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        yield listener
        nursery.cancel_scope.cancel()


async def _is_refused(
    transport: Transport, route: Route, play: Callable[[trio.SocketStream], Awaitable[None]], *, cancel: bool = False
) -> bool:
    """Accept a connection whose client is ``play``; with ``cancel``, give up on it once nothing more happens.

    Returns:
        False where accept returned a stream. Otherwise it has refused, and closed the connection.
    """
    client, server = await tcp_pair()
    async with client, server, trio.open_nursery() as nursery:
        nursery.start_soon(play, client)
        accepted = None
        with trio.CancelScope() as scope:
            if cancel:
                nursery.start_soon(_cancel_when_idle, scope)
            with contextlib.suppress(TransportError):
                accepted = await transport.accept(server, accept_options(route.ports[Purpose.DATA]))
        if accepted is not None:
            await trio.aclose_forcefully(accepted)
            nursery.cancel_scope.cancel()
            return False
        assert server.socket.fileno() == -1, "accept refused a connection and left it open"
    return True


async def _cancel_when_idle(scope: trio.CancelScope) -> None:
    await trio.testing.wait_all_tasks_blocked()
    scope.cancel()


async def _flood(stream: trio.SocketStream, garbage: bytes, name: str) -> None:
    """Send ``garbage`` until the other side closes."""
    try:
        for _ in range(GARBAGE_BYTES // max(1, len(garbage)) if garbage else 0):
            await stream.send_all(garbage)
        await stream.send_eof()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return
    assert not garbage, f"all of {name!r} was read"


class _WatchedDial:
    """A `Dial` for one connection that records what is sent, and can cancel before the Nth operation."""

    def __init__(self, cancel_at: tuple[int, trio.CancelScope] | None = None) -> None:
        self.sent = bytearray()
        self.operations = 0
        self.closed = False
        self._cancel_at = cancel_at

    async def __call__(self, host: str, port: int) -> trio.abc.HalfCloseableStream:
        return _WatchedStream(self, await trio.open_tcp_stream(host, port))

    def count(self) -> None:
        self.operations += 1
        if self._cancel_at is not None and self._cancel_at[0] == self.operations:
            self._cancel_at[1].cancel()


class _WatchedStream(trio.abc.HalfCloseableStream):
    def __init__(self, watch: _WatchedDial, stream: trio.SocketStream) -> None:
        self._watch = watch
        self._stream = stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._watch.count()
        self._watch.sent += data
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        self._watch.count()
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        self._watch.count()
        await self._stream.send_eof()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        self._watch.count()
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        self._watch.closed = True
        await self._stream.aclose()
