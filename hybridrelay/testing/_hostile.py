"""Checks of a transport's handshake: with peers that speak another protocol, stop sending, or are cancelled."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Awaitable, Callable
from typing import NoReturn

import trio
import trio.testing

from ..abc import Address, Connection, Dialer, Listener, Purpose, Route, Transport
from ..errors import TransportError
from ..streams.listening import StreamListener
from ..streams.outer_tls import connect_outer_tls
from ._pairs import (
    HOST,
    accept_incoming,
    add_outer_tls,
    address_of,
    connect_pair,
    dial_raw,
    listening,
    make_dialer,
)

#: The first bytes that other programs send. Each of these is sent repeatedly.
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
#: How much of it is sent (bytes): far more than the kernel's buffers hold. A side that accepts all of it has not
#: detected that this is another protocol.
GARBAGE_BYTES = 64 * 1024 * 1024
#: At about how many positions, at least, the client's handshake is truncated.
TRUNCATIONS = 40


async def check_garbage_to_accept(transport: Transport, route: Route) -> None:
    """Check that a peer that speaks another protocol is refused and closed before all of `GARBAGE_BYTES` is read."""
    for name, garbage in GARBAGE.items():
        if not await _is_refused(transport, route, functools.partial(_flood, garbage=garbage, name=name)):
            return  # a transport that adds nothing to the bytes accepts any bytes


async def check_garbage_to_connect(transport: Transport, route: Route) -> None:
    """Check that a server that speaks another protocol causes an error at once, and that the connection is closed."""
    port = route.port_for(Purpose.DATA)
    for name, garbage in GARBAGE.items():
        async with listening(transport, port) as listener, trio.open_nursery() as nursery:
            if not isinstance(listener, StreamListener):
                return  # only the transport itself can dial this listener

            async def serve(garbage: bytes = garbage, name: str = name) -> None:
                async with await add_outer_tls(await listener.accept_stream(), port) as stream:
                    await _flood(stream, garbage, name)

            nursery.start_soon(serve)
            watch = _Watch()
            dialer = make_dialer(port, listener, watch=watch)
            try:
                connection = await transport.connect(address_of(port, listener), dialer)
            except (TransportError, OSError):
                assert watch.closed, f"connect failed on {name!r} and left the connection open"
            else:
                await trio.aclose_forcefully(connection.stream)
                nursery.cancel_scope.cancel()
                return  # a transport that adds nothing to the bytes


async def check_truncated_handshake(transport: Transport, route: Route) -> None:
    """Check that a client that disconnects during its handshake causes an error, and that a handshake with a silent
    client can be cancelled."""
    watch = _Watch()
    client, server = await connect_pair(transport, route, watch=watch)
    await trio.aclose_forcefully(client.stream)
    await trio.aclose_forcefully(server.stream)
    handshake = bytes(watch.sent)
    step = max(1, len(handshake) // TRUNCATIONS)
    for size in range(0, len(handshake), step):
        for silent in (True, False):

            async def begin(stream: trio.abc.Stream, size: int = size, silent: bool = silent) -> None:
                with contextlib.suppress(trio.BrokenResourceError):
                    await stream.send_all(handshake[:size])
                    if not silent:
                        await _end(stream)

            refused = await _is_refused(transport, route, begin, cancel=silent)
            assert refused, "a truncated handshake was accepted"


async def check_connect_cancelled(transport: Transport, route: Route) -> None:
    """Check that connect closes the connection if it is cancelled before any of its operations on it."""
    port = route.port_for(Purpose.DATA)
    for operation in itertools.count(1):
        async with listening(transport, port) as listener, trio.open_nursery() as nursery:

            async def serve(listener: Listener = listener) -> None:
                with contextlib.suppress(TransportError, trio.BrokenResourceError):
                    accepted = await (await accept_incoming(listener, port)).handshake()
                    assert accepted is not None
                    await trio.aclose_forcefully(accepted.stream)

            nursery.start_soon(serve)
            watch = _Watch()
            with trio.CancelScope() as scope:
                watch.cancel_at = operation, scope
                dialer = make_dialer(port, listener, watch=watch)
                connection = await transport.connect(address_of(port, listener), dialer)
                await trio.aclose_forcefully(connection.stream)
            assert watch.closed, f"connect, cancelled at operation {operation}, left the connection open"
        if watch.operations < operation:
            break  # connect finished before this operation


async def check_dialer_that_never_answers(transport: Transport, route: Route) -> None:
    """Check that connect can be cancelled while it waits for its dialer, and that it raises the dialer's error
    unchanged."""
    port = route.port_for(Purpose.DATA)

    async def never(*_where: object) -> NoReturn:
        await trio.sleep_forever()
        raise AssertionError

    refused = ConnectionRefusedError("refused")

    async def refuse(*_where: object) -> NoReturn:
        raise refused

    address = Address(HOST, 1, port.outer_tls)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when_idle, scope)
            await transport.connect(address, Dialer(never, never, never))
    assert scope.cancelled_caught
    raised: OSError | None = None
    try:
        await transport.connect(address, Dialer(refuse, refuse, refuse))
    except OSError as exc:
        raised = exc
    assert raised is refused, "connect did not raise the error of the dialer unchanged"


CHECKS = (
    check_garbage_to_accept,
    check_garbage_to_connect,
    check_truncated_handshake,
    check_connect_cancelled,
    check_dialer_that_never_answers,
)


async def _is_refused(
    transport: Transport, route: Route, play: Callable[[trio.abc.Stream], Awaitable[None]], *, cancel: bool = False
) -> bool:
    """Return whether a connection from a client that runs ``play`` is refused.

    Args:
        transport: the transport to check.
        route: the route to use.
        play: the client's part, on a connection inside any outer TLS.
        cancel: whether to cancel the handshake as soon as every task waits.

    Returns:
        False if the handshake returned a connection. Otherwise the connection was refused and is closed.
    """
    port = route.port_for(Purpose.DATA)
    async with listening(transport, port) as listener, trio.open_nursery() as nursery:
        if not isinstance(listener, StreamListener):
            return True  # only the transport itself can dial this listener

        async def be_client() -> None:
            raw = await dial_raw(listener)
            async with await connect_outer_tls(raw, HOST) if port.outer_tls else raw as stream:
                await play(stream)
                await trio.sleep_forever()  # the server has to close

        nursery.start_soon(be_client)
        server = await listener.accept_stream()
        accepted: Connection | None = None
        with trio.CancelScope() as scope:
            dressed = await add_outer_tls(server, port)
            if cancel:
                nursery.start_soon(_cancel_when_idle, scope)
            with contextlib.suppress(TransportError, trio.BrokenResourceError):
                accepted = await listener.incoming(dressed, HOST).handshake()
        if accepted is not None:
            await trio.aclose_forcefully(accepted.stream)
        else:
            assert server.socket.fileno() == -1, "the handshake failed and left the connection open"
        nursery.cancel_scope.cancel()
    return accepted is None


async def _cancel_when_idle(scope: trio.CancelScope) -> None:
    await trio.testing.wait_all_tasks_blocked()
    scope.cancel()


async def _flood(stream: trio.abc.Stream, garbage: bytes, name: str) -> None:
    """Send ``garbage`` until the other side closes."""
    try:
        for _ in range(GARBAGE_BYTES // max(1, len(garbage)) if garbage else 0):
            await stream.send_all(garbage)
        await _end(stream)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return
    assert not garbage, f"all of {name!r} was read"


async def _end(stream: trio.abc.Stream) -> None:
    """End the sending. Inside outer TLS, this is possible only by closing."""
    if isinstance(stream, trio.abc.HalfCloseableStream):
        await stream.send_eof()
    else:
        await stream.aclose()


class _Watch:
    """Watches the stream of one connection: records what is sent, and can cancel before the Nth operation."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.operations = 0
        self.closed = False
        self.cancel_at: tuple[int, trio.CancelScope] | None = None

    def __call__(self, stream: trio.abc.Stream) -> trio.abc.Stream:
        half_closeable = isinstance(stream, trio.abc.HalfCloseableStream)
        return (_WatchedHalfCloseable if half_closeable else _Watched)(self, stream)

    def count(self) -> None:
        self.operations += 1
        if self.cancel_at is not None and self.cancel_at[0] == self.operations:
            self.cancel_at[1].cancel()


class _Watched(trio.abc.Stream):
    def __init__(self, watch: _Watch, stream: trio.abc.Stream) -> None:
        self._watch = watch
        self._stream = stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._watch.count()
        self._watch.sent += data
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        self._watch.count()
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        self._watch.count()
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        self._watch.closed = True
        await self._stream.aclose()


class _WatchedHalfCloseable(_Watched, trio.abc.HalfCloseableStream):
    async def send_eof(self) -> None:
        self._watch.count()
        assert isinstance(self._stream, trio.abc.HalfCloseableStream)
        await self._stream.send_eof()
