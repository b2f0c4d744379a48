"""The pairs of one holder share the turns of the event loop, however many there are and whatever they receive."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Callable, Sequence
from functools import partial

import pytest
import trio
import trio.testing

from hybridrelay.relay.service.pace import Pace, PairPace
from hybridrelay.relay.service.pump import Moved, pump
from hybridrelay.streams.nowait import READ_BYTES, TURN_BYTES, TURN_SECONDS, Buffer
from hybridrelay.streams.turns import SharedTurns
from hybridrelay.testing import tcp_pair

from ...fake_channels import CountedTurns, Discarding

PAIRS, READS = 20, 30


class Channel(Discarding):
    """A data channel that is readable a number of times, but holds only this data, or nothing: WebSocket pongs."""

    def __init__(self, reads: int, data: bytes | None) -> None:
        self._left = reads
        self._data = data
        self.reads = 0

    def receive_nowait(self, max_bytes: int = READ_BYTES) -> Buffer | None:
        if not self._left:
            return None
        self._left -= 1
        self.reads += 1
        return self._data

    @property
    def readable(self) -> bool:
        return self._left > 0


class MostInAPass(trio.abc.Instrument):
    """Records the greatest increase of a count in one pass of the event loop, and its highest value."""

    def __init__(self, count: Callable[[], int]) -> None:
        self._count = count
        self.total = self.most = self.highest = 0

    def before_io_wait(self, timeout: float) -> None:
        now = self._count()
        self.most, self.total = max(self.most, now - self.total), now
        self.highest = max(self.highest, now)


def turns_of_one_read() -> SharedTurns:
    """Turns that are over after each read, because their clock advances by a whole turn whenever it is read."""
    return SharedTurns(itertools.count(0.0, TURN_SECONDS).__next__)


async def reads_in_a_pass(data: bytes | None, turns: Sequence[SharedTurns]) -> tuple[int, int]:
    """Pump a pair with each of these turns until everything was read from all of them.

    Returns:
        The greatest number of reads in one pass of the event loop, and by how many reads one pair was ahead of
        another one, at most.
    """
    channels = [Channel(READS, data) for _ in turns]
    reads = MostInAPass(lambda: sum(channel.reads for channel in channels))
    ahead = MostInAPass(lambda: max(one.reads for one in channels) - min(one.reads for one in channels))
    async with trio.open_nursery() as nursery:
        for channel, of_pair in zip(channels, turns, strict=True):
            nursery.start_soon(partial(pump, channel, Channel(0, None), pace=PairPace(turns=of_pair)))
        trio.lowlevel.add_instrument(reads)
        trio.lowlevel.add_instrument(ahead)
        with trio.fail_after(60):
            while reads.total < len(channels) * READS:
                await trio.lowlevel.checkpoint()
        trio.lowlevel.remove_instrument(ahead)
        trio.lowlevel.remove_instrument(reads)
        nursery.cancel_scope.cancel()
    return reads.most, ahead.highest


@pytest.mark.parametrize("data", [None, b"x"], ids=["nothing", "one byte"])
@pytest.mark.parametrize("one_holder", [True, False])
async def test_a_holder_has_one_turn_in_a_pass(one_holder: bool, data: bytes | None) -> None:
    turns = [turns_of_one_read()] * PAIRS if one_holder else [turns_of_one_read() for _ in range(PAIRS)]
    most, ahead = await reads_in_a_pass(data, turns)
    assert ahead <= 2, "every pair gets as many turns as the others"
    if one_holder:
        assert most <= 3
    else:
        assert most >= PAIRS // 2


def holders_of_a_key(number: int, key: SharedTurns | None = None) -> list[SharedTurns]:
    key = key or turns_of_one_read()
    return [SharedTurns(lambda: 0.0, group=key) for _ in range(number)]


@pytest.mark.parametrize("data", [None, b"x"], ids=["nothing", "one byte"])
async def test_all_holders_of_a_key_have_one_turn_in_a_pass(data: bytes | None) -> None:
    most, ahead = await reads_in_a_pass(data, holders_of_a_key(PAIRS))
    assert most <= 3
    assert ahead <= 3, "every holder gets as many turns as the others"


@pytest.mark.parametrize("data", [None, b"x"], ids=["nothing", "one byte"])
async def test_all_keys_of_an_owner_have_one_turn_in_a_pass(data: bytes | None) -> None:
    owner = turns_of_one_read()
    keys = [SharedTurns(lambda: 0.0, group=owner) for _ in range(PAIRS // 2)]
    most, ahead = await reads_in_a_pass(data, [turns for key in keys for turns in holders_of_a_key(2, key)])
    assert most <= 3
    assert ahead <= 3, "every holder of every key gets as many turns as the others"


async def check_that_one_pair_keeps_up(own: SharedTurns, others: Sequence[SharedTurns]) -> None:
    """Pump a pair with turns of its own beside pairs with these turns. All others together may read about twice as
    often as this one."""
    channel, channels = Channel(READS, b"x"), [Channel(READS, b"x") for _ in others]
    async with trio.open_nursery() as nursery:
        for source, turns in zip([*channels, channel], [*others, own], strict=True):
            nursery.start_soon(partial(pump, source, Channel(0, None), pace=PairPace(turns=turns)))
        with trio.fail_after(60):
            while channel.reads < READS:
                await trio.lowlevel.checkpoint()
        assert sum(source.reads for source in channels) <= 2 * READS + PAIRS
        nursery.cancel_scope.cancel()


async def test_a_key_with_many_holders_does_not_take_the_turns_of_another_one_of_the_same_owner() -> None:
    owner = turns_of_one_read()
    one, many = (SharedTurns(lambda: 0.0, group=owner) for _ in range(2))
    await check_that_one_pair_keeps_up(one, holders_of_a_key(PAIRS, many))


async def test_a_holder_of_many_pairs_does_not_take_the_turns_of_another_one_with_the_same_key() -> None:
    one, many = holders_of_a_key(2)
    await check_that_one_pair_keeps_up(one, [many] * PAIRS)


async def test_a_task_that_is_cancelled_while_it_waits_for_a_turn_of_the_key_lets_the_next_one_wait() -> None:
    key = SharedTurns(lambda: 0.0)
    (turns,) = holders_of_a_key(1, key)
    turns.use(0, 2 * TURN_BYTES)
    got: list[int] = []

    async def wait(number: int, scope: trio.CancelScope) -> None:
        with scope:
            await turns.next()
            got.append(number)

    scopes = [trio.CancelScope() for _ in range(3)]
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for number, scope in enumerate(scopes):
                nursery.start_soon(wait, number, scope)
            await trio.lowlevel.checkpoint()
            scopes[0].cancel()
            await trio.lowlevel.checkpoint()
            scopes[1].cancel()
    assert 2 in got
    assert not turns.begin()


async def test_the_time_that_a_slow_receiver_takes_is_not_part_of_a_turn(nursery: trio.Nursery) -> None:
    now = 0.0
    turns = CountedTurns(lambda: now)

    class Slow(Channel):
        def send_nowait(self, *buffers: Buffer) -> bool:
            return False

        async def flush(self) -> None:
            nonlocal now
            await trio.lowlevel.checkpoint()
            now += 100.0

    source = Channel(READS, b"x")
    nursery.start_soon(partial(pump, source, Slow(0, None), pace=PairPace(turns=turns)))
    await trio.testing.wait_all_tasks_blocked()
    assert (source.reads, now) == (READS, READS * 100.0)
    assert turns.waits == 0


async def test_the_time_that_a_slow_socket_takes_is_not_part_of_a_turn(nursery: trio.Nursery) -> None:
    now, total = 0.0, TURN_BYTES // 2
    turns, moved = CountedTurns(lambda: now), Moved()
    (far, near), (other, last) = await tcp_pair(), await tcp_pair()
    last.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    nursery.start_soon(partial(pump, near, last, moved=moved, pace=PairPace(turns=turns)))
    nursery.start_soon(far.send_all, bytes(total))
    left = total
    with trio.fail_after(60):
        while left:
            await trio.testing.wait_all_tasks_blocked()
            now += 100.0
            left -= len(await other.receive_some(65536))
    assert now > 500.0
    assert turns.waits == 0
    await trio.aclose_forcefully(far)
    await trio.aclose_forcefully(other)


async def test_waiting_for_the_rate_is_not_part_of_a_turn(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    turns, pace = CountedTurns(trio.current_time), Pace()
    pace.change(100)
    source = Channel(READS, b"x" * 100)
    nursery.start_soon(partial(pump, source, Channel(0, None), pace=PairPace(pace, turns=turns)))
    await trio.sleep(READS + 1)
    assert source.reads == READS
    assert turns.waits == 0
