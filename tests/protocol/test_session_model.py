"""Two cores do what they like in any order, over a wire that cuts anywhere; a model knows what must come out.

The model: what is read of a stream is a prefix of what was written into it, and end of file comes after all of it and
after nothing else. No step that is legal ends the session. When both sides have said all and read all, nothing of
any stream is left, and every budget is back to nothing. What is read of a flow is a part of what was sent, in order.
"""

from __future__ import annotations

import random

import attrs
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hybridrelay.protocol import (
    Budget,
    Feature,
    Kind,
    LocalProtocolError,
    Metadata,
    MetadataEntry,
    Reason,
    SessionConfig,
)
from hybridrelay.protocol.datagrams import MAX_QUEUED_BYTES, MAX_QUEUED_DATAGRAMS, Flow
from hybridrelay.protocol.events import StreamOffered
from hybridrelay.protocol.frames import Hello, Ignorable
from hybridrelay.protocol.metadata import NO_METADATA
from hybridrelay.protocol.session import State
from hybridrelay.protocol.states import Opening
from hybridrelay.protocol.stream import Stream
from hybridrelay.testing.cores import CorePair, CoreSide

METADATA = Metadata([MetadataEntry(0x4001, b"about this stream")])
KIB = 1024
PATTERN = random.Random(0).randbytes(500_000)
sides = st.sampled_from([0, 1])
picks = st.integers(0, 1 << 16)
kinds = st.sampled_from([Kind.STREAM, Kind.STREAM, Kind.ISSUE])
sizes = st.sampled_from([1, 2, 100, 4095, 5000, 16_384, 40_000, 100_000, 400_000])
amounts = st.one_of(st.integers(1, 200), st.integers(1, 300_000), st.just(1 << 30))


@attrs.define(eq=False)
class End:
    """One end of a stream, and what the application did with it."""

    side: CoreSide
    stream: Stream
    peer: End | None = None
    written: bytearray = attrs.field(factory=bytearray)
    read: bytearray = attrs.field(factory=bytearray)
    finished: bool = False
    stopped: bool = False

    @property
    def is_answered(self) -> bool:
        return self.stream.states.opening is Opening.ANSWERED

    @property
    def can_send(self) -> bool:
        return self.stream.can_send and not self.finished

    @property
    def has_room(self) -> bool:
        return self.can_send and self.stream.queued_bytes < 64 * KIB

    @property
    def can_stop(self) -> bool:
        return not self.stream.is_aborted and self.stream.states.opening is not Opening.OFFERED


@attrs.define(eq=False)
class FlowEnd:
    """One end of a flow. Each datagram begins with its number."""

    side: CoreSide
    stream: Stream
    peer: FlowEnd | None = None
    sent: list[bytes] = attrs.field(factory=list)
    #: The number of the last datagram that was read.
    last_read: int = -1

    @property
    def flow(self) -> Flow:
        assert self.stream.flow is not None
        return self.stream.flow


