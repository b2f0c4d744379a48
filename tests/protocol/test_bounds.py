"""What a hostile peer can make a session hold, do or owe is limited."""

from __future__ import annotations

import pytest

from hybridrelay.protocol import Budget, Metadata, Reason, SessionConfig, frames
from hybridrelay.protocol.config import BASE_WINDOW, CONTROL_CONFIG, MAX_PONGS_OWED, MAX_WRITTEN_AGAIN, MIB
from hybridrelay.protocol.events import StreamOffered
from hybridrelay.protocol.metadata import MetadataEntry
from hybridrelay.protocol.sending import ENDED_STREAM, Account
from hybridrelay.testing.cores import CorePair

from .endings import end_reason

SMALL = SessionConfig(max_streams=10, max_backlog=5, budget=8 * BASE_WINDOW)


def attack(pair: CorePair, *hostile: frames.Frame) -> Reason | None:
    """Send frames that the initiator's core would not write. Returns why the acceptor ended the session, or None."""
    core = pair.acceptor.core
    pair.acceptor.events += core.receive_data(b"".join(frame.encode() for frame in hostile), pair.now)
    return None if core.ended is None else core.ended.reason


def test_a_flood_of_ping() -> None:
    pair = CorePair.established()
    pings = [frames.Ping(bytes(8))] * MAX_PONGS_OWED
    assert attack(pair, *pings) is None
    pair.write(pair.acceptor)
    assert len(pair.acceptor.take_wire()) == MAX_PONGS_OWED
    assert attack(pair, *pings) is None
    assert attack(pair, pings[0]) is Reason.PROTOCOL_ERROR


def test_more_streams_than_allowed_are_refused_and_then_cut_off() -> None:
    pair = CorePair.established(SMALL)
    opens = [frames.Open(2 * n + 1, 0) for n in range(10 + SMALL.max_refused_streams + 1)]
    assert attack(pair, *opens[:-1]) is None
    offered = [event for event in pair.acceptor.take_events() if isinstance(event, StreamOffered)]
    assert len(offered) == 5
    core = pair.acceptor.core
    assert core.budget.base == 5 * BASE_WINDOW
    assert len(core.streams) == 10 + SMALL.max_refused_streams
    pair.write(pair.acceptor)
    assert sum(isinstance(frame, frames.Refused) for frame in pair.acceptor.take_wire()) == len(opens) - 1 - 5
    assert attack(pair, opens[-1]) is Reason.PROTOCOL_ERROR
    assert core.budget.base == 0


def test_refused_streams_are_forgotten_when_that_is_acknowledged() -> None:
    pair = CorePair.established(SMALL)
    for n in range(2000):
        assert attack(pair, frames.Open(2 * n + 1, 0)) is None
        pair.write(pair.acceptor)
        assert attack(pair, frames.Ack(pair.acceptor.core._outbox.written)) is None
    assert len(pair.acceptor.core.streams) == 5
    assert pair.acceptor.core.sending.ended_streams == 0


@pytest.mark.parametrize("clogged", [False, True])
@pytest.mark.parametrize("answer", ["accept", "refuse"])
def test_opening_and_resetting_without_end(clogged: bool, answer: str) -> None:
    """The peer acknowledges nothing, or does not even read. What is held for it stays bounded."""
    pair = CorePair.established(SMALL)
    core = pair.acceptor.core
    for n in range(10_000):
        if attack(pair, frames.Open(2 * n + 1, 1 << 20), frames.Data(2 * n + 1, b"x")) is not None:
            break
        for event in pair.acceptor.take_events():
            if isinstance(event, StreamOffered):
                if answer == "refuse":
                    core.refuse(event.stream, Reason.LIMIT, "t" * 256)
                else:
                    core.accept(event.stream, pair.now)
                    core.send_data(event.stream, b"welcome")
        if not clogged:
            pair.write(pair.acceptor)
            pair.acceptor.wire.clear()
        if attack(pair, frames.Reset(2 * n + 1, Reason.CANCELLED)) is not None:
            break
        assert len(core.streams) <= SMALL.max_streams + SMALL.max_refused_streams
        assert core._outbox.kept_bytes <= 4 * 500 * len(core.streams)
    assert end_reason(core) is Reason.PROTOCOL_ERROR


