"""Whether the peer has received everything that was sent on a stream, including the end of file."""

from __future__ import annotations

import pytest

from hybridrelay.protocol import Reason, SessionConfig
from hybridrelay.protocol.events import StreamAborted, StreamSettled
from hybridrelay.protocol.stream import Stream
from hybridrelay.testing.cores import CorePair

#: More than the initial window: the rest stays queued.
LONG = bytes(300_000)


def ended(pair: CorePair, data: bytes = b"all") -> tuple[Stream, Stream]:
    """A stream on which the initiator has queued everything, and asks whether it arrives."""
    ours, theirs = pair.open()
    pair.take_events()
    pair.initiator.core.send_data(ours, data)
    pair.initiator.core.send_fin(ours)
    ours.ask_for_delivery()
    return ours, theirs


def settled(pair: CorePair) -> list[StreamSettled | StreamAborted]:
    """What the initiator was told about it."""
    events = pair.initiator.take_events()
    return [event for event in events if isinstance(event, StreamSettled | StreamAborted)]


def test_it_is_delivered_when_the_end_of_file_is_acknowledged() -> None:
    pair = CorePair.established()
    ours, _ = ended(pair)
    pair.pump()
    before = ours.is_delivered, settled(pair)
    pair.advance(1)
    assert (ours.is_delivered, settled(pair)) == (True, [StreamSettled(ours)])
    assert before == (False, [])
    pair.advance(1)
    assert settled(pair) == []


def test_it_is_reported_only_on_request() -> None:
    pair = CorePair.established()
    ours, _ = pair.open()
    pair.initiator.core.send_fin(ours)
    pair.advance(1)
    assert ours.is_delivered
    assert settled(pair) == []


@pytest.mark.parametrize("data", [b"all", LONG])
def test_a_peer_that_stops_before_the_end_of_file_has_not_received_everything(data: bytes) -> None:
    """The end of file is on its way, or it is still queued."""
    pair = CorePair.established()
    ours, theirs = ended(pair, data)
    pair.write(pair.initiator)
    pair.acceptor.core.stop(theirs, Reason.CANCELLED)
    pair.write(pair.acceptor)
    pair.deliver(pair.acceptor)
    assert ours.stopped_by_peer
    assert settled(pair) == [StreamSettled(ours)]
    pair.advance(1)
    assert not ours.is_delivered
    assert settled(pair) == []


@pytest.mark.parametrize("at_end", [True, False])
def test_a_peer_that_resets_has_received_everything_if_it_was_at_the_end(at_end: bool) -> None:
    """Its acknowledgement precedes RESET in the same write."""
    pair = CorePair.established()
    ours, theirs = ended(pair, b"all" if at_end else LONG)
    pair.write(pair.initiator)
    pair.deliver(pair.initiator)
    pair.acceptor.core.reset(theirs, Reason.TARGET_RESET)
    pair.pump()
    assert ours.is_delivered is at_end
    assert settled(pair) == ([StreamSettled(ours)] if at_end else []) + [StreamAborted(ours)]


def test_a_stream_that_is_reset_here_is_not_delivered() -> None:
    pair = CorePair.established()
    ours, _ = ended(pair, LONG)
    pair.pump()
    pair.initiator.core.reset(ours, Reason.CANCELLED)
    pair.advance(1)
    assert not ours.is_delivered


@pytest.mark.parametrize("both_ended", [True, False])
def test_one_that_is_lost_with_its_session_is_not_delivered(both_ended: bool) -> None:
    pair = CorePair.established()
    ours, theirs = ended(pair)
    if both_ended:
        pair.acceptor.core.send_fin(theirs)
        pair.write(pair.acceptor)
        pair.deliver(pair.acceptor)
    pair.write(pair.initiator)
    pair.initiator.core.close(Reason.SESSION_LOST)
    assert ours.states.is_over
    assert not ours.is_delivered
    assert ours.is_aborted is not both_ended


def test_both_ends_of_file_and_no_acknowledgement_before_the_session_ends() -> None:
    """Such a stream is not aborted: what arrived can still be read."""
    pair = CorePair.established()
    ours, theirs = ended(pair)
    pair.acceptor.core.send_fin(theirs)
    pair.write(pair.acceptor)
    pair.deliver(pair.acceptor)
    pair.write(pair.initiator)
    assert StreamSettled(ours) in pair.initiator.core.close(Reason.SESSION_LOST)
    assert not ours.is_aborted


def test_what_is_replayed_on_another_channel_is_delivered_there() -> None:
    pair = CorePair.established(config=SessionConfig(resume_deadline=30))
    ours, _ = ended(pair)
    pair.write(pair.initiator)
    pair.lose()
    pair.connect()
    pair.advance(1)
    assert ours.is_delivered
    assert settled(pair) == [StreamSettled(ours)]
