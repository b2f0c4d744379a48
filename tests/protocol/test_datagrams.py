"""Flows of datagrams: what their queues drop, when datagrams are written, and how flows end."""

from __future__ import annotations

from collections import deque

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.protocol import Budget, Feature, Kind, LocalProtocolError, Reason, SessionConfig, frames
from hybridrelay.protocol.config import BASE_WINDOW, FAIR_DATA, MAX_DATAGRAM
from hybridrelay.protocol.datagrams import (
    MAX_OPENING_SECONDS,
    MAX_QUEUED_BYTES,
    MAX_QUEUED_DATAGRAMS,
    MAX_WAIT_SECONDS,
    DatagramQueue,
    Dropped,
    Flow,
    ReceivedMemory,
    SentMemory,
)
from hybridrelay.protocol.events import SessionOutcome, StreamAborted, StreamAnswered, StreamOffered, StreamReadable
from hybridrelay.protocol.sending import STREAM_SHARE, SendingMemory
from hybridrelay.protocol.stream import Stream
from hybridrelay.testing.cores import CorePair, CoreSide

DATAGRAMS = SessionConfig(features=Feature.DATAGRAMS, resume_deadline=30)
KIB = 1024


def flow_of(stream: Stream) -> Flow:
    assert stream.flow is not None
    return stream.flow


def open_flow(pair: CorePair, opener: CoreSide | None = None) -> tuple[Stream, Stream]:
    """A flow that is accepted: the opener's end (the initiator's by default), and the other one."""
    opener = opener or pair.initiator
    acceptor = pair.other(opener)
    ours = opener.core.open_stream(Kind.DATAGRAMS)
    pair.pump()
    theirs = acceptor.core.streams[ours.id]
    acceptor.core.accept(theirs, pair.now)
    pair.pump()
    pair.take_events()
    return ours, theirs


def read_all(pair: CorePair, side: CoreSide, stream: Stream) -> list[bytes]:
    read = []
    while (data := side.core.flows.read(stream, pair.now)) is not None:
        read.append(data)
    return read


def outcome(side: CoreSide) -> SessionOutcome | None:
    return side.core.ended


# --- one queue


class Memory:
    """Counts, and refuses what exceeds `limit`."""

    def __init__(self, limit: int = 1 << 30) -> None:
        self.limit = limit
        self.held = 0

    def take(self, amount: int) -> bool:
        if self.held + amount > self.limit:
            return False
        self.held += amount
        return True

    def release(self, amount: int) -> None:
        self.held -= amount


def queue_with(memory: Memory | None = None) -> tuple[DatagramQueue, Dropped]:
    dropped = Dropped()
    return DatagramQueue(memory or Memory(), dropped), dropped


@pytest.mark.parametrize(
    ("sizes", "kept", "dropped"),
    [
        ([], [], 0),
        ([0], [0], 0),
        ([1] * MAX_QUEUED_DATAGRAMS, [1] * MAX_QUEUED_DATAGRAMS, 0),
        ([7, *[1] * MAX_QUEUED_DATAGRAMS], [1] * MAX_QUEUED_DATAGRAMS, 1),
        ([MAX_DATAGRAM] * 4, [MAX_DATAGRAM] * 4, 0),
        ([MAX_DATAGRAM] * 5, [MAX_DATAGRAM] * 4, 1),
        ([*[100] * 10, *[MAX_DATAGRAM] * 4], [100, *[MAX_DATAGRAM] * 4], 9),
        ([*[MAX_DATAGRAM] * 4, 117], [*[MAX_DATAGRAM] * 3, 117], 1),
        ([*[MAX_DATAGRAM] * 4, 116], [*[MAX_DATAGRAM] * 4, 116], 0),
    ],
)
def test_a_full_queue_drops_its_oldest_datagrams(sizes: list[int], kept: list[int], dropped: int) -> None:
    memory = Memory()
    queue, counts = queue_with(memory)
    for size in sizes:
        queue.put(bytes(size), 0.0)
    assert (len(queue), queue.size) == (len(kept), sum(kept))
    taken = []
    while (data := queue.take(0.0)) is not None:
        taken.append(len(data))
    assert taken == kept
    assert counts == Dropped(queue=dropped)
    assert memory.held == 0


