"""A session outlives its channel: nothing is lost, repeated or mistaken for another's."""

from __future__ import annotations

from typing import TypedDict

import attrs
import pytest

from hybridrelay.protocol import Reason, SessionConfig, frames
from hybridrelay.protocol.events import Established, GoingAway, SessionOutcome, StreamAborted
from hybridrelay.protocol.session import State
from hybridrelay.testing.cores import CorePair

from .endings import end_reason

RESUMABLE = SessionConfig(resume_deadline=30)
KIB = 1024


def our_hello(pair: CorePair) -> frames.Hello:
    """The HELLO with which the initiator attaches now; it is still on the wire."""
    pair.connect()
    pair.write(pair.initiator)
    (hello,) = pair.initiator.take_wire()
    assert isinstance(hello, frames.Hello)
    pair.initiator.wire += hello.encode()
    return hello


def test_a_conversation_survives_a_cut_at_every_byte() -> None:
    """OPEN, data both ways, FIN: cut after each byte that could have arrived, on either direction's wire."""

    def converse(pair: CorePair, cut_after: int | None) -> int:
        """Run the conversation; cut the channel once so many bytes were delivered. Returns how many were."""
        request, reply = bytes(range(256)) * 3, bytes(range(255, -1, -1)) * 3
        core = pair.initiator.core
        ours = core.open_stream()
        core.send_data(ours, request)
        core.send_fin(ours)
        theirs, got, delivered = None, b"", 0
        while True:
            moved = 0
            for side in pair.sides:
                moved += pair.write(side, 100)
                if cut_after is not None and delivered + len(side.wire) > cut_after:
                    pair.deliver(side, cut_after - delivered)
                    cut_after = None
                    pair.cut()
                    pair.connect()
                    moved = 1
                else:
                    delivered += pair.deliver(side)
            acceptor = pair.acceptor.core
            if theirs is None and ours.id in acceptor.streams:
                theirs = acceptor.streams[ours.id]
                acceptor.accept(theirs, pair.now)
                acceptor.send_data(theirs, reply)
                acceptor.send_fin(theirs)
                moved = 1
            if theirs is not None:
                got += acceptor.read(theirs, 1 << 20, pair.now)
            if not moved:
                break
        assert theirs is not None
        assert theirs.at_eof
        assert got == request
        assert core.read(ours, 1 << 20, pair.now) == reply
        assert ours.at_eof
        pair.advance(1)
        for side in pair.sides:
            assert side.core.streams == {}
            assert side.core._outbox.kept_bytes == 0
        return delivered

    total = converse(CorePair.established(RESUMABLE), None)
    for cut_after in range(total):
        pair = CorePair.established(RESUMABLE)
        converse(pair, cut_after)
        assert pair.initiator.core.epoch == 1


def test_what_was_written_is_written_again_before_anything_new() -> None:
    pair = CorePair.established(RESUMABLE)
    ours, _ = pair.open()
    pair.advance(1)
    core = pair.initiator.core
    core.send_data(ours, b"first")
    pair.write(pair.initiator)  # and lost
    core.send_data(ours, b"second")
    core.receive_data(frames.Ping(b"whoever?").encode(), pair.now)
    pair.cut()
    pair.connect()
    pair.write(pair.initiator)
    pair.deliver(pair.initiator)
    pair.write(pair.acceptor)
    pair.deliver(pair.acceptor)
    pair.write(pair.initiator)
    again = pair.initiator.take_wire()
    assert [frame for frame in again if frame.counted] == [
        frames.Data(ours.id, b"first"),
        frames.Data(ours.id, b"second"),
    ]
    assert frames.Pong(b"whoever?") not in again, "the PING was of the old channel"


def test_what_has_arrived_is_not_written_again() -> None:
    pair = CorePair.established(RESUMABLE)
    ours, theirs = pair.open()
    pair.initiator.core.send_data(ours, b"once")
    pair.write(pair.initiator)
    pair.deliver(pair.initiator)  # its acknowledgement is never written
    pair.cut()
    assert our_hello(pair).written == pair.acceptor.core._inbox.received
    pair.pump()
    assert pair.acceptor.core.read(theirs, 100, pair.now) == b"once"
    assert pair.initiator.core._outbox.kept_bytes == 0


