"""However a session ends, everything that waits is told once, and no stream that broke looks complete."""

from __future__ import annotations

import pytest

from hybridrelay.protocol import Kind, LocalProtocolError, Reason, SessionConfig, frames
from hybridrelay.protocol.config import BASE_WINDOW
from hybridrelay.protocol.events import GoingAway, SessionOutcome, StreamAborted, StreamOffered, StreamSettled
from hybridrelay.protocol.frames import FrameDecoder
from hybridrelay.protocol.session import State
from hybridrelay.testing.cores import CorePair

RESUMABLE = SessionConfig(resume_deadline=30)


def test_a_violation_by_the_peer_is_reported_to_every_stream() -> None:
    pair = CorePair.established()
    ours, theirs = pair.open()

    events = pair.acceptor.core.receive_data(frames.Fin(99).encode(), pair.now)

    assert events[0] == StreamAborted(theirs)
    assert isinstance(events[1], SessionOutcome)
    assert events[1].reason is Reason.PROTOCOL_ERROR
    assert not events[1].by_peer
    assert len(events) == 2
    pair.pump()
    told = pair.initiator.take_events()
    assert told[0] == StreamAborted(ours)
    assert told[1] == SessionOutcome(Reason.PROTOCOL_ERROR, events[1].text, by_peer=True)


def test_close_resets_what_is_open_and_tells_the_peer() -> None:
    pair = CorePair.established()
    ours, theirs = pair.open()
    pair.initiator.core.send_data(ours, b"never written")

    events = pair.initiator.core.close(Reason.GOING_AWAY, "enough")

    assert events == [StreamAborted(ours), SessionOutcome(Reason.GOING_AWAY, "enough", by_peer=False)]
    assert pair.initiator.core.close() == []
    pair.pump()
    assert pair.acceptor.take_events() == [
        StreamAborted(theirs),
        SessionOutcome(Reason.GOING_AWAY, "enough", by_peer=True),
    ]
    assert theirs.reason is Reason.GOING_AWAY
    assert not theirs.at_eof
    assert pair.acceptor.core.data_to_send(pair.now) == []


def test_a_stream_that_the_peer_has_seen_is_not_reported_as_never_processed() -> None:
    """After GOING_AWAY its first bytes are sent again through another session, and they may have had an effect."""
    pair = CorePair.established()
    core = pair.initiator.core
    seen = core.open_stream()
    core.send_data(seen, b"a statement")
    pair.write(pair.initiator)
    pair.deliver(pair.initiator)
    unseen = core.open_stream()
    pair.write(pair.initiator)
    pair.acceptor.core.close(Reason.GOING_AWAY)
    pair.write(pair.acceptor)
    pair.deliver(pair.acceptor)
    assert (seen.reason, unseen.reason) == (Reason.SESSION_LOST, Reason.GOING_AWAY)


@pytest.mark.parametrize("established", [True, False])
def test_what_has_arrived_is_acknowledged_before_the_end(established: bool) -> None:
    """The peer then knows that its last streams have ended properly."""
    pair = CorePair.established(RESUMABLE)
    ours, theirs = pair.open()
    for core, stream in ((pair.initiator.core, ours), (pair.acceptor.core, theirs)):
        core.send_data(stream, b"all")
        core.send_fin(stream)
    pair.write(pair.initiator)
    pair.deliver(pair.initiator)
    pair.write(pair.acceptor)
    pair.deliver(pair.acceptor)
    pair.acceptor.take_events()
    if not established:  # a channel on which the peer has not greeted carries no ACK
        pair.connect()
    pair.initiator.core.close()
    pair.write(pair.initiator)
    kinds = [type(frame) for frame in FrameDecoder().decode_untrusted(bytes(pair.initiator.wire))]
    assert kinds == ([frames.Ack, frames.GoAway] if established else [frames.GoAway])
    if established:
        pair.deliver(pair.initiator)
        assert StreamSettled(theirs) in pair.acceptor.take_events()
        assert theirs.is_delivered


