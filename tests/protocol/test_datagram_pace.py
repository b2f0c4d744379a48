"""How many bytes of datagrams may be in flight: the pace by itself, and in sessions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.protocol import Feature, Kind, Reason, SessionConfig, frames
from hybridrelay.protocol.config import MAX_DATAGRAM
from hybridrelay.protocol.datagram_pace import MAX_IN_FLIGHT, OVERHEAD, PROBE_AFTER, DatagramPace
from hybridrelay.protocol.datagrams import MAX_WAIT_SECONDS
from hybridrelay.protocol.stream import Stream
from hybridrelay.testing.cores import CorePair

DATAGRAMS = SessionConfig(features=Feature.DATAGRAMS, resume_deadline=30)
#: How many datagrams of this size are in flight when no more may be written.
SIZE, MOST = 872, MAX_IN_FLIGHT // (872 + OVERHEAD) + 1


def state(pace: DatagramPace) -> tuple[bool, bool]:
    """Whether it is full, and whether a PING is due."""
    return pace.is_full, pace.is_due


def test_few_datagrams_cause_no_ping() -> None:
    pace = DatagramPace()
    for _ in range(PROBE_AFTER // OVERHEAD - 1):
        pace.written(0)
        assert state(pace) == (False, False)
    pace.written(0)
    assert state(pace) == (False, True)


def test_the_pong_says_that_what_was_before_the_ping_has_arrived() -> None:
    pace = DatagramPace()
    pace.written(PROBE_AFTER)
    token = pace.probe()
    assert state(pace) == (False, False)
    pace.written(MAX_IN_FLIGHT - PROBE_AFTER - 3 * OVERHEAD)
    assert state(pace) == (False, False)
    pace.written(0)
    assert state(pace) == (True, False), "one PING at a time"
    pace.answered(token)
    assert state(pace) == (False, True)
    pace.answered(token)
    assert state(pace) == (False, True)
    other = pace.probe()
    assert other != token
    pace.answered(token)
    pace.written(PROBE_AFTER)
    assert state(pace) == (True, False), "the answer to an earlier PING says nothing"


@pytest.mark.parametrize("has_asked", [True, False])
def test_another_channel_begins_with_nothing_in_flight(has_asked: bool) -> None:
    pace = DatagramPace()
    pace.written(MAX_IN_FLIGHT)
    token = pace.probe() if has_asked else b""
    assert state(pace)[0]
    pace.restart()
    assert state(pace) == (False, False)
    pace.written(PROBE_AFTER)
    pace.answered(token)
    assert state(pace) == (False, True)


@given(st.lists(st.one_of(st.integers(0, MAX_DATAGRAM), st.sampled_from(["answer", "lose"])), max_size=200))
def test_it_never_stops_for_good_and_never_exceeds_the_limit(steps: list[int | str]) -> None:
    """Against a model: the datagrams that are in flight, in order, with the PINGs among them."""
    pace, in_flight = DatagramPace(), list[int | bytes]()
    for step in steps:
        if step == "lose":
            pace.restart()
            in_flight.clear()
        elif step == "answer":
            at = next((index for index, one in enumerate(in_flight) if isinstance(one, bytes)), None)
            if at is not None:
                token = in_flight[at]
                assert isinstance(token, bytes)
                del in_flight[: at + 1]
                pace.answered(token)
        elif isinstance(step, int) and not pace.is_full:
            assert sum(one for one in in_flight if isinstance(one, int)) < MAX_IN_FLIGHT
            pace.written(step)
            in_flight.append(step + OVERHEAD)
        if pace.is_due:
            in_flight.append(pace.probe())
        assert not pace.is_full or any(isinstance(one, bytes) for one in in_flight), "a PONG will come"


def opened(pair: CorePair) -> tuple[Stream, Stream]:
    ours = pair.initiator.core.open_stream(Kind.DATAGRAMS)
    pair.pump()
    theirs = pair.acceptor.core.streams[ours.id]
    pair.acceptor.core.accept(theirs, pair.now)
    pair.pump()
    return ours, theirs


def test_a_flood_that_the_peer_does_not_read_stays_in_its_queue_and_streams_are_written() -> None:
    pair = CorePair.established(DATAGRAMS)
    ours, _ = opened(pair)
    stream, _ = pair.open()
    core = pair.initiator.core
    written = []
    for _ in range(1000):
        core.flows.send(ours, bytes(SIZE), pair.now)
        pair.write(pair.initiator)
        written += pair.initiator.take_wire()
    assert sum(isinstance(frame, frames.Datagram) for frame in written) == MOST
    assert sum(isinstance(frame, frames.Ping) for frame in written) == 1
    assert not core.has_output, "a driver that writes while there is output would never end"
    core.send_data(stream, b"now")
    pair.write(pair.initiator)
    assert [type(frame) for frame in pair.initiator.take_wire()] == [frames.Data]
    assert ours.flow is not None
    dropped = ours.flow.dropped.queue
    assert dropped == 1000 - MOST - len(ours.flow.to_send)
    pair.now += MAX_WAIT_SECONDS + 0.1
    core.flows.send(ours, b"latest", pair.now)
    assert len(ours.flow.to_send) == 1, "what has waited too long is dropped"


def test_what_waits_is_written_when_the_peer_has_answered() -> None:
    pair = CorePair.established(DATAGRAMS)
    ours, theirs = opened(pair)
    core = pair.initiator.core
    received = 0
    for _ in range(20):
        for _ in range(60):
            core.flows.send(ours, bytes(SIZE), pair.now)
        pair.pump()
        while pair.acceptor.core.flows.read(theirs, pair.now) is not None:
            received += 1
    assert received == 20 * 60


def test_a_flow_that_is_held_back_can_be_ended_and_reset() -> None:
    pair = CorePair.established(DATAGRAMS)
    ours, _ = opened(pair)
    other, theirs = opened(pair)
    core = pair.initiator.core
    for _ in range(MOST):
        core.flows.send(ours, bytes(SIZE), pair.now)
        pair.write(pair.initiator)
    for one in (ours, other):
        core.flows.send(one, b"last", pair.now)
    core.send_fin(other)
    core.reset(ours, Reason.CANCELLED)
    pair.pump()
    assert not core.has_output
    assert pair.acceptor.core.flows.read(theirs, pair.now) == b"last"
    pair.advance(1)
    assert not core.streams
    assert not pair.acceptor.core.streams
