"""Credit: what is promised is reserved, what is reserved is returned, and no stream waits for another's memory."""

from __future__ import annotations

import attrs
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hybridrelay.protocol import Budget, SessionConfig, frames
from hybridrelay.protocol.config import BASE_WINDOW
from hybridrelay.protocol.reasons import Reason
from hybridrelay.protocol.windows import ReceiveWindow, SendWindow
from hybridrelay.testing.cores import CorePair

KIB = 1024
MIB = 1024 * KIB


@attrs.define(eq=False)
class Reader:
    """A window, and what the peer knows of it."""

    window: ReceiveWindow
    #: The limit that the peer was told.
    stated: int = BASE_WINDOW
    told_at: float = 0.0


class WindowsModel(RuleBasedStateMachine):
    """Many windows of two sessions under one process budget."""

    @initialize(process=st.integers(1, 80), session=st.integers(1, 80), max_size=st.sampled_from([16, 64, 1024]))
    def start(self, process: int, session: int, max_size: int) -> None:
        self.process = Budget(process * 16 * KIB)
        self.sessions = [Budget(session * 16 * KIB, self.process), Budget(64 * BASE_WINDOW, self.process)]
        self.max_size = max_size * KIB
        self.readers: list[Reader] = []
        self.now = 0.0

    @rule(session=st.sampled_from([0, 1]), size=st.sampled_from([16, 64, 256]))
    def open(self, session: int, size: int) -> None:
        budget = self.sessions[session]
        room = min(b.limit - b.base - b.elastic for b in (budget, self.process))
        reserved = budget.reserve_base()
        assert reserved == (room >= BASE_WINDOW)
        if reserved:
            reader = Reader(ReceiveWindow(budget, self.max_size), told_at=self.now)
            self.readers.append(reader)
            reader.window.grow_to(size * KIB, self.now)
            reader.stated = reader.window.limit

    @precondition(lambda self: self.readers)
    @rule(pick=st.integers(0, 99), share=st.floats(0, 1), wait=st.sampled_from([0.0, 0.01, 1.0]))
    def receive_and_consume(self, pick: int, share: float, wait: float) -> None:
        reader = self.readers[pick % len(self.readers)]
        window = reader.window
        assert window.receive(int(share * (reader.stated - window.received)))
        self.now += wait
        self.consume(reader, int(share * (window.received - window.consumed)))

    def consume(self, reader: Reader, amount: int) -> None:
        window, size, limit = reader.window, reader.window.size, reader.window.limit
        if window.consume(amount, self.now, 0.05):
            assert window.limit - limit >= min(size, window.set_aside) // 2, "a WINDOW is worth its frame"
            reader.stated = window.limit
            if window.size > size:
                assert window.size == min(2 * size, self.max_size)
                assert self.now - reader.told_at < 2 * 0.05
            reader.told_at = self.now
        else:
            assert window.limit == limit, "a limit that has risen has to be stated"

    @precondition(lambda self: self.readers)
    @rule(pick=st.integers(0, 99))
    def read_everything(self, pick: int) -> None:
        """Whatever the memory: a sender whose bytes were all read can go on."""
        reader = self.readers[pick % len(self.readers)]
        self.consume(reader, reader.window.received - reader.window.consumed)
        assert reader.stated - reader.window.received >= BASE_WINDOW // 2

    @precondition(lambda self: self.readers)
    @rule(pick=st.integers(0, 99))
    def close(self, pick: int) -> None:
        reader = self.readers.pop(pick % len(self.readers))
        reader.window.close()
        reader.window.close()
        assert reader.window.set_aside == 0
        assert not reader.window.grow_to(MIB, self.now)
        assert not reader.window.consume(0, self.now, 0.05)

    @invariant()
    def what_is_promised_is_set_aside(self) -> None:
        for reader in self.readers:
            window = reader.window
            assert window.limit == reader.stated
            assert window.set_aside == max(BASE_WINDOW, window.limit - window.consumed)
            assert window.consumed <= window.received <= window.limit
            assert BASE_WINDOW <= window.size <= self.max_size

    @invariant()
    def budgets_add_up(self) -> None:
        for budget in getattr(self, "sessions", []):
            held = sum(reader.window.set_aside for reader in self.readers if reader.window.budget is budget)
            assert budget.base + budget.elastic == held
        if hasattr(self, "process"):
            assert self.process.base == sum(budget.base for budget in self.sessions)
            assert self.process.elastic == sum(budget.elastic for budget in self.sessions)
            for budget in (self.process, *self.sessions):
                assert 0 <= budget.elastic <= budget.elastic_limit
                assert budget.base >= 0
                assert budget.base + budget.elastic <= budget.limit

    def teardown(self) -> None:
        for reader in getattr(self, "readers", []):
            reader.window.close()
        for budget in getattr(self, "sessions", []):
            assert (budget.base, budget.elastic) == (0, 0)
        if hasattr(self, "process"):
            assert (self.process.base, self.process.elastic) == (0, 0)


