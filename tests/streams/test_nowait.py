"""Using streams without waiting: every kind of stream that can be used so, and what is done for those that cannot."""

from __future__ import annotations

import os
import random
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

import pytest
import trio
import trio.testing

from hybridrelay.streams.nowait import READ_BYTES, TURN_BYTES, TURN_SECONDS, NowaitStream, Turn, nowait
from hybridrelay.testing import tcp_pair
from hybridrelay_websocket.stream import MAX_FRAMES_PER_READ, WebSocketStream

from ..stream_pairs import MAKERS, MAKERS_OVER_SOCKETS, Maker, Pair, names, tls, websocket

#: A ping from a server. It is so long that a read that is full of them does not exceed `MAX_IDLE_FRAMES`.
PING_FRAME = b"\x89\x3e" + bytes(62)


@pytest.fixture(params=MAKERS, ids=names)
async def pair(request: pytest.FixtureRequest, nursery: trio.Nursery) -> AsyncIterator[Pair]:
    maker: Maker = request.param
    made = await maker(nursery)
    yield made
    for one in made:
        await trio.aclose_forcefully(one)
    nursery.cancel_scope.cancel()


async def receive(stream: NowaitStream) -> bytes:
    """Something, or b"" at the end."""
    while (data := stream.receive_nowait()) is None:
        await stream.wait_readable()
    return bytes(data)


async def test_no_more_is_received_than_was_asked_for(pair: Pair) -> None:
    source, sink = map(nowait, pair)
    data = os.urandom(1000)
    await send(source, data)
    received = b""
    for most in (1, 2, 500, 1, READ_BYTES):
        while (some := sink.receive_nowait(most)) is None:
            await sink.wait_readable()
        assert 0 < len(some) <= most
        received += some
    while len(received) < len(data):
        received += await receive(sink)
    assert received == data
    assert sink.receive_nowait(1) is None


async def test_what_is_at_hand_is_not_waited_for(pair: Pair) -> None:
    source, sink = map(nowait, pair)
    await send(source, b"one, two")
    received = b""
    with trio.fail_after(60):
        while len(received) < 8:
            await sink.wait_readable()
            received += sink.receive_nowait(3) or b""
    assert received == b"one, two"


async def send(stream: NowaitStream, data: bytes) -> None:
    if not stream.send_nowait(data):
        await stream.flush()


async def check_transfer(source: NowaitStream, sink: NowaitStream, end: Callable[[], Awaitable[None]]) -> None:
    """Bytes in pieces of every size, from memory that is used again at once."""
    rng = random.Random(4)
    sent, received = bytearray(), bytearray()

    async def send_all() -> None:
        scratch = bytearray(700_000)
        for _ in range(60):
            pieces = [rng.randrange(1, rng.choice([10, 5000, 200_000])) for _ in range(rng.randrange(1, 4))]
            buffers = []
            at = 0
            for size in pieces:
                scratch[at : at + size] = rng.randbytes(size)
                buffers.append(memoryview(scratch)[at : at + size])
                at += size
            sent.extend(scratch[:at])
            if not source.send_nowait(*buffers):
                scratch[:at] = bytes(at)
                await source.flush()
            for buffer in buffers:
                buffer.release()
        await end()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_all)
        while data := await receive(sink):
            received += data
    assert received == sent
    assert await receive(sink) == b"", "the end stays the end"


async def test_both_ways_at_once(pair: Pair) -> None:
    left, right = map(nowait, pair)

    def ending(stream: trio.abc.Stream) -> Callable[[], Awaitable[None]]:
        # TLS has no half-close: only closing signals the end.
        return stream.send_eof if isinstance(stream, trio.abc.HalfCloseableStream) else stream.aclose

    async with trio.open_nursery() as nursery:
        nursery.start_soon(check_transfer, left, right, ending(pair[0]))
        if isinstance(pair[0], trio.abc.HalfCloseableStream):
            nursery.start_soon(check_transfer, right, left, ending(pair[1]))


