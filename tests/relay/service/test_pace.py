"""The rate at which the bytes of one hybrid connection are moved."""

from __future__ import annotations

from collections import Counter
from functools import partial

import pytest
import trio
import trio.testing

from hybridrelay.relay.core.holders import Holder
from hybridrelay.relay.model import KeyId
from hybridrelay.relay.service.pace import Pace, Paces, PairPace
from hybridrelay.relay.service.pump import Moved, pump
from hybridrelay.security import KeySlot
from hybridrelay.streams.nowait import READ_BYTES, TURN_BYTES

from ...stream_pairs import sockets
from ...waiting import patience

RATE = 100_000


async def test_without_a_rate_nothing_waits(autojump_clock: trio.testing.MockClock) -> None:
    pace = Pace()
    for _ in range(100):
        await pace.wait(10**9)
    assert trio.current_time() == 0.0


async def test_all_pairs_that_share_a_limit_have_the_rate_together(autojump_clock: trio.testing.MockClock) -> None:
    pace = Pace()
    pace.change(RATE)

    async def move() -> None:
        for _ in range(10):
            await pace.wait(RATE // 10)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(move)
    assert trio.current_time() == pytest.approx(3.0, abs=0.1)
    await trio.sleep(100)
    began = trio.current_time()
    await move()
    assert trio.current_time() - began == pytest.approx(1.0, abs=0.1), (
        "bytes that were not moved in an idle time do not count later"
    )


async def bulk(pair: PairPace, moved: Counter[object]) -> None:
    """One direction that always has something to move."""
    while True:
        size = pair.block
        moved[pair.holder] += size
        await pair.wait(size)


@pytest.mark.parametrize("holders", [1, 32])
async def test_a_small_message_does_not_wait_for_the_bulk_of_others(
    holders: int, autojump_clock: trio.testing.MockClock
) -> None:
    pace = Pace()
    pace.change(65536)
    async with trio.open_nursery() as nursery:
        for number in range(32):  # sixteen sessions, both ways
            nursery.start_soon(bulk, PairPace(pace, number % holders), Counter())
        await trio.sleep(10)
        for holder in (0, "another"):
            took = []
            for _ in range(20):
                began = trio.current_time()
                await PairPace(pace, holder).wait(50)
                took.append(trio.current_time() - began)
            assert max(took) < 0.6, holder
        nursery.cancel_scope.cancel()


async def test_holders_have_equal_shares_however_many_sessions_they_have(
    autojump_clock: trio.testing.MockClock,
) -> None:
    pace, moved = Pace(), Counter[object]()
    pace.change(1_000_000)
    async with trio.open_nursery() as nursery:
        for _ in range(32):
            nursery.start_soon(bulk, PairPace(pace, "many"), moved)
        nursery.start_soon(bulk, PairPace(pace, "one"), moved)
        await trio.sleep(60)
        nursery.cancel_scope.cancel()
    assert moved.total() == pytest.approx(60_000_000, rel=0.02)
    assert moved["one"] == pytest.approx(30_000_000, rel=0.1)


@pytest.mark.parametrize(("rate", "seconds"), [(65536, 200), (5_000_000, 30), (10**8, 5)])
async def test_the_number_of_blocks_is_bounded(
    rate: int, seconds: int, autojump_clock: trio.testing.MockClock
) -> None:
    """Each block costs processor time, which the relay needs for all other hybrid connections."""
    pace, moved = Pace(), Counter[object]()
    pace.change(rate)
    blocks = 0

    async def count_blocks() -> None:
        nonlocal blocks
        pair = PairPace(pace, "many")
        while True:
            size = pair.block
            moved[pair.holder] += size
            blocks += 1
            await pair.wait(size)

    async with trio.open_nursery() as nursery:
        for _ in range(400):
            nursery.start_soon(count_blocks)
        nursery.start_soon(bulk, PairPace(pace, "one"), moved)
        await trio.sleep(10)  # the first blocks, before anybody waits, are large
        begun, blocks = moved.copy(), 0
        await trio.sleep(seconds)
        nursery.cancel_scope.cancel()
    moved.subtract(begun)
    assert blocks / seconds <= max(310, rate / READ_BYTES * 1.2)
    assert moved.total() / seconds == pytest.approx(rate, rel=0.1)
    assert moved["one"] >= moved.total() / 4


async def test_what_a_holder_moved_in_earlier_rounds_does_not_count(autojump_clock: trio.testing.MockClock) -> None:
    """A holder with few sessions may move several blocks without waiting, beside one with very many. What it has
    moved in earlier rounds does not reduce this."""
    pace = Pace()
    pace.change(10**8)
    for _ in range(3):
        async with trio.open_nursery() as nursery:
            for _ in range(400):
                nursery.start_soon(pace.wait, 250_000, "many")
            await trio.testing.wait_all_tasks_blocked()
            began = trio.current_time()
            await pace.wait(100_000_000, "one")
            assert trio.current_time() == began


def holder_of(connection: str, address: str = "", generation: int = 1) -> Holder:
    return Holder(KeyId(connection, "sender", KeySlot.PRIMARY, generation), address)


def test_the_pairs_of_a_holder_share_turns() -> None:
    paces = Paces(lambda name: None)
    first, second = (paces.of("a", holder_of("a")) for _ in range(2))
    assert first.turns is second.turns


@pytest.mark.parametrize(
    "holder",
    [
        pytest.param(holder_of("team/a", "another"), id="another holder of the key"),
        pytest.param(holder_of("team/a", generation=2), id="another key of the hybrid connection"),
        pytest.param(holder_of("team/b"), id="a key of another hybrid connection of the team"),
        pytest.param(holder_of("team/c/d"), id="a longer name"),
    ],
)
def test_all_holders_of_the_keys_of_a_team_share_its_turn_and_no_others_do(holder: Holder) -> None:
    paces = Paces(lambda name: None)
    first, second = (paces.of(one.key.connection, one) for one in (holder_of("team/a"), holder))
    others = [paces.of(name, holder_of(name)) for name in ("teams/a", "team")]
    assert first.turns is not second.turns
    assert first.turns.use(0, TURN_BYTES)
    assert second.turns.begin(), "it has to wait for the next turn"
    assert second.turns.is_over
    assert not any(other.turns.begin() for other in others)


async def test_another_rate_is_in_force_at_once(autojump_clock: trio.testing.MockClock) -> None:
    pace = Pace()
    pace.change(RATE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pace.wait, 1000 * RATE)
        await trio.sleep(1)
        pace.change(None)
    assert trio.current_time() == 1.0
    assert pace.block_of(None) > RATE
    pace.change(65536)
    assert pace.block_of(None) == 6553


@pytest.mark.parametrize("changes_later", [False, True])
async def test_a_pump_with_a_rate(
    changes_later: bool, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    (a, left), (right, b) = trio.testing.lockstep_stream_pair(), trio.testing.lockstep_stream_pair()
    pace, moved = Pace(), Moved()
    if not changes_later:
        pace.change(RATE)
    nursery.start_soon(partial(pump, left, right, moved=moved, pace=PairPace(pace)))

    async def send() -> None:
        await a.send_all(bytes(10 * RATE))
        await a.send_eof()

    if changes_later:
        await a.send_all(b"x")
        assert await b.receive_some(1) == b"x"
        pace.change(RATE)
    nursery.start_soon(send)
    received = 0
    while data := await b.receive_some(2**20):
        received += len(data)
    assert received == 10 * RATE
    assert trio.current_time() == pytest.approx(10.0, abs=0.5)
    assert moved.a_to_b == received + changes_later


async def test_sockets_with_a_rate_are_not_spliced_and_lose_nothing(nursery: trio.Nursery) -> None:
    a, left = await sockets(nursery)
    right, b = await sockets(nursery)
    pace = Pace()
    nursery.start_soon(partial(pump, left, right, pace=PairPace(pace)))
    data = bytes(range(256)) * 4096
    for rate in (None, 100_000_000, None):
        pace.change(rate)
        nursery.start_soon(a.send_all, data)
        received = b""
        with trio.fail_after(patience(20)):
            while len(received) < len(data):
                received += await b.receive_some(2**20)
        assert received == data
    await trio.aclose_forcefully(a)
    await trio.aclose_forcefully(b)


def test_which_rates_are_applied_and_whether_any_is_new() -> None:
    rates: dict[str, int | None] = {"a": None, "b": 10, "c": None}
    paces = Paces(rates.__getitem__)
    made = {name: paces.of(name, holder_of(name)) for name in rates}
    assert not paces.update(), "nothing has changed"
    rates.update(a=5, b=20, c=7)
    assert paces.update(["a", "unknown"])
    assert [made[name].rate for name in "abc"] == [5, 10, None], "only those that have changed are looked at"
    assert not paces.update(["a"])
    assert paces.update()
    assert [made[name].rate for name in "abc"] == [5, 20, 7]
    rates.update(a=None)
    assert not paces.update(["a"]), "a limit was removed, and none is new"
    assert made["a"].rate is None