def test_an_offer_that_is_withdrawn_before_anybody_looked_leaves_nothing() -> None:
    pair = CorePair.established(SMALL)
    for n in range(1000):
        assert attack(pair, frames.Open(2 * n + 1, 0), frames.Reset(2 * n + 1, Reason.CANCELLED)) is None
    core = pair.acceptor.core
    assert core.streams == {}
    assert core.budget.base == 0
    assert core._table.offered == 0


def test_resetting_our_own_unwritten_streams_costs_nothing() -> None:
    pair = CorePair.established()
    core = pair.initiator.core
    kept = [core.open_stream() for _ in range(3)]
    for _ in range(10_000):
        core.reset(core.open_stream(), Reason.CANCELLED)
    assert list(core.streams.values()) == kept
    assert len(core._output._opens) == 3


@pytest.mark.parametrize("state", ["offered", "open", "stopped", "reset", "refused"])
def test_data_beyond_the_limit_in_any_state(state: str) -> None:
    pair = CorePair.established(SessionConfig(initial_window=BASE_WINDOW))
    core = pair.acceptor.core
    if state in ("offered", "refused"):
        ours = pair.initiator.core.open_stream()
        pair.pump()
        theirs = core.streams[ours.id]
        if state == "refused":
            core.refuse(theirs, Reason.LIMIT)
    else:
        ours, theirs = pair.open()
        if state == "stopped":
            core.stop(theirs)
        elif state == "reset":
            core.reset(theirs, Reason.CANCELLED)
    assert attack(pair, frames.Data(ours.id, bytes(BASE_WINDOW))) is None
    assert attack(pair, frames.Data(ours.id, b"x")) is Reason.PROTOCOL_ERROR


def test_many_sessions_share_the_memory_of_the_process() -> None:
    process = Budget(40 * BASE_WINDOW)
    pairs = [CorePair.established(budgets=(None, process)) for _ in range(4)]
    for pair in pairs:
        for _ in range(20):
            pair.initiator.core.open_stream()
        pair.pump()
    assert process.base + process.elastic <= process.limit
    assert process.base == 40 * BASE_WINDOW
    for pair in pairs:
        pair.acceptor.core.close()
    assert (process.base, process.elastic) == (0, 0)


def _open_refused(pair: CorePair, first: int, count: int, *, clogged: bool = False) -> Reason | None:
    """Open this many streams, all of which are refused. Returns why the session ended, or None."""
    for n in range(first, first + count):
        if (reason := attack(pair, frames.Open(2 * n + 1, 0, kind=7))) is not None:
            return reason
        if not clogged:
            pair.write(pair.acceptor)
            pair.acceptor.take_wire()
    return None