def test_an_acceptor_that_ends_before_its_greeting_gives_the_reason_and_acknowledges_nothing() -> None:
    """Its peer accepts only HELLO or the final GOAWAY as the first frame of a channel."""
    pair = CorePair.established(RESUMABLE)
    ours, _ = pair.open()
    pair.initiator.core.send_data(ours, b"not acknowledged")
    pair.write(pair.initiator)
    pair.deliver(pair.initiator)
    pair.connect()
    pair.write(pair.initiator)
    pair.deliver(pair.initiator)
    assert pair.acceptor.core.is_established
    pair.acceptor.core.close(Reason.GOING_AWAY, "maintenance")
    pair.write(pair.acceptor)
    pair.deliver(pair.acceptor)
    assert pair.initiator.core.ended == SessionOutcome(Reason.GOING_AWAY, "maintenance", by_peer=True)


def test_what_broke_the_rules_is_not_acknowledged() -> None:
    pair = CorePair.established()
    pair.open()
    pair.acceptor.core.receive_data(frames.Fin(99).encode(), pair.now)
    written = b"".join(pair.acceptor.core.data_to_send(pair.now))
    assert [type(frame) for frame in FrameDecoder().decode_untrusted(written)] == [frames.GoAway]


def test_a_clean_close_still_resets_open_streams() -> None:
    pair = CorePair.established()
    ours, theirs = pair.open()
    pair.initiator.core.close()
    pair.pump()
    assert ours.reason is theirs.reason is Reason.SESSION_LOST
    assert pair.acceptor.core.ended == SessionOutcome(Reason.NO_ERROR, "", by_peer=True)


def test_what_arrived_complete_can_be_read_after_the_end() -> None:
    pair = CorePair.established()
    ours, theirs = pair.open()
    for core, stream in ((pair.initiator.core, ours), (pair.acceptor.core, theirs)):
        core.send_data(stream, b"all of it")
        core.send_fin(stream)
    pair.pump()
    pair.cut()

    assert pair.initiator.take_events()[-1] == SessionOutcome(
        Reason.SESSION_LOST, "the channel was lost", by_peer=False
    )
    assert not ours.at_eof
    assert pair.initiator.core.read(ours, 4, pair.now) == b"all "
    assert pair.initiator.core.read(ours, 100, pair.now) == b"of it"
    assert ours.at_eof


def test_half_of_it_cannot_be_taken_for_complete() -> None:
    pair = CorePair.established()
    ours, theirs = pair.open()
    pair.initiator.core.send_data(ours, b"half of it")
    pair.pump()
    pair.cut()
    assert theirs.is_aborted
    assert not theirs.at_eof
    assert pair.acceptor.core.read(theirs, 100, pair.now) == b""


@pytest.mark.parametrize("drain_first", [False, True])
def test_after_the_peers_final_goaway_nothing_is_written(drain_first: bool) -> None:
    pair = CorePair.established()
    if drain_first:
        pair.acceptor.core.drain()
    pair.initiator.core.close()
    pair.write(pair.initiator)
    pair.deliver(pair.initiator)
    assert pair.acceptor.core.data_to_send(pair.now) == []


def test_nothing_can_be_done_after_the_end() -> None:
    pair = CorePair.established()
    ours, _ = pair.open()
    core = pair.initiator.core
    core.close()
    for call in (
        core.open_stream,
        lambda: core.send_data(ours, b"x"),
        lambda: core.send_fin(ours),
        lambda: core.stop(ours),
        lambda: core.refuse(ours, Reason.LIMIT),
        lambda: core.accept(ours, pair.now),
        lambda: core.channel_opened(pair.now),
    ):
        with pytest.raises(LocalProtocolError):
            call()
    core.reset(ours, Reason.CANCELLED)  # idempotent, whatever the state
    core.drain()
    assert core.receive_data(b"anything", pair.now) == []
    assert core.handle_timeout(1e9) == []
    assert core.next_deadline() is None
    assert core.channel_lost(pair.now) == []


