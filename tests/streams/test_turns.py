"""What counts as a part of a turn, and who waits for the next one."""

from __future__ import annotations

import gc
import weakref

import pytest
import trio
import trio.testing

from hybridrelay.streams.nowait import TURN_BYTES
from hybridrelay.streams.turns import MAX_FRAMES, PeerTurns, SharedTurns


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


@pytest.mark.parametrize("counts", [True, False])
async def test_a_turn_that_was_exceeded_makes_the_next_one_shorter(counts: bool) -> None:
    turns = SharedTurns(lambda: 0.0)
    if counts:
        turns.count(MAX_FRAMES + MAX_FRAMES // 4)
    else:
        turns.use(0, TURN_BYTES + TURN_BYTES // 4)
    await turns.next()
    assert not turns.use(0, TURN_BYTES // 2)
    assert turns.use(0, TURN_BYTES // 4)


@pytest.mark.parametrize("counts", [True, False])
async def test_a_turn_that_was_exceeded_by_far_takes_only_one_other_turn(counts: bool) -> None:
    turns, passes = SharedTurns(lambda: 0.0), 0

    class Passes(trio.abc.Instrument):
        def before_io_wait(self, timeout: float) -> None:
            nonlocal passes
            passes += 1

    if counts:
        turns.count(100 * MAX_FRAMES)
    else:
        turns.use(0, 100 * TURN_BYTES)
    trio.lowlevel.add_instrument(instrument := Passes())
    await turns.next()
    trio.lowlevel.remove_instrument(instrument)
    assert passes <= 3
    assert not turns.use(0, TURN_BYTES - 1)
    assert turns.use(0, 1)


async def test_turns_that_nobody_has_used_do_not_add_up() -> None:
    turns = SharedTurns(lambda: 0.0)
    for _ in range(5):
        await turns.next()
    assert turns.use(0, TURN_BYTES)


def test_the_turns_of_a_peer_are_those_of_all_its_tasks_and_are_forgotten_with_the_last_one() -> None:
    peers = PeerTurns()
    turns = peers.of("a")
    assert peers.of("a") is turns
    assert peers.of("b") is not turns
    gone = weakref.ref(turns)
    del turns
    gc.collect()
    assert gone() is None


async def test_the_time_that_other_tasks_take_before_a_turn_is_not_part_of_it() -> None:
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