def test_what_is_written_again_for_a_stream_that_has_ended_meanwhile_is_ignored() -> None:
    pair = CorePair.established(RESUMABLE)
    ours, theirs = pair.open()
    other, other_there = pair.open()
    core = pair.acceptor.core
    core.send_data(theirs, b"lost on the way")
    core.send_fin(theirs)
    core.send_data(other_there, b"wanted")
    pair.write(pair.acceptor)
    pair.acceptor.wire.clear()
    pair.initiator.core.reset(ours, Reason.CANCELLED)
    pair.write(pair.initiator)
    pair.deliver(pair.initiator)  # HELLO will acknowledge it, and the initiator lets the stream go
    pair.cut()
    pair.connect()
    pair.pump()
    assert ours.id not in pair.initiator.core.streams
    assert pair.initiator.core.read(other, 100, pair.now) == b"wanted"
    # Only what is written again is forgiven.
    pair.initiator.core.receive_data(frames.Data(ours.id, b"late").encode(), pair.now)
    assert pair.initiator.core.ended is not None


def test_the_last_frame_before_the_cut_may_be_for_a_stream_that_has_ended_meanwhile() -> None:
    pair = CorePair.established(RESUMABLE)
    ours, theirs = pair.open()
    core = pair.acceptor.core
    core.send_data(theirs, b"lost on the way")
    core.send_fin(theirs)
    pair.write(pair.acceptor)
    assert [frame for frame in pair.acceptor.take_wire() if frame.counted][-1] == frames.Fin(theirs.id)
    pair.initiator.core.reset(ours, Reason.CANCELLED)
    pair.write(pair.initiator)
    pair.deliver(pair.initiator)
    pair.cut()
    pair.connect()
    pair.pump()
    assert pair.initiator.core.ended is None
    assert pair.initiator.core.streams == {}
    # One frame more is not forgiven.
    pair.initiator.core.receive_data(frames.Fin(ours.id).encode(), pair.now)
    assert end_reason(pair.initiator.core) is Reason.PROTOCOL_ERROR


def test_limits_and_goaway_are_stated_again() -> None:
    pair = CorePair.established(RESUMABLE)
    ends = [pair.open() for _ in range(3)]
    for ours, _ in ends[:2]:
        pair.initiator.core.send_data(ours, bytes(200 * KIB))
    pair.pump()
    for _, theirs in ends[:2]:
        pair.acceptor.core.read(theirs, 1 << 20, pair.now)
    pair.acceptor.core.drain()
    pair.write(pair.acceptor)  # WINDOW and GOAWAY, lost
    pair.cut()
    pair.connect()
    pair.pump()
    for ours, theirs in ends:
        assert ours.send_window.limit == theirs.receive_window.limit
    assert GoingAway(Reason.GOING_AWAY, "") in pair.initiator.events
    for ours, _ in ends[:2]:
        pair.initiator.core.send_data(ours, bytes(200 * KIB))
    pair.pump()
    assert {theirs.readable_bytes for _, theirs in ends[:2]} == {200 * KIB}


def test_a_move_while_the_old_channel_lives() -> None:
    pair = CorePair.established(RESUMABLE)
    ours, theirs = pair.open()
    pair.initiator.core.send_data(ours, b"on the old one")
    pair.write(pair.initiator)
    pair.connect()
    pair.initiator.core.send_data(ours, b", on the new one")
    pair.pump()
    assert pair.acceptor.core.read(theirs, 100, pair.now) == b"on the old one, on the new one"
    assert Established(resumed=True) in pair.initiator.events
    assert Established(resumed=True) in pair.acceptor.events


def test_a_hello_that_is_lost_costs_an_epoch_and_nothing_else() -> None:
    pair = CorePair.established(RESUMABLE)
    ours, theirs = pair.open()
    pair.initiator.core.send_data(ours, b"kept")
    pair.cut()
    our_hello(pair)  # lost on the way there
    pair.cut()
    pair.connect()
    pair.write(pair.initiator)
    pair.deliver(pair.initiator)
    pair.write(pair.acceptor)  # lost on the way back
    pair.cut()
    pair.connect()
    pair.pump()
    assert pair.initiator.core.epoch == pair.acceptor.core.epoch == 3
    assert pair.acceptor.core.read(theirs, 100, pair.now) == b"kept"


