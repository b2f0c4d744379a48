"""Which listener is offered a rendezvous, and that no listener can take all of them."""

from __future__ import annotations

import random
from collections import Counter, defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.relay.core.choice import Choice, ChoiceReason, SessionCounts, choose_listener
from hybridrelay.relay.core.listener import Listener
from hybridrelay.relay.model import KeyId
from hybridrelay.security import KeySlot

KEY = KeyId("sql", "listener", KeySlot.PRIMARY, 1)


def listener(name: str, address: str = "192.0.2.1") -> Listener[None]:
    return Listener("sql", name, 1, KEY, None, address)


A, B, C = listener("a"), listener("b"), listener("c")


def choose(
    candidates: list[Listener[None]],
    sessions: dict[str, int],
    draws: list[int],
    *,
    passed_over: bool = False,
    unhealthy: str = "",
) -> Choice[None] | None:
    left = iter(draws)

    def randbelow(limit: int) -> int:
        drawn = next(left)
        assert 0 <= drawn < limit
        return drawn

    chosen = choose_listener(
        candidates,
        sessions=lambda one: sessions.get(one.instance, 0),
        is_unhealthy=lambda one: one.instance in unhealthy,
        has_passed_over=passed_over,
        randbelow=randbelow,
    )
    assert next(left, None) is None, "every draw was used"
    return chosen


@pytest.mark.parametrize(
    ("candidates", "sessions", "draws", "passed_over", "chosen"),
    [
        ([], {}, [], False, None),
        ([], {}, [], True, None),
        ([A], {"a": 7}, [0], False, (A, ChoiceReason.ONLY, 7)),
        ([A], {"a": 7}, [0], True, (A, ChoiceReason.ONLY, 7)),
        ([A, B, C], {"a": 2, "b": 1, "c": 3}, [0, 0], False, (B, ChoiceReason.FEWEST_SESSIONS, 1)),
        ([A, B, C], {"a": 2, "b": 1, "c": 1}, [0, 1], False, (C, ChoiceReason.FEWEST_SESSIONS, 1)),
        ([A, B, C], {}, [0, 2], False, (C, ChoiceReason.FEWEST_SESSIONS, 0)),
        ([A, B, C], {"a": 2, "b": 1, "c": 3}, [1, 2], False, (C, ChoiceReason.RANDOM, 3)),
        ([A, B, C], {"a": 2, "b": 1, "c": 3}, [0, 2], True, (C, ChoiceReason.DRAWN, 3)),
    ],
)
def test_which_listener_is_chosen_and_why(
    candidates: list[Listener[None]],
    sessions: dict[str, int],
    draws: list[int],
    passed_over: bool,
    chosen: tuple[Listener[None], ChoiceReason, int] | None,
) -> None:
    found = choose(candidates, sessions, draws, passed_over=passed_over)
    if chosen is None:
        assert found is None
    else:
        assert found is not None
        assert (found.listener, found.why, found.sessions) == chosen
        assert found.candidates == len(candidates)


@pytest.mark.parametrize(
    ("candidates", "unhealthy", "sessions", "draws", "passed_over", "chosen", "healthy"),
    [
        # One that is not healthy is left out, whatever its load, and whatever the coin shows.
        ([A, B], "a", {"b": 7}, [0], False, (B, ChoiceReason.ONLY_HEALTHY), 1),
        ([A, B, C], "a", {"b": 7, "c": 6}, [0, 0], False, (C, ChoiceReason.FEWEST_SESSIONS), 2),
        ([A, B, C], "a", {"b": 7, "c": 6}, [1, 0], False, (B, ChoiceReason.RANDOM), 2),
        ([A, B, C], "ac", {"b": 7}, [0], True, (B, ChoiceReason.ONLY_HEALTHY), 1),
        ([A, B, C], "a", {}, [0, 1], True, (C, ChoiceReason.DRAWN), 2),
        # If none is healthy, this is ignored.
        ([A], "a", {}, [0], False, (A, ChoiceReason.ONLY), 0),
        ([A, B, C], "abc", {"a": 2, "b": 1, "c": 3}, [0, 0], False, (B, ChoiceReason.FEWEST_SESSIONS), 0),
        ([A, B, C], "abc", {"a": 2, "b": 1, "c": 3}, [1, 2], False, (C, ChoiceReason.RANDOM), 0),
        ([A, B, C], "abc", {}, [0, 2], True, (C, ChoiceReason.DRAWN), 0),
    ],
)
def test_the_health_of_targets(
    candidates: list[Listener[None]],
    unhealthy: str,
    sessions: dict[str, int],
    draws: list[int],
    passed_over: bool,
    chosen: tuple[Listener[None], ChoiceReason],
    healthy: int,
) -> None:
    found = choose(candidates, sessions, draws, passed_over=passed_over, unhealthy=unhealthy)
    assert found is not None
    assert (found.listener, found.why) == chosen
    assert (found.candidates, found.healthy) == (len(candidates), healthy)


