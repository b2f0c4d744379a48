"""Counted frames: kept until they are acknowledged, and acknowledged before the peer has to wait."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.protocol import Reason, RemoteProtocolError
from hybridrelay.protocol.config import ACK_AFTER_BYTES, ACK_AFTER_FRAMES, ACK_AFTER_SECONDS, FRAME_OVERHEAD
from hybridrelay.protocol.delivery import Inbox, Outbox
from hybridrelay.protocol.sending import SESSION_SHARE


@given(st.lists(st.one_of(st.binary(min_size=1, max_size=50), st.floats(0, 1))))
def test_what_is_kept_is_what_is_not_acknowledged(steps: list[bytes | float]) -> None:
    outbox, model = Outbox(SESSION_SHARE + 20_000), deque[bytes]()
    for step in steps:
        if isinstance(step, bytes):
            frame = step * 1000
            if len(step) % 2:
                assert outbox.write(frame) == outbox.written
            else:
                outbox.write_data(len(frame), 0, (frame[:3], frame[3:]))
            model.append(frame)
        else:
            count = int(step * len(model))
            assert outbox.acknowledge_untrusted(outbox.acknowledged + count) == (count > 0)
            for _ in range(count):
                model.popleft()
        assert [b"".join(buffers) for buffers in outbox.unacknowledged()] == list(model)
        assert outbox.kept_bytes == sum(len(data) + FRAME_OVERHEAD for data in model)
        assert outbox.written - outbox.acknowledged == len(model)
        assert outbox.is_full == (outbox.kept_bytes >= SESSION_SHARE + 20_000)
    outbox.clear()
    assert outbox.kept_bytes == 0
    assert outbox.unacknowledged() == []


@pytest.mark.parametrize("count", [1, 4, 1 << 63])
def test_a_count_that_cannot_be_loses_the_session(count: int) -> None:
    outbox = Outbox(1000)
    for _ in range(3):
        outbox.write(b"x")
    outbox.acknowledge_untrusted(2)
    with pytest.raises(RemoteProtocolError) as caught:
        outbox.acknowledge_untrusted(count)
    assert caught.value.reason is Reason.SESSION_LOST
    assert outbox.acknowledged == 2


def test_an_acknowledgement_is_due_after_so_many_frames() -> None:
    inbox = Inbox()
    for number in range(1, ACK_AFTER_FRAMES + 1):
        assert not inbox.due
        inbox.receive(8, 0.0)
        assert inbox.received == number
    assert inbox.due
    assert inbox.deadline is None
    assert inbox.take_count() == ACK_AFTER_FRAMES
    assert (inbox.due, inbox.owes, inbox.deadline) == (False, False, None)


def test_an_acknowledgement_is_due_after_so_many_bytes() -> None:
    inbox = Inbox()
    due = []
    for data_bytes in (ACK_AFTER_BYTES - 1, 1):
        inbox.receive(data_bytes, 0.0)
        due.append(inbox.due)
    inbox.take_count()
    inbox.receive(ACK_AFTER_BYTES - 1, 0.0)
    due.append(inbox.due)
    assert due == [False, True, False]


def test_an_acknowledgement_is_due_after_so_long() -> None:
    inbox = Inbox()
    inbox.handle_timeout(99.0)
    assert not inbox.due
    inbox.receive(8, 100.0)
    inbox.receive(8, 100.1)
    deadline = 100.0 + ACK_AFTER_SECONDS
    found = []
    for now in (100.1, deadline):
        found.append((inbox.due, inbox.deadline))
        inbox.handle_timeout(now)
    found.append((inbox.due, inbox.deadline))
    assert found == [(False, deadline), (False, deadline), (True, None)]
    inbox.receive(8, 101.0)
    assert inbox.deadline is None, "what is due already waits for the writer, not for the clock"


def test_what_is_yet_to_be_written_again_cannot_be_acknowledged() -> None:
    outbox = Outbox(1000)
    for _ in range(3):
        outbox.write(b"x")
    outbox.to_write_again = 2
    with pytest.raises(RemoteProtocolError) as caught:
        outbox.acknowledge_untrusted(2)
    assert caught.value.reason is Reason.SESSION_LOST
    assert outbox.acknowledge_untrusted(1)
    outbox.to_write_again = 1
    assert outbox.acknowledge_untrusted(2)
