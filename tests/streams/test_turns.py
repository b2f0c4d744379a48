"""What counts as a part of a turn, and who waits for the next one."""

from __future__ import annotations

import gc
import itertools
import weakref
from collections import Counter
from collections.abc import Sequence

import pytest
import trio
import trio.testing

from hybridrelay.streams import turns as module
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


def test_peers_belong_to_the_groups_that_are_stated_and_groups_to_larger_ones() -> None:
    peers = PeerTurns()
    groups = {"a": ("key", "owner"), "b": ("key", "owner"), "c": ("other", "owner"), "d": ("key", "another"), "e": ()}
    turns = {peer: peers.of(peer, *groups[peer]) for peer in groups}
    assert peers.of("a", "key", "owner") is turns["a"]
    assert len({peers.of("key", "owner"), peers.of("owner"), *turns.values()}) == len(turns) + 2
    turns["a"].count(MAX_FRAMES)
    assert [turns[peer].is_over for peer in groups] == [True, True, True, False, False]
    assert (peers.of("key", "owner").is_over, peers.of("owner").is_over) == (True, True)
    for group in ("key", "owner"):
        gone = weakref.ref(peers.of("x", "of", group))
        gc.collect()
        assert gone() is None


@pytest.mark.parametrize("levels", range(1, 5))
def test_renewing_begins_one_turn_of_each_group_at_all_levels(levels: int) -> None:
    group: SharedTurns | None = None
    for _ in range(levels - 1):
        group = SharedTurns(lambda: 0.0, group)
    one, other = (SharedTurns(lambda: 0.0, group) for _ in range(2))
    one.use(0, TURN_BYTES)
    other.use(0, TURN_BYTES // 2)
    assert other.is_over is (levels > 1)
    SharedTurns.renew([one, other])
    assert not one.use(0, TURN_BYTES // 2 - 1)
    assert other.use(0, 1) is (levels > 1), "the groups had exceeded their turn by half of one"


@pytest.mark.parametrize("used", range(3))
async def test_a_task_waits_for_a_turn_of_each_level(used: int) -> None:
    """Whichever of the three levels has used up its turn."""
    peers = PeerTurns()
    levels = [peers.of(*("holder", "key", "owner")[index:]) for index in range(3)]
    levels[used].use(0, 2 * TURN_BYTES)
    assert levels[0].begin()
    await levels[0].next()
    assert not levels[0].begin()
    assert not levels[0].is_over


class Passes(trio.abc.Instrument):
    """Counts the passes of the event loop."""

    number = 0

    def before_io_wait(self, timeout: float) -> None:
        self.number += 1


async def counted(paths: Sequence[SharedTurns], size: int, rounds: int) -> tuple[list[int], int]:
    """How many turns each of these tasks gets in so many passes, and how many passes there were. Each task uses up so
    many bytes of each turn."""
    counts, passes = [0] * len(paths), Passes()

    async def work(index: int) -> None:
        while True:
            await paths[index].next()
            counts[index] += 1
            paths[index].use(0, size)

    trio.lowlevel.add_instrument(passes)
    async with trio.open_nursery() as nursery:
        for index in range(len(paths)):
            nursery.start_soon(work, index)
        while passes.number < rounds:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    trio.lowlevel.remove_instrument(passes)
    return counts, passes.number


@pytest.mark.parametrize("tasks", [1, 3])
@pytest.mark.parametrize("holders", [1, 4])
@pytest.mark.parametrize("keys", [1, 2, 6])
async def test_an_owner_gets_one_turn_in_each_pass_however_many_keys_holders_and_tasks_it_has(
    keys: int, holders: int, tasks: int
) -> None:
    owner = SharedTurns(lambda: 0.0)
    of_keys = [SharedTurns(lambda: 0.0, owner) for _ in range(keys)]
    paths = [SharedTurns(lambda: 0.0, key) for key in of_keys for _ in range(holders)] * tasks
    counts, passes = await counted(paths, TURN_BYTES, 300)
    assert passes - 10 <= sum(counts) <= passes + 2


@pytest.mark.parametrize("size", [TURN_BYTES, 3 * TURN_BYTES])
async def test_a_peer_of_many_groups_gets_as_many_turns_as_one_without(size: int) -> None:
    """Even if it exceeds its turns, and has to wait for longer."""
    paths = [SharedTurns(lambda: 0.0)]
    for _ in range(5):
        paths.append(SharedTurns(lambda: 0.0, paths[-1]))
    counts, passes = await counted([SharedTurns(lambda: 0.0), paths[-1]], size, 300)
    assert max(counts) - min(counts) <= 2
    assert min(counts) > passes / 2 - 10


async def test_at_each_level_tasks_wait_in_rotation_and_those_that_are_cancelled_leave_nothing() -> None:
    """Tasks of holders of keys of one owner. Each round cancels all of them while some wait at each level."""
    owner = SharedTurns(lambda: 0.0)
    keys = [SharedTurns(lambda: 0.0, owner) for _ in range(3)]
    paths = [(SharedTurns(lambda: 0.0, key), key, owner) for key in keys for _ in range(4)] * 2
    for rounds in (1, 2, 3, 50, 200):
        counts, passes = await counted([path[0] for path in paths], TURN_BYTES, rounds)
        assert sum(counts) <= passes + 2, "about one turn in a pass"
        for level in range(3):
            of_each = Counter[SharedTurns]()
            for path, count in zip(paths, counts, strict=True):
                of_each[path[level]] += count
            if rounds >= 50:
                # The order in a pass is random. The difference does not grow with the number of rounds.
                assert max(of_each.values()) - min(of_each.values()) <= 5, level
        for turns in {one for path in paths for one in path}:
            assert not turns._waiting
            assert not turns._asking
            assert turns._changed is None
            assert not any(queue.locked() for queue in turns._queues)


async def test_turns_go_on_after_counting_the_passes_has_failed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """For example because there was no memory. Trio then calls the instrument no more."""
    calls, count = 0, module._Passes.before_io_wait

    def fail_sometimes(self: module._Passes, timeout: float) -> None:
        nonlocal calls
        calls += 1
        if calls in (1, 20, 21, 100):
            raise MemoryError
        count(self, timeout)

    monkeypatch.setattr(module._Passes, "before_io_wait", fail_sometimes)
    group = SharedTurns(lambda: 0.0)
    counts, passes = await counted([SharedTurns(lambda: 0.0, group) for _ in range(4)], TURN_BYTES, 300)
    assert calls > 200
    assert passes - 30 <= sum(counts) <= passes + 6
    assert [one.name for one in caplog.records] == ["trio.abc.Instrument"] * 4
    caplog.clear()


@pytest.mark.parametrize("levels", range(1, 5))
async def test_a_peer_and_its_groups_begin_one_turn_in_a_pass(levels: int) -> None:
    """However many of its tasks ask for one."""
    path = [SharedTurns(lambda: 0.0)]
    for _ in range(levels - 1):
        path.append(SharedTurns(lambda: 0.0, path[-1]))
    path[-1].use(0, 2 * TURN_BYTES)
    for left in (0, TURN_BYTES):
        for _ in range(3):
            path[-1]._renew()
            assert [one._left for one in path] == [left] * levels
        await trio.lowlevel.checkpoint()


async def test_the_next_task_of_a_peer_does_not_lose_a_pass() -> None:
    """When the one before it has had its turn of the group, and nobody else asks for one."""
    group, passes, ended = SharedTurns(lambda: 0.0), Passes(), list[int]()
    turns = SharedTurns(lambda: 0.0, group)
    group.use(0, 2 * TURN_BYTES)

    async def work() -> None:
        await turns.next()
        turns.use(0, TURN_BYTES)
        ended.append(passes.number)

    trio.lowlevel.add_instrument(passes)
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(work)
    trio.lowlevel.remove_instrument(passes)
    assert [later - earlier for earlier, later in itertools.pairwise(ended)] == [1, 1, 1]


async def test_the_tasks_of_a_peer_take_turns_also_if_only_its_group_is_used_up() -> None:
    group, order = SharedTurns(lambda: 0.0), dict[SharedTurns, list[int]]()
    peers = [SharedTurns(lambda: 0.0, group) for _ in range(3)]

    async def work(turns: SharedTurns, number: int) -> None:
        for _ in range(100):
            await turns.next()
            order.setdefault(turns, []).append(number)
            turns.use(0, TURN_BYTES // 2 + 1)

    async with trio.open_nursery() as nursery:
        for turns in peers:
            for number in range(3):
                nursery.start_soon(work, turns, number)
    again = sum(one == next_one for of_peer in order.values() for one, next_one in itertools.pairwise(of_peer))
    assert again <= 10, "of 900 turns, only those at the beginning and at the end"


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