@pytest.mark.parametrize(
    ("waited", "arrives"), [(0.0, True), (MAX_WAIT_SECONDS, True), (MAX_WAIT_SECONDS + 0.001, False)]
)
def test_what_has_waited_too_long_is_dropped(waited: float, arrives: bool) -> None:
    queue, counts = queue_with()
    queue.put(b"old", 10.0)
    assert queue.take(10.0 + waited) == (b"old" if arrives else None)
    assert counts == Dropped(age=0 if arrives else 1)
    queue.put(b"old", 20.0)
    queue.put(b"new", 20.0 + waited)
    assert len(queue) == (2 if arrives else 1), "old ones are also dropped when another one comes"


def test_a_datagram_that_does_not_fit_stays() -> None:
    queue, _ = queue_with()
    queue.put(bytes(100), 0.0)
    assert queue.take(0.0, 99) is None
    assert queue.take(0.0, 100) == bytes(100)


def test_without_memory_the_oldest_go_first_and_then_the_new_one() -> None:
    memory = Memory(1000)
    queue, counts = queue_with(memory)
    for content in (b"a", b"b"):
        queue.put(content * 300, 0.0)
    queue.put(b"c" * 300, 0.0)
    assert [queue.take(0.0), queue.take(0.0), queue.take(0.0)] == [b"b" * 300, b"c" * 300, None]
    queue.put(b"d" * 100, 0.0)
    queue.put(b"e" * 1000, 0.0)
    assert queue.take(0.0) is None
    assert counts == Dropped(queue=3)
    assert memory.held == 0


def test_clearing_counts_nothing_as_dropped() -> None:
    memory = Memory()
    queue, counts = queue_with(memory)
    queue.put(b"x", 0.0)
    queue.clear()
    queue.clear()
    assert (len(queue), queue.size, memory.held, counts) == (0, 0, 0, Dropped())


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.sampled_from([0, 1, 5000, 65_507])),
            st.tuples(st.just("take"), st.sampled_from([0, 4999, 65_507])),
            st.tuples(st.just("wait"), st.sampled_from([1, 200, 499, 501])),
        ),
        max_size=120,
    ),
    st.sampled_from([1 << 30, 200_000, 70_000, 3000]),
)
def test_a_queue_against_a_model(steps: list[tuple[str, int]], limit: int) -> None:
    """A list that is cut at its beginning, after each step. Times are in milliseconds."""
    memory = Memory(limit)
    queue, counts = queue_with(memory)
    model: deque[tuple[int, int]] = deque()
    now = put = taken = 0
    for step, number in steps:
        if step == "wait":
            now += number
        elif step == "put":
            queue.put(bytes(number), now / 1000)
            put += 1
            model.append((now, number))
        while model and now - model[0][0] > 500 and step != "wait":
            model.popleft()
        while model and (
            len(model) > MAX_QUEUED_DATAGRAMS
            or sum(size for _, size in model) > MAX_QUEUED_BYTES
            or sum(size + 128 for _, size in model) > limit
        ):
            model.popleft()
        if step == "take":
            data = queue.take(now / 1000, number)
            if model and model[0][1] <= number:
                assert data == bytes(model.popleft()[1])
                taken += 1
            else:
                assert data is None
        assert len(queue) == len(model)
        assert queue.size == sum(size for _, size in model)
        assert memory.held == queue.size + 128 * len(queue) <= limit
        assert put == taken + len(queue) + counts.queue + counts.age


def test_a_flow_of_a_session_that_is_short_of_memory_may_still_send_small_datagrams() -> None:
    budget = Budget(800 * KIB)
    other, ours = SendingMemory(budget), SendingMemory(budget)
    other.take(1000 * KIB)
    memory = SentMemory(ours)
    assert ours.available < 0
    assert not memory.take(STREAM_SHARE + 1)
    assert memory.take(STREAM_SHARE)
    assert not memory.take(1)
    memory.release(STREAM_SHARE)
    assert (ours.held, memory.held) == (0, 0)


def test_what_has_arrived_is_kept_in_the_reserved_memory_and_then_in_borrowed_memory() -> None:
    budget = Budget(100 * KIB)
    memory = ReceivedMemory(budget)
    assert memory.take(BASE_WINDOW)
    assert budget.elastic == 0
    assert memory.take(40 * KIB)
    assert budget.elastic == 40 * KIB
    assert not memory.take(1)
    memory.release(BASE_WINDOW)
    assert budget.elastic == 24 * KIB
    memory.release(40 * KIB)
    assert budget.elastic == 0