class SessionModel(RuleBasedStateMachine):
    """A session on one channel, which is never lost."""

    resume_deadline = 0.0
    #: Nothing is delivered unless a rule says so; that must not count as silence.
    ping_interval = 1e9

    @initialize(
        max_streams=st.sampled_from([6, 3, 1]),
        initial_window=st.sampled_from([16, 64, 256]),
        max_window=st.sampled_from([16, 256, 1024]),
        budget=st.sampled_from([100_000, 400, 100, 32]),
        shared=st.sampled_from([100_000, 64, 20]),
        streams=st.integers(0, 4),
    )
    def connect_first(
        self, max_streams: int, initial_window: int, max_window: int, budget: int, shared: int, streams: int
    ) -> None:
        config = SessionConfig(
            max_streams=max_streams,
            max_backlog=3,
            initial_window=initial_window * KIB,
            max_window=max_window * KIB,
            max_unacknowledged=512 * KIB,
            send_queue=64 * KIB,
            budget=budget * KIB,
            ping_interval=self.ping_interval,
            resume_deadline=self.resume_deadline,
            features=Feature.DATAGRAMS,
        )
        self.budgets = (Budget(shared * KIB), Budget(shared * KIB))
        self.pair = CorePair.established(config, budgets=self.budgets)
        self.ends: list[End] = []
        self.flows: list[FlowEnd] = []
        self.offered: list[End | FlowEnd] = []
        self.hellos: list[Hello] = []
        for number in range(streams):
            self.open_and_accept(number % 2, 100)

    # --- what the applications do

    @rule(side=sides, early=st.sampled_from([0, 10, 20_000]), early_end=st.booleans(), kind=kinds)
    def open(self, side: int, early: int, early_end: bool, kind: Kind = Kind.STREAM) -> None:
        core = self.pair.sides[side].core
        try:
            stream = core.open_stream(kind, METADATA)
        except LocalProtocolError as exc:
            reason = exc.reason
            assert (reason is Reason.KIND_NOT_OFFERED) == (kind is Kind.ISSUE and core.accepts_streams)
            return
        end = End(self.pair.sides[side], stream)
        self.ends.append(end)
        if early:
            self.send_on(end, early)
        if early_end:
            self.finish_on(end)

    @rule(side=sides, size=sizes)
    def open_and_accept(self, side: int, size: int) -> None:
        """An accepted stream, which the other rules would seldom produce."""
        self.open(side, size, False)
        self.recover()
        while self.offered:
            self.answer(0, True)

    @precondition(lambda self: self.offered)
    @rule(pick=picks, accept=st.sampled_from([True, True, False]))
    def answer(self, pick: int, accept: bool) -> None:
        end = self.offered.pop(pick % len(self.offered))
        if end.stream.states.opening is not Opening.OFFERED:
            return  # withdrawn in the meantime
        if accept:
            end.side.core.accept(end.stream, self.pair.now)
        else:
            end.side.core.refuse(end.stream, Reason.DENIED_BY_POLICY, "not here")

    @precondition(lambda self: any(end.has_room for end in self.ends))
    @rule(pick=picks, size=sizes)
    def send(self, pick: int, size: int) -> None:
        ends = [end for end in self.ends if end.has_room]
        self.send_on(ends[pick % len(ends)], size)

    def send_on(self, end: End, size: int) -> None:
        offset = len(end.written) % 997
        data = PATTERN[offset : offset + size]
        end.side.core.send_data(end.stream, data)
        end.written += data

    @precondition(lambda self: any(end.can_send for end in self.ends))
    @rule(pick=picks)
    def finish(self, pick: int) -> None:
        ends = [end for end in self.ends if end.can_send]
        self.finish_on(ends[pick % len(ends)])

    def finish_on(self, end: End) -> None:
        if end.can_send:
            end.side.core.send_fin(end.stream)
            end.finished = True

    @precondition(lambda self: any(end.can_stop for end in self.ends))
    @rule(pick=picks, how=st.sampled_from(["stop", "stop", "reset"]))
    def end_early(self, pick: int, how: str) -> None:
        ends = [end for end in self.ends if end.can_stop]
        end = ends[pick % len(ends)]
        if how == "reset":
            end.side.core.reset(end.stream, Reason.CANCELLED)
        else:
            end.side.core.stop(end.stream)
            end.stopped = True

    @rule(side=sides, early=st.sampled_from([0, 1, 70]), early_end=st.booleans())
    def open_flow(self, side: int, early: int, early_end: bool) -> None:
        try:
            stream = self.pair.sides[side].core.open_stream(Kind.DATAGRAMS, METADATA)
        except LocalProtocolError:
            return
        end = FlowEnd(self.pair.sides[side], stream)
        self.flows.append(end)
        for _ in range(early):
            self.send_datagram_on(end, 40)
        if early_end:
            end.side.core.send_fin(stream)

    @precondition(lambda self: any(end.stream.can_send for end in self.flows))
    @rule(pick=picks, size=st.sampled_from([4, 4, 100, 5000, 65_507, 65_508]), count=st.sampled_from([1, 3, 80]))
    def send_datagrams(self, pick: int, size: int, count: int) -> None:
        ends = [end for end in self.flows if end.stream.can_send]
        for _ in range(count):
            self.send_datagram_on(ends[pick % len(ends)], size)

    def send_datagram_on(self, end: FlowEnd, size: int) -> None:
        data = len(end.sent).to_bytes(4, "big") + bytes(size - 4)
        end.side.core.flows.send(end.stream, data, self.pair.now)
        end.sent.append(data)

    @precondition(lambda self: any(end.flow.received for end in self.flows))
    @rule(pick=picks)
    def read_datagrams(self, pick: int) -> None:
        ends = [end for end in self.flows if end.flow.received]
        self.read_datagrams_on(ends[pick % len(ends)])

    def read_datagrams_on(self, end: FlowEnd) -> None:
        while (data := end.side.core.flows.read(end.stream, self.pair.now)) is not None:
            assert end.peer is not None
            number = int.from_bytes(data[:4], "big")
            assert number > end.last_read, "none twice, and in order"
            assert data == end.peer.sent[number], "whole"
            end.last_read = number

    @precondition(lambda self: any(end.stream.can_send for end in self.flows))
    @rule(pick=picks, how=st.sampled_from(["finish", "finish", "reset"]))
    def end_flow(self, pick: int, how: str) -> None:
        ends = [end for end in self.flows if end.stream.can_send]
        end = ends[pick % len(ends)]
        if how == "reset":
            end.side.core.reset(end.stream, Reason.CANCELLED)
        else:
            end.side.core.send_fin(end.stream)

    @precondition(lambda self: any(end.stream.receive_queue for end in self.ends))
    @rule(pick=picks, max_bytes=amounts)
    def read(self, pick: int, max_bytes: int) -> None:
        ends = [end for end in self.ends if end.stream.receive_queue]
        self.read_on(ends[pick % len(ends)], max_bytes)

    def read_on(self, end: End, max_bytes: int) -> int:
        data = end.side.core.read(end.stream, max_bytes, self.pair.now)
        end.read += data
        assert len(data) <= max_bytes
        if data:
            assert end.peer is not None
            assert not end.stopped
            assert end.peer.written.startswith(end.read)
        return len(data)

    @precondition(lambda self: len(self.ends) > 8)
    @rule(side=sides)
    def drain(self, side: int) -> None:
        self.pair.sides[side].core.drain()

    # --- what the network and the clock do

    @rule(side=sides, max_bytes=st.sampled_from([1, 1000, 20_000, 256 * KIB]))
    def write(self, side: int, max_bytes: int) -> None:
        self.pair.write(self.pair.sides[side], max_bytes)

    @rule(side=sides, max_bytes=st.sampled_from([1000, 20_000, 256 * KIB]), amount=amounts)
    def transfer(self, side: int, max_bytes: int, amount: int) -> None:
        self.write(side, max_bytes)
        self.deliver(side, amount)

    @rule(side=sides, amount=amounts)
    def deliver(self, side: int, amount: int) -> None:
        self.pair.deliver(self.pair.sides[side], amount)

    @rule(
        side=sides,
        kind=st.integers(0x80, 0xFF),
        stream=st.sampled_from([0, 1, 2, 99]),
        size=st.sampled_from([0, 9, 1280]),
    )
    def write_ignorable(self, side: int, kind: int, stream: int, size: int) -> None:
        """A newer peer writes a frame of a type that ours does not know."""
        self.pair.write_frame(self.pair.sides[side], Ignorable(kind, stream, bytes(size)))

    @rule()
    def recover(self) -> None:
        """Deliver everything that is in flight, and everything that is sent in response."""
        self.pair.pump()
        self.take_events()

    @rule(seconds=st.sampled_from([0.001, 0.25, 5.0, 11.0]))
    def tick(self, seconds: float) -> None:
        self.pair.now += seconds
        for side in self.pair.sides:
            side.events += side.core.handle_timeout(self.pair.now)

    # --- what must hold

    def take_events(self) -> None:
        for side in self.pair.sides:
            for event in side.take_events():
                if isinstance(event, StreamOffered) and event.stream.flow is not None:
                    opened = next(e for e in self.flows if e.side is not side and e.stream.id == event.stream.id)
                    opened.peer = flow = FlowEnd(side, event.stream, opened)
                    self.flows.append(flow)
                    self.offered.append(flow)
                elif isinstance(event, StreamOffered):
                    opener = self.pair.other(side).core.streams.get(event.stream.id)
                    peer = next(e for e in self.ends if e.side is not side and e.stream.id == event.stream.id)
                    assert opener is None or opener is peer.stream
                    expected = NO_METADATA if event.stream.is_aborted else METADATA
                    assert (event.stream.kind, event.stream.metadata) == (peer.stream.kind, expected)
                    end = End(side, event.stream, peer)
                    peer.peer = end
                    self.ends.append(end)
                    self.offered.append(end)

    @invariant()
    def nothing_looks_like_what_it_is_not(self) -> None:
        self.take_events()
        for end in self.ends:
            stream = end.stream
            if stream.at_eof and not end.stopped:
                assert end.peer is not None
                assert end.peer.finished
                assert end.read == end.peer.written
            assert stream.readable_bytes == sum(map(len, stream.receive_queue))
            assert stream.queued_bytes == sum(map(len, stream.send_queue))
            assert not (stream.is_aborted and (stream.at_eof or stream.receive_queue or stream.send_queue))

    @invariant()
    def queues_of_datagrams_are_bounded(self) -> None:
        for end in self.flows:
            for queue in (end.flow.to_send, end.flow.received):
                assert len(queue) <= MAX_QUEUED_DATAGRAMS
                assert queue.size <= MAX_QUEUED_BYTES
                assert not (end.stream.is_aborted and queue)

    @invariant()
    def the_session_lives(self) -> None:
        for side in self.pair.sides:
            assert side.core.ended is None

    @invariant()
    def memory_is_accounted_for(self) -> None:
        for side, shared in zip(self.pair.sides, self.budgets, strict=True):
            budget = side.core.budget
            ours = [s for s in side.core.streams.values() if s.receive_window.budget is budget]
            lent = sum(s.flow.borrowed for s in ours if s.flow is not None)
            assert budget.base + budget.elastic == sum(s.receive_window.set_aside for s in ours) + lent
            assert (shared.base, shared.elastic) == (budget.base, budget.elastic)
            assert budget.base + budget.elastic <= min(budget.limit, shared.limit)
            for stream in ours:
                window = stream.receive_window
                assert stream.readable_bytes <= window.set_aside
                assert window.set_aside == 0 or window.limit - window.consumed <= window.set_aside

    # --- the end of every example

    def teardown(self) -> None:
        if not hasattr(self, "pair"):
            return
        self.settle()
        while self.offered:
            self.answer(0, True)
            self.settle()
        while sum([self.read_on(end, 1 << 30) for end in self.ends]):
            self.settle()
        for end in self.ends:
            if not end.stream.is_aborted and not end.stopped:
                assert end.peer is not None
                assert end.read == end.peer.written, "everything that was written arrives"
        for end in self.ends:
            self.finish_on(end)
        for flow in self.flows:
            if flow.stream.can_send and flow.side is self.pair.initiator:
                flow.side.core.send_fin(flow.stream)
        self.settle()
        for flow in self.flows:
            assert flow.stream.states.is_over, "the other side answers FIN with FIN"
            self.read_datagrams_on(flow)
        while sum([self.read_on(end, 1 << 30) for end in self.ends]):
            self.settle()
        self.settle()
        for end in self.ends:
            if not end.stream.is_aborted and not end.stopped:
                assert end.stream.at_eof
        for side in self.pair.sides:
            assert side.core.streams == {}
            table = side.core._table
            assert (table.own_count, table.peer_count, table.offered) == (0, 0, 0)
            assert side.core._outbox.kept_bytes == 0
            assert side.core.sending.held == 0
        for budget in self.budgets:
            assert (budget.base, budget.elastic) == (0, 0)

    def settle(self) -> None:
        self.recover()
        self.tick(0.25)  # acknowledgements that wait for their time
        self.recover()
        self.nothing_looks_like_what_it_is_not()
        self.the_session_lives()
        self.memory_is_accounted_for()


