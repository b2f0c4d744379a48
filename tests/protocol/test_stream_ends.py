"""Every order in which a stream can end, with frames that cross; and when its state is released."""

from __future__ import annotations

import pytest

from hybridrelay.protocol import LocalProtocolError, Metadata, MetadataEntry, Reason, SessionConfig, frames
from hybridrelay.protocol.events import StreamAborted, StreamAnswered, StreamOffered, StreamReadable, StreamWritable
from hybridrelay.testing.cores import CorePair

RESUMABLE = SessionConfig(resume_deadline=30)


def assert_clean(pair: CorePair) -> None:
    """Neither side holds anything of any stream, and the session goes on."""
    for side in pair.sides:
        assert side.core.ended is None
        assert side.core.streams == {}
        assert (side.core.budget.base, side.core.budget.elastic) == (0, 0)
        assert (side.core._table.own_count, side.core._table.peer_count, side.core._table.offered) == (0, 0, 0)


def settle(pair: CorePair) -> None:
    """Deliver everything, including acknowledgements that are sent after a delay."""
    pair.pump()
    pair.advance(1)


def test_both_ends_finish() -> None:
    pair = CorePair.established()
    ours, theirs = pair.open()
    pair.initiator.core.send_data(ours, b"request")
    pair.initiator.core.send_fin(ours)
    pair.pump()
    at_eof = [theirs.at_eof]
    assert pair.acceptor.core.read(theirs, 100, pair.now) == b"request"
    at_eof.append(theirs.at_eof)
    assert at_eof == [False, True]
    pair.acceptor.core.send_data(theirs, b"reply")
    pair.acceptor.core.send_fin(theirs)
    pair.pump()
    assert pair.initiator.core.read(ours, 100, pair.now) == b"reply"
    assert ours.at_eof
    settle(pair)
    assert_clean(pair)


def test_end_of_file_without_data() -> None:
    pair = CorePair.established()
    ours, theirs = pair.open()
    pair.initiator.core.send_fin(ours)
    pair.initiator.core.send_fin(ours)
    pair.acceptor.core.send_fin(theirs)
    settle(pair)
    assert ours.at_eof
    assert theirs.at_eof
    assert_clean(pair)


def test_an_unread_stream_stays_until_it_is_read_but_does_not_count() -> None:
    pair = CorePair.established()
    ours, theirs = pair.open()
    pair.initiator.core.send_data(ours, b"unread")
    pair.initiator.core.send_fin(ours)
    pair.acceptor.core.send_fin(theirs)
    settle(pair)
    assert pair.initiator.core.streams == {}
    assert pair.acceptor.core.streams == {theirs.id: theirs}
    assert pair.acceptor.core._table.peer_count == 0
    pair.acceptor.core.read(theirs, 100, pair.now)
    assert_clean(pair)


def test_stop_drops_what_is_unread_and_ends_the_peers_direction() -> None:
    pair = CorePair.established()
    ours, theirs = pair.open()
    pair.initiator.core.send_data(ours, bytes(1000))
    pair.pump()
    pair.take_events()
    pair.acceptor.core.stop(theirs, Reason.LIMIT)
    pair.acceptor.core.stop(theirs, Reason.LIMIT)
    pair.pump()
    assert StreamWritable(ours) in pair.initiator.take_events()
    assert ours.stopped_by_peer
    assert ours.reason is Reason.LIMIT
    assert not ours.is_aborted
    with pytest.raises(LocalProtocolError):
        pair.initiator.core.send_data(ours, b"more")
    assert pair.acceptor.core.read(theirs, 100, pair.now) == b""
    pair.acceptor.core.send_data(theirs, b"the other direction goes on")
    pair.acceptor.core.send_fin(theirs)
    pair.pump()
    assert pair.initiator.core.read(ours, 100, pair.now) == b"the other direction goes on"
    settle(pair)
    assert_clean(pair)


def test_stop_with_nothing_left_to_come_is_not_sent() -> None:
    pair = CorePair.established()
    ours, theirs = pair.open()
    pair.initiator.core.send_data(ours, b"unread")
    pair.initiator.core.send_fin(ours)
    pair.pump()
    pair.acceptor.core.stop(theirs)
    pair.write(pair.acceptor)
    assert not any(isinstance(frame, frames.Stop) for frame in pair.acceptor.take_wire())