# --- two cores


def test_datagrams_arrive_whole_and_in_order() -> None:
    pair = CorePair.established(DATAGRAMS)
    ours, theirs = open_flow(pair)
    sent = [b"", b"a", bytes(MAX_DATAGRAM), b"b" * 5000]
    for side, stream, other, end in (
        (pair.initiator, ours, pair.acceptor, theirs),
        (pair.acceptor, theirs, pair.initiator, ours),
    ):
        for data in sent:
            side.core.flows.send(stream, data, pair.now)
        pair.pump()
        assert StreamReadable(end) in other.take_events()
        assert read_all(pair, other, end) == sent
        assert (flow_of(stream).sent_count, flow_of(end).received_count) == (4, 4)
        assert flow_of(stream).bytes_sent == flow_of(end).bytes_received == sum(map(len, sent))
        assert side.core.data_written == sum(map(len, sent))


def test_datagrams_arrive_byte_by_byte() -> None:
    pair = CorePair.established(DATAGRAMS)
    ours, theirs = open_flow(pair)
    for data in (b"first", b"", b"second"):
        pair.initiator.core.flows.send(ours, data, pair.now)
    pair.write(pair.initiator)
    while pair.deliver(pair.initiator, 1):
        pass
    assert read_all(pair, pair.acceptor, theirs) == [b"first", b"", b"second"]


def test_datagrams_may_follow_open_at_once() -> None:
    pair = CorePair.established(DATAGRAMS)
    ours = pair.initiator.core.open_stream(Kind.DATAGRAMS)
    pair.initiator.core.flows.send(ours, b"request", pair.now)
    pair.write(pair.initiator)
    assert [type(frame) for frame in frames_on(pair.initiator)] == [frames.Open, frames.Datagram]
    pair.pump()
    theirs = pair.acceptor.core.streams[ours.id]
    with pytest.raises(LocalProtocolError):
        pair.acceptor.core.flows.send(theirs, b"too early", pair.now)
    pair.acceptor.core.accept(theirs, pair.now)
    assert read_all(pair, pair.acceptor, theirs) == [b"request"]
    pair.acceptor.core.flows.send(theirs, b"reply", pair.now)
    pair.pump()
    assert read_all(pair, pair.initiator, ours) == [b"reply"]


def frames_on(side: CoreSide) -> list[frames.Frame]:
    """The frames on the wire, which stay there."""
    return list(frames.FrameDecoder(datagrams=True).decode_untrusted(bytes(side.wire)))


def test_a_datagram_that_is_too_long_is_dropped() -> None:
    pair = CorePair.established(DATAGRAMS)
    ours, theirs = open_flow(pair)
    pair.initiator.core.flows.send(ours, bytes(MAX_DATAGRAM + 1), pair.now)
    pair.pump()
    assert read_all(pair, pair.acceptor, theirs) == []
    assert flow_of(ours).dropped == Dropped(size=1)


def test_datagrams_are_neither_counted_nor_kept() -> None:
    pair = CorePair.established(DATAGRAMS)
    ours, _ = open_flow(pair)
    pair.advance(1)
    core = pair.initiator.core
    before = core._outbox.written, core.unacknowledged_bytes
    for _ in range(100):
        core.flows.send(ours, b"x" * 1000, pair.now)
        pair.write(pair.initiator)
    pair.initiator.wire.clear()
    assert (core._outbox.written, core.unacknowledged_bytes) == before
    assert core.sending.held == 0


def test_datagrams_do_not_wait_for_acknowledgements() -> None:
    config = attrs.evolve(DATAGRAMS, max_unacknowledged=512 * KIB, initial_window=4096 * KIB)
    pair = CorePair.established(config)
    bulk, _ = pair.open()
    ours, _ = open_flow(pair)
    pair.initiator.core.send_data(bulk, bytes(2048 * KIB))
    while pair.write(pair.initiator):
        pass
    pair.initiator.wire.clear()
    pair.initiator.core.flows.send(ours, b"now", pair.now)
    assert pair.initiator.core.has_output
    pair.write(pair.initiator)
    assert pair.initiator.take_wire() == [frames.Datagram(ours.id, b"now")]