def test_only_a_newer_attach_with_the_secret_gets_the_session() -> None:
    pair = CorePair.established(RESUMABLE)
    core = pair.acceptor.core
    hello = our_hello(pair)
    refusals = {
        attrs.evolve(hello, epoch=0): Reason.SUPERSEDED,
        attrs.evolve(hello, secret=bytes(32)): Reason.SESSION_UNKNOWN,
        attrs.evolve(hello, secret=b"s" * 31 + b"x", epoch=99): Reason.SESSION_UNKNOWN,
        attrs.evolve(hello, session_id=bytes(16), epoch=99): Reason.SESSION_UNKNOWN,
        attrs.evolve(hello, attach=False, epoch=99): Reason.SESSION_UNKNOWN,
        hello: None,
    }
    for attempt, refusal in refusals.items():
        assert core.attach_refusal(attempt) is refusal
    pair.pump()
    assert core.attach_refusal(hello) is Reason.SUPERSEDED
    assert core.is_established, "to ask changes nothing"
    core.close()
    assert core.attach_refusal(attrs.evolve(hello, epoch=9)) is Reason.SESSION_UNKNOWN


@pytest.mark.parametrize("secret", [bytes(32), b"s" * 32, b"t" * 32], ids=["zeros", "the initiator's", "another"])
def test_an_acceptor_that_does_not_know_its_secret_does_not_get_the_session(secret: bytes) -> None:
    """It may have the same certificate, and it has learned the id of the session and the epoch from the initiator."""
    pair = CorePair.established(RESUMABLE)
    ours, _ = pair.open()
    pair.cut()
    pair.initiator.core.send_data(ours, b"for the real one")
    hello = our_hello(pair)
    forged = attrs.evolve(hello, secret=secret, attach=False, received=hello.written, written=hello.received)
    pair.initiator.wire.clear()
    pair.acceptor.wire.clear()
    pair.acceptor.wire += forged.encode()
    pair.deliver(pair.acceptor)
    assert end_reason(pair.initiator.core) is Reason.SESSION_LOST
    assert ours.reason is Reason.SESSION_LOST
    pair.write(pair.initiator)
    assert [type(frame) for frame in pair.initiator.take_wire()] in ([], [frames.GoAway])


def test_a_session_that_has_never_been_cannot_be_attached() -> None:
    pair = CorePair(RESUMABLE)
    hello = frames.Hello(bytes(16), bytes(32), 1, attach=True, epoch=1)
    assert pair.acceptor.core.attach_refusal(hello) is Reason.SESSION_UNKNOWN


class Counts(TypedDict, total=False):
    """What a HELLO that attaches states about frames."""

    received: int
    written: int


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"received": 1 << 40}, "more than was sent"),
        ({"received": 0}, "less than was acknowledged"),
        ({"written": 0}, "less than was received"),
        ({"written": 1 << 40}, "more than can have been kept"),
    ],
)
def test_counts_that_do_not_fit_lose_the_session(change: Counts, why: str) -> None:
    pair = CorePair.established(RESUMABLE)
    _, theirs = pair.open()
    pair.advance(1)
    assert pair.acceptor.core._outbox.acknowledged > 0
    hello = our_hello(pair)
    pair.initiator.wire.clear()
    pair.initiator.wire += attrs.evolve(hello, **change).encode()
    pair.deliver(pair.initiator)
    assert theirs.reason is Reason.SESSION_LOST, why
    pair.write(pair.acceptor)
    pair.deliver(pair.acceptor)
    assert end_reason(pair.initiator.core) is Reason.SESSION_LOST


def test_what_was_not_yet_written_again_cannot_be_acknowledged() -> None:
    """Otherwise frames that wait to be written to the new channel would no longer be counted as memory."""
    pair = CorePair.established(RESUMABLE)
    ours, _ = pair.open()
    pair.advance(1)
    core = pair.initiator.core
    core.send_data(ours, b"kept")
    pair.write(pair.initiator)
    pair.initiator.wire.clear()  # lost
    pair.cut()
    pair.connect()
    written = our_hello(pair).written
    pair.deliver(pair.initiator)
    pair.write(pair.acceptor)
    hello = next(frame for frame in pair.acceptor.take_wire() if isinstance(frame, frames.Hello))
    assert hello.received < written
    core.receive_data(hello.encode() + frames.Ack(written).encode(), pair.now)
    assert end_reason(core) is Reason.SESSION_LOST
    assert core.ended is not None
    assert "acknowledged" in core.ended.text


