"""No number is used twice: what happens at the last one of each kind."""

from __future__ import annotations

import pytest

from hybridrelay.protocol import Reason, SessionConfig, frames
from hybridrelay.protocol.config import BASE_WINDOW, MAX_STREAM_ID
from hybridrelay.protocol.errors import LocalProtocolError
from hybridrelay.protocol.events import GoingAway, StreamOffered
from hybridrelay.protocol.windows import Budget, ReceiveWindow
from hybridrelay.testing.cores import CorePair

from .endings import end_reason


def test_with_the_last_stream_id_the_session_goes_away_and_its_streams_go_on() -> None:
    pair = CorePair.established(SessionConfig(last_stream_id=5))
    core = pair.initiator.core
    first, theirs = pair.open()
    pair.open()
    accepts_streams = [core.accepts_streams]
    last = core.open_stream()
    accepts_streams.append(core.accepts_streams)
    assert last.id == 5
    assert accepts_streams == [True, False]
    pair.pump()
    # The peer hears of it, and still gets the last stream.
    assert any(isinstance(event, GoingAway) for event in pair.acceptor.events)
    assert any(isinstance(event, StreamOffered) and event.stream.id == 5 for event in pair.acceptor.events)
    pair.acceptor.core.accept(pair.acceptor.core.streams[5], pair.now)
    core.send_data(first, b"goes on")
    core.send_data(last, b"this one too")
    pair.pump()
    assert pair.acceptor.core.read(theirs, 100, pair.now) == b"goes on"
    assert pair.acceptor.core.read(pair.acceptor.core.streams[5], 100, pair.now) == b"this one too"
    with pytest.raises(LocalProtocolError):
        core.open_stream()
    assert core.ended is None


def test_the_other_side_counts_for_itself() -> None:
    pair = CorePair.established(SessionConfig(), acceptor_config=SessionConfig(last_stream_id=2))
    pair.open(pair.acceptor)
    pair.pump()
    assert not pair.acceptor.core.accepts_streams
    assert pair.initiator.core.peer_going_away


def test_the_greatest_stream_id_is_used() -> None:
    pair = CorePair.established()
    pair.initiator.core._table.next_id = MAX_STREAM_ID
    assert pair.open()[0].id == MAX_STREAM_ID
    assert not pair.initiator.core.accepts_streams


def test_a_session_is_lost_with_the_channel_of_the_last_epoch() -> None:
    pair = CorePair.established(SessionConfig(resume_deadline=9))
    pair.open()
    for side in pair.sides:
        side.core.greetings.epoch = frames.MAX_EPOCH - 1
    pair.cut()
    pair.connect()
    pair.pump()
    assert pair.acceptor.core.epoch == frames.MAX_EPOCH
    assert pair.initiator.core.ended is None
    pair.cut()
    for side in pair.sides:
        assert end_reason(side.core) is Reason.SESSION_LOST


def test_no_limit_is_greater_than_may_be_stated() -> None:
    window = ReceiveWindow(Budget(1 << 30), 1 << 20)
    assert window.budget.reserve_base()
    left = 3 << 18
    start = frames.MAX_LIMIT - left
    window.limit, window.received, window.consumed = start + BASE_WINDOW, start, start
    for _ in range(3):
        window.grow_to(1 << 20, 0.0)
        assert frames.Window(1, window.limit).encode()
    assert window.limit == frames.MAX_LIMIT
    assert window.receive(left)
    assert not window.receive(1)
    window.consume(left, 1.0, 0.01)
    assert window.limit == frames.MAX_LIMIT
