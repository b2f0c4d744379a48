"""The order in which frames are written, in which none waits for ever."""

from __future__ import annotations

from itertools import pairwise

import pytest

from hybridrelay.protocol import Reason, SessionConfig, frames
from hybridrelay.protocol.config import FAIR_DATA, MAX_DATA
from hybridrelay.protocol.events import StreamWritable
from hybridrelay.protocol.stream import Stream
from hybridrelay.testing.cores import CorePair, CoreSide

KIB = 1024


def open_several(pair: CorePair, count: int) -> list[tuple[Stream, Stream]]:
    return [pair.open() for _ in range(count)]


def written(side: CoreSide, pair: CorePair, max_bytes: int = 1 << 30) -> list[frames.Frame]:
    pair.write(side, max_bytes)
    return side.take_wire()


def test_what_is_written_first_does_not_depend_on_what_came_up_first() -> None:
    """Liveness, GOAWAY, WINDOW, ACK, control frames, OPEN, FIN alone, DATA: in this order, whatever came up first."""
    pair = CorePair.established()
    (a, a2), (b, b2), (c, c2), (d, _) = open_several(pair, 4)
    pair.advance(1)
    core = pair.initiator.core
    core.send_data(a, b"data")
    core.send_fin(d)
    opened = core.open_stream()
    core.send_data(opened, b"early")
    core.stop(b)
    core.reset(c, Reason.CANCELLED)
    pair.acceptor.core.send_data(a2, bytes(200 * KIB))
    pair.write(pair.acceptor)
    pair.deliver(pair.acceptor)
    core.read(a, 1 << 20, pair.now)
    core.drain()
    core.receive_data(frames.Ping(bytes(8)).encode(), pair.now)
    kinds = [type(frame) for frame in written(pair.initiator, pair)]
    assert kinds == [
        frames.Pong, frames.GoAway, frames.Window, frames.Ack, frames.Stop, frames.Reset, frames.Open, frames.Fin,
        frames.Data, frames.Data,
    ]  # fmt: skip
    assert b2
    assert c2


def test_one_stream_alone_gets_large_frames() -> None:
    pair = CorePair.established()
    ((ours, _),) = open_several(pair, 1)
    pair.initiator.core.send_data(ours, bytes(200 * KIB))
    sizes = [len(frame.data) for frame in written(pair.initiator, pair) if isinstance(frame, frames.Data)]
    assert sizes == [MAX_DATA, MAX_DATA, MAX_DATA, 200 * KIB - 3 * MAX_DATA]


def test_several_streams_take_turns() -> None:
    pair = CorePair.established()
    ends = open_several(pair, 3)
    for ours, _ in ends:
        pair.initiator.core.send_data(ours, bytes(4 * FAIR_DATA))
    data = [frame for frame in written(pair.initiator, pair) if isinstance(frame, frames.Data)]
    assert [frame.stream for frame in data[:9]] == [ours.id for ours, _ in ends] * 3
    assert {len(frame.data) for frame in data[:9]} == {FAIR_DATA}
    for ours, _ in ends:
        assert sum(len(frame.data) for frame in data if frame.stream == ours.id) == 4 * FAIR_DATA


def test_turns_go_on_from_one_write_to_the_next() -> None:
    pair = CorePair.established()
    ends = open_several(pair, 3)
    for ours, _ in ends:
        pair.initiator.core.send_data(ours, bytes(10 * FAIR_DATA))
    turns = [
        frame.stream
        for _ in range(12)
        for frame in written(pair.initiator, pair, FAIR_DATA)
        if isinstance(frame, frames.Data)
    ]
    assert all(a != b for a, b in pairwise(turns))


def test_a_small_message_does_not_wait_behind_a_large_one() -> None:
    pair = CorePair.established()
    (large, _), (small, _) = open_several(pair, 2)
    pair.initiator.core.send_data(large, bytes(256 * KIB))
    written(pair.initiator, pair, 1)
    pair.initiator.core.send_data(small, b"urgent")
    data = [frame for frame in written(pair.initiator, pair) if isinstance(frame, frames.Data)]
    assert frames.Data(small.id, b"urgent") in data[:2]


def test_a_stream_without_credit_costs_no_turn() -> None:
    pair = CorePair.established(SessionConfig(initial_window=16 * KIB, max_window=16 * KIB))
    (stuck, _), (ours, theirs) = open_several(pair, 2)
    pair.initiator.core.send_data(stuck, bytes(100 * KIB))
    pair.pump()
    pair.initiator.core.send_data(ours, bytes(100 * KIB))
    total = 0
    while pair.write(pair.initiator) + pair.deliver(pair.initiator) + pair.write(pair.acceptor):
        pair.deliver(pair.acceptor)
        total += len(pair.acceptor.core.read(theirs, 1 << 20, pair.now))
    assert total == 100 * KIB
    assert stuck.queued_bytes == 84 * KIB