def test_datagrams_use_a_quarter_of_each_write_beside_data() -> None:
    pair = CorePair.established(attrs.evolve(DATAGRAMS, initial_window=4096 * KIB))
    bulk, _ = pair.open()
    flows = [open_flow(pair)[0] for _ in range(8)]
    core = pair.initiator.core
    core.send_data(bulk, bytes(1024 * KIB))
    for ours in flows:
        for _ in range(60):
            core.flows.send(ours, bytes(1000), pair.now)
    for _ in range(3):
        core._output.datagram_pace.restart()  # as if all had arrived
        pair.write(pair.initiator, 256 * KIB)
        written = [frame for frame in pair.initiator.take_wire() if not isinstance(frame, frames.Ping)]
        datagrams = [frame for frame in written if isinstance(frame, frames.Datagram)]
        data = sum(len(frame.data) for frame in written if isinstance(frame, frames.Data))
        assert 60 * KIB < sum(len(frame.encode()) for frame in datagrams) <= 64 * KIB
        assert data >= 192 * KIB
        assert isinstance(written[-1], frames.Data)
    assert not isinstance(written[0], frames.Data), "a datagram does not wait behind data"


def test_flows_take_turns() -> None:
    pair = CorePair.established(DATAGRAMS)
    one, two, three = (open_flow(pair)[0] for _ in range(3))
    core = pair.initiator.core
    for _ in range(60):
        core.flows.send(one, bytes(1000), pair.now)
    core.flows.send(two, b"", pair.now)
    core.flows.send(three, bytes(60_000), pair.now)
    turns = []
    while pair.write(pair.initiator, 256 * KIB):
        turns += [frame.stream for frame in pair.initiator.take_wire() if isinstance(frame, frames.Datagram)]
    in_turn = FAIR_DATA // 1008 + 1
    assert turns[: in_turn + 1] == [one.id] * in_turn + [two.id]
    assert turns.index(three.id) < len(turns) - 1, "the long one waits for the next write, and is then the first"
    assert sorted(turns) == [one.id] * 60 + [two.id, three.id]


@pytest.mark.parametrize("max_bytes", [1, 1000, 20_000, 1 << 20])
def test_the_longest_datagrams_are_written_whatever_the_size_of_a_write(max_bytes: int) -> None:
    pair = CorePair.established(DATAGRAMS)
    ours, theirs = open_flow(pair)
    for _ in range(4):
        pair.initiator.core.flows.send(ours, bytes(MAX_DATAGRAM), pair.now)
    while pair.write(pair.initiator, max_bytes):
        pair.deliver(pair.initiator)
        while pair.write(pair.acceptor):
            pair.deliver(pair.acceptor)
    assert len(read_all(pair, pair.acceptor, theirs)) == 4


def test_datagrams_that_could_not_be_written_in_time_are_dropped() -> None:
    pair = CorePair.established(DATAGRAMS)
    ours, theirs = open_flow(pair)
    pair.initiator.core.flows.send(ours, b"late", pair.now)
    pair.now += MAX_WAIT_SECONDS + 0.1
    pair.initiator.core.flows.send(ours, b"in time", pair.now)
    pair.pump()
    assert read_all(pair, pair.acceptor, theirs) == [b"in time"]
    assert flow_of(ours).dropped == Dropped(age=1)


@pytest.mark.parametrize(("waited", "arrives"), [(MAX_OPENING_SECONDS, True), (MAX_OPENING_SECONDS + 0.001, False)])
def test_the_first_datagrams_wait_longer_while_their_flow_is_opened(waited: float, arrives: bool) -> None:
    pair = CorePair.established(DATAGRAMS)
    ours = pair.initiator.core.open_stream(Kind.DATAGRAMS)
    pair.initiator.core.flows.send(ours, b"first", pair.now)
    pair.pump()
    pair.now += waited
    theirs = pair.acceptor.core.streams[ours.id]
    pair.acceptor.core.accept(theirs, pair.now)
    assert read_all(pair, pair.acceptor, theirs) == ([b"first"] if arrives else [])
    assert flow_of(theirs).dropped == Dropped(age=not arrives)
    pair.initiator.core.flows.send(ours, b"later", pair.now)
    pair.pump()
    pair.now += MAX_WAIT_SECONDS + 0.001
    assert read_all(pair, pair.acceptor, theirs) == []


