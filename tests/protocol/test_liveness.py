"""A silent peer is noticed in time, and a live one is never taken for dead. In virtual time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.protocol import Reason, SessionConfig
from hybridrelay.protocol.frames import Ack, FrameDecoder, Ping, Pong
from hybridrelay.protocol.liveness import ROUND_TRIP_MEMORY, Liveness
from hybridrelay.protocol.session import State
from hybridrelay.testing.cores import CorePair

from .endings import end_reason


def liveness() -> Liveness:
    """A channel was opened at the time 100, and its first ping was sent."""
    alive = Liveness(10.0, 5.0)
    alive.restart(100.0)
    alive.ask(100.0)
    return alive


#: (what happens, then the deadline and what it is for). Times are seconds after the channel was opened.
TABLE = [
    ([], 10, "ping"),
    ([("heard", 3)], 10, "ping"),
    ([("ask", 10)], 15, "silence"),
    ([("ask", 10), ("heard", 11)], 20, "ping"),
    ([("heard", 9), ("ask", 10)], 24, "silence"),  # ten seconds of silence come first, whenever the PING left
    ([("ask", 500)], 505, "silence"),  # the process was suspended: the peer gets its time to answer
    ([("heard", 10), ("ask", 10)], 20, "ping"),
    ([("heard", 9), ("check", 9)], 14, "silence"),
    ([("check", 2), ("check", 5), ("check", 6.9)], 7, "silence"),  # a check does not extend another
    ([("heard", 9), ("ask", 10), ("check", 12)], 17, "silence"),
    ([("ask", 10), ("check", 500)], 505, "silence"),  # suspended while a PING was on its way
    ([("check", 2), ("heard", 3)], 12, "ping"),
]


@pytest.mark.parametrize(("steps", "deadline", "kind"), TABLE)
def test_when_the_peer_is_asked_and_given_up(steps: list[tuple[str, float]], deadline: float, kind: str) -> None:
    alive = liveness()
    for name, at in steps:
        getattr(alive, name)(100.0 + at)
    assert alive.deadline == 100.0 + deadline
    assert alive.is_unanswered == (kind == "silence")


@pytest.mark.parametrize("traffic", [True, False], ids=["busy", "idle"])
def test_pings_leave_in_an_even_measure_however_much_is_received(traffic: bool) -> None:
    """Pings measure the round trip, and are therefore sent on busy channels as well."""
    pair = CorePair.established()
    ours, theirs = pair.open()
    pair.advance(1)
    pings = 0
    for _ in range(600):
        pair.now += 0.1
        for side in pair.sides:
            side.events += side.core.handle_timeout(pair.now)
        if traffic:
            pair.acceptor.core.send_data(theirs, b"x")
        pair.write(pair.initiator)
        frames = FrameDecoder().decode_untrusted(bytes(pair.initiator.wire))
        pings += sum(isinstance(frame, Ping) for frame in frames)
        pair.deliver(pair.initiator)
        pair.pump()
        pair.initiator.core.read(ours, 1 << 20, pair.now)
    assert pings == 6


def test_the_timeout_grows_with_the_round_trip() -> None:
    alive = liveness()
    assert alive.effective_timeout == 5.0
    alive.pong(alive.ping(100.0), 102.0)
    assert alive.smoothed == 2.0
    assert alive.effective_timeout == 16.0
    alive.pong(alive.ping(110.0), 110.0)
    assert alive.smoothed == 1.75
    alive.restart(200.0)
    assert alive.effective_timeout == 5.0
    assert alive.lowest(200.0) is None


def test_only_the_answer_to_the_last_ping_counts() -> None:
    alive = liveness()
    alive.pong(bytes(8), 100.5)
    first = alive.ping(101.0)
    second = alive.ping(102.0)
    alive.pong(first, 103.0)
    assert alive.lowest(103.0) is None
    alive.pong(second, 103.5)
    alive.pong(second, 105.0)
    assert alive.lowest(105.0) == 1.5


@given(st.lists(st.tuples(st.floats(0.1, 30), st.floats(0, 3)), min_size=1, max_size=30))
def test_the_lowest_round_trip_is_of_the_last_minute(samples: list[tuple[float, float]]) -> None:
    alive, now, seen = liveness(), 100.0, []
    for wait, round_trip in samples:
        now += wait
        token = alive.ping(now)
        left, now = now, now + round_trip
        alive.pong(token, now)
        seen.append((now, now - left))
        recent = [sample for at, sample in seen if at >= now - ROUND_TRIP_MEMORY]
        assert alive.lowest(now) == min(recent)
    assert alive.lowest(now + 1000) == seen[-1][1], "the last one known, however old"
    assert len(alive._samples) == 1


# --- in a session


def test_an_idle_session_lives_for_days() -> None:
    pair = CorePair.established()
    pair.open()
    pair.advance(3 * 86_400)
    for side in pair.sides:
        assert side.core.is_established
        assert side.events == []


def test_no_middlebox_sees_an_idle_connection_for_25_seconds() -> None:
    pair = CorePair.established()
    for _ in range(100):
        before, pair.now = pair.now, pair.initiator.core.next_deadline() or 0.0
        assert pair.now - before <= 25
        pair.initiator.core.handle_timeout(pair.now)
        assert pair.write(pair.initiator)
        pair.pump()


@pytest.mark.parametrize("resume_deadline", [0.0, 30.0])
@pytest.mark.parametrize("clogged", [False, True])
def test_a_black_hole_is_noticed_within_15_seconds(resume_deadline: float, clogged: bool) -> None:
    pair = CorePair.established(SessionConfig(resume_deadline=resume_deadline))
    ours, _ = pair.open()
    core, started = pair.initiator.core, pair.now
    core.send_data(ours, bytes(100_000))
    while core.is_established:
        pair.now = core.next_deadline() or 0.0
        pair.initiator.events += core.handle_timeout(pair.now)
        if not clogged:  # otherwise the writer is stuck, and even PING cannot leave
            core.data_to_send(pair.now)
    assert pair.now - started <= 15
    if resume_deadline:
        assert core.state is State.DETACHED
        assert not ours.is_aborted
    else:
        assert end_reason(core) is ours.reason is Reason.PEER_SILENT


def test_any_byte_is_life() -> None:
    pair = CorePair.established()
    for _ in range(50):
        pair.now += 9
        pair.initiator.core.handle_timeout(pair.now)
        pair.initiator.core.receive_data(Ack(0).encode()[:1] if _ == 49 else Ack(0).encode(), pair.now)
    assert pair.initiator.core.is_established


def test_a_suspended_process_asks_before_it_gives_up() -> None:
    pair = CorePair.established()
    pair.now += 3600
    for side in pair.sides:
        side.core.handle_timeout(pair.now)
    pair.advance(3)
    for side in pair.sides:
        assert side.core.is_established


def test_a_channel_that_is_checked_has_the_timeout_to_answer() -> None:
    pair = CorePair.established()
    for side in pair.sides:
        side.core.check_alive(pair.now)
    pair.advance(5)
    assert pair.initiator.core.is_established
    pair.initiator.core.check_alive(pair.now)
    assert isinstance(pair.initiator.core.next_deadline(), float)
    pair.now += 5
    pair.initiator.core.handle_timeout(pair.now)
    assert end_reason(pair.initiator.core) is Reason.PEER_SILENT
    pair.initiator.core.check_alive(pair.now)
    assert pair.initiator.core.next_deadline() is None


def test_pong_leaves_although_megabytes_wait() -> None:
    pair = CorePair.established()
    ours, _ = pair.open()
    pair.initiator.core.send_data(ours, bytes(1 << 20))
    pair.initiator.core.receive_data(Ping(b"answer! ").encode(), pair.now)
    pair.write(pair.initiator)
    assert pair.initiator.take_wire()[0] == Pong(b"answer! ")


def test_the_round_trip_is_measured_at_once() -> None:
    pair = CorePair()
    pair.connect()
    pair.write(pair.initiator)
    pair.now = 0.5
    pair.pump()
    pair.initiator.core.close()
    pair = CorePair()
    pair.connect()
    for _ in range(2):
        for side in pair.sides:
            pair.write(side)
            pair.now += 0.04
            pair.deliver(side)
    pair.pump()
    assert pair.acceptor.core.round_trip(pair.now) == pytest.approx(0.08)