class ResumedSessionModel(SessionModel):
    """The same, on channels that break anywhere, and lose what is in flight."""

    resume_deadline = 1e9
    ping_interval = 10.0

    @precondition(lambda self: self.pair.initiator.core.is_established)
    @rule(noticed_by=st.sampled_from([(0,), (1,), (0, 1)]))
    def cut(self, noticed_by: tuple[int, ...]) -> None:
        self.pair.lose()
        for side in noticed_by:
            self.pair.lose_channel(self.pair.sides[side])

    @rule()
    def attach(self) -> None:
        """Attach another channel; if the current one still works, this moves the session."""
        self.pair.connect()
        self.pair.write(self.pair.initiator)
        self.hellos += [f for f in self.pair.initiator.take_wire() if isinstance(f, Hello)]
        self.pair.initiator.wire += self.hellos[-1].encode()

    @precondition(lambda self: self.hellos)
    @rule(pick=picks)
    def attach_that_is_late(self, pick: int) -> None:
        """A HELLO of an earlier attach, or with a wrong secret, is refused and changes nothing."""
        hello = self.hellos[pick % len(self.hellos)]
        core = self.pair.acceptor.core
        if hello.epoch <= core.epoch:
            assert core.attach_refusal(hello) is Reason.SUPERSEDED
        forged = attrs.evolve(hello, secret=b"x" * 32, epoch=1000)
        assert core.attach_refusal(forged) is Reason.SESSION_UNKNOWN

    @rule()
    def recover(self) -> None:
        detached = any(side.core.state is not State.ESTABLISHED for side in self.pair.sides)
        if detached or self.pair.initiator.core.epoch != self.pair.acceptor.core.epoch:
            self.attach()
        super().recover()


TestSession = SessionModel.TestCase
TestResumedSession = ResumedSessionModel.TestCase


@pytest.mark.parametrize("model", [SessionModel, ResumedSessionModel])
def test_the_model_is_not_vacuous(model: type[SessionModel]) -> None:
    machine = model()
    machine.connect_first(4, 64, 256, 100_000, 100_000, 0)
    machine.open(0, 20_000, False)
    machine.recover()
    machine.answer(0, True)
    machine.send(0, 100_000)
    machine.recover()
    machine.read(1, 1 << 30)
    assert len(machine.ends[1].read) > 0
    machine.teardown()
    assert len(machine.ends[1].read) == 120_000