# --- the end


def test_fin_ends_a_flow_in_both_directions() -> None:
    pair = CorePair.established(DATAGRAMS)
    ours, theirs = open_flow(pair)
    pair.acceptor.core.flows.send(theirs, b"dropped by the end", pair.now)
    pair.initiator.core.flows.send(ours, b"last", pair.now)
    pair.initiator.core.send_fin(ours)
    pair.write(pair.initiator)
    pair.deliver(pair.initiator)
    assert not theirs.can_send
    assert theirs.has_input
    assert read_all(pair, pair.acceptor, theirs) == [b"last"]
    assert theirs.at_eof
    pair.advance(1)
    assert ours.states.is_over
    assert flow_of(ours).received_count == 0
    for side in pair.sides:
        assert side.core.streams == {}
        assert side.core.sending.held == side.core.budget.base == side.core.budget.elastic == 0
        assert outcome(side) is None


def test_datagrams_that_arrive_after_our_fin_are_ignored() -> None:
    pair = CorePair.established(DATAGRAMS)
    ours, theirs = open_flow(pair)
    pair.acceptor.core.flows.send(theirs, b"on the way", pair.now)
    pair.write(pair.acceptor)
    pair.initiator.core.send_fin(ours)
    pair.pump()
    assert read_all(pair, pair.initiator, ours) == []
    assert ours.states.is_over
    assert outcome(pair.initiator) is None


def test_a_flow_that_ends_before_it_is_accepted_delivers_what_it_has() -> None:
    pair = CorePair.established(DATAGRAMS)
    ours = pair.initiator.core.open_stream(Kind.DATAGRAMS)
    pair.initiator.core.flows.send(ours, b"only one", pair.now)
    pair.initiator.core.send_fin(ours)
    pair.pump()
    theirs = pair.acceptor.core.streams[ours.id]
    pair.acceptor.core.accept(theirs, pair.now)
    assert read_all(pair, pair.acceptor, theirs) == [b"only one"]
    pair.advance(1)
    assert ours.states.is_over
    assert pair.initiator.core.streams == pair.acceptor.core.streams == {}


@pytest.mark.parametrize("how", ["refuse", "reset by the acceptor", "reset by the opener"])
def test_aborted_flows_leave_nothing(how: str) -> None:
    pair = CorePair.established(DATAGRAMS)
    if how == "refuse":
        ours = pair.initiator.core.open_stream(Kind.DATAGRAMS)
        pair.initiator.core.flows.send(ours, b"x" * 40_000, pair.now)
        pair.pump()
        theirs = pair.acceptor.core.streams[ours.id]
        assert pair.acceptor.core.budget.elastic > 0
        pair.initiator.core.flows.send(ours, b"still under way", pair.now)
        pair.acceptor.core.refuse(theirs, Reason.TARGET_REFUSED)
    else:
        ours, theirs = open_flow(pair)
        for side, stream in ((pair.initiator, ours), (pair.acceptor, theirs)):
            side.core.flows.send(stream, b"x" * 40_000, pair.now)
            pair.write(side)
            side.core.flows.send(stream, b"x" * 40_000, pair.now)
        side, stream = (pair.acceptor, theirs) if how == "reset by the acceptor" else (pair.initiator, ours)
        side.core.reset(stream, Reason.TARGET_REFUSED)
    pair.advance(1)
    assert ours.reason is theirs.reason is Reason.TARGET_REFUSED
    for side in pair.sides:
        assert side.core.streams == {}
        assert side.core.sending.held == side.core.budget.base == side.core.budget.elastic == 0
        assert outcome(side) is None