def test_writing_is_bounded_and_goes_on() -> None:
    pair = CorePair.established()
    ((ours, _),) = open_several(pair, 1)
    pair.initiator.core.send_data(ours, bytes(200 * KIB))
    assert 100 * KIB <= pair.write(pair.initiator, 100 * KIB) <= 100 * KIB + MAX_DATA + 100
    assert pair.write(pair.initiator, 100 * KIB) > 0


def test_room_in_the_send_queue_is_reported() -> None:
    pair = CorePair.established(SessionConfig(send_queue=64 * KIB, initial_window=32 * KIB))
    ((ours, _),) = open_several(pair, 1)
    pair.initiator.core.send_data(ours, bytes(128 * KIB))
    ours.ask_for_room()
    pair.write(pair.initiator)
    assert pair.initiator.take_events() == [], "96 KiB wait: there is no room yet"
    pair.initiator.core.receive_data(frames.Window(ours.id, 100 * KIB).encode(), pair.now)
    pair.write(pair.initiator)
    assert pair.initiator.take_events() == [StreamWritable(ours)]
    pair.initiator.core.receive_data(frames.Window(ours.id, 120 * KIB).encode(), pair.now)
    pair.write(pair.initiator)
    assert pair.initiator.take_events() == [], "nobody waits any more"


def test_data_and_open_wait_for_acknowledgements_and_nothing_else_does() -> None:
    config = SessionConfig(max_unacknowledged=512 * KIB, initial_window=1024 * KIB, max_streams=20)
    pair = CorePair.established(config)
    ends = open_several(pair, 6)
    (bulk, _), (ended, _), (stopped, _), (reset, _), (_, offered_to_us), (late, _) = ends
    core = pair.initiator.core
    assert offered_to_us
    core.send_data(bulk, bytes(1024 * KIB))
    sent = sum(len(f.data) for f in written(pair.initiator, pair) if isinstance(f, frames.Data))
    assert 500 * KIB <= sent <= 600 * KIB

    theirs = pair.acceptor.core.open_stream()
    pair.write(pair.acceptor)
    pair.deliver(pair.acceptor)  # it holds no ACK: nothing of the bulk arrived
    core.accept(core.streams[theirs.id], pair.now)
    core.send_fin(ended)
    core.stop(stopped)
    core.reset(reset, Reason.CANCELLED)
    core.send_data(late, b"has to wait")
    core.open_stream()
    assert {type(frame) for frame in written(pair.initiator, pair)} == {
        frames.Opened, frames.Fin, frames.Stop, frames.Reset, frames.Ack,
    }  # fmt: skip
    assert written(pair.initiator, pair) == []

    core.receive_data(frames.Ack(core._outbox.written).encode(), pair.now)
    assert {type(frame) for frame in written(pair.initiator, pair)} == {frames.Open, frames.Data}


def test_the_limit_of_what_is_unacknowledged_causes_no_deadlock() -> None:
    """ACK is written although both sides have reached their limits."""
    config = SessionConfig(max_unacknowledged=512 * KIB, initial_window=4096 * KIB)
    pair = CorePair.established(config)
    ours, theirs = pair.open()
    for core, stream in ((pair.initiator.core, ours), (pair.acceptor.core, theirs)):
        core.send_data(stream, bytes(4096 * KIB))
    for side in pair.sides:
        while pair.write(side):
            pass
        assert side.core._outbox.is_full
    pair.pump()
    pair.advance(1)
    assert ours.readable_bytes == theirs.readable_bytes == 4096 * KIB


@pytest.mark.parametrize("sizes", [[1] * 1000, [4095, 1], [5000, 5000], [MAX_DATA + 1], [100_000]])
def test_many_small_pieces_leave_in_few_buffers(sizes: list[int]) -> None:
    pair = CorePair.established()
    ((ours, theirs),) = open_several(pair, 1)
    expected = b""
    for number, size in enumerate(sizes):
        data = bytes([number % 256]) * size
        pair.initiator.core.send_data(ours, data)
        expected += data
    buffers = pair.initiator.core.data_to_send(pair.now)
    assert len(buffers) <= 2 * len(expected) / 4096 + 2
    pair.acceptor.core.receive_data(b"".join(buffers), pair.now)
    assert pair.acceptor.core.read(theirs, 1 << 20, pair.now) == expected
