"""Which data channels may be dialed before the other end has proved an identity, and which one gives way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.connector.channels import MAX_UNPROVEN_CHANNELS
from hybridrelay.connector.unproven import (
    FAILURES_PER_SECOND,
    MAX_FAILURES,
    TENURE_SECONDS,
    Failures,
    Newcomer,
    UnprovenChannels,
    choose_displaced,
)


def present(holders: str, *, ages: list[float] | None = None) -> list[Newcomer]:
    """One channel for each letter, the oldest first. All are old unless stated otherwise. The time is 0."""
    times = [-age for age in ages] if ages else [-100.0 + index for index in range(len(holders))]
    return [Newcomer(holder, since) for holder, since in zip(holders, times, strict=True)]


@pytest.mark.parametrize(
    ("holders", "holder", "displaced"),
    [
        ("aaaa", "a", 0),
        ("aaaa", "b", 0),
        ("baaa", "b", 1),
        ("baaa", "c", 1),
        ("abab", "c", 0),
        ("abab", "b", 1),
        ("abcd", "e", 0),
        ("abcd", "d", 3),
        ("", "a", None),
    ],
)
def test_the_oldest_of_the_holder_with_the_most_gives_way(holders: str, holder: str, displaced: int | None) -> None:
    everyone = present(holders) or present("x")
    gone = choose_displaced(everyone, holder, 0.0)
    assert gone is everyone[displaced or 0]


@pytest.mark.parametrize(
    ("holders", "holder", "gives_way"),
    [
        ("aaaa", "a", False),  # one holder keeps a pace
        ("aaaa", "b", True),  # and cannot lock another out
        ("aabb", "a", False),
        ("aaab", "b", True),
        ("aab", "b", False),  # or the two would displace each other for ever
        ("abcd", "e", False),
    ],
)
def test_a_young_one_gives_way_to_holders_with_fewer_only(holders: str, holder: str, gives_way: bool) -> None:
    young = [TENURE_SECONDS / 2] * len(holders)
    assert (choose_displaced(present(holders, ages=young), holder, 0.0) is not None) is gives_way


@given(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=60))
def test_every_holder_that_asks_often_enough_has_its_share(asking: list[str]) -> None:
    """A holder that asks for `MAX_UNPROVEN_CHANNELS` / (holders) holds as many, whatever the others do."""
    limit = 12
    everyone: list[Newcomer] = []
    for now, holder in enumerate(asking):
        if len(everyone) == limit:
            gone = choose_displaced(everyone, holder, float(now))
            if gone is None:
                continue
            everyone.remove(gone)
        everyone.append(Newcomer(holder, float(now)))
        assert len(everyone) <= limit
    asked, held = Counter(asking), Counter(one.holder for one in everyone)
    share = limit // len(asked)
    assert all(held[holder] >= min(count, share) for holder, count in asked.items())


async def test_a_channel_that_is_displaced_is_cancelled(autojump_clock: trio.testing.MockClock) -> None:
    unproven = UnprovenChannels()
    first = [unproven.admit("a", MAX_UNPROVEN_CHANNELS) for _ in range(MAX_UNPROVEN_CHANNELS)]
    assert None not in first
    assert unproven.admit("a", MAX_UNPROVEN_CHANNELS) is None
    await trio.sleep(TENURE_SECONDS)
    assert unproven.admit("a", MAX_UNPROVEN_CHANNELS) is not None
    assert [one is not None and one.scope.cancel_called for one in first] == [True] + [False] * 15
    assert len(unproven) == MAX_UNPROVEN_CHANNELS
    for one in first:
        assert one is not None
        unproven.leave(one)
        unproven.leave(one)
    assert len(unproven) == 1


async def test_a_flood_of_one_holder_is_bounded_in_rate_and_lets_another_in(
    autojump_clock: trio.testing.MockClock,
) -> None:
    unproven = UnprovenChannels()
    admitted = 0
    for _ in range(1000):
        admitted += unproven.admit("flood", MAX_UNPROVEN_CHANNELS) is not None
        await trio.sleep(0.01)
    assert admitted <= MAX_UNPROVEN_CHANNELS * (1 + 10 / TENURE_SECONDS)
    honest = unproven.admit("honest", MAX_UNPROVEN_CHANNELS)
    assert honest is not None
    for _ in range(1000):
        unproven.admit("flood", MAX_UNPROVEN_CHANNELS)
        await trio.sleep(0.01)
    assert not honest.scope.cancel_called


async def test_channels_that_fail_at_once_are_not_dialed_without_a_limit_of_rate(
    autojump_clock: trio.testing.MockClock,
) -> None:
    unproven, dialed = UnprovenChannels(), 0
    for _ in range(100):
        for _ in range(100):
            if (one := unproven.admit("a", MAX_UNPROVEN_CHANNELS)) is not None:
                dialed += 1
                unproven.failed(one)
        await trio.sleep(TENURE_SECONDS / 10)
    assert dialed == 10 * MAX_UNPROVEN_CHANNELS


async def test_failed_channels_of_one_holder_lock_out_no_other(autojump_clock: trio.testing.MockClock) -> None:
    unproven = UnprovenChannels()
    for _ in range(MAX_UNPROVEN_CHANNELS):
        one = unproven.admit("a", MAX_UNPROVEN_CHANNELS)
        assert one is not None
        unproven.failed(one)
    assert unproven.admit("a", MAX_UNPROVEN_CHANNELS) is None
    assert unproven.admit("b", MAX_UNPROVEN_CHANNELS) is not None


async def test_a_channel_that_fails_late_or_has_left_before_keeps_no_place(
    autojump_clock: trio.testing.MockClock,
) -> None:
    unproven = UnprovenChannels()
    late, proven = (unproven.admit("a", MAX_UNPROVEN_CHANNELS) for _ in range(2))
    assert late is not None
    assert proven is not None
    unproven.leave(proven)
    unproven.failed(proven)
    assert len(unproven) == 1
    await trio.sleep(TENURE_SECONDS)
    unproven.failed(late)
    assert len(unproven) == 0


def test_failures_are_too_many_until_enough_time_has_passed() -> None:
    failures = Failures()
    for _ in range(int(MAX_FAILURES)):
        failures.add(0.0)
    assert not failures.are_too_many(0.0)
    failures.add(0.0)
    assert failures.are_too_many(0.0)
    assert not failures.are_too_many(1 / FAILURES_PER_SECOND)
    for second in range(100):
        failures.add(float(second))
    assert not failures.are_too_many(100.0), "fewer than are forgotten in the same time"


def dial_for(
    seconds: float, sets: list[UnprovenChannels], holders: list[str], *, silent: bool
) -> Callable[[], Awaitable[int]]:
    """Make an async function that asks for a place in each set, for each of the holders, for some time. The channels
    fail at once, or are silent until they are displaced. It returns how many were dialed."""

    async def dial() -> int:
        dialed = 0
        end = trio.current_time() + seconds
        open_ones: list[tuple[UnprovenChannels, Newcomer]] = []
        while trio.current_time() < end:
            for unproven in sets:
                for holder in holders:
                    if (one := unproven.admit(holder, MAX_UNPROVEN_CHANNELS)) is not None:
                        dialed += 1
                        open_ones.append((unproven, one))
            for unproven, one in list(open_ones):
                if not silent or one.scope.cancel_called:
                    unproven.failed(one)
                    open_ones.remove((unproven, one))
            await trio.sleep(0.05)
        return dialed

    return dial


@pytest.mark.parametrize("silent", [False, True], ids=["fails", "is silent"])
@pytest.mark.parametrize("holders", [["a"], list("abcdefghijklmnopqrstuvwxyz")], ids=["one holder", "many"])
async def test_a_relay_with_many_hybrid_connections_makes_a_connector_dial_no_more_often(
    autojump_clock: trio.testing.MockClock, holders: list[str], silent: bool
) -> None:
    failures = Failures()
    sets = [UnprovenChannels(failures) for _ in range(20)]
    await dial_for(60, sets, holders, silent=silent)()
    dialed = await dial_for(300, sets, holders, silent=silent)()
    at_once = len(sets) * MAX_UNPROVEN_CHANNELS
    assert dialed <= 300 * FAILURES_PER_SECOND + at_once


async def test_failures_at_a_busy_relay_lock_out_no_hybrid_connection_and_no_other_holder(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Somebody with keys of many hybrid connections, but no identity, lets channels fail at an honest relay."""
    failures = Failures()
    sets = [UnprovenChannels(failures) for _ in range(10)]
    honest = UnprovenChannels(failures)
    admitted = []

    async def connect() -> None:
        for unproven in (honest, sets[0]):
            for _ in range(200):
                newcomer = unproven.admit("honest", MAX_UNPROVEN_CHANNELS)
                admitted.append(newcomer is not None)
                await trio.sleep(0.3)
                if newcomer is not None:
                    assert not newcomer.scope.cancel_called
                    unproven.leave(newcomer)
                    unproven.failed(newcomer)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dial_for(120, sets, ["a"], silent=False))
        await connect()
    assert all(admitted)
