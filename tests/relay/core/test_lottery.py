"""Who gets a place by lot: each applicant has the same chance, however often it asks."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from hybridrelay.relay.core.lottery import KEPT_SECONDS, ROTATION_SECONDS, Lottery


def lottery(seed: int = 1) -> Lottery:
    return Lottery(random.Random(seed).randrange)


def winner(of: Lottery, applicants: Sequence[tuple[str, str]], now: float) -> tuple[str, str]:
    """The one of these that is admitted at this time; all of them ask."""
    admitted = [one for one in applicants for _ in range(2) if of.ask(*one, now)]
    (one,) = admitted
    return one


def before_a_draw() -> tuple[Lottery, tuple[str, str], list[tuple[str, str]]]:
    """A lottery for which three applicants have asked; the one that will win, and the two others."""
    applicants = [("net", name) for name in "abc"]
    rehearsal, draws = lottery(), lottery()
    for one in applicants:
        rehearsal.ask(*one, 0.0)
        draws.ask(*one, 0.0)
    won = winner(rehearsal, applicants, ROTATION_SECONDS)
    return draws, won, [one for one in applicants if one != won]


def test_the_first_draw_comes_some_time_after_the_first_refusal() -> None:
    draws = lottery()
    assert not draws.ask("net", "a", 100.0)
    assert not draws.ask("net", "a", 100.0 + ROTATION_SECONDS - 0.1)
    assert draws.ask("net", "a", 100.0 + ROTATION_SECONDS)
    # And nobody is admitted right after it.
    assert not draws.ask("net", "b", 100.0 + ROTATION_SECONDS)
    assert not draws.ask("net", "b", 100.0 + 2 * ROTATION_SECONDS - 0.1)
    assert draws.ask("net", "b", 100.0 + 2 * ROTATION_SECONDS)


def test_without_a_delay_an_applicant_that_is_alone_wins_at_once() -> None:
    draws = Lottery(random.Random(1).randrange, delay=0.0)
    assert draws.ask("net", "a", 100.0)
    # The next draw takes place among those that ask until then.
    wins: Counter[str] = Counter()
    for seed in range(100):
        draws = Lottery(random.Random(seed).randrange, delay=0.0)
        assert draws.ask("net", "first", 0.0)
        for name in "ab":
            assert not draws.ask(name, name, ROTATION_SECONDS - 0.1)
        wins[winner(draws, [("a", "a"), ("b", "b")], ROTATION_SECONDS)[1]] += 1
    assert 30 < wins["a"] < 70


def test_asking_often_does_not_improve_the_chance() -> None:
    wins: Counter[str] = Counter()
    for seed in range(400):
        draws = lottery(seed)
        draws.ask("rare", "rare", 0.0)
        for step in range(50):
            draws.ask("often", "often", step * ROTATION_SECONDS / 50)
        now = ROTATION_SECONDS
        wins[winner(draws, [("often", "often"), ("rare", "rare")], now)[1]] += 1
    assert 150 < wins["rare"] < 250


def test_groups_have_equal_parts() -> None:
    wins: Counter[str] = Counter()
    for seed in range(400):
        draws = lottery(seed)
        applicants = [("one", "honest"), *(("many", f"rogue {number}") for number in range(30))]
        for one in applicants:
            draws.ask(*one, 0.0)
        wins[winner(draws, applicants, ROTATION_SECONDS)[0]] += 1
    assert 150 < wins["one"] < 250


def test_members_of_one_group_have_the_same_chance() -> None:
    wins: Counter[str] = Counter()
    applicants = [("net", name) for name in "abcd"]
    for seed in range(400):
        draws = lottery(seed)
        for one in applicants:
            draws.ask(*one, 0.0)
        wins[winner(draws, applicants, ROTATION_SECONDS)[1]] += 1
    assert all(60 < wins[name] < 140 for name in "abcd")


def test_the_place_is_kept_for_the_winner_for_a_while() -> None:
    draws, won, others = before_a_draw()
    for step in range(100):  # the winner does not ask
        now = ROTATION_SECONDS + step * (KEPT_SECONDS - 0.1) / 100
        assert not any(draws.ask(*one, now) for one in others)
    assert draws.ask(*won, ROTATION_SECONDS + KEPT_SECONDS - 0.1)


def test_a_winner_that_does_not_ask_again_loses_its_place() -> None:
    draws, _, others = before_a_draw()
    assert not any(draws.ask(*one, ROTATION_SECONDS) for one in others)
    assert winner(draws, others, ROTATION_SECONDS + KEPT_SECONDS) in others


def test_every_draw_is_another_one() -> None:
    draws = lottery()
    applicants = [("net", name) for name in "abcdefgh"]
    won = set()
    now = 0.0
    for one in applicants:
        draws.ask(*one, now)
    for _ in range(40):
        now += ROTATION_SECONDS
        won.add(winner(draws, applicants, now)[1])
    assert len(won) > 5