async def test_nothing_has_arrived_yet(pair: Pair) -> None:
    left, right = map(nowait, pair)
    assert right.receive_nowait() is None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(right.wait_readable)
        await trio.testing.wait_all_tasks_blocked()
        await send(left, b"now")
    assert await receive(right) == b"now"
    assert right.receive_nowait() is None


async def test_a_wait_that_is_cancelled_loses_nothing(pair: Pair) -> None:
    left, right = map(nowait, pair)
    for word in (b"one", b"two"):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(right.wait_readable)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        await send(left, word)
        assert await receive(right) == word


async def test_a_closed_stream_says_so(pair: Pair) -> None:
    left = nowait(pair[0])
    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await receive(left)

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        await trio.aclose_forcefully(pair[0])
    with pytest.raises(trio.ClosedResourceError):
        await receive(left)
    with pytest.raises(trio.ClosedResourceError):
        await send(left, b"x")


async def test_flush_with_nothing_to_do_returns(pair: Pair) -> None:
    await nowait(pair[0]).flush()


# --- sockets


async def clog(stream: NowaitStream) -> bytes:
    """Send until the socket takes no more. Returns what was sent."""
    sent = bytearray()
    while True:
        block = os.urandom(200_000)
        sent += block
        if not stream.send_nowait(block):
            return bytes(sent)


posix = pytest.mark.skipif(sys.platform == "win32", reason="sockets are used through their descriptors")


@posix
async def test_a_socket_takes_nothing_before_a_flush() -> None:
    ours, theirs = await tcp_pair()
    async with ours, theirs:
        left = nowait(ours)
        await clog(left)
        with pytest.raises(trio.BusyResourceError):
            left.send_nowait(b"too early")


@posix
@pytest.mark.parametrize("pair", MAKERS_OVER_SOCKETS, ids=names, indirect=True)
async def test_a_cancelled_flush_goes_on_where_it_was(pair: Pair) -> None:
    left, right = map(nowait, pair)
    sent = await clog(left)
    for _ in range(2):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(left.flush)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    received = bytearray()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(left.flush)
        while len(received) < len(sent):
            received += await receive(right)
    assert received == sent
    assert left.send_nowait(b"and now")
    assert await receive(right) == b"and now"


@posix
@pytest.mark.parametrize("count", [64, 65, 5000])
async def test_any_number_of_buffers(count: int) -> None:
    ours, theirs = await tcp_pair()
    async with ours, theirs:
        assert nowait(ours).send_nowait(*(b"%04d" % number for number in range(count)))
        received = b""
        while len(received) < 4 * count:
            received += await receive(nowait(theirs))
        assert received == b"".join(b"%04d" % number for number in range(count))


@posix
async def test_a_read_that_fills_its_buffer_is_followed_by_another_at_once() -> None:
    ours, theirs = await tcp_pair()
    async with ours, theirs:
        left, right = nowait(ours), nowait(theirs)
        sent = await clog(left)
        await right.wait_readable()
        sizes = []
        while (data := right.receive_nowait()) is not None:
            sizes.append(len(data))
        assert sizes
        assert all(size == READ_BYTES for size in sizes[:-1])
        assert sum(sizes) <= len(sent)


async def test_what_a_wait_has_raised_is_raised_by_receiving(pair: Pair) -> None:
    """Otherwise, who waits and then receives without waiting would do so again and again, and learn nothing."""
    left = nowait(pair[0])
    await trio.aclose_forcefully(pair[0])
    with suppress(trio.ClosedResourceError):  # it may return instead
        await left.wait_readable()
    for _ in range(2):
        with pytest.raises(trio.ClosedResourceError):
            left.receive_nowait()


