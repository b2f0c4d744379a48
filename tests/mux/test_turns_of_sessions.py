"""A peer with many sessions gets no more of the event loop than a peer with one."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import trio
import trio.testing

from hybridrelay.mux import CONTROL_CONFIG, MuxStream, Session, SessionRole
from hybridrelay.mux._directions import OutgoingDirection
from hybridrelay.mux._stream_ends import BATCH, SETTLING_SECONDS
from hybridrelay.protocol import Reason, SessionConfig, frames
from hybridrelay.streams.nowait import READ_BYTES, TURN_BYTES, TURN_SECONDS, Buffer, NowaitStream
from hybridrelay.streams.reactor import Reactor, using_reactor
from hybridrelay.streams.registration import Handler, Next
from hybridrelay.streams.turns import MAX_FRAMES, QUEUES, SharedTurns

from ..fake_channels import Discarding

SESSIONS, FRAMES = 20, 1500
HELLO = frames.Hello(b"session id 16 by", b"s" * 32, 0).encode()
#: More than the frames of one turn, so that some are left when a turn is over; or fewer, so that none is.
PORTIONS = (3 * MAX_FRAMES, MAX_FRAMES - 1)


def test_a_turn_is_over_after_frames_or_bytes() -> None:
    for frame_count, size in ((MAX_FRAMES, 0), (0, TURN_BYTES), (MAX_FRAMES // 2, TURN_BYTES // 2)):
        turns = SharedTurns(lambda: 0.0)
        assert not turns.is_over
        assert not turns.use(frame_count - 1 if frame_count else 0, size - 1 if size else 0)
        assert turns.use(1 if frame_count else 0, 1 if size else 0)
        assert turns.begin()
        assert turns.is_over


def test_a_turn_is_over_after_a_time_in_which_the_peers_sessions_run() -> None:
    now = 0.0
    turns = SharedTurns(lambda: now)
    for _ in range(3):
        now += 100.0  # other tasks run
        assert not turns.begin()
        now += TURN_SECONDS / 4
        assert not turns.use(0, 0)
    now += TURN_SECONDS / 4
    assert turns.use(0, 0)
    assert turns.begin()


def test_time_counts_once() -> None:
    now = 0.0
    turns = SharedTurns(lambda: now)
    for _ in range(3):
        now += TURN_SECONDS / 4
        assert not turns.use(0, 0)
    now += TURN_SECONDS / 4
    assert turns.use(0, 0)


class Passes(trio.abc.Instrument):
    """Counts the passes of the event loop, and calls a function after each."""

    def __init__(self, ended: Callable[[], object] = lambda: None) -> None:
        self.count = 0
        self._ended = ended

    def before_io_wait(self, timeout: float) -> None:
        self.count += 1
        self._ended()


@contextmanager
def instrument(passes: Passes) -> Iterator[None]:
    trio.lowlevel.add_instrument(passes)
    try:
        yield
    finally:
        trio.lowlevel.remove_instrument(passes)


async def test_each_pass_brings_one_turn_and_all_that_wait_get_turns() -> None:
    turns, passes, taken = SharedTurns(lambda: 0.0), Passes(), list[tuple[int, int]]()
    tasks = 3 * QUEUES

    async def use(number: int) -> None:
        for _ in range(3):
            await turns.next()
            taken.append((passes.count, number))
            turns.count(MAX_FRAMES)

    turns.count(MAX_FRAMES)
    with instrument(passes):
        async with trio.open_nursery() as nursery:
            for number in range(tasks):
                nursery.start_soon(use, number)
    assert len(taken) == 3 * tasks
    assert len(taken) - 3 <= passes.count <= len(taken) + 6
    assert max(Counter(at for at, _ in taken).values()) <= 2
    for begin in range(0, 3 * tasks, tasks):
        turn = {number for _, number in taken[begin : begin + tasks]}
        assert len(turn) >= tasks - 1, "nobody has a turn before all others had one"


async def test_many_small_pieces_share_a_turn() -> None:
    turns, passes, ran = SharedTurns(lambda: 0.0), Passes(), Counter[int]()
    tasks = 100 * QUEUES

    async def use() -> None:
        await turns.next()
        ran[passes.count] += 1
        turns.count(1)

    turns.count(MAX_FRAMES)
    with instrument(passes):
        async with trio.open_nursery() as nursery:
            for _ in range(tasks):
                nursery.start_soon(use)
    assert passes.count <= tasks / QUEUES + 10
    assert max(ran.values()) == QUEUES


async def test_a_task_that_is_alone_has_a_turn_in_each_pass() -> None:
    turns, passes = SharedTurns(lambda: 0.0), Passes()
    with instrument(passes):
        for _ in range(20):
            turns.count(MAX_FRAMES)
            await turns.next()
    assert passes.count == 20


async def test_a_process_that_was_stopped_during_a_turn_continues_soon() -> None:
    now = 0.0
    turns, passes = SharedTurns(lambda: now), Passes()
    now += 1000.0
    assert turns.use(0, 0)
    with instrument(passes):
        await turns.next()
    assert not turns.is_over
    assert passes.count <= 3


async def test_a_task_that_is_cancelled_while_it_waits_stops_nobody() -> None:
    turns = SharedTurns()
    turns.count(MAX_FRAMES)
    async with trio.open_nursery() as nursery:
        cancelled = trio.CancelScope()

        async def wait() -> None:
            with cancelled:
                await turns.next()

        nursery.start_soon(wait)
        nursery.start_soon(turns.next)
        cancelled.cancel()
    assert not turns.is_over


async def _most_frames_in_a_pass(
    turns: SharedTurns | None, portion: int, total: int = FRAMES, config: SessionConfig | None = None
) -> int:
    """Run sessions that receive many frames. Returns the most that are processed in one pass of the event loop."""
    sessions, ends = [], []
    most = 0
    async with trio.open_nursery() as nursery:
        for _ in range(SESSIONS):
            far, near = trio.testing.memory_stream_pair()
            await far.send_all(HELLO)
            session = Session.create(SessionRole.ACCEPTOR, config=config, turns=turns)
            nursery.start_soon(session.run, near)
            sessions.append(session)
            ends.append(near.receive_stream)
        await trio.testing.wait_all_tasks_blocked()

        def received() -> int:
            return sum(session.core.frames_received for session in sessions)

        began, sent, before = received(), 0, received()

        def look() -> None:
            nonlocal most, before
            now = received()
            most, before = max(most, now - before), now

        with instrument(Passes(look)):
            while sent < total:
                for end in ends:  # all at the same time
                    end.put_data(frames.Ack(0).encode() * portion)
                sent += portion
                while received() < began + SESSIONS * sent:
                    await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    return most


async def test_many_sessions_of_one_peer_have_one_turn_in_a_pass() -> None:
    for portion in PORTIONS:
        with trio.fail_after(60):
            # The rest of a turn, a portion that exceeds it, and a portion of the next turn.
            assert await _most_frames_in_a_pass(SharedTurns(), portion) <= 3 * MAX_FRAMES


async def test_many_control_channels_of_one_key_have_one_turn_in_a_pass() -> None:
    """Each may send a burst of thousands of frames, although it is slowed down afterwards."""
    for portion in PORTIONS:
        with trio.fail_after(60):
            assert await _most_frames_in_a_pass(SharedTurns(), portion, config=CONTROL_CONFIG) <= 3 * MAX_FRAMES


async def test_time_counts_where_frames_are_few() -> None:
    # Each look at this clock takes a whole turn, so that one frame does.
    clock = itertools.count(0.0, TURN_SECONDS).__next__
    with trio.fail_after(60):
        assert await _most_frames_in_a_pass(SharedTurns(clock), 1, 50) <= 3
        assert await _most_frames_in_a_pass(None, 1, 50) > SESSIONS // 2


async def test_sessions_of_different_peers_have_turns_of_their_own() -> None:
    for portion in PORTIONS:
        with trio.fail_after(60):
            assert await _most_frames_in_a_pass(None, portion) > SESSIONS // 2 * MAX_FRAMES


async def test_a_session_that_received_much_at_once_comes_after_the_others() -> None:
    """However much has already been read from its channel, each part of it waits for a turn."""
    turns = SharedTurns(lambda: 0.0)
    sessions, ends = [], []
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            far, near = trio.testing.memory_stream_pair()
            await far.send_all(HELLO)
            session = Session.create(SessionRole.ACCEPTOR, turns=turns)
            nursery.start_soon(session.run, near)
            sessions.append(session)
            ends.append(near.receive_stream)
        await trio.testing.wait_all_tasks_blocked()
        much, *others = (session.core for session in sessions)
        with trio.fail_after(60):
            ends[0].put_data(frames.Ack(0).encode() * 40 * MAX_FRAMES)
            while much.frames_received == 1:  # HELLO
                await trio.lowlevel.checkpoint()
            for end in ends[1:]:
                end.put_data(frames.Ack(0).encode() * MAX_FRAMES)
            while any(core.frames_received == 1 for core in others):
                await trio.lowlevel.checkpoint()
        assert much.frames_received <= 10 * MAX_FRAMES
        nursery.cancel_scope.cancel()


class Flood(Discarding):
    """A channel that always has the next frames already, so that its session never has to wait."""

    def __init__(self, portion: int) -> None:
        self._portion = frames.Ack(0).encode() * portion
        self._left = FRAMES * len(frames.Ack(0).encode())
        self._greeted = False

    def receive_nowait(self, max_bytes: int = READ_BYTES) -> Buffer | None:
        if not self._greeted:
            self._greeted = True
            return HELLO
        if self._left <= 0:
            return None
        self._left -= len(self._portion)
        return self._portion

    @property
    def readable(self) -> bool:
        return self._left > 0


class Records(Flood):
    """A channel on which records or frames of the transport arrive, one by one, without data in them."""

    def __init__(self) -> None:
        super().__init__(1)
        self.reads, self._left = 0, 30

    def receive_nowait(self, max_bytes: int = READ_BYTES) -> Buffer | None:
        if not self._greeted:
            return super().receive_nowait(max_bytes)
        self.reads += 1
        self._left -= 1
        return None


async def test_reads_without_data_share_turns_too() -> None:
    # Each look at this clock takes a whole turn, so that one read does.
    turns = SharedTurns(itertools.count(0.0, TURN_SECONDS).__next__)
    channels, most, before = [Records() for _ in range(SESSIONS)], 0, 0

    def look() -> None:
        nonlocal most, before
        now = sum(channel.reads for channel in channels)
        most, before = max(most, now - before), now

    with trio.fail_after(60), instrument(Passes(look)):
        async with trio.open_nursery() as nursery:
            for channel in channels:
                nursery.start_soon(Session.create(SessionRole.ACCEPTOR, turns=turns).run, channel)
            while before < 30 * SESSIONS:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    assert most <= 3


@pytest.mark.parametrize("portion", [1, 10 * MAX_FRAMES])
@pytest.mark.parametrize("sessions", [1, 20])
async def test_other_tasks_run_while_channels_always_have_more(portion: int, sessions: int) -> None:
    """Whether the frames arrive one by one or all at once, and however fast this machine is."""
    turns = SharedTurns(lambda: 0.0)
    running = [Session.create(SessionRole.ACCEPTOR, turns=turns) for _ in range(sessions)]
    most = before = 0

    def look() -> None:
        nonlocal most, before
        now = sum(session.core.frames_received for session in running)
        most, before = max(most, now - before), now

    with trio.fail_after(60), instrument(Passes(look)):
        async with trio.open_nursery() as nursery:
            for session in running:
                nursery.start_soon(session.run, Flood(portion))
            while before < sessions * FRAMES:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    assert most <= 3 * MAX_FRAMES


@pytest.mark.parametrize(("sessions", "streams"), [(30, BATCH - 1), (4, 10 * BATCH)])
@pytest.mark.parametrize("how", ["the sessions end", "nothing is acknowledged in time"])
async def test_other_tasks_run_while_the_streams_of_many_sessions_end(
    autojump_clock: trio.testing.MockClock, sessions: int, streams: int, how: str
) -> None:
    """Each end is reported once, and in each pass of the event loop no more than those of one session."""
    turns, passes, reported = SharedTurns(), Passes(), Counter[int]()
    async with trio.open_nursery() as nursery:
        servers: list[Session] = []
        held: list[MuxStream] = []
        for _ in range(sessions):
            ours, theirs = trio.testing.memory_stream_pair()
            client, server = Session.create(SessionRole.INITIATOR), Session.create(SessionRole.ACCEPTOR, turns=turns)
            async with trio.open_nursery() as starting:
                starting.start_soon(nursery.start, client.run, ours)
                starting.start_soon(nursery.start, server.run, theirs)
            for _ in range(streams):
                await client.open_stream_nowait().send_all(b"x")
                held.append((await server.offers.receive()).accept())
                held[-1].set_end_callback(lambda _: reported.update([passes.count]))
            ours.send_stream.send_all_hook = None  # from here on, the server is told nothing
            servers.append(server)
        assert not reported
        with instrument(passes):
            if how == "the sessions end":
                for server in servers:
                    server.close(Reason.IDENTITY_DENIED)
            else:
                for stream in held:
                    await stream.aclose()
                await trio.sleep(SETTLING_SECONDS + 1)
            while reported.total() < sessions * streams and passes.count < 10 * sessions * streams:
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert reported.total() == sessions * streams
    assert max(reported.values()) <= 3 * BATCH


class Chatter(Flood):
    """A TCP connection from which there is always one more byte, thirty times.

    Args:
        pauses: each byte arrives only after the reader has found nothing and waited.
    """

    def __init__(self, *, pauses: bool) -> None:
        super().__init__(1)
        self._left = 30
        self._pauses = pauses
        self._is_pause = False
        self.reads = 0

    def receive_nowait(self, max_bytes: int = READ_BYTES) -> Buffer | None:
        self._is_pause = self._pauses and not self._is_pause
        if not self._left or self._is_pause:
            return None
        self._left -= 1
        self.reads += 1
        return b"x"


class Mover(Handler):
    """Moves what arrives on a TCP connection into a stream."""

    def __init__(self, stream: MuxStream, source: NowaitStream) -> None:
        self._outgoing = OutgoingDirection(stream, source, [], lambda cause, reason=Reason.NO_ERROR: None)

    def serve(self, reactor: Reactor, stream: MuxStream, source: NowaitStream) -> None:
        self._registration = reactor.register(source, self, stream.turns)
        self._registration.mark_readable()

    def on_data(self) -> None: ...

    def on_changed(self) -> None: ...

    def on_room(self) -> None:
        if self._outgoing.continue_with_room():
            self._registration.resume()

    def on_readable(self) -> Next:
        return self._outgoing.move()

    def on_flushed(self, error: BaseException | None) -> None:
        raise NotImplementedError

    def on_broken(self) -> None:
        raise NotImplementedError

    def on_failed(self, error: Exception) -> None:
        raise error


@pytest.mark.parametrize("pauses", [True, False])
async def test_what_targets_send_to_one_peer_shares_turns(pauses: bool) -> None:
    """However many streams there are, and although each of them has only a little at a time."""
    # Each look at this clock takes a whole turn, so that one read does.
    turns = SharedTurns(itertools.count(0.0, TURN_SECONDS).__next__)
    sources, most, before = [Chatter(pauses=pauses) for _ in range(SESSIONS)], 0, 0

    def look() -> None:
        nonlocal most, before
        now = sum(source.reads for source in sources)
        most, before = max(most, now - before), now

    async with using_reactor() as reactor, trio.open_nursery() as nursery:
        far, near = trio.testing.memory_stream_pair()
        peer, session = Session.create(SessionRole.ACCEPTOR), Session.create(SessionRole.INITIATOR, turns=turns)
        nursery.start_soon(peer.run, far)
        await nursery.start(partial(session.run, near, reconnect=trio.sleep_forever))
        with trio.fail_after(60), instrument(Passes(look)):
            for source in sources:
                stream = session.open_stream_nowait()
                Mover(stream, source).serve(reactor, stream, source)
            while before < 30 * SESSIONS:
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert most <= 3


class Blocks(Discarding):
    """A TCP connection from which these blocks arrive."""

    def __init__(self, *blocks: bytes) -> None:
        self.blocks = list(blocks)

    def receive_nowait(self, max_bytes: int = READ_BYTES) -> Buffer | None:
        return self.blocks.pop(0) if self.blocks else None

    @property
    def readable(self) -> bool:
        return bool(self.blocks)


async def test_the_time_for_which_a_channel_takes_nothing_is_not_part_of_a_turn(nursery: trio.Nursery) -> None:
    now = 0.0
    turns = SharedTurns(lambda: now)
    far, near = trio.testing.memory_stream_pair()
    peer, session = Session.create(SessionRole.ACCEPTOR), Session.create(SessionRole.INITIATOR, turns=turns)
    nursery.start_soon(peer.run, far)
    await nursery.start(partial(session.run, near, reconnect=trio.sleep_forever))
    ours = session.open_stream_nowait()
    (await peer.offers.receive()).accept()
    await trio.testing.wait_all_tasks_blocked()
    has_room = trio.Event()
    near.send_stream.send_all_hook = has_room.wait
    await ours.send_all(b"this blocks the channel")
    source = Blocks(bytes(session.core.config.send_queue), b"x")
    mover = Mover(ours, source)
    async with using_reactor() as reactor:
        ours.set_watcher(mover)
        mover.serve(reactor, ours, source)
        await trio.testing.wait_all_tasks_blocked()
        assert source.blocks == [b"x"], "the queue is full"
        now += 100.0
        has_room.set()
        await trio.testing.wait_all_tasks_blocked()
    assert not source.blocks
    assert not turns.is_over
    nursery.cancel_scope.cancel()
