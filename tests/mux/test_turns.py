"""One holder of many sessions gets as much of the event loop as a holder of one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import trio
import trio.testing

from hybridrelay.mux import MuxStream, Session, SessionRole, SharedTurns
from hybridrelay.mux.session import PORTION, SETTLING_SECONDS
from hybridrelay.mux.turns import MAX_FRAMES
from hybridrelay.protocol import Reason, frames
from hybridrelay.streams.nowait import TURN_BYTES

SESSIONS, FRAMES = 20, 1500
HELLO = frames.Hello(b"session id 16 by", b"s" * 32, 0).encode()
#: More than the frames of one turn, so that some are left when a turn is over; or fewer, so that none is.
PORTIONS = (3 * MAX_FRAMES, MAX_FRAMES - 1)


def test_a_turn_is_over_after_frames_or_bytes() -> None:
    for frame_count, size in ((MAX_FRAMES, 0), (0, TURN_BYTES), (MAX_FRAMES // 2, TURN_BYTES // 2)):
        turns = SharedTurns()
        assert not turns.is_over
        turns.count(frame_count, size - 1 if size else 0)
        turns.count(0, 1 if size else 0)
        assert turns.is_over


class Passes(trio.abc.Instrument):
    """Counts the passes of the event loop, and calls a function after each."""

    def __init__(self, ended: Callable[[], object] = lambda: None) -> None:
        self.count = 0
        self._ended = ended

    def before_io_wait(self, timeout: float) -> None:
        self.count += 1
        self._ended()


@contextmanager
def instrument(passes: Passes) -> Iterator[None]:
    trio.lowlevel.add_instrument(passes)
    try:
        yield
    finally:
        trio.lowlevel.remove_instrument(passes)


async def test_those_that_wait_get_turns_in_their_order() -> None:
    turns, passes, taken = SharedTurns(), Passes(), list[tuple[int, int]]()

    async def use(number: int) -> None:
        for _ in range(3):
            turns.count(MAX_FRAMES, 0)
            await turns.next()
            taken.append((passes.count, number))

    with instrument(passes):
        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(use, number)
    assert len({at for at, _ in taken}) == len(taken) == 12, "one turn in each pass of the event loop"
    for round_ in (taken[:4], taken[4:8], taken[8:]):
        assert {number for _, number in round_} == {0, 1, 2, 3}, "nobody has a turn before all others had one"


async def test_a_task_that_is_cancelled_while_it_waits_stops_nobody() -> None:
    turns = SharedTurns()
    turns.count(MAX_FRAMES, 0)
    async with trio.open_nursery() as nursery:
        cancelled = trio.CancelScope()

        async def wait() -> None:
            with cancelled:
                await turns.next()

        nursery.start_soon(wait)
        nursery.start_soon(turns.next)
        cancelled.cancel()
    assert not turns.is_over


async def _most_frames_in_a_pass(turns: SharedTurns | None, portion: int) -> int:
    """Run sessions that receive many frames. Returns the most that are processed in one pass of the event loop."""
    sessions, ends = [], []
    most = 0
    async with trio.open_nursery() as nursery:
        for _ in range(SESSIONS):
            far, near = trio.testing.memory_stream_pair()
            await far.send_all(HELLO)
            session = Session(SessionRole.ACCEPTOR, turns=turns)
            nursery.start_soon(session.run, near)
            sessions.append(session)
            ends.append(near.receive_stream)
        await trio.testing.wait_all_tasks_blocked()

        def received() -> int:
            return sum(session.core.frames_received for session in sessions)

        began, sent, before = received(), 0, received()

        def look() -> None:
            nonlocal most, before
            now = received()
            most, before = max(most, now - before), now

        with instrument(Passes(look)):
            while sent < FRAMES:
                for end in ends:  # all at once
                    end.put_data(frames.Ack(0).encode() * portion)
                sent += portion
                while received() < began + SESSIONS * sent:
                    await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    return most


async def test_many_sessions_of_one_holder_have_one_turn_in_a_pass() -> None:
    for portion in PORTIONS:
        with trio.fail_after(60):
            # The rest of a turn, a portion that exceeds it, and a portion of the next turn.
            assert await _most_frames_in_a_pass(SharedTurns(), portion) <= 3 * MAX_FRAMES


async def test_sessions_of_different_holders_have_turns_of_their_own() -> None:
    for portion in PORTIONS:
        with trio.fail_after(60):
            assert await _most_frames_in_a_pass(None, portion) > SESSIONS // 2 * MAX_FRAMES


@pytest.mark.parametrize(("sessions", "streams"), [(30, PORTION - 1), (4, 10 * PORTION)])
@pytest.mark.parametrize("how", ["the sessions end", "nothing is acknowledged in time"])
async def test_other_tasks_run_while_the_streams_of_many_sessions_end(
    autojump_clock: trio.testing.MockClock, sessions: int, streams: int, how: str
) -> None:
    """Each end is reported once, and in each pass of the event loop no more than those of one session."""
    turns, passes, reported = SharedTurns(), Passes(), Counter[int]()
    async with trio.open_nursery() as nursery:
        servers: list[Session] = []
        held: list[MuxStream] = []
        for _ in range(sessions):
            ours, theirs = trio.testing.memory_stream_pair()
            client, server = Session(SessionRole.INITIATOR), Session(SessionRole.ACCEPTOR, turns=turns)
            async with trio.open_nursery() as starting:
                starting.start_soon(nursery.start, client.run, ours)
                starting.start_soon(nursery.start, server.run, theirs)
            for _ in range(streams):
                await client.open_stream_nowait().send_all(b"x")
                held.append((await server.offers.receive()).accept())
                held[-1].set_end_callback(lambda _: reported.update([passes.count]))
            ours.send_stream.send_all_hook = None  # from here on, the server is told nothing
            servers.append(server)
        assert not reported
        with instrument(passes):
            if how == "the sessions end":
                for server in servers:
                    server.close(Reason.IDENTITY_DENIED)
            else:
                for stream in held:
                    await stream.aclose()
                await trio.sleep(SETTLING_SECONDS + 1)
            while reported.total() < sessions * streams and passes.count < 10 * sessions * streams:
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert reported.total() == sessions * streams
    assert max(reported.values()) <= 3 * PORTION