def test_the_end_of_the_session_frees_the_memory() -> None:
    shared = Budget(64 * 1024 * KIB), Budget(64 * 1024 * KIB)
    pair = CorePair.established(DATAGRAMS, budgets=shared)
    ours, theirs = open_flow(pair)
    ended, also_ended = open_flow(pair)
    for side, stream in ((pair.initiator, ours), (pair.acceptor, theirs), (pair.acceptor, also_ended)):
        side.core.flows.send(stream, bytes(60_000), pair.now)
        pair.write(side)
        pair.deliver(side)
        side.core.flows.send(stream, bytes(60_000), pair.now)
    pair.acceptor.core.send_fin(also_ended)
    pair.pump()
    assert ended.has_input
    assert shared[0].elastic > 0
    events = pair.initiator.core.close(Reason.GOING_AWAY)
    assert StreamAborted(ours) in events
    pair.pump()
    for budget in shared:
        assert (budget.base, budget.elastic, budget.sending) == (0, 0, 0)
    assert read_all(pair, pair.initiator, ended) == []


# --- resumption


def test_after_a_resumption_nothing_is_repeated_and_what_still_waits_is_sent() -> None:
    pair = CorePair.established(DATAGRAMS)
    ours, theirs = open_flow(pair)
    pair.initiator.core.flows.send(ours, b"lost", pair.now)
    pair.write(pair.initiator)
    pair.cut()
    pair.initiator.core.flows.send(ours, b"late", pair.now)
    pair.now += MAX_WAIT_SECONDS + 0.1
    pair.initiator.core.flows.send(ours, b"in time", pair.now)
    pair.connect()
    pair.pump()
    assert read_all(pair, pair.acceptor, theirs) == [b"in time"]
    pair.acceptor.core.flows.send(theirs, b"back", pair.now)
    pair.pump()
    assert read_all(pair, pair.initiator, ours) == [b"back"]
    assert not any(isinstance(frame, frames.Window) for frame in frames_on(pair.initiator))


def test_datagrams_follow_an_open_that_is_written_again() -> None:
    pair = CorePair.established(DATAGRAMS)
    ours = pair.initiator.core.open_stream(Kind.DATAGRAMS)
    pair.write(pair.initiator)
    pair.cut()
    pair.initiator.core.flows.send(ours, b"early", pair.now)
    pair.connect()
    pair.pump()
    (offered,) = [event.stream for event in pair.acceptor.take_events() if isinstance(event, StreamOffered)]
    assert read_all(pair, pair.acceptor, offered) == [b"early"]


def test_a_flow_that_was_accepted_or_ended_just_before_the_channel_was_lost() -> None:
    pair = CorePair.established(DATAGRAMS)
    ours = pair.initiator.core.open_stream(Kind.DATAGRAMS)
    pair.pump()
    theirs = pair.acceptor.core.streams[ours.id]
    pair.acceptor.core.accept(theirs, pair.now)
    pair.write(pair.acceptor)
    pair.cut()
    pair.acceptor.core.flows.send(theirs, b"reply", pair.now)
    pair.connect()
    pair.pump()
    assert StreamAnswered(ours) in pair.initiator.take_events()
    assert read_all(pair, pair.initiator, ours) == [b"reply"]
    pair.acceptor.core.send_fin(theirs)
    pair.write(pair.acceptor)
    pair.cut()
    pair.connect()
    pair.advance(1)
    assert ours.states.is_over
    assert theirs.states.is_over


# --- hostile peers


@pytest.mark.parametrize(
    "frame",
    [
        frames.Data(1, b"x"),
        frames.Stop(1, Reason.CANCELLED),
        frames.Window(1, 1 << 20),
        frames.Datagram(3, b"for a byte stream"),
        frames.Datagram(99, b"for a stream that was never opened"),
    ],
    ids=lambda frame: type(frame).__name__,
)
def test_frames_of_the_wrong_kind_end_the_session(frame: frames.Frame) -> None:
    pair = CorePair.established(DATAGRAMS)
    ours, _ = open_flow(pair)
    stream, _ = pair.open()
    assert (ours.id, stream.id) == (1, 3)
    pair.write_frame(pair.initiator, frame)
    pair.deliver(pair.initiator)
    ended = outcome(pair.acceptor)
    assert ended is not None
    assert ended.reason is Reason.PROTOCOL_ERROR


def test_datagrams_after_fin_end_the_session() -> None:
    pair = CorePair.established(DATAGRAMS)
    ours, _ = open_flow(pair)
    pair.initiator.core.send_fin(ours)
    pair.write_frame(pair.initiator, frames.Datagram(ours.id, b"x"))
    pair.deliver(pair.initiator)
    ended = outcome(pair.acceptor)
    assert ended is not None
    assert ended.reason is Reason.PROTOCOL_ERROR