@given(
    loads=st.lists(st.integers(0, 3), min_size=1, max_size=8),
    unhealthy=st.sets(st.integers(0, 7)),
    passed_over=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_reports_never_make_a_hybrid_connection_unavailable(
    loads: list[int], unhealthy: set[int], passed_over: bool, seed: int
) -> None:
    candidates = [listener(str(number)) for number in range(len(loads))]
    found = choose_listener(
        candidates,
        sessions=lambda one: loads[int(one.instance)],
        is_unhealthy=lambda one: int(one.instance) in unhealthy,
        has_passed_over=passed_over,
        randbelow=random.Random(seed).randrange,
    )
    assert found is not None
    healthy = set(range(len(loads))) - unhealthy
    assert found.healthy == len(healthy)
    assert int(found.listener.instance) in (healthy or set(range(len(loads))))


def test_after_a_refusal_each_network_is_equally_likely() -> None:
    rogues = [listener(f"rogue {number}", f"10.0.0.{number}") for number in range(60)]
    found = choose([*rogues, A], {}, [1, 0], passed_over=True)
    assert found is not None
    assert found.listener is A


@given(st.lists(st.integers(0, 5), min_size=2, max_size=40), st.data())
def test_whatever_the_others_do_each_gets_one_of_2n_on_average(loads: list[int], data: st.DataObject) -> None:
    """The probability of each listener, computed from every possible draw."""
    candidates = [listener(str(number)) for number in range(len(loads))]
    sessions = {str(number): load for number, load in enumerate(loads)}
    chance: defaultdict[str, float] = defaultdict(float)
    fewest = loads.count(min(loads))
    for coin, among in ((0, fewest), (1, len(loads))):
        for drawn in range(among):
            found = choose(candidates, sessions, [coin, drawn])
            assert found is not None
            chance[found.listener.instance] += 1 / 2 / among
            if coin == 0:
                assert found.sessions == min(loads)
    some = data.draw(st.sampled_from([one.instance for one in candidates]))
    assert chance[some] >= 1 / (2 * len(loads)) - 1e-9
    assert max(chance.values()) <= 1 / 2 + 1 / (2 * len(loads)) + 1e-9


def test_a_listener_that_ends_its_sessions_at_once_leaves_others_their_part() -> None:
    """It always has the fewest."""
    randbelow = random.Random(1).randrange
    counts, offered = SessionCounts(), Counter[str]()
    for number in range(3000):
        found = choose_listener([A, B, C], sessions=counts.of, has_passed_over=False, randbelow=randbelow)
        assert found is not None
        offered[found.listener.instance] += 1
        counts.began(str(number), "sql", found.listener.instance)
        if found.listener is A:
            counts.ended(str(number))
    assert offered["b"] > 3000 / 6 * 0.8
    assert offered["c"] > 3000 / 6 * 0.8


def test_sessions_are_shared_evenly_by_honest_listeners() -> None:
    """One of them was there long before the others, and had all sessions."""
    randbelow = random.Random(1).randrange
    counts = SessionCounts()
    for number in range(50):
        counts.began(f"early {number}", "sql", "a")
    for number in range(150):
        found = choose_listener([A, B, C], sessions=counts.of, has_passed_over=False, randbelow=randbelow)
        assert found is not None
        counts.began(str(number), "sql", found.listener.instance)
    assert max(map(counts.of, (A, B, C))) - min(map(counts.of, (A, B, C))) < 20


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9), st.booleans()), max_size=60))
def test_the_sessions_of_each_listener_are_counted(happened: list[tuple[str, int, bool]]) -> None:
    counts, known = SessionCounts(), dict[str, str]()
    for instance, number, begins in happened:
        at = str(number)
        if begins and at not in known:
            counts.began(at, "sql", instance)
            known[at] = instance
        elif not begins:
            counts.ended(at)
            known.pop(at, None)
        for one in (A, B, C):
            assert counts.of(one) == list(known.values()).count(one.instance)
        assert len(counts) == len(known)