def test_stop_before_open_has_left() -> None:
    """STOP must not overtake OPEN, and the closed window must not borrow again."""
    pair = CorePair.established()
    stream = pair.initiator.core.open_stream()
    pair.initiator.core.stop(stream, Reason.CANCELLED)
    pair.write(pair.initiator)
    kinds = [type(frame) for frame in frames.FrameDecoder().decode_untrusted(bytes(pair.initiator.wire))]
    assert kinds[-2:] == [frames.Open, frames.Stop]
    pair.pump()
    offered = pair.acceptor.core.streams[stream.id]
    assert offered.stopped_by_peer
    assert pair.initiator.core.budget.elastic == 0
    pair.acceptor.core.accept(offered, pair.now)
    pair.initiator.core.send_fin(stream)
    settle(pair)
    assert_clean(pair)


def test_reset_drops_everything_on_both_sides() -> None:
    pair = CorePair.established()
    ours, theirs = pair.open()
    pair.acceptor.core.send_data(theirs, b"unread")
    pair.pump()
    pair.take_events()
    pair.initiator.core.send_data(ours, b"unwritten")
    pair.initiator.core.reset(ours, Reason.CANCELLED, "no longer wanted")
    assert pair.initiator.core.read(ours, 100, pair.now) == b""
    pair.pump()
    assert pair.acceptor.take_events() == [StreamAborted(theirs)]
    assert (theirs.reason, theirs.text) == (Reason.CANCELLED, "no longer wanted")
    assert not theirs.at_eof
    assert not ours.at_eof
    settle(pair)
    assert_clean(pair)


def test_reset_before_open_has_left_says_nothing() -> None:
    pair = CorePair.established()
    stream = pair.initiator.core.open_stream()
    pair.initiator.core.send_data(stream, b"early")
    pair.initiator.core.reset(stream, Reason.CANCELLED)
    assert pair.write(pair.initiator) == 0
    assert_clean(pair)


def test_reset_at_once_after_accepting() -> None:
    """The opener must receive OPENED before RESET, or its state table treats RESET as an error."""
    pair = CorePair.established()
    ours = pair.initiator.core.open_stream()
    pair.pump()
    theirs = pair.acceptor.core.streams[ours.id]
    pair.acceptor.core.accept(theirs, pair.now)
    pair.acceptor.core.reset(theirs, Reason.TARGET_RESET)
    pair.take_events()
    pair.pump()
    assert pair.initiator.take_events() == [StreamAnswered(ours), StreamAborted(ours)]
    settle(pair)
    assert_clean(pair)


def test_accepting_crosses_the_openers_reset() -> None:
    pair = CorePair.established()
    ours = pair.initiator.core.open_stream()
    pair.pump()
    theirs = pair.acceptor.core.streams[ours.id]
    pair.acceptor.core.accept(theirs, pair.now)
    pair.initiator.core.reset(ours, Reason.CANCELLED)
    pair.write(pair.initiator)
    pair.deliver(pair.initiator)  # before OPENED is written
    settle(pair)
    assert theirs.is_aborted
    assert_clean(pair)


@pytest.mark.parametrize("resets_first", [0, 1])
def test_resets_of_both_sides_that_cross_leave_nothing_behind(resets_first: int) -> None:
    pair = CorePair.established()
    ends = pair.open()
    for side, stream in zip(pair.sides, ends, strict=True):
        side.core.reset(stream, Reason.CANCELLED)
    pair.write(pair.sides[resets_first])
    pair.write(pair.sides[1 - resets_first])
    settle(pair)
    assert_clean(pair)


def test_refusal_reports_the_reason_and_forgets_early_data() -> None:
    pair = CorePair.established()
    about = Metadata([MetadataEntry(0x4001, b"where to")])
    ours = pair.initiator.core.open_stream(metadata=about)
    pair.initiator.core.send_data(ours, bytes(5000))
    pair.initiator.core.send_fin(ours)
    pair.pump()
    (theirs,) = (event.stream for event in pair.acceptor.take_events() if isinstance(event, StreamOffered))
    assert theirs.metadata == about
    pair.acceptor.core.refuse(theirs, Reason.TARGET_REFUSED, "ü" * 200)
    pair.pump()
    assert pair.initiator.take_events()[-1] == StreamAborted(ours)
    assert (ours.reason, ours.text) == (Reason.TARGET_REFUSED, "ü" * 128)
    settle(pair)
    assert_clean(pair)


def test_reset_of_an_offer_refuses_it() -> None:
    pair = CorePair.established()
    ours = pair.initiator.core.open_stream()
    pair.pump()
    pair.acceptor.core.reset(pair.acceptor.core.streams[ours.id], Reason.LIMIT)
    pair.pump()
    assert ours.reason is Reason.LIMIT
    settle(pair)
    assert_clean(pair)


