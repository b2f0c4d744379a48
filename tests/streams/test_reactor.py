"""The reactor, with real sockets and other streams, in both of its forms."""

from __future__ import annotations

import errno
import math
import os
import random
import select
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
import trio.testing

from hybridrelay.streams import TLSStream
from hybridrelay.streams.nowait import (
    READ_BYTES,
    SMALL_READ_BYTES,
    TURN_BYTES,
    Buffer,
    NowaitSocket,
    NowaitStream,
    nowait,
)
from hybridrelay.streams.reactor import Reactor, using_reactor
from hybridrelay.streams.registration import Handler, Next, Registration
from hybridrelay.streams.sockets import abort_stream
from hybridrelay.streams.turns import SharedTurns
from hybridrelay.testing import tcp_pair

from ..fake_channels import Discarding
from ..stream_pairs import (
    CLIENT,
    SERVER,
    Maker,
    all_of_wss,
    memory,
    names,
    sockets,
    tls,
    tls_over_memory,
    tls_over_sockets,
    websocket_over_sockets,
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sockets are used through their descriptors")

VARIABLE = "HYBRIDRELAY_POLLING"


@pytest.fixture
def epoll(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the reactor use an epoll set, whatever the environment of the tests says."""
    if not hasattr(select, "epoll"):
        pytest.skip("this system has no epoll")
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.fixture(params=["epoll", "tasks"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The way in which the reactor waits for sockets."""
    form: str = request.param
    if form == "epoll":
        request.getfixturevalue("epoll")
    else:
        monkeypatch.setenv(VARIABLE, "tasks")
    return form


class Reader(Handler):
    """Reads everything, at most `most` bytes in one call, and notes what happens."""

    def __init__(self, stream: NowaitStream, most: int = READ_BYTES) -> None:
        self.stream = stream
        self.most = most
        self.received = bytearray()
        self.calls = 0
        self.ended = False
        self.error: BaseException | None = None
        self.flushed: list[BaseException | None] = []
        self.failures: list[Exception] = []
        self.broken = 0
        #: Called before each read; returns what to do instead of reading, or None.
        self.instead: Callable[[], Next | None] = lambda: None
        self.registration: Registration

    def has_received(self, size: int) -> bool:
        return len(self.received) >= size

    def serve(self, reactor: Reactor, turns: SharedTurns | None = None) -> Registration:
        self.registration = reactor.register(self.stream, self, turns or SharedTurns())
        return self.registration

    def on_readable(self) -> Next:
        self.calls += 1
        instead = self.instead()
        if instead is not None:
            return instead
        try:
            data = self.stream.receive_nowait(self.most)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            self.error = exc
            return Next.PAUSE
        if data is not None:
            self.received += data
            if not data:
                self.ended = True
                return Next.PAUSE
        return Next.AGAIN if self.stream.has_more else Next.WAIT

    def on_flushed(self, error: BaseException | None) -> None:
        self.flushed.append(error)

    def on_broken(self) -> None:
        self.broken += 1

    def on_failed(self, error: Exception) -> None:
        self.failures.append(error)


async def until(condition: Callable[[], object]) -> None:
    """Wait until this is true. What was lost never arrives, hence the limit."""
    with trio.fail_after(60):
        while not condition():
            await trio.lowlevel.checkpoint()


async def arrived(stream: trio.SocketStream, event: int = select.POLLIN) -> None:
    """Wait until the kernel would report this, without the help of the reactor."""
    poll = select.poll()
    poll.register(stream.socket.fileno(), event)
    await until(lambda: any(happened & event for _, happened in poll.poll(0)))


def narrow(stream: trio.abc.Stream) -> None:
    """Let the system buffer little for a socket, or for the one below a stream."""
    while not isinstance(stream, trio.SocketStream):
        below = getattr(stream, "transport_stream", None)
        if below is None:
            return
        stream = below
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        stream.setsockopt(socket.SOL_SOCKET, option, 20_000)


async def some_passes() -> None:
    """Let the event loop make passes, enough for everything that the reactor has to do, even if it did it twice."""
    for _ in range(20):
        await trio.lowlevel.checkpoint()


async def stop(*readers: Reader) -> None:
    for reader in readers:
        reader.registration.close()
        await reader.registration.wait_closed()


async def close_all(*streams: trio.abc.AsyncResource) -> None:
    for stream in streams:
        await trio.aclose_forcefully(stream)


@asynccontextmanager
async def reading(turns: SharedTurns | None = None) -> AsyncIterator[tuple[Reader, trio.SocketStream]]:
    """Yield a reader of one end of a TCP connection, which the reactor already serves, and the other end."""
    near, far = await tcp_pair()
    async with using_reactor() as reactor:
        reader = Reader(NowaitSocket(near))
        reader.serve(reactor, turns)
        yield reader, far
        await stop(reader)
    await close_all(near, far)


# --- bytes


class Talker(Reader):
    """Also sends, and pauses now and then."""

    def __init__(self, stream: NowaitStream, data: bytes, seed: int, nursery: trio.Nursery) -> None:
        super().__init__(stream)
        self._rng = random.Random(seed)
        self._left = memoryview(data)
        self._nursery = nursery
        self.blocked = 0
        self.pauses = 0
        self.has_sent_all = False
        self.instead = self._maybe_pause

    def send(self) -> None:
        while self._left:
            size = self._rng.choice([1, 100, 5000, 100_000])
            piece, self._left = self._left[:size], self._left[size:]
            if not self.stream.send_nowait(piece):
                self.blocked += 1
                self.registration.flush()
                return
        self.has_sent_all = True

    def on_flushed(self, error: BaseException | None) -> None:
        assert error is None
        self.send()

    def _maybe_pause(self) -> Next | None:
        # Less than what has arrived, the sizes that streams treat specially, and everything.
        self.most = self._rng.choice([1, 1000, SMALL_READ_BYTES, 30_000, 30_000, READ_BYTES])
        if self._rng.random() < 0.2:
            self.pauses += 1
            self._nursery.start_soon(self._resume, self._rng.choice([0, 1, 20]))
            return Next.PAUSE
        return None

    async def _resume(self, passes: int) -> None:
        for _ in range(passes):
            await trio.lowlevel.checkpoint()
        self.registration.resume()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "maker", [sockets, memory, tls_over_sockets, tls_over_memory, websocket_over_sockets, all_of_wss], ids=names
)
async def test_both_directions_at_once(form: str, maker: Maker, seed: int, nursery: trio.Nursery) -> None:
    pair = await maker(nursery)
    rng = random.Random(seed)
    texts = [rng.randbytes(800_000), rng.randbytes(1_100_000)]
    for stream in pair:
        narrow(stream)
    async with using_reactor() as reactor:
        talkers = [Talker(nowait(stream), text, seed, nursery) for stream, text in zip(pair, texts, strict=True)]
        for talker in talkers:
            talker.serve(reactor)
            talker.registration.mark_readable()
        for talker in talkers:
            talker.send()
        await until(
            lambda: all(
                len(one.received) >= len(text) and other.has_sent_all
                for one, other, text in zip(talkers, reversed(talkers), reversed(texts), strict=True)
            )
        )
        for talker in talkers:
            assert talker.blocked > 0, "some writes were flushed"
            assert talker.pauses > 0
            assert talker.failures == []
            await stop(talker)
    assert [talker.received for talker in talkers] == texts[::-1]
    await close_all(*pair)


@pytest.mark.parametrize("most", [1, 7, 100, READ_BYTES])
async def test_data_and_the_end_in_one_event(form: str, most: int) -> None:
    near, far = await tcp_pair()
    await far.send_all(bytes(range(100)))
    await far.send_eof()
    await arrived(near, getattr(select, "POLLRDHUP", select.POLLIN))
    async with using_reactor() as reactor:
        reader = Reader(NowaitSocket(near), most)
        reader.serve(reactor)
        await until(lambda: reader.ended)
        await stop(reader)
    assert reader.received == bytes(range(100))
    await close_all(near, far)


async def test_the_end_right_behind_a_read(form: str) -> None:
    async with reading() as (reader, far):
        await far.send_all(b"some")
        await until(lambda: reader.received == b"some")
        assert not reader.ended
        await some_passes()
        await far.send_eof()
        await until(lambda: reader.ended)


async def test_the_end_that_arrives_between_event_and_read(form: str) -> None:
    async with reading() as (reader, far):

        def end() -> None:
            far.socket.shutdown(socket.SHUT_WR)
            reader.instead = lambda: None

        reader.instead = end
        await far.send_all(b"some")
        await until(lambda: reader.ended)
    assert reader.received == b"some"


async def test_a_reset_after_data(form: str) -> None:
    near, far = await tcp_pair()
    await far.send_all(b"last words")
    await arrived(near)
    await abort_stream(far)
    await arrived(near, select.POLLERR)
    async with using_reactor() as reactor:
        reader = Reader(NowaitSocket(near), 4)
        reader.serve(reactor)
        await until(lambda: reader.error is not None or reader.ended)
        await stop(reader)
    assert reader.received == b"last words"
    assert isinstance(reader.error, trio.BrokenResourceError)
    assert not reader.ended
    await close_all(near)


async def test_what_follows_urgent_data(form: str) -> None:
    """A read stops at urgent data, and the rest causes no other event."""
    near, far = await tcp_pair()
    far.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    await far.socket.send(b"before ")
    await far.socket.send(b"!", socket.MSG_OOB)
    await far.socket.send(b"after")
    await arrived(near, select.POLLPRI)
    await arrived(near)
    async with using_reactor() as reactor:
        reader = Reader(NowaitSocket(near))
        reader.serve(reactor)
        await until(lambda: reader.received == b"before after")
        await far.socket.send(b", again ")
        await far.socket.send(b"!", socket.MSG_OOB)
        await far.socket.send(b"something")
        await until(lambda: reader.received == b"before after, again something")
        await stop(reader)
    await close_all(near, far)


# --- pausing


async def test_what_arrives_during_a_pause(form: str) -> None:
    async with reading() as (reader, far):
        reader.instead = lambda: Next.PAUSE
        await far.send_all(b"one ")
        await until(lambda: reader.calls)
        await far.send_all(b"two ")
        await far.send_eof()
        await some_passes()
        assert reader.calls == 1, "it has paused"
        reader.instead = lambda: None
        reader.registration.resume()
        await until(lambda: reader.ended)
        assert reader.received == b"one two "


async def test_what_arrives_after_a_pause_with_nothing_left_to_read(form: str) -> None:
    async with reading() as (reader, far):
        await far.send_all(b"one")
        await until(lambda: reader.received)
        reader.instead = lambda: Next.PAUSE
        reader.registration.mark_readable()
        await until(lambda: reader.calls >= 2)
        reader.instead = lambda: None
        reader.registration.resume()
        await some_passes()
        await far.send_all(b" two")
        await until(lambda: reader.received == b"one two")


async def test_resuming_without_a_pause_has_no_effect(form: str) -> None:
    async with reading() as (reader, far):
        reader.registration.resume()
        await some_passes()
        assert reader.calls == 0
        await far.send_all(b"x")
        await until(lambda: reader.received)
        await some_passes()
        calls = reader.calls
        reader.registration.resume()
        await some_passes()
        assert reader.calls == calls


async def test_data_in_the_layers_of_the_stream_is_read_after_mark_readable(form: str) -> None:
    near, far = await tls_over_sockets_pair()
    await near.send_all(b"both")
    assert await far.receive_some(1) == b"b"
    async with using_reactor() as reactor:
        reader = Reader(far)
        reader.serve(reactor)
        reader.registration.mark_readable()
        await until(lambda: reader.received == b"oth")
        await stop(reader)
    await close_all(near, far)


async def tls_over_sockets_pair() -> tuple[TLSStream, TLSStream]:
    return await tls(await tcp_pair())


# --- writing


def fill(stream: NowaitStream) -> int:
    """Send until nothing more is accepted. Returns how much was sent."""
    sent = 0
    while True:
        sent += 400_000
        if not stream.send_nowait(bytes(400_000)):
            return sent


async def receive_all(stream: trio.abc.ReceiveStream, size: int) -> None:
    while size > 0:
        size -= len(await stream.receive_some(READ_BYTES))


@pytest.mark.parametrize("over", ["sockets", "tls"])
async def test_flushing_is_reported_once(form: str, over: str) -> None:
    near, far = await tcp_pair() if over == "sockets" else await tls_over_sockets_pair()
    narrow(near)
    narrow(far)
    stream = nowait(near)
    async with using_reactor() as reactor:
        reader = Reader(stream)
        registration = reader.serve(reactor)
        await some_passes()
        assert reader.flushed == [], "nothing was buffered"
        for _ in range(3):
            reader.flushed.clear()
            sent = fill(stream)
            registration.flush()
            await some_passes()
            assert reader.flushed == []
            await receive_all(far, sent)
            await until(lambda: reader.flushed)
            await some_passes()
            assert reader.flushed == [None]
            assert stream.unsent_bytes == 0
            size = len(reader.received)
            await far.send_all(b"x")  # the event says again that the socket is writable
            await until(partial(reader.has_received, size + 1))
            assert reader.flushed == [None]
        registration.close()
        await registration.wait_closed()
    await close_all(near, far)


async def test_flushing_goes_on_while_reading_pauses(form: str) -> None:
    async with reading() as (reader, far):
        reader.instead = lambda: Next.PAUSE
        await far.send_all(b"x")
        await until(lambda: reader.calls)
        sent = fill(reader.stream)
        reader.registration.flush()
        await receive_all(far, sent)
        await until(lambda: reader.flushed)
        assert reader.calls == 1


async def test_nothing_is_flushed_in_vain(epoll: None) -> None:
    class Counted(NowaitSocket):
        flushes = 0

        def flush_nowait(self) -> bool:
            self.flushes += 1
            return super().flush_nowait()

    near, far = await tcp_pair()
    narrow(near)
    narrow(far)
    async with using_reactor() as reactor:
        stream = Counted(near)
        reader = Reader(stream)
        reader.serve(reactor)
        fill(stream)
        reader.registration.flush()
        await some_passes()
        flushes = stream.flushes
        for number in range(1, 20):
            await far.send_all(b"x")
            await until(partial(reader.has_received, number))
        # The system may still have taken something, but not each time.
        assert stream.flushes - flushes < 10
        await stop(reader)
    await close_all(near, far)


@pytest.mark.parametrize("over", ["sockets", "tls"])
async def test_a_connection_that_breaks_while_something_is_buffered(form: str, over: str) -> None:
    near, far = await tcp_pair()
    pair: tuple[trio.abc.Stream, trio.abc.Stream] = near, far
    if over == "tls":
        pair = await tls((near, far))
    stream = nowait(pair[0])
    async with using_reactor() as reactor:
        reader = Reader(stream)
        reader.instead = lambda: Next.PAUSE
        registration = reader.serve(reactor)
        fill(stream)
        registration.flush()
        await abort_stream(far)
        await until(lambda: reader.flushed)
        await some_passes()
        (error,) = reader.flushed
        assert isinstance(error, trio.BrokenResourceError)
        registration.close()
        await registration.wait_closed()
    if over == "tls":
        with pytest.raises(trio.BrokenResourceError):
            stream.send_nowait(b"more")
    await close_all(*pair)


class Batch:
    """A writer, which adds itself at most once at a time."""

    def __init__(self, reactor: Reactor, log: list[str], turns: SharedTurns | None = None) -> None:
        self.turns = turns or SharedTurns()
        self.then: Callable[[], None] = lambda: None
        self._reactor = reactor
        self._log = log
        self._is_added = False

    def add(self) -> None:
        if not self._is_added:
            self._is_added = True
            self._reactor.write_later(self)

    def write(self) -> None:
        self._is_added = False
        self._log.append("write")
        self.then()


@pytest.mark.parametrize("peers", [1, 2])
async def test_a_writer_is_called_once_after_all_handlers(form: str, peers: int) -> None:
    """The test makes both handlers due. In the form with tasks, data on the two sockets would make two rounds."""
    pairs = [await tcp_pair() for _ in range(2)]
    async with using_reactor() as reactor:
        log: list[str] = []
        batch = Batch(reactor, log)
        turns = [SharedTurns() for _ in range(peers)]
        readers = [Reader(NowaitSocket(near)) for near, _ in pairs]

        def read(name: str) -> None:
            assert reactor.is_running
            log.append(name)
            batch.add()

        for index, reader in enumerate(readers):
            reader.serve(reactor, turns[index % peers])
            reader.instead = lambda name=str(index): read(name)  # type: ignore[misc]
            reader.registration.mark_readable()
        await until(lambda: "write" in log)
        assert not reactor.is_running
        assert log == ["0", "1", "write"]
        batch.add()  # by another task
        await until(lambda: len(log) == 4)
        batch.then = lambda: batch.add() if len(log) < 7 else None
        batch.add()
        await until(lambda: len(log) == 7)
        await some_passes()
        assert log[4:] == ["write"] * 3
        await stop(*readers)
    await close_all(*(stream for pair in pairs for stream in pair))


# --- closing


async def test_a_handler_that_closes_itself_and_another_one_that_is_due(form: str) -> None:
    pairs = [await tcp_pair() for _ in range(3)]
    async with using_reactor() as reactor:
        readers = [Reader(NowaitSocket(near)) for near, _ in pairs]

        def close() -> Next:
            readers[0].registration.close()
            readers[1].registration.close()
            return Next.AGAIN

        readers[0].instead = close
        turns = SharedTurns()
        for reader in readers:
            reader.serve(reactor, turns)
            reader.registration.mark_readable()
        for _, far in pairs:
            await far.send_all(b"x")
        await until(lambda: readers[2].received)
        await some_passes()
        assert [reader.calls for reader in readers[:2]] == [1, 0]
        for reader in readers:
            reader.registration.close()
            await stop(reader)
        await pairs[2][1].send_all(b"y")
        await some_passes()
        assert readers[2].received == b"x"
    assert await pairs[1][0].receive_some() == b"x", "it can be used in another way"
    await close_all(*(stream for pair in pairs for stream in pair))


async def test_a_handler_that_closes_itself_when_all_is_flushed(form: str) -> None:
    near, far = await tcp_pair()
    narrow(near)
    narrow(far)
    async with using_reactor() as reactor:
        reader = Reader(NowaitSocket(near))
        reader.instead = lambda: Next.PAUSE
        registration = reader.serve(reactor)

        def close(error: BaseException | None) -> None:
            reader.flushed.append(error)
            registration.resume()
            registration.close()

        reader.on_flushed = close  # type: ignore[method-assign]
        await far.send_all(b"x")
        await until(lambda: reader.calls)
        sent = fill(reader.stream)
        registration.flush()
        await receive_all(far, sent)
        await until(lambda: reader.flushed)
        await some_passes()
        await registration.wait_closed()
        assert reader.calls == 1, "although it would have had something to read"
        assert reader.failures == []
    await close_all(near, far)


async def test_a_handler_that_another_one_closes_before_it_learns_that_all_is_flushed(epoll: None) -> None:
    pairs = [await tcp_pair() for _ in range(2)]
    async with using_reactor() as reactor:
        first, second = (Reader(NowaitSocket(near)) for near, _ in pairs)
        turns = SharedTurns()
        for reader in (first, second):
            reader.serve(reactor, turns)
        await some_passes()
        first.instead = second.registration.close
        # What the epoll set reports of both of them at once, in this order.
        second.stream.send_nowait(b"x")
        second.registration.flush()
        first.registration.on_event(readable=True, hung_up=False, writable=False, broken=False)
        second.registration.on_event(readable=False, hung_up=False, writable=True, broken=False)
        await until(lambda: first.calls)
        await some_passes()
        assert second.flushed == []
        await stop(first, second)
    await close_all(*(stream for pair in pairs for stream in pair))


def reuse(stream: trio.SocketStream, other: trio.SocketStream) -> trio.SocketStream:
    """Close `stream`, and give its descriptor to the connection of `other`, as `socket` and `accept` do."""
    fd = stream.socket.fileno()
    stream.socket.close()
    moved = socket.socket(fileno=os.dup2(other.socket.fileno(), fd))
    other.socket.close()
    moved.setblocking(False)
    return trio.SocketStream(trio.socket.from_stdlib_socket(moved))


async def test_a_descriptor_that_is_used_again_in_the_same_round(form: str) -> None:
    (first, first_far), (old, old_far), (new, new_far) = [await tcp_pair() for _ in range(3)]
    streams: list[trio.SocketStream] = []
    async with using_reactor() as reactor:
        turns = SharedTurns()
        one, two = Reader(NowaitSocket(first)), Reader(NowaitSocket(old))
        three: list[Reader] = []

        def replace() -> None:
            if three:
                return
            two.registration.close()
            streams.append(reuse(old, new))
            three.append(Reader(NowaitSocket(streams[0])))
            three[0].serve(reactor, turns)

        one.instead = replace
        for far in (first_far, old_far):
            await far.send_all(b"old")
        await arrived(first)
        await arrived(old)
        for reader in (one, two):
            reader.serve(reactor, turns)
            reader.registration.mark_readable()
        await until(lambda: one.received)
        await some_passes()
        assert (two.calls, three[0].calls) == (0, 0)
        await new_far.send_all(b"new")
        await until(lambda: three[0].received)
        await some_passes()
        assert two.calls == 0
        assert three[0].received == b"new"
        await stop(one, two, *three)
    await close_all(first, first_far, old_far, new_far, *streams)


async def test_closing_late_does_not_affect_the_next_user_of_the_descriptor(epoll: None) -> None:
    (old, old_far), (new, new_far) = [await tcp_pair() for _ in range(2)]
    async with using_reactor() as reactor:
        before, after = Reader(NowaitSocket(old)), Reader(NowaitSocket(new))
        before.serve(reactor)
        moved = reuse(old, new)
        after.stream = NowaitSocket(moved)
        after.serve(reactor)
        before.registration.close()
        await new_far.send_all(b"new")
        await until(lambda: after.received)
        assert before.calls == 0
        after.registration.close()
    await close_all(old_far, new_far, moved)


# --- errors that only bugs cause


async def test_a_handler_that_raises_ends_only_itself(form: str) -> None:
    pairs = [await tcp_pair() for _ in range(2)]
    async with using_reactor() as reactor:
        turns = SharedTurns()
        bad, good = (Reader(NowaitSocket(near)) for near, _ in pairs)
        bad.instead = lambda: 1 // 0  # type: ignore[assignment, return-value]
        for reader in (bad, good):
            reader.serve(reactor, turns)
        for _, far in pairs:
            await far.send_all(b"x")
        await until(lambda: bad.failures and good.received)
        await pairs[0][1].send_all(b"y")
        await some_passes()
        bad.registration.mark_readable()
        await some_passes()
        assert bad.calls == 1
        assert list(map(type, bad.failures)) == [ZeroDivisionError]
        await stop(bad)
        again = Reader(NowaitSocket(pairs[0][0]))
        again.serve(reactor, turns)
        await until(lambda: again.received == b"xy")
        await pairs[1][1].send_all(b"z")
        await until(lambda: good.received == b"xz")
        assert type(again.registration) is type(good.registration), "the socket was free again"
        await stop(good, again)
    await close_all(*(stream for pair in pairs for stream in pair))


async def test_a_handler_that_raises_after_it_has_closed_itself(form: str) -> None:
    async with reading() as (reader, far):

        def close_and_fail() -> Next:
            reader.registration.close()
            raise ValueError

        reader.instead = close_and_fail
        await far.send_all(b"x")
        await until(lambda: reader.failures)
        await reader.registration.wait_closed()


async def test_a_handler_that_raises_when_all_is_flushed(form: str) -> None:
    async with reading() as (reader, far):
        reader.on_flushed = lambda error: 1 // 0  # type: ignore[assignment, method-assign]
        sent = fill(reader.stream)
        reader.registration.flush()
        await receive_all(far, sent)
        await until(lambda: reader.failures)
        await far.send_all(b"x")
        await some_passes()
        assert reader.calls == 0
        assert list(map(type, reader.failures)) == [ZeroDivisionError]
        await reader.registration.wait_closed()


class Faulty(Discarding):
    """Raises what no stream should raise."""

    def __init__(self, method: str) -> None:
        self._method = method

    def send_nowait(self, *buffers: Buffer) -> bool:
        return False

    def receive_nowait(self, max_bytes: int = READ_BYTES) -> Buffer | None:
        return None

    async def wait_readable(self) -> None:
        if self._method in ("wait_readable", "both"):
            raise ValueError(self._method)
        await trio.sleep_forever()

    async def flush(self) -> None:
        if self._method in ("flush", "both"):
            raise ValueError(self._method)
        await trio.sleep_forever()


@pytest.mark.parametrize("method", ["wait_readable", "flush", "both"])
async def test_a_stream_that_raises_ends_only_its_handler(method: str) -> None:
    near, far = await tcp_pair()
    async with using_reactor() as reactor:
        bad, good = Reader(Faulty(method)), Reader(NowaitSocket(near))
        for reader in (bad, good):
            reader.serve(reactor)
        bad.registration.flush()
        await until(lambda: bad.failures)
        await bad.registration.wait_closed()
        assert [(type(error), str(error)) for error in bad.failures] == [(ValueError, method)]
        assert bad.flushed == []
        assert bad.calls == 0
        await far.send_all(b"x")
        await until(lambda: good.received)
        await stop(good)
    await close_all(near, far)


async def test_nothing_is_flushed_after_the_end() -> None:
    async with using_reactor() as reactor:
        reader = Reader(Faulty("flush"))
        reader.serve(reactor)
        await stop(reader)
        reader.registration.flush()
        await some_passes()
        assert reader.failures == []


# --- other tasks and peers


class Passes(trio.abc.Instrument):
    """Calls a function in each pass of the event loop."""

    def __init__(self, look: Callable[[], None]) -> None:
        self._look = look

    def before_io_wait(self, timeout: float) -> None:
        self._look()


async def test_the_handlers_of_a_peer_share_its_turn_and_take_it_one_after_the_other(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many they are, another peer's handler is called as often as before."""
    # The reactor lets other tasks run after 5 ms, which pass earlier on a busy machine.
    monkeypatch.setattr("hybridrelay.streams.nowait.TURN_SECONDS", math.inf)
    pairs = [await tcp_pair() for _ in range(21)]
    quarter = TURN_BYTES // 4
    async with using_reactor() as reactor:
        busy, quiet = (SharedTurns(lambda: 0.0) for _ in range(2))
        readers = [Reader(NowaitSocket(near)) for near, _ in pairs]
        for index, reader in enumerate(readers):
            turns = busy if index else quiet

            def work(turns: SharedTurns = turns) -> Next:
                turns.count(0, quarter)
                return Next.AGAIN

            reader.instead = work
            reader.serve(reactor, turns)
            reader.registration.mark_readable()
        calls, most = (0, 0), (0, 0)

        def look() -> None:
            nonlocal calls, most
            now = readers[0].calls, sum(reader.calls for reader in readers[1:])
            most = max(most[0], now[0] - calls[0]), max(most[1], now[1] - calls[1])
            calls = now

        instrument = Passes(look)
        trio.lowlevel.add_instrument(instrument)
        steps = 0
        while calls[1] < 4 * 20 * 10:
            await trio.lowlevel.checkpoint()
            steps += 1
        trio.lowlevel.remove_instrument(instrument)
        assert most == (4, 4), "a turn in each pass"
        assert abs(calls[0] - calls[1]) <= 8
        each = [reader.calls for reader in readers[1:]]
        assert max(each) - min(each) <= 1
        assert steps >= 20 * 10 - 2, "other tasks run in each pass"
        await stop(*readers)
    await close_all(*(stream for pair in pairs for stream in pair))


async def test_keys_of_an_owner_and_addresses_of_a_key_share_turns_equally(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although each handler uses up a whole turn. One key is used from three addresses, the other one from one."""
    monkeypatch.setattr("hybridrelay.streams.nowait.TURN_SECONDS", math.inf)
    pairs = [await tcp_pair() for _ in range(4)]
    owner = SharedTurns(lambda: 0.0)
    keys = [SharedTurns(lambda: 0.0, owner) for _ in range(2)]
    async with using_reactor() as reactor:
        readers = [Reader(NowaitSocket(near)) for near, _ in pairs]
        for index, reader in enumerate(readers):
            turns = SharedTurns(lambda: 0.0, keys[index == 3])

            def work(turns: SharedTurns = turns) -> Next:
                turns.count(0, TURN_BYTES)
                return Next.AGAIN

            reader.instead = work
            reader.serve(reactor, turns)
            reader.registration.mark_readable()
        await until(lambda: sum(reader.calls for reader in readers) >= 120)
        *first, second = [reader.calls for reader in readers]
        assert abs(sum(first) - second) <= 5
        assert max(first) - min(first) <= 5
        await stop(*readers)
    await close_all(*(stream for pair in pairs for stream in pair))


async def test_a_handler_that_is_due_for_several_reasons_is_called_once(form: str) -> None:
    async with using_reactor() as reactor:
        turns, log = SharedTurns(lambda: 0.0), list[int]()
        readers = [Reader(Discarded()) for _ in range(2)]
        for index, reader in enumerate(readers):
            reader.serve(reactor, turns)

            def work(index: int = index) -> Next:
                log.append(index)
                return Next.AGAIN if len(log) < 10 else Next.PAUSE

            reader.instead = work
            for _ in range(3):
                reader.registration.mark_readable()
        await until(lambda: len(log) >= 10)
        assert log[:10] == [0, 1] * 5
        await stop(*readers)


async def test_nothing_runs_when_everything_has_been_read(form: str) -> None:
    async with reading() as (reader, far):
        await far.send_all(b"x")
        await until(lambda: reader.received)
        with trio.fail_after(60):
            await trio.testing.wait_all_tasks_blocked()


class _Scheduled(trio.abc.Instrument):
    """Counts how often a task other than this one is scheduled."""

    def __init__(self) -> None:
        self._own = trio.lowlevel.current_task()
        self.count = 0

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        self.count += task is not self._own


async def test_one_task_runs_once_for_what_the_epoll_set_reports(epoll: None) -> None:
    async with reading() as (reader, far):
        await trio.testing.wait_all_tasks_blocked()
        for size in range(1, 5):
            scheduled = _Scheduled()
            trio.lowlevel.add_instrument(scheduled)
            os.write(far.socket.fileno(), b"x")
            await until(lambda size=size: reader.has_received(size))  # type: ignore[misc]
            trio.lowlevel.remove_instrument(scheduled)
            assert scheduled.count == 1


async def test_handlers_do_not_call_each_other(form: str) -> None:
    """A handler may do something that has handlers called, for instance in a task that waits."""
    async with using_reactor() as reactor:
        first, second = (Reader(Discarded()) for _ in range(2))
        seen: list[int] = []

        def work() -> Next:
            reactor.run_handlers()
            seen.append(second.calls)
            return Next.PAUSE

        first.instead = work
        for reader in (first, second):
            reader.serve(reactor)
            reader.registration.mark_readable()
        await until(lambda: second.calls)
        assert seen == [0]
        await stop(first, second)


@pytest.mark.parametrize("what", ["handler", "writer"])
async def test_other_tasks_run_although_no_turn_is_over(form: str, what: str) -> None:
    near, far = await tcp_pair()
    async with using_reactor() as reactor:
        reader = Reader(NowaitSocket(near))
        turns = SharedTurns(lambda: 0.0)
        log: list[str] = []
        batch = Batch(reactor, log, turns)
        # If other tasks did not run, this would go on until the limit.
        reader.instead = lambda: Next.AGAIN if reader.calls < 1_000_000 else Next.PAUSE
        batch.then = lambda: batch.add() if len(log) < 1_000_000 else None
        reader.serve(reactor, turns)
        if what == "handler":
            reader.registration.mark_readable()
        else:
            batch.add()
        for _ in range(10):
            await trio.lowlevel.checkpoint()
        assert 0 < reader.calls + len(log) < 1_000_000
        batch.then = lambda: None
        await stop(reader)
    await close_all(near, far)


async def test_the_time_of_handlers_and_writers_counts_in_the_turn_of_their_peer(form: str) -> None:
    now = 0.0
    async with using_reactor() as reactor:
        one, two, three = (SharedTurns(lambda: now) for _ in range(3))
        readers = [Reader(Discarded()) for _ in range(2)]
        batch = Batch(reactor, [], three)

        def take(seconds: float) -> None:
            nonlocal now
            now += seconds

        def read_first() -> Next:
            batch.add()
            take(100.0)
            return Next.WAIT

        def read_second() -> Next:
            take(0.001)
            return Next.WAIT

        readers[0].instead, readers[1].instead = read_first, read_second
        for reader, turns in zip(readers, (one, two), strict=True):
            reader.serve(reactor, turns)
            reader.registration.mark_readable()
        await until(lambda: readers[1].calls)
        assert [turns.is_over for turns in (one, two, three)] == [True, False, False]
        assert not two.use(0, TURN_BYTES * 3 // 4)
        assert two.use(0, TURN_BYTES // 8), "a fifth of the turn was time"
        batch.then = lambda: take(100.0)
        batch.add()
        await until(lambda: three.is_over)
        await stop(*readers)


class Discarded(Discarding):
    """A stream on which nothing arrives."""

    readable = False

    def receive_nowait(self, max_bytes: int = READ_BYTES) -> Buffer | None:
        return None


async def test_a_peer_whose_turn_is_over_is_served_in_a_later_pass(form: str) -> None:
    turns = SharedTurns(lambda: 0.0)
    async with reading(turns) as (reader, far):
        turns.count(0, 2 * TURN_BYTES)
        assert turns.is_over
        await far.send_all(b"x")
        await until(lambda: reader.received)


# --- when there is no epoll set


class FullEpoll:
    """An epoll set that accepts nothing, as if the user had too many watches."""

    def __init__(self, real: select.epoll) -> None:
        self._real = real
        self.attempts = 0

    def register(self, fd: int, events: int) -> None:
        self.attempts += 1
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)


async def test_tasks_wait_for_a_socket_that_the_epoll_set_does_not_accept(epoll: None) -> None:
    near, far = await tcp_pair()
    async with using_reactor() as reactor:
        assert reactor._epoll_set is not None
        full = FullEpoll(reactor._epoll_set._epoll)
        reactor._epoll_set._epoll = full  # type: ignore[assignment]
        reader = Reader(NowaitSocket(near))
        reader.serve(reactor)
        assert full.attempts == 1
        await far.send_all(b"x")
        await far.send_eof()
        await until(lambda: reader.ended)
        sent = fill(reader.stream)
        reader.registration.flush()
        await receive_all(far, sent)
        await until(lambda: reader.flushed)
        await stop(reader)
    await close_all(near, far)


async def test_tasks_wait_if_no_epoll_set_can_be_made(epoll: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    near, far = await tcp_pair()
    with monkeypatch.context() as patch:
        patch.setattr(select, "epoll", refuse)
        async with using_reactor() as reactor:
            patch.undo()
            reader = Reader(NowaitSocket(near))
            reader.serve(reactor)
            await far.send_all(b"x")
            await until(lambda: reader.received)
            await stop(reader)
    await close_all(near, far)


async def test_a_socket_that_was_closed_before(form: str) -> None:
    near, far = await tcp_pair()
    stream = NowaitSocket(near)
    await close_all(near, far)
    async with using_reactor() as reactor:
        reader = Reader(stream)
        reader.serve(reactor)
        await until(lambda: reader.error)
        assert isinstance(reader.error, trio.ClosedResourceError)
        await stop(reader)


async def test_one_task_serves_all_sockets(form: str) -> None:
    pairs = [await tcp_pair() for _ in range(5)]
    async with using_reactor() as reactor:
        await trio.testing.wait_all_tasks_blocked()
        before = trio.lowlevel.current_statistics().tasks_living
        readers = [Reader(NowaitSocket(near)) for near, _ in pairs]
        for reader in readers:
            reader.serve(reactor)
        for _, far in pairs:
            await far.send_all(b"x")
        await until(lambda: all(reader.received for reader in readers))
        after = trio.lowlevel.current_statistics().tasks_living
        assert after - before == (0 if form == "epoll" else len(pairs))
        await stop(*readers)
    await close_all(*(stream for pair in pairs for stream in pair))


# --- its life


async def test_it_ends_with_its_last_user(form: str) -> None:
    await trio.testing.wait_all_tasks_blocked()
    before = trio.lowlevel.current_statistics().tasks_living
    async with using_reactor() as outer:
        async with using_reactor() as inner:
            assert inner is outer
        near, far = await tcp_pair()
        reader = Reader(NowaitSocket(near))
        reader.serve(outer)
        await far.send_all(b"x")
        await until(lambda: reader.received)
        await stop(reader)
        epoll_set = outer._epoll_set
        assert (epoll_set is not None) == (form == "epoll")
    await trio.testing.wait_all_tasks_blocked()
    assert trio.lowlevel.current_statistics().tasks_living == before
    assert epoll_set is None or epoll_set._epoll.closed
    async with using_reactor() as another:
        assert another is not outer
        reader = Reader(NowaitSocket(near))
        reader.serve(another)
        await far.send_all(b"y")
        await until(lambda: reader.received)
        await stop(reader)
    await close_all(near, far)


async def test_a_user_that_is_cancelled(form: str) -> None:
    near, far = await tcp_pair()
    async with using_reactor() as reactor:
        reader = Reader(NowaitSocket(near))

        async def use() -> None:
            async with using_reactor() as used:
                reader.serve(used)
                try:
                    await trio.sleep_forever()
                finally:
                    await stop(reader)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(use)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        # The first user still has its reactor, and the socket is free.
        again = Reader(NowaitSocket(near))
        again.serve(reactor)
        await far.send_all(b"x")
        await until(lambda: again.received)
        assert reader.calls == 0
        await stop(again)
    with trio.CancelScope() as scope:
        scope.cancel()
        async with using_reactor():
            await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    async with using_reactor() as another:
        assert another is not reactor
    await close_all(near, far)


async def test_timeouts_are_called_when_they_are_due(form: str, autojump_clock: trio.testing.MockClock) -> None:
    called: list[float] = []
    async with using_reactor() as reactor:
        assert reactor.timeouts(5.0) is reactor.timeouts(5.0)
        assert reactor.timeouts(6.0) is not reactor.timeouts(5.0)
        began = trio.current_time()
        for seconds in (6.0, 5.0):
            reactor.timeouts(seconds).add(lambda: called.append(trio.current_time() - began))
        await trio.sleep(10)
        reactor.timeouts(5.0).add(lambda: called.append(0))
    await trio.sleep(10)
    assert called == pytest.approx([5.0, 6.0])


# --- TLS


async def test_records_and_the_end_of_tls_in_one_read(form: str) -> None:
    raw, far_raw = await tcp_pair()
    near, far = await tls((raw, far_raw))
    await far.send_all(b"first")
    await far.send_all(b"second")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(far.aclose)
        await arrived(raw, getattr(select, "POLLRDHUP", select.POLLIN))
        async with using_reactor() as reactor:
            reader = Reader(near)
            reader.serve(reactor)
            await until(lambda: reader.ended)
            await stop(reader)
        await near.aclose()
    assert reader.received == b"firstsecond"


@pytest.mark.parametrize("what", ["cut off", "altered"])
async def test_an_error_of_tls_behind_data(form: str, what: str) -> None:
    raw, far_raw = await tcp_pair()
    near, far = await tls((raw, far_raw))
    await far.send_all(b"intact")
    if what == "altered":
        await far_raw.send_all(b"\x17\x03\x03\x00\x20" + bytes(32))
    else:
        await far_raw.send_eof()
        await arrived(raw, getattr(select, "POLLRDHUP", select.POLLIN))
    async with using_reactor() as reactor:
        reader = Reader(near)
        reader.serve(reactor)
        await until(lambda: reader.error)
        assert reader.received == b"intact"
        assert isinstance(reader.error, trio.BrokenResourceError)
        assert ("cut off" in str(reader.error)) == (what == "cut off")
        await stop(reader)
    await close_all(near, far)


@pytest.mark.parametrize("most", [100, SMALL_READ_BYTES, READ_BYTES])
async def test_records_in_pieces(form: str, most: int) -> None:
    rng = random.Random(most)
    (ours, left), (right, theirs) = await tcp_pair(), await tcp_pair()

    async def pass_on(source: trio.SocketStream, sink: trio.SocketStream) -> None:
        while data := await source.receive_some(rng.choice([1, 10, 1000, 20_000])):
            await sink.send_all(data)
            for _ in range(rng.randrange(3)):
                await trio.lowlevel.checkpoint()

    async with using_reactor() as reactor, trio.open_nursery() as nursery:
        nursery.start_soon(pass_on, left, right)
        nursery.start_soon(pass_on, right, left)
        near, far = TLSStream(ours, CLIENT), TLSStream(theirs, SERVER, server_side=True)
        async with trio.open_nursery() as shaking:
            shaking.start_soon(near.do_handshake)
            shaking.start_soon(far.do_handshake)
        text = rng.randbytes(100_000)
        reader = Reader(near, most)
        reader.serve(reactor)
        at = 0
        while at < len(text):
            size = rng.choice([1, 50, 3000, 40_000])
            await far.send_all(text[at : at + size])
            at += size
        await until(lambda: len(reader.received) >= len(text))
        assert reader.received == text
        await stop(reader)
        nursery.cancel_scope.cancel()
    await close_all(near, far, left, right)


@pytest.mark.usefixtures("epoll")
@pytest.mark.parametrize("unread", [b"", b"something unread"])
@pytest.mark.parametrize("is_early", [True, False])
async def test_a_handler_that_pauses_learns_of_a_reset(unread: bytes, is_early: bool) -> None:
    """Whether it comes while the handler pauses, or has come before."""
    ours, theirs = await tcp_pair()
    reader = Reader(nowait(ours))
    reader.instead = lambda: Next.PAUSE
    async with using_reactor() as reactor:
        if is_early:
            await theirs.send_all(unread)
            await abort_stream(theirs)
        registration = reader.serve(reactor)
        registration.mark_readable()
        await trio.testing.wait_all_tasks_blocked()
        if not is_early:
            assert reader.broken == 0
            await theirs.send_all(unread)
            await abort_stream(theirs)
        await until(lambda: reader.broken)
        assert (reader.calls, reader.broken) == (1, 1)
        assert not reader.received
        registration.close()
    await trio.aclose_forcefully(ours)


@pytest.mark.usefixtures("epoll")
async def test_an_end_of_file_is_not_a_failure_for_a_handler_that_pauses() -> None:
    ours, theirs = await tcp_pair()
    reader = Reader(nowait(ours))
    async with using_reactor() as reactor:
        registration = reader.serve(reactor)
        await theirs.send_eof()
        await until(lambda: reader.ended)
        await ours.send_eof()
        await trio.testing.wait_all_tasks_blocked()
        assert reader.broken == 0
        registration.close()
    for one in (ours, theirs):
        await trio.aclose_forcefully(one)