def test_without_a_new_channel_the_session_ends_at_its_deadline() -> None:
    pair = CorePair.established(RESUMABLE)
    ours, _ = pair.open()
    pair.cut()
    assert pair.take_events() == ([], [])
    assert pair.initiator.core.next_deadline() == pair.now + 30
    pair.advance(29.9)
    assert pair.take_events() == ([], [])
    pair.advance(0.1)
    assert pair.initiator.take_events() == [
        StreamAborted(ours),
        SessionOutcome(Reason.SESSION_LOST, "no new channel within the deadline", by_peer=False),
    ]


def test_channels_that_never_greet_do_not_put_the_deadline_off() -> None:
    pair = CorePair.established(RESUMABLE)
    pair.cut()
    for _ in range(4):
        pair.connect()
        pair.write(pair.initiator)
        pair.now += 7
        pair.initiator.core.handle_timeout(pair.now)
        assert pair.initiator.core.state is State.GREETING
        pair.cut()
    pair.connect()
    assert pair.initiator.core.next_deadline() == 30
    pair.now = 30
    for side in pair.sides:
        side.core.handle_timeout(pair.now)
        assert side.core.ended is not None


def test_the_deadline_starts_anew_with_every_channel_that_worked() -> None:
    pair = CorePair.established(RESUMABLE)
    for _ in range(5):
        pair.cut()
        pair.advance(20)
        pair.connect()
        pair.pump()
    assert pair.initiator.core.is_established


def test_work_goes_on_while_there_is_no_channel() -> None:
    pair = CorePair.established(RESUMABLE)
    (ended, _), (reset, reset_there), (ours, theirs) = (pair.open() for _ in range(3))
    pair.cut()
    core = pair.initiator.core
    core.send_fin(ended)
    core.reset(reset, Reason.CANCELLED)
    core.send_data(ours, b"meanwhile")
    fresh = core.open_stream()
    core.send_data(fresh, b"new")
    assert core.data_to_send(pair.now) == []
    pair.connect()
    pair.pump()
    acceptor = pair.acceptor.core
    assert acceptor.streams[ended.id].at_eof
    assert reset_there.is_aborted
    assert acceptor.read(theirs, 100, pair.now) == b"meanwhile"
    assert acceptor.read(acceptor.streams[fresh.id], 100, pair.now) == b"new"


def test_megabytes_are_written_again_in_pieces_and_pings_pass() -> None:
    config = SessionConfig(resume_deadline=30, initial_window=4096 * KIB, max_window=4096 * KIB)
    pair = CorePair.established(config)
    ours, theirs = pair.open()
    core = pair.initiator.core
    core.send_data(ours, bytes(4096 * KIB))
    while pair.write(pair.initiator):
        pass
    pair.cut()
    pair.connect()
    for side in (*pair.sides, pair.initiator):
        pair.write(side, 1)
        pair.deliver(side)
    assert pair.write(pair.initiator, 100 * KIB) < 200 * KIB
    pair.deliver(pair.initiator)
    core.receive_data(frames.Ping(b"in there").encode(), pair.now)
    pair.write(pair.initiator, 1)
    assert frames.Pong(b"in there") in frames.FrameDecoder().decode_untrusted(bytes(pair.initiator.wire))
    pair.cut()  # again, in the middle of it
    pair.connect()
    pair.pump()
    assert theirs.readable_bytes == 4096 * KIB


def test_a_peer_cannot_acknowledge_what_has_not_been_written_again() -> None:
    """Otherwise frames would no longer count as memory while they wait to be written to a peer that reads nothing."""
    config = SessionConfig(resume_deadline=30, initial_window=4096 * KIB, max_window=4096 * KIB)
    pair = CorePair.established(config)
    ours, _ = pair.open()
    core = pair.initiator.core
    core.send_data(ours, bytes(4096 * KIB))
    while pair.write(pair.initiator):
        pass
    written = core._outbox.written
    pair.cut()
    pair.connect()
    for side in (*pair.sides, pair.initiator):
        pair.write(side, 1)
        pair.deliver(side)
    core.receive_data(frames.Ack(written).encode(), pair.now)
    assert end_reason(core) is Reason.SESSION_LOST
    assert core.sending.held == 0


def test_without_a_deadline_a_session_dies_with_its_channel() -> None:
    pair = CorePair.established()
    ours, theirs = pair.open()
    pair.cut()
    for side, stream in zip(pair.sides, (ours, theirs), strict=True):
        assert [type(event) for event in side.take_events()] == [StreamAborted, SessionOutcome]
        assert stream.reason is Reason.SESSION_LOST