@pytest.mark.parametrize("why", ["ended", "drained", "peer drains", "streams", "memory", "kind"])
def test_what_cannot_be_opened_says_why(why: str) -> None:
    small = SessionConfig(max_streams=1 if why == "streams" else 100, budget=2 * BASE_WINDOW)
    pair = CorePair.established(small)
    core = pair.initiator.core
    reason, kind = Reason.LIMIT, Kind.STREAM
    match why:
        case "ended":
            core.close(reason := Reason.IDENTITY_DENIED)
        case "drained":
            core.drain()
            reason = Reason.GOING_AWAY
        case "peer drains":
            pair.acceptor.core.drain()
            pair.pump()
            reason = Reason.GOING_AWAY
        case "streams":
            pair.open()
        case "memory":
            pair.open()
            pair.open()
        case _:
            reason, kind = Reason.KIND_NOT_OFFERED, Kind.DATAGRAMS
    with pytest.raises(LocalProtocolError) as refused:
        core.open_stream(kind)
    assert refused.value.reason is reason


def test_a_session_that_was_never_greeted_ends_with_its_channel() -> None:
    pair = CorePair(RESUMABLE)
    pair.connect()
    pair.write(pair.initiator)
    pair.lose_channel(pair.initiator)
    assert pair.initiator.core.state is State.CLOSED
    assert pair.initiator.take_events() == [
        SessionOutcome(Reason.SESSION_LOST, "the channel was lost", by_peer=False)
    ]


def test_a_refusal_instead_of_hello_ends_the_session() -> None:
    pair = CorePair()
    pair.connect()
    pair.write(pair.initiator)
    refusal = frames.GoAway(Reason.IDENTITY_DENIED, 0, final=True, text="not you")
    assert pair.initiator.core.receive_data(refusal.encode(), 0.0) == [
        SessionOutcome(Reason.IDENTITY_DENIED, "not you", by_peer=True)
    ]


def test_closing_before_hello_says_goodbye_only() -> None:
    pair = CorePair()
    pair.connect()
    pair.initiator.core.close(Reason.CANCELLED)
    pair.pump()
    assert pair.acceptor.core.ended == SessionOutcome(Reason.CANCELLED, "", by_peer=True)


def test_draining_lets_open_streams_finish_and_resets_unseen_ones() -> None:
    pair = CorePair.established()
    ours, theirs = pair.open()
    pair.acceptor.core.drain(text="restarting")
    unseen = pair.initiator.core.open_stream()
    pair.write(pair.initiator)  # OPEN crosses GOAWAY
    pair.pump()
    events = pair.initiator.take_events()
    assert GoingAway(Reason.GOING_AWAY, "restarting") in events
    assert StreamAborted(unseen) in events
    assert unseen.reason is Reason.GOING_AWAY
    with pytest.raises(LocalProtocolError):
        pair.initiator.core.open_stream()
    with pytest.raises(LocalProtocolError):
        pair.acceptor.core.open_stream()
    pair.initiator.core.send_data(ours, b"still going")
    pair.pump()
    assert pair.acceptor.core.read(theirs, 100, pair.now) == b"still going"
    assert pair.acceptor.core.ended is None


def test_goaway_is_acted_on_once() -> None:
    """A flood of GOAWAY must not make us look through all streams each time."""
    pair = CorePair.established()
    goaway = frames.GoAway(Reason.GOING_AWAY, 0).encode()
    assert len(pair.initiator.core.receive_data(goaway * 100, pair.now)) == 1


def test_a_side_that_goes_away_refuses_what_the_peer_opened_meanwhile() -> None:
    pair = CorePair.established()
    ours = pair.initiator.core.open_stream()
    pair.write(pair.initiator)
    pair.acceptor.core.drain()  # before OPEN has arrived
    pair.pump()
    assert ours.reason is Reason.GOING_AWAY
    assert not [event for event in pair.acceptor.take_events() if isinstance(event, StreamOffered)]