@pytest.mark.parametrize("clogged", [False, True])
def test_streams_that_are_over_and_not_acknowledged_are_shared_among_the_peers_of_a_process(clogged: bool) -> None:
    process = Budget(64 * MIB)
    room = process.ended_room // ENDED_STREAM
    greedy, honest = Account(), Account()
    pairs = [CorePair.established(budgets=(None, process)) for _ in range(9)]
    other = CorePair.established(budgets=(None, process))
    for pair in pairs:
        pair.acceptor.core.sending.account = greedy
    other.acceptor.core.sending.account = honest
    ends = [_open_refused(pair, 0, 500, clogged=clogged) for pair in pairs]
    # It may keep as many as it leaves to others.
    assert ends == [None] * (room // 2 // 500) + [Reason.LIMIT] * (9 - room // 2 // 500)
    assert room - process.ended_room // ENDED_STREAM <= room // 2 + 1
    assert _open_refused(other, 0, 500) is None
    # A few of each session are always kept; those of sessions that have ended are not.
    late = CorePair.established(budgets=(None, process))
    late.acceptor.core.sending.account = greedy
    few = late.acceptor.core.config.max_refused_streams
    assert _open_refused(late, 0, few) is None
    assert _open_refused(late, few, 500) is Reason.LIMIT
    for pair in (*pairs, other):
        pair.acceptor.core.close()
    assert process.ended_room // ENDED_STREAM == room
    assert (greedy.ended, honest.ended) == (0, 0)


@pytest.mark.parametrize("how", ["reset", "finished", "refused"])
def test_a_peer_that_acknowledges_keeps_no_streams_that_are_over(how: str) -> None:
    process = Budget(64 * MIB)
    pair = CorePair.established(budgets=(None, process))
    initiator, acceptor = pair.initiator.core, pair.acceptor.core
    for _ in range(3):
        stream = initiator.open_stream()
        pair.pump()
        if how == "reset":
            initiator.reset(stream, Reason.CANCELLED)
        elif how == "refused":
            acceptor.refuse(acceptor.streams[stream.id], Reason.LIMIT)
        elif how == "finished":
            acceptor.accept(acceptor.streams[stream.id], pair.now)
            initiator.send_fin(stream)
            acceptor.send_fin(acceptor.streams[stream.id])
        pair.pump()
        pair.now += 1.0
        for side in pair.sides:
            side.core.handle_timeout(pair.now)
        pair.pump()
    assert not acceptor.streams
    assert acceptor.sending.ended_streams == 0
    assert process.ended_room == Budget(64 * MIB).ended_room


@pytest.mark.parametrize(
    ("written", "outcome"),
    [
        (1 + MAX_WRITTEN_AGAIN, None),
        (2 + MAX_WRITTEN_AGAIN, Reason.SESSION_LOST),
        ((1 << 64) - 1, Reason.SESSION_LOST),
    ],
)
def test_the_number_of_written_frames_that_a_peer_states_is_capped(written: int, outcome: Reason | None) -> None:
    """A peer that attaches may state more frames than we received, up to what it can have kept for us."""
    pair = CorePair.established(SessionConfig(resume_deadline=9))
    pair.open()
    pair.acceptor.events += pair.acceptor.core.channel_lost(pair.now)
    pair.acceptor.core.channel_opened(pair.now)
    hello = frames.Hello(b"session id 16 by", b"s" * 32, 10, written=written, received=1, epoch=1, attach=True)
    assert attack(pair, hello) is outcome


def test_stating_many_written_frames_forgives_late_frames_and_nothing_else() -> None:
    pair = CorePair.established(SessionConfig(resume_deadline=9))
    pair.open()
    pair.acceptor.events += pair.acceptor.core.channel_lost(pair.now)
    pair.acceptor.core.channel_opened(pair.now)
    hello = frames.Hello(b"session id 16 by", b"s" * 32, 10, written=1 << 20, received=1, epoch=1, attach=True)
    assert attack(pair, hello) is None
    pair.write(pair.acceptor)
    assert attack(pair, frames.Fin(1)) is None
    assert attack(pair, frames.Data(1, b"after the end")) is Reason.PROTOCOL_ERROR


def test_metadata_is_kept_no_longer_than_its_stream() -> None:
    """This also holds if the peer never acknowledges that the stream was refused or reset."""
    pair = CorePair.established(SMALL)
    core = pair.acceptor.core
    metadata = Metadata([MetadataEntry(0x4000 + n, bytes(32)) for n in range(16)])
    ids = [2 * n + 1 for n in range(SMALL.max_streams + SMALL.max_refused_streams)]
    assert attack(pair, *(frames.Open(one, 0, metadata=metadata) for one in ids)) is None
    offered = [event.stream for event in pair.acceptor.take_events() if isinstance(event, StreamOffered)]

    def with_metadata() -> set[int]:
        return {stream.id for stream in core.streams.values() if stream.metadata.entries}

    assert with_metadata() == {one.id for one in offered}
    accepted, refused, reset, *left = offered
    core.accept(accepted, pair.now)
    core.refuse(refused, Reason.LIMIT)
    assert attack(pair, frames.Reset(reset.id, Reason.CANCELLED)) is None
    assert with_metadata() == {one.id for one in (accepted, *left)}


def test_few_refused_streams_are_kept_before_the_peer_has_authenticated() -> None:
    pair = CorePair.established(CONTROL_CONFIG)
    core = pair.acceptor.core
    metadata = Metadata([MetadataEntry(0x4000, bytes(512))])
    for n in range(1 + CONTROL_CONFIG.max_refused_streams):
        assert attack(pair, frames.Open(2 * n + 1, 0, metadata=metadata)) is None
    assert len(core.streams) <= 8
    assert attack(pair, frames.Open(99, 0)) is Reason.PROTOCOL_ERROR