TestWindows = WindowsModel.TestCase


def window(budget: Budget | None = None, max_size: int = 16 * MIB) -> ReceiveWindow:
    budget = budget or Budget(1000 * MIB)
    assert budget.reserve_base()
    return ReceiveWindow(budget, max_size)


def test_more_than_the_limit_is_noticed_before_it_is_counted() -> None:
    ours = window()
    assert not ours.receive(BASE_WINDOW + 1)
    assert ours.received == 0
    assert ours.receive(BASE_WINDOW)
    assert not ours.receive(1)


def test_grows_only_when_half_was_used_up_within_two_round_trips() -> None:
    ours = window()
    ours.grow_to(256 * KIB, 0.0)
    for now, expected in [(0.1, 512), (0.25, 1024), (0.45, 1024), (0.46, 2048)]:
        ours.receive(ours.limit - ours.received)
        ours.consume(ours.size // 2, now, 0.1)
        assert ours.size == expected * KIB, now
        ours.consume(ours.received - ours.consumed, now + 0.1 if now != 0.45 else now, None)
        ours._renewed_at = now
    assert ours.size == 2048 * KIB


def test_never_grows_without_a_measured_round_trip_or_beyond_its_maximum() -> None:
    ours = window(max_size=300 * KIB)
    ours.grow_to(256 * KIB, 0.0)
    ours.receive(200 * KIB)
    ours.consume(200 * KIB, 0.0, None)
    assert ours.size == 256 * KIB
    ours.receive(200 * KIB)
    ours.consume(200 * KIB, 0.0, 1.0)
    assert ours.size == 300 * KIB
    ours.grow_to(400 * KIB, 0.0)
    assert ours.size == 300 * KIB


def test_elastic_memory_never_takes_the_room_of_further_streams() -> None:
    budget = Budget(100 * BASE_WINDOW)
    greedy = window(budget)
    greedy.grow_to(16 * MIB, 0.0)
    assert budget.elastic == 40 * BASE_WINDOW
    assert [budget.reserve_base() for _ in range(60)] == [True] * 59 + [False]
    # The process's budget is asked too.
    child = Budget(100 * BASE_WINDOW, budget)
    assert not child.reserve_base()
    assert child.borrow(1) == 0
    assert (child.base, child.elastic) == (0, 0)


def test_without_memory_to_lend_the_base_window_is_renewed() -> None:
    """A stream that has only its base window goes on, and does not send a new limit for every byte."""
    ours = window(Budget(BASE_WINDOW))
    ours.grow_to(256 * KIB, 0.0)
    assert ours.limit == BASE_WINDOW
    stated = 0
    for _ in range(160):
        assert ours.receive(1024)
        stated += ours.consume(1024, 0.0, 1.0)
    assert stated == 20
    assert ours.size == 256 * KIB, "a window that is short of memory, not of round trips, does not grow"


@given(st.lists(st.integers(0, 1 << 40)))
def test_a_stated_limit_only_rises(limits: list[int]) -> None:
    theirs = SendWindow()
    highest = BASE_WINDOW
    for limit in limits:
        assert theirs.raise_to(limit) == (limit > highest)
        highest = max(highest, limit)
        assert theirs.limit == highest


# --- the windows in a session


def transfer(pair: CorePair, total: int, *, read: bool = True) -> tuple[int, int]:
    """Send `total` bytes over a new stream. Returns how many arrived, and how many WINDOW frames were sent."""
    ours, theirs = pair.open()
    pair.initiator.core.send_data(ours, bytes(total))
    arrived = windows = 0
    while True:
        moved = pair.write(pair.initiator) + pair.deliver(pair.initiator)
        if read:
            arrived += len(pair.acceptor.core.read(theirs, 1 << 30, pair.now))
        before = len(pair.acceptor.wire)
        moved += pair.write(pair.acceptor)
        decoded = frames.FrameDecoder().decode_untrusted(bytes(pair.acceptor.wire[before:]))
        windows += sum(isinstance(frame, frames.Window) for frame in decoded)
        moved += pair.deliver(pair.acceptor)
        if not moved:
            return arrived if read else theirs.readable_bytes, windows


def test_what_nobody_reads_stops_at_the_window() -> None:
    pair = CorePair.established()
    assert transfer(pair, MIB, read=False) == (256 * KIB, 0)
    arrived, windows = transfer(pair, MIB)
    assert arrived == MIB, "another stream is not stalled by it"
    assert windows <= 8


def test_memory_that_was_short_at_open_is_stated_when_it_is_there() -> None:
    """OPEN stated only the base window. The higher limit has to be stated later, or the peer stalls."""
    config = SessionConfig(budget=20 * 32 * KIB)
    pair = CorePair.established(config)
    first, _ = pair.open()
    second = pair.initiator.core.open_stream()
    pair.pump()
    assert second.receive_window.limit < 256 * KIB
    pair.initiator.core.reset(first, Reason.CANCELLED)
    pair.pump()
    theirs = pair.acceptor.core.streams[second.id]
    pair.acceptor.core.accept(theirs, pair.now)
    pair.pump()
    assert second.receive_window.limit == 256 * KIB
    assert theirs.send_window.limit == 256 * KIB


def test_a_stream_that_only_has_its_base_window_carries_any_amount() -> None:
    assert transfer(CorePair.established(SessionConfig(budget=BASE_WINDOW)), MIB)[0] == MIB


def test_tiny_frames_do_not_make_us_hold_more_than_they_carry() -> None:
    pair = CorePair.established()
    ours, theirs = pair.open()
    for _ in range(5000):
        pair.initiator.core.send_data(ours, b"ab")
        pair.write(pair.initiator)
    pair.deliver(pair.initiator)
    assert theirs.readable_bytes == 10_000
    assert len(theirs.receive_queue) <= 5
    assert pair.acceptor.core.read(theirs, 1 << 20, pair.now) == b"ab" * 5000


@given(st.lists(st.integers(1, 9000), max_size=30), st.lists(st.integers(1, 20_000), min_size=1, max_size=30))
def test_reads_of_any_size_give_what_was_sent_in_any_size(sizes: list[int], reads: list[int]) -> None:
    pair = CorePair.established()
    ours, theirs = pair.open()
    written = b""
    for number, size in enumerate(sizes):
        data = bytes([number]) * size
        pair.initiator.core.send_data(ours, data)
        pair.pump()
        written += data
    read = b""
    for size in reads * (1 + len(written) // min(reads)):
        data = pair.acceptor.core.read(theirs, size, pair.now)
        assert len(data) <= size
        read += data
        if read == written:
            break
    pair.pump()
    while data := pair.acceptor.core.read(theirs, 20_000, pair.now):
        read += data
        pair.pump()
    assert read == written
