"""What counts as a part of a turn, and who waits for the next one."""

from __future__ import annotations

import trio
import trio.testing

from hybridrelay.streams.nowait import TURN_BYTES
from hybridrelay.streams.turns import SharedTurns


async def test_a_task_that_begins_comes_after_those_that_wait() -> None:
    turns = SharedTurns(lambda: 0.0)
    turns.use(0, TURN_BYTES)
    must_wait = []

    async def wait() -> None:
        await turns.next()
        assert not turns.is_over
        must_wait.append(turns.begin())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        nursery.start_soon(wait)
    assert must_wait == [True, False], "while another task waits, and when none does"


async def test_a_turn_that_was_exceeded_makes_the_next_one_shorter() -> None:
    turns = SharedTurns(lambda: 0.0)
    turns.use(0, TURN_BYTES + TURN_BYTES // 4)
    await turns.next()
    assert not turns.use(0, TURN_BYTES // 2)
    assert turns.use(0, TURN_BYTES // 4)


async def test_the_time_that_other_tasks_take_before_a_turn_is_no_part_of_it() -> None:
    now = 0.0
    turns = SharedTurns(lambda: now)
    turns.use(0, TURN_BYTES)

    async def wait() -> None:
        await turns.next()
        assert not turns.use(0, TURN_BYTES - 1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.lowlevel.checkpoint()
        now += 100.0