async def test_why_a_stream_broke_is_kept() -> None:
    class Broken(trio.abc.ReceiveStream):
        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            await trio.lowlevel.checkpoint()
            raise trio.BrokenResourceError("broke") from reset

        async def aclose(self) -> None:
            await trio.lowlevel.checkpoint()

    reset = ConnectionResetError()
    stream = nowait(trio.StapledStream(trio.testing.MemorySendStream(), Broken()))
    with pytest.raises(trio.BrokenResourceError):
        await stream.wait_readable()
    with pytest.raises(trio.BrokenResourceError, match="broke") as caught:
        stream.receive_nowait()
    assert caught.value.__cause__ is reset


@posix
async def test_a_reset_is_not_an_end_of_file() -> None:
    ours, theirs = await tcp_pair()
    async with ours:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        await trio.aclose_forcefully(theirs)
        stream = nowait(ours)
        with pytest.raises(trio.BrokenResourceError):
            await receive(stream)
        with pytest.raises(trio.BrokenResourceError):
            stream.send_nowait(b"x")


@posix
@pytest.mark.parametrize("layer", ["socket", "websocket"])
async def test_a_socket_that_always_has_more_lets_others_run(layer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = await tcp_pair()
    reads = 0

    def flood(_descriptor: int, buffers: tuple[memoryview]) -> int:
        nonlocal reads
        reads += 1
        assert reads < 100, "nobody else runs any more"
        frames = PING_FRAME * (READ_BYTES // len(PING_FRAME))
        buffers[0][: len(frames)] = frames
        return READ_BYTES

    async with ours, theirs:
        stream = nowait(ours if layer == "socket" else WebSocketStream(ours, client=True))
        monkeypatch.setattr(os, "readv", flood)
        while stream.receive_nowait() is not None:
            pass


def test_a_turn_ends_with_its_bytes_or_with_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    turn = Turn()
    assert not turn.is_over(TURN_BYTES - 1)
    assert turn.is_over(1)
    turn = Turn()
    assert not turn.is_over(1)
    now += TURN_SECONDS * 1.01
    assert turn.is_over(0)
    assert not Turn().is_over(0)


@posix
async def test_small_frames_are_given_out_a_few_at_a_time_and_what_is_left_is_kept() -> None:
    """What is left was received into memory that the next stream to receive overwrites."""
    (ours, theirs), (other, far) = await tcp_pair(), await tcp_pair()
    data = os.urandom(3 * MAX_FRAMES_PER_READ + 7)
    async with ours, theirs, other, far:
        stream = WebSocketStream(ours, client=True)
        await theirs.send_all(b"".join(b"\x82\x01%c" % byte for byte in data))
        received, sizes = b"", []
        while len(received) < len(data):
            some = await receive(stream)
            sizes.append(len(some))
            received += some
            await far.send_all(bytes(10_000))
            assert not any(await receive(nowait(other)))
            with trio.fail_after(60):
                if len(received) < len(data):
                    await stream.wait_readable()
    assert received == data
    assert max(sizes) == MAX_FRAMES_PER_READ


@posix
async def test_pings_alone_are_received_for_no_longer_than_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybridrelay.streams.nowait.TURN_SECONDS", 0.0)
    ours, theirs = await tcp_pair()
    reads = 0

    def flood(_descriptor: int, buffers: tuple[memoryview]) -> int:
        nonlocal reads
        reads += 1
        buffers[0][:] = PING_FRAME * (READ_BYTES // len(PING_FRAME))
        return READ_BYTES

    async with ours, theirs:
        stream = WebSocketStream(ours, client=True)
        monkeypatch.setattr(os, "readv", flood)
        assert stream.receive_nowait() is None
    assert reads == 1


@posix
async def test_a_record_in_pieces_is_received_for_no_longer_than_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """TLS in WebSocket frames of a byte each, all of which are there at once."""
    monkeypatch.setattr("hybridrelay.streams.nowait.TURN_SECONDS", 0.0)
    ours, theirs = await tcp_pair()
    inner, source = await tls(trio.testing.memory_stream_pair())
    await source.send_all(bytes(10_000))
    records = await inner.transport_stream.receive_some()
    async with ours, theirs:
        inner._below = inner._receiver._below = WebSocketStream(ours, client=True)  # they come through frames
        await theirs.send_all(b"".join(b"\x82\x01%c" % byte for byte in records))
        turns = 0
        while (data := inner.receive_nowait()) is None:
            turns += 1
            await inner.wait_readable()
        assert data == bytes(10_000)
        assert turns >= 10_000 // MAX_FRAMES_PER_READ


@posix
async def test_a_websocket_stream_takes_nothing_before_a_flush_either() -> None:
    """While a pong is being written, the following data waits. Further data would overtake it."""
    ours, theirs = await tcp_pair()
    async with ours, theirs:
        stream = WebSocketStream(ours, client=True)
        async with trio.open_nursery() as nursery:
            async with stream._write_lock:
                assert not stream.send_nowait(b"first")
                nursery.start_soon(stream.flush)
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
        with pytest.raises(trio.BusyResourceError):
            stream.send_nowait(b"second")
        await stream.flush()
        assert stream.send_nowait(b"second")
        far = WebSocketStream(theirs, client=False)
        received = b""
        while len(received) < 11:
            received += await far.receive_some()
        assert received == b"firstsecond"


@pytest.mark.parametrize("how", ["send_all", "flush"])
async def test_a_peer_that_takes_nothing_is_left_within_a_second(
    how: str, autojump_clock: trio.testing.MockClock
) -> None:
    """TLS over WebSocket: when TLS has waited for a second, the WebSocket stream below does not wait again."""
    below = websocket(trio.testing.memory_stream_pair())
    ours, theirs = await tls(below)
    clogged, _ = trio.testing.lockstep_stream_pair()
    below[0]._below = nowait(clogged)
    async with trio.open_nursery() as nursery:
        if how == "send_all":
            nursery.start_soon(ours.send_all, bytes(100_000))
        else:
            assert not ours.send_nowait(bytes(100_000))
            nursery.start_soon(ours.flush)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    began = trio.current_time()
    await ours.aclose()
    assert trio.current_time() - began <= 1.0
    await trio.aclose_forcefully(theirs)


@posix
async def test_waiting_for_a_socket_that_was_closed_raises() -> None:
    ours, theirs = await tcp_pair()
    async with theirs:
        stream = nowait(ours)
        await clog(stream)
        await ours.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await stream.wait_readable()
        with pytest.raises(trio.ClosedResourceError):
            await stream.flush()


# --- streams that only wait


async def test_a_send_that_was_cut_off_is_the_last_one() -> None:
    ours, _ = trio.testing.lockstep_stream_pair()
    stream = nowait(ours)
    assert not stream.send_nowait(b"x")
    with pytest.raises(trio.BusyResourceError):
        stream.send_nowait(b"y")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.flush)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    with pytest.raises(trio.BrokenResourceError):
        stream.send_nowait(b"y")
    with pytest.raises(trio.BrokenResourceError):
        await stream.flush()


async def test_a_stream_with_non_blocking_calls_is_used_as_it_is() -> None:
    ours, _ = trio.testing.memory_stream_pair()
    stream = WebSocketStream(ours, client=True)
    assert nowait(stream) is stream


@posix
async def test_a_socket_says_what_it_could_not_send() -> None:
    near, far = socket.socketpair()
    with far:
        async with trio.SocketStream(trio.socket.from_stdlib_socket(near)) as stream:
            port = nowait(stream)
            assert port.send_nowait(b"x")
            assert port.unsent_bytes == 0
            assert not port.send_nowait(bytes(8_000_000))
            left = port.unsent_bytes
            far.setblocking(False)
            got = 0
            with suppress(BlockingIOError):
                while data := far.recv(1 << 20):
                    got += len(data)
            assert 0 < left == 8_000_001 - got