def test_early_data_is_there_when_the_offer_is_accepted() -> None:
    pair = CorePair.established()
    ours = pair.initiator.core.open_stream()
    pair.initiator.core.send_data(ours, bytes(100_000))
    pair.pump()
    theirs = pair.acceptor.core.streams[ours.id]
    assert theirs.readable_bytes == 16_384
    assert StreamReadable(theirs) in pair.acceptor.take_events()
    pair.acceptor.core.accept(theirs, pair.now)
    pair.pump()
    assert theirs.readable_bytes == 100_000


@pytest.mark.parametrize("queued", ["reset", "refuse", "stop", "accept and reset"])
def test_a_queued_frame_outlives_the_peers_stream(queued: str) -> None:
    """We acknowledge the peer's end by HELLO, before we write what we had queued for the stream.

    The peer lets the stream go on that acknowledgement; the late frame must not look like a violation to it.
    """
    pair = CorePair.established(RESUMABLE)
    core = pair.acceptor.core
    if queued in ("refuse", "accept and reset"):
        ours = pair.initiator.core.open_stream()
        pair.pump()
        theirs = core.streams[ours.id]
        pair.initiator.core.reset(ours, Reason.CANCELLED)
        if queued == "refuse":
            core.refuse(theirs, Reason.LIMIT)
        else:
            core.accept(theirs, pair.now)
            core.reset(theirs, Reason.LIMIT)
    else:
        ours, theirs = pair.open()
        core.send_fin(theirs)
        settle(pair)
        pair.initiator.core.send_fin(ours)
        core.reset(theirs, Reason.LIMIT) if queued == "reset" else core.stop(theirs)
    pair.write(pair.initiator)
    pair.deliver(pair.initiator)  # the acceptor has it all, and writes nothing
    pair.cut()
    pair.connect()
    settle(pair)
    assert_clean(pair)


def test_streams_opened_before_hello_beyond_the_peers_limit_are_refused_here() -> None:
    pair = CorePair(acceptor_config=SessionConfig(max_streams=2))
    streams = [pair.initiator.core.open_stream() for _ in range(1000)]
    pair.connect()
    pair.pump()
    aborted = [event.stream for event in pair.initiator.take_events() if isinstance(event, StreamAborted)]
    assert aborted == streams[:1:-1]
    assert {stream.reason for stream in aborted} == {Reason.LIMIT}
    assert len(pair.acceptor.core.streams) == 2
    assert pair.acceptor.core.ended is None


def test_at_the_limit_a_successor_is_opened_as_soon_as_a_stream_has_ended() -> None:
    """The acknowledgement that frees the place is written before the OPEN that takes it."""
    pair = CorePair.established(SessionConfig(max_streams=1))
    for _ in range(20):
        ours, theirs = pair.open()
        with pytest.raises(LocalProtocolError):
            pair.initiator.core.open_stream()
        pair.acceptor.core.send_fin(theirs)
        pair.initiator.core.send_fin(ours)
        pair.write(pair.initiator)
        pair.deliver(pair.initiator)
        pair.write(pair.acceptor)
        pair.deliver(pair.acceptor)
        assert not theirs.is_aborted
    settle(pair)
    assert_clean(pair)


def test_open_streams_are_reset_and_closed_ones_are_still_delivered() -> None:
    """A client does this when it ends: the data of streams that were closed normally still arrives."""
    pair = CorePair.established()
    core, theirs = pair.initiator.core, pair.acceptor.core
    idle, half_closed, closed, stopped = (pair.open() for _ in range(4))
    unanswered = core.open_stream()
    core.send_fin(half_closed[0])
    core.send_data(closed[0], b"the end of it")
    core.send_fin(closed[0])
    core.stop(closed[0])
    core.stop(stopped[0])
    happened = core.reset_open_streams(Reason.CANCELLED)
    reset = {idle[0], half_closed[0], stopped[0], unanswered}
    assert {event.stream for event in happened if isinstance(event, StreamAborted)} == reset
    assert not core.reset_open_streams(Reason.CANCELLED), "once"
    pair.pump()
    assert theirs.read(closed[1], 100, pair.now) == b"the end of it"
    assert closed[1].at_eof
    assert all(far.reason is Reason.CANCELLED for _, far in (idle, half_closed, stopped))
    theirs.send_fin(closed[1])
    settle(pair)
    assert_clean(pair)
