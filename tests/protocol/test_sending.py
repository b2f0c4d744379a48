"""The memory that a process uses for sending is bounded, whatever its peers do, and no stream stalls for ever."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.protocol import Budget, Reason, SessionConfig
from hybridrelay.protocol.config import BASE_WINDOW, FRAME_OVERHEAD, MAX_DATA
from hybridrelay.protocol.sending import SESSION_SHARE, STREAM_SHARE, Account, SendingMemory
from hybridrelay.protocol.session import SessionCore
from hybridrelay.protocol.stream import Stream
from hybridrelay.testing.cores import CorePair

KIB = 1024
#: Small enough to be used up at once.
LIMIT = 64 * 1024 * KIB
POOL = LIMIT // 8
READ = 254 * KIB
CONFIG = SessionConfig(resume_deadline=1000)


def whole_buffer(piece: bytes | memoryview) -> bytes | bytearray:
    buffer = piece.obj if isinstance(piece, memoryview) else piece
    assert isinstance(buffer, bytes | bytearray)
    return buffer


def retained(core: SessionCore) -> int:
    """The memory of all buffers that the core refers to: a view keeps the whole buffer."""
    kept = itertools.chain.from_iterable(core._outbox.unacknowledged())
    queued = itertools.chain.from_iterable(stream.send_queue for stream in core.streams.values())
    whole = map(whole_buffer, itertools.chain(kept, queued))
    return sum({id(buffer): len(buffer) for buffer in whole}.values())


def send_as_a_driver_does(core: SessionCore, stream: Stream, amount: int) -> int:
    """Queue up to `amount` bytes, as `MuxStream` and `bridge` do. Returns how many were queued."""
    share = max(STREAM_SHARE, min(128 * KIB, core.sending.available))
    if not stream.can_send or stream.queued_bytes >= share:
        return 0
    size = min(amount, READ, share)
    core.send_data(stream, bytes(size))
    return size


def bound(sessions: int, streams: int) -> int:
    """What the process may hold at most: its part of the budget, the guaranteed shares, and what was read last."""
    return POOL + READ + sessions * (SESSION_SHARE + MAX_DATA) + streams * 2 * (STREAM_SHARE + FRAME_OVERHEAD)


class Process:
    """One process with several sessions; the peers do what they like."""

    def __init__(self, sessions: int, streams: int) -> None:
        self.budget = Budget(LIMIT)
        self.pairs = [CorePair.established(CONFIG, budgets=(self.budget, None)) for _ in range(sessions)]
        self.ends = [[pair.open() for _ in range(streams)] for pair in self.pairs]

    def check(self) -> None:
        cores = [pair.initiator.core for pair in self.pairs]
        assert self.budget.sending == sum(core.sending.held for core in cores)
        assert all(retained(core) <= core.sending.held for core in cores)
        streams = sum(map(len, self.ends))
        assert self.budget.sending <= bound(len(cores), streams), "bounded"
        assert (
            self.budget.base + self.budget.elastic + self.budget.sending <= LIMIT + bound(len(cores), streams) - POOL
        )

    def close(self) -> None:
        for pair in self.pairs:
            pair.initiator.core.close()
        assert self.budget.sending == 0
        assert all(pair.initiator.core.sending.held == 0 for pair in self.pairs)


OPERATIONS = st.tuples(
    st.sampled_from(
        ["send", "send", "write", "write", "deliver", "answer", "read", "stop", "reset", "fin", "cut", "open"]
    ),
    st.integers(0, 2),
    st.integers(0, 7),
    st.sampled_from([1, 100, 5000, 16 * KIB, 70_000, 1 << 20, 16 << 20]),
)


@given(st.lists(OPERATIONS, max_size=120))
def test_it_is_bounded_whatever_the_peers_do(operations: list[tuple[str, int, int, int]]) -> None:
    process = Process(3, 3)
    for what, which, stream_index, amount in operations:
        pair, ends = process.pairs[which], process.ends[which]
        core, (ours, theirs) = pair.initiator.core, ends[stream_index % len(ends)]
        match what:
            case "send":
                left = amount
                while left > 0 and (sent := send_as_a_driver_does(core, ours, left)):
                    left -= sent
            case "write":
                pair.write(pair.initiator, amount)
            case "deliver":
                pair.deliver(pair.initiator, amount)
            case "answer":
                pair.write(pair.acceptor)
                pair.deliver(pair.acceptor)
            case "read":
                pair.acceptor.core.read(theirs, amount, pair.now)
            case "stop" if not theirs.is_aborted:
                pair.acceptor.core.stop(theirs)
            case "reset":
                core.reset(ours, Reason.CANCELLED)
            case "fin" if ours.can_send:
                core.send_fin(ours)
            case "cut":
                pair.cut()
                pair.connect()
                pair.pump()
            case "open" if len(ends) < 8:
                ends.append(pair.open())
        process.check()
    process.close()


def test_streams_of_a_peer_that_reads_nothing_hold_little_each() -> None:
    process = Process(3, 100)
    for _ in range(50):
        for pair, ends in zip(process.pairs, process.ends, strict=True):
            for ours, _ in ends:
                send_as_a_driver_does(pair.initiator.core, ours, READ)
            pair.write(pair.initiator)  # and nothing of it is ever acknowledged
            process.check()
    held = [pair.initiator.core.sending.held for pair in process.pairs]
    assert process.budget.sending > POOL // 2
    assert max(held) < POOL // 2 + 2 * READ, "one session alone has half of it"
    process.close()


def test_there_is_something_left_for_a_newcomer() -> None:
    process = Process(5, 4)
    for _ in range(1000):
        for pair, ends in zip(process.pairs[:4], process.ends[:4], strict=True):
            for ours, _ in ends:
                if pair.initiator.core.sending.available > 0:
                    pair.initiator.core.send_data(ours, bytes(64 * KIB))
    assert process.pairs[4].initiator.core.sending.available > POOL // 40
    process.close()


@pytest.mark.parametrize("size", [1, 300 * KIB])
def test_everything_arrives_although_another_session_has_taken_all(size: int) -> None:
    """Slowly, because each stream has only its own share."""
    process = Process(2, 8)
    process.budget.sending += POOL  # other sessions hold all of it
    pair, ends = process.pairs[0], process.ends[0]
    core, theirs = pair.initiator.core, pair.acceptor.core
    left = {ours.id: size for ours, _ in ends}
    got = dict.fromkeys(left, 0)
    for _ in range(10_000):
        for ours, far in ends:
            left[ours.id] -= send_as_a_driver_does(core, ours, left[ours.id])
            got[ours.id] += len(theirs.read(far, 1 << 20, pair.now))
        pair.advance(0.01)
        if all(count == size for count in got.values()):
            break
    assert set(got.values()) == {size}
    pair.advance(1)
    assert core.sending.held == 0
    process.budget.sending -= POOL
    process.close()


def test_a_session_that_is_short_goes_on_writing_up_to_its_share() -> None:
    process = Process(1, 1)
    pair, ((ours, _),) = process.pairs[0], process.ends[0]
    core = pair.initiator.core
    core.send_data(ours, bytes(1000 * KIB))
    process.budget.sending += POOL
    pair.write(pair.initiator, 1 << 30)
    assert SESSION_SHARE <= core.unacknowledged_bytes < SESSION_SHARE + 2 * MAX_DATA
    has_output = [core.has_output]
    process.budget.sending -= POOL
    has_output.append(core.has_output)
    assert has_output == [False, True]
    process.close()


@pytest.mark.parametrize("how", ["reset", "stop"])
def test_a_buffer_counts_until_its_last_byte_is_acknowledged(how: str) -> None:
    """A frame is a view of the buffer, so the whole buffer stays in memory when the rest of it is dropped."""
    process = Process(1, 1)
    pair, ((ours, theirs),) = process.pairs[0], process.ends[0]
    core = pair.initiator.core
    core.send_data(ours, bytes(200 * KIB))
    pair.write(pair.initiator, 1)
    assert 0 < ours.queued_bytes < 200 * KIB
    if how == "reset":
        core.reset(ours, Reason.CANCELLED)
    else:
        pair.acceptor.core.stop(theirs)
        pair.write(pair.acceptor)
        pair.deliver(pair.acceptor)
    assert ours.queued_bytes == 0
    assert core.sending.held >= retained(core) > 200 * KIB
    pair.advance(1)
    assert core.sending.held == 0
    process.close()


def test_a_control_channel_has_limits_of_its_own() -> None:
    assert SendingMemory(None).available > 1 << 60


def test_what_is_sent_takes_from_what_can_be_promised() -> None:
    """Sending and receiving share one budget."""
    budget = Budget(100 * BASE_WINDOW)
    budget.sending = 98 * BASE_WINDOW
    assert budget.reserve_base()
    assert budget.borrow(10 * BASE_WINDOW) == BASE_WINDOW
    assert not budget.reserve_base()
    assert budget.borrow(1) == 0
    budget.sending = 0
    assert budget.reserve_base()
    assert budget.sending_room == budget.sending_limit == 100 * BASE_WINDOW // 8
    budget.base = 95 * BASE_WINDOW
    assert budget.sending_room == 4 * BASE_WINDOW, "what is promised leaves less for sending"


def _fill(pair: CorePair, ends: list[tuple[Stream, Stream]]) -> None:
    """Send as much as can be sent to a peer that acknowledges nothing."""
    core = pair.initiator.core
    while sum(send_as_a_driver_does(core, stream, 1 << 20) for stream, _ in ends):
        while pair.write(pair.initiator):
            pass
        pair.initiator.take_wire()


def test_a_peer_with_many_sessions_leaves_as_much_for_another_as_one_with_a_single_session() -> None:
    config = SessionConfig(resume_deadline=1000, initial_window=16 << 20, max_window=16 << 20)

    def left_for_another(sessions: int) -> int:
        budget, greedy = Budget(LIMIT), Account()
        pairs = [CorePair.established(config, budgets=(budget, None)) for _ in range(sessions)]
        for pair in pairs:
            pair.initiator.core.sending.account = greedy
        for pair in pairs:
            _fill(pair, [pair.open() for _ in range(2)])
        assert greedy.held == sum(pair.initiator.core.sending.held for pair in pairs)
        left = SendingMemory(budget, Account()).available
        for pair in pairs:
            pair.initiator.core.close()
        assert (greedy.held, budget.sending) == (0, 0)
        return left

    alone = left_for_another(1)
    assert alone >= POOL // 2
    # What every session is guaranteed comes on top.
    assert left_for_another(8) >= POOL // 2 - 8 * (SESSION_SHARE + MAX_DATA + READ)
