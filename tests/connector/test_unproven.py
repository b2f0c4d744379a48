"""Which data channels may be dialed before the other end has proved an identity, and which one gives way."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.connector.channels import MAX_UNPROVEN_CHANNELS
from hybridrelay.connector.unproven import (
    ASKING_SECONDS,
    FAILURES_PER_SECOND,
    MAX_FAILURES,
    MAX_REMEMBERED,
    REMEMBERED_SECONDS,
    TENURE_SECONDS,
    Failures,
    FairPlaces,
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
    ("holders", "holder", "displaced"),
    [
        # A key that is used from many addresses counts as one.
        (["a/x/1", "a/x/2", "a/y/3", "a/z/4"], "b/x/1", 0),
        (["b/x/1", "a/x/2", "a/y/3", "a/z/4"], "b/w/5", 1),
        # If the newcomer's key has the most, so does one of its networks,
        (["a/x/1", "a/x/2", "a/x/3", "a/y/4", "b/x/1"], "a/z/5", 0),
        (["a/y/4", "a/x/1", "a/x/2", "a/x/3", "b/x/1"], "a/y/4", 1),
        # or one of the addresses of its network.
        (["a/y/1", "a/x/2", "a/x/3", "a/x/3", "a/x/3"], "a/x/1", 2),
        (["a/y/1", "a/x/2", "a/x/3", "a/x/3"], "a/x/2", None),
    ],
)
def test_holders_are_compared_by_key_then_by_network_then_by_address(
    holders: list[str], holder: str, displaced: int | None
) -> None:
    """All channels are young, so only a holder that has fewer displaces one."""
    everyone = [Newcomer(one, -TENURE_SECONDS / 2) for one in holders]
    gone = choose_displaced(everyone, holder, 0.0)
    assert gone is (None if displaced is None else everyone[displaced])


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
    seconds: float, sets: list[UnprovenChannels], holders: list[str], *, silent: bool, after: float = 0.0
) -> Callable[[], Awaitable[int]]:
    """Make an async function that asks for a place in each set, for each of the holders, for some time. The channels
    fail at once, or are silent until they are displaced. It returns how many were dialed later than `after` seconds
    from its beginning."""

    async def dial() -> int:
        dialed = 0
        begin = trio.current_time()
        end = begin + seconds
        open_ones: list[tuple[UnprovenChannels, Newcomer]] = []
        while trio.current_time() < end:
            for unproven in sets:
                for holder in holders:
                    if (one := unproven.admit(holder, MAX_UNPROVEN_CHANNELS)) is not None:
                        dialed += trio.current_time() >= begin + after
                        open_ones.append((unproven, one))
            for unproven, one in list(open_ones):
                if not silent or one.scope.cancel_called:
                    unproven.failed(one)
                    open_ones.remove((unproven, one))
            await trio.sleep(0.25)
        return dialed

    return dial


@pytest.mark.parametrize("silent", [False, True], ids=["fails", "is silent"])
@pytest.mark.parametrize("holders", [["a"], list("abcdefghijklmnopqrst")], ids=["one holder", "more than places"])
async def test_a_relay_with_many_hybrid_connections_makes_a_connector_dial_no_more_often(
    autojump_clock: trio.testing.MockClock, holders: list[str], silent: bool
) -> None:
    failures = Failures()
    sets = [UnprovenChannels(failures) for _ in range(20)]
    dialed = await dial_for(80, sets, holders, silent=silent, after=20)()
    at_once = len(sets) * MAX_UNPROVEN_CHANNELS
    assert dialed <= 60 * FAILURES_PER_SECOND + at_once


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


def many_failures() -> Failures:
    """So many that rule 5 applies for a long time."""
    failures = Failures()
    for _ in range(int(MAX_FAILURES + 600 * FAILURES_PER_SECOND)):
        failures.add(trio.current_time())
    return failures


def fill(unproven: UnprovenChannels, *, silent: bool = False) -> None:
    """Take all places, each for another holder. The channels fail, unless they are silent."""
    for number in range(MAX_UNPROVEN_CHANNELS):
        one = unproven.admit(f"holder {number}", MAX_UNPROVEN_CHANNELS)
        assert one is not None
        if not silent:
            unproven.failed(one)


@pytest.mark.parametrize("silent", [False, True], ids=["fail", "are silent"])
async def test_while_very_many_channels_fail_a_holder_without_a_place_gets_one(
    autojump_clock: trio.testing.MockClock, silent: bool
) -> None:
    unproven = UnprovenChannels(many_failures())
    fill(unproven, silent=silent)
    assert unproven.admit("honest", MAX_UNPROVEN_CHANNELS) is None, "the others are young"
    await trio.sleep(TENURE_SECONDS)
    for number in range(MAX_UNPROVEN_CHANNELS):
        assert unproven.admit(f"holder {number}", MAX_UNPROVEN_CHANNELS) is None, "it has a place"
    honest = unproven.admit("honest", MAX_UNPROVEN_CHANNELS)
    assert honest is not None
    assert unproven.admit("honest", MAX_UNPROVEN_CHANNELS) is None, "it has a place"
    # The oldest was displaced, and does not come back before its failure is forgotten.
    assert len(unproven) == MAX_UNPROVEN_CHANNELS
    unproven.leave(honest)
    fill_up = unproven.admit("another", MAX_UNPROVEN_CHANNELS)
    assert fill_up is not None
    await trio.sleep(TENURE_SECONDS)
    assert (unproven.admit("holder 0", MAX_UNPROVEN_CHANNELS) is not None) is silent
    await trio.sleep(REMEMBERED_SECONDS)
    assert unproven.admit("holder 0" if not silent else "honest", MAX_UNPROVEN_CHANNELS) is not None
    assert not honest.scope.cancel_called


async def test_the_holders_of_failures_are_remembered_up_to_a_limit(autojump_clock: trio.testing.MockClock) -> None:
    unproven = UnprovenChannels(many_failures())
    limit = MAX_REMEMBERED + 2 * MAX_UNPROVEN_CHANNELS
    for number in range(MAX_REMEMBERED + 1):
        one = unproven.admit(f"holder {number}", limit)
        assert one is not None
        unproven.failed(one)
    assert len(unproven._failed_at) == MAX_REMEMBERED
    assert "holder 0" not in unproven._failed_at


async def test_failures_of_many_holders_in_many_hybrid_connections_keep_nobody_out(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """In each hybrid connection, there are more failing holders than places, and all of them ask all the time."""
    failures = Failures()
    sets = [UnprovenChannels(failures) for _ in range(8)]
    holders = [f"failing {number}" for number in range(MAX_UNPROVEN_CHANNELS + 2)]
    admitted = []

    async def connect() -> None:
        await trio.sleep(20)
        for _ in range(40):
            with trio.fail_after(20):
                while (newcomer := sets[0].admit("honest", MAX_UNPROVEN_CHANNELS)) is None:
                    await trio.sleep(0.5)
            sets[0].leave(newcomer)
            admitted.append(newcomer)
            await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dial_for(1000, sets, holders, silent=False))
        await connect()
        nursery.cancel_scope.cancel()
    assert len(admitted) == 40


async def test_a_relay_that_invents_holders_makes_a_connector_dial_no_more_often(
    autojump_clock: trio.testing.MockClock,
) -> None:
    failures = Failures()
    sets = [UnprovenChannels(failures) for _ in range(20)]
    names = itertools.count()

    async def dial(seconds: float) -> int:
        dialed, end = 0, trio.current_time() + seconds
        while trio.current_time() < end:
            for unproven in sets:
                if (one := unproven.admit(f"invented {next(names)}", MAX_UNPROVEN_CHANNELS)) is not None:
                    dialed += 1
                    unproven.failed(one)
            await trio.sleep(0.1)
        return dialed

    await dial(20)
    assert await dial(60) <= 60 * FAILURES_PER_SECOND + len(sets) * MAX_UNPROVEN_CHANNELS


@given(st.lists(st.tuples(st.integers(0, 30), st.sampled_from([0.0, 0.001, 0.05, 0.3, 4.0])), max_size=300))
def test_places_for_newcomers_have_a_rate_of_their_own(asking: list[tuple[int, float]]) -> None:
    places, now, given_at = FairPlaces(), 100.0, []
    for who, pause in asking:
        now += pause
        if places.take(who, now):
            given_at.append(now)
    for index, begin in enumerate(given_at):
        for count, end in enumerate(given_at[index:], 1):
            assert count <= FAILURES_PER_SECOND * (end - begin + TENURE_SECONDS) + 1


def test_a_hybrid_connection_that_asks_more_often_gets_no_more_than_its_share() -> None:
    places, taken = FairPlaces(), Counter[str]()
    seconds = 60
    for step in range(seconds * 100):
        now = step / 100
        taken["greedy"] += places.take("greedy", now)
        for number in range(3):
            if step % 50 == number:
                taken[f"modest {number}"] += places.take(f"modest {number}", now)
    assert taken["greedy"] <= seconds * FAILURES_PER_SECOND / 4 + FAILURES_PER_SECOND
    assert [taken[f"modest {number}"] for number in range(3)] == [2 * seconds] * 3


def test_a_hybrid_connection_that_has_stopped_asking_has_no_share() -> None:
    places = FairPlaces()
    for number in range(160):
        places.take(number, 0.0)
    now = ASKING_SECONDS + 1
    taken = sum(places.take("the only one", now + step / 100) for step in range(1000))
    assert taken > 10 * FAILURES_PER_SECOND * 0.8