def test_the_acceptor_may_not_send_before_its_answer() -> None:
    pair = CorePair.established(DATAGRAMS)
    ours = pair.initiator.core.open_stream(Kind.DATAGRAMS)
    pair.pump()
    pair.write_frame(pair.acceptor, frames.Datagram(ours.id, b"x"))
    pair.deliver(pair.acceptor)
    ended = outcome(pair.initiator)
    assert ended is not None
    assert ended.reason is Reason.PROTOCOL_ERROR


@pytest.mark.parametrize("config", [SessionConfig(), SessionConfig(features=Feature.ISSUE)])
def test_without_the_feature_the_frame_is_unknown(config: SessionConfig) -> None:
    pair = CorePair.established(DATAGRAMS, acceptor_config=config)
    stream, _ = pair.open()
    pair.write_frame(pair.initiator, frames.Datagram(stream.id, b"x"))
    pair.deliver(pair.initiator)
    ended = outcome(pair.acceptor)
    assert ended is not None
    assert ended.reason is Reason.PROTOCOL_ERROR


@pytest.mark.parametrize("size", [0, 1, 4096, MAX_DATAGRAM])
@pytest.mark.parametrize("accepted", [True, False])
def test_a_flood_takes_bounded_memory(size: int, accepted: bool) -> None:
    """The application reads nothing, and the peer sends 16 MiB or 20,000 datagrams on each of three flows."""
    pair = CorePair.established(attrs.evolve(DATAGRAMS, budget=512 * KIB))
    flows = [pair.initiator.core.open_stream(Kind.DATAGRAMS) for _ in range(3)]
    pair.pump()
    for ours in flows:
        if accepted:
            pair.acceptor.core.accept(pair.acceptor.core.streams[ours.id], pair.now)
    pair.pump()
    core = pair.acceptor.core
    data = b"".join(frames.Datagram(ours.id, bytes(size)).encode() for ours in flows)
    count = min(20_000, (16 << 20) // max(1, size))
    for _ in range(count):
        core.receive_data(data, pair.now)
        assert core.budget.reserved <= 512 * KIB
    assert core.ended is None
    for ours in flows:
        flow = flow_of(core.streams[ours.id])
        assert flow.received_count == count
        assert len(flow.received) + flow.dropped.queue == count
        assert 0 < len(flow.received) <= MAX_QUEUED_DATAGRAMS


def test_a_flow_beyond_the_limit_of_streams_is_refused_with_its_datagrams() -> None:
    pair = CorePair.established(DATAGRAMS, acceptor_config=attrs.evolve(DATAGRAMS, max_backlog=1))
    first, second = (pair.initiator.core.open_stream(Kind.DATAGRAMS) for _ in range(2))
    for ours in (first, second):
        pair.initiator.core.flows.send(ours, b"early", pair.now)
    pair.pump()
    assert second.reason is Reason.LIMIT
    assert outcome(pair.acceptor) is None
    assert read_all(pair, pair.acceptor, pair.acceptor.core.streams[first.id]) == [b"early"]


def test_ten_thousand_flows_stay_within_the_budget_of_the_process() -> None:
    """Ten sessions with a thousand flows each, whose application reads nothing, and whose peers send 320 MiB."""
    budget = Budget(256 * 1024 * KIB)
    pairs = [CorePair.established(DATAGRAMS, budgets=(None, budget)) for _ in range(10)]
    content = bytes(4 * KIB)
    for pair in pairs:
        flows = [pair.initiator.core.open_stream(Kind.DATAGRAMS) for _ in range(1000)]
        pair.pump()
        flood = b"".join(frames.Datagram(ours.id, content).encode() for ours in flows)
        for _ in range(8):
            pair.acceptor.core.receive_data(flood, pair.now)
            assert budget.reserved <= budget.limit
        assert outcome(pair.acceptor) is None
    held = sum(stream.bytes_to_read for pair in pairs for stream in pair.acceptor.core.streams.values())
    assert 10_000 * len(content) <= held <= budget.limit, "each flow has the latest of its datagrams"
    for pair in pairs:
        pair.initiator.core.close()
        pair.pump()
    assert (budget.base, budget.elastic) == (0, 0)
