"""What one side does is what the other side reports: for every input of a stream, in both directions."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hybridrelay.protocol import Metadata, MetadataEntry, Reason
from hybridrelay.protocol.events import (
    Established,
    GoingAway,
    SessionEvent,
    SessionOutcome,
    StreamAborted,
    StreamAnswered,
    StreamOffered,
    StreamReadable,
    StreamWritable,
)
from hybridrelay.protocol.session import SessionCore
from hybridrelay.protocol.stream import Stream
from hybridrelay.testing.cores import CorePair

METADATA = Metadata([MetadataEntry(0x4001, b"about this stream")])

directions = pytest.mark.parametrize("direction", [0, 1], ids=["initiator acts", "acceptor acts"])
openers = pytest.mark.parametrize("opener", [0, 1], ids=["initiator opened", "acceptor opened"])


def test_both_sides_agree_after_hello() -> None:
    pair = CorePair()
    pair.connect()
    pair.pump()
    assert pair.take_events() == ([Established()], [Established()])
    ours, theirs = pair.initiator.core, pair.acceptor.core
    assert (ours.session_id, ours.epoch) == (theirs.session_id, theirs.epoch)
    assert ours.peer_hello is not None
    assert theirs.peer_hello is not None
    assert ours.peer_hello.secret != theirs.peer_hello.secret, "each side has its own"


@openers
def test_both_sides_open_streams_in_the_same_way(opener: int) -> None:
    pair = CorePair.established()
    us, them = pair.sides[opener], pair.sides[1 - opener]
    ours = us.core.open_stream(metadata=METADATA)
    pair.pump()
    (offer,) = them.take_events()
    assert isinstance(offer, StreamOffered)
    theirs = offer.stream
    assert (theirs.id, theirs.metadata) == (ours.id, METADATA)
    assert theirs.id % 2 == 1 - opener
    them.core.accept(theirs, pair.now)
    pair.pump()
    assert us.take_events() == [StreamAnswered(ours)]
    assert ours.send_window.limit == theirs.receive_window.limit
    assert theirs.send_window.limit == ours.receive_window.limit


ACTIONS: dict[str, tuple[Callable[[SessionCore, Stream], object], Callable[[Stream], SessionEvent]]] = {
    "data": (lambda core, stream: core.send_data(stream, b"abc"), StreamReadable),
    "fin": (lambda core, stream: core.send_fin(stream), StreamReadable),
    "stop": (lambda core, stream: core.stop(stream, Reason.LIMIT), StreamWritable),
    "reset": (lambda core, stream: core.reset(stream, Reason.LIMIT, "text"), StreamAborted),
}


def test_no_data_makes_no_frame() -> None:
    pair = CorePair.established()
    ours, _ = pair.open()
    pair.advance(1)
    pair.initiator.core.send_data(ours, b"")
    assert pair.write(pair.initiator) == 0


@openers
@directions
@pytest.mark.parametrize("action", ACTIONS)
def test_either_side_of_a_stream_is_told_what_the_other_does(opener: int, direction: int, action: str) -> None:
    pair = CorePair.established()
    ends = pair.open(pair.sides[opener])
    by_side = dict(zip((pair.sides[opener], pair.sides[1 - opener]), ends, strict=True))
    us, them = pair.sides[direction], pair.sides[1 - direction]
    act, report = ACTIONS[action]
    act(us.core, by_side[us])
    pair.pump()
    assert them.take_events() == [report(by_side[them])]
    theirs = by_side[them]
    if action == "data":
        assert them.core.read(theirs, 10, pair.now) == b"abc"
        assert them.core.read(theirs, 10, pair.now) == b""
    assert theirs.at_eof == (action == "fin")
    assert theirs.is_aborted == (action == "reset")
    assert theirs.stopped_by_peer == (action == "stop")
    assert theirs.reason is (Reason.LIMIT if action in ("stop", "reset") else Reason.NO_ERROR)
    assert theirs.text == ("text" if action == "reset" else "")


@directions
def test_either_side_is_told_that_the_other_drains_and_closes(direction: int) -> None:
    pair = CorePair.established()
    us, them = pair.sides[direction], pair.sides[1 - direction]
    us.core.drain(Reason.GOING_AWAY, "soon")
    pair.pump()
    assert them.take_events() == [GoingAway(Reason.GOING_AWAY, "soon")]
    us.core.close(Reason.GOING_AWAY, "now")
    pair.pump()
    assert them.take_events() == [SessionOutcome(Reason.GOING_AWAY, "now", by_peer=True)]
