"""Transcripts of the machine that decides whether a target is healthy, and when to check it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.connector.target_health import CONFIRM_SECONDS, FALL, RECHECK_SECONDS, RISE, TargetMachine
from hybridrelay.protocol.control_states import TargetHealth

UNKNOWN, HEALTHY, UNHEALTHY = TargetHealth.UNKNOWN, TargetHealth.HEALTHY, TargetHealth.UNHEALTHY
INTERVAL = 30.0


def machine(interval: float | None = None, *, random: float = 0.5) -> TargetMachine:
    """With 0.5, waits are neither longer nor shorter."""
    return TargetMachine(interval, lambda: random, now=0.0)


@pytest.mark.parametrize(
    ("results", "healths", "waits"),
    [
        # One success is enough at first, and no check is made.
        ("+", [HEALTHY], [None]),
        ("+++", [HEALTHY] * 3, [None] * 3),
        # A single failure changes nothing, but is followed by a check soon.
        ("-", [UNKNOWN], [CONFIRM_SECONDS]),
        ("+-+", [HEALTHY] * 3, [None, CONFIRM_SECONDS, None]),
        ("+--+--", [HEALTHY] * 6, [None, *[CONFIRM_SECONDS] * 2, None, *[CONFIRM_SECONDS] * 2]),
        # Several in a row do. From then on, the target is checked.
        ("---", [UNKNOWN, UNKNOWN, UNHEALTHY], [CONFIRM_SECONDS, CONFIRM_SECONDS, RECHECK_SECONDS]),
        ("+---", [HEALTHY, HEALTHY, HEALTHY, UNHEALTHY], [None, *[CONFIRM_SECONDS] * 2, RECHECK_SECONDS]),
        ("---+-", [UNKNOWN, UNKNOWN, *[UNHEALTHY] * 3], [*[CONFIRM_SECONDS] * 2, 5.0, CONFIRM_SECONDS, 5.0]),
        ("---++", [UNKNOWN, UNKNOWN, UNHEALTHY, UNHEALTHY, HEALTHY], [*[CONFIRM_SECONDS] * 2, 5.0, 1.0, None]),
    ],
)
def test_results_of_attempts_decide_about_health_and_the_next_check(
    results: str, healths: list[TargetHealth], waits: list[float | None]
) -> None:
    assert (FALL, RISE, CONFIRM_SECONDS, RECHECK_SECONDS) == (3, 2, 1.0, 5.0)
    one, before = machine(), UNKNOWN
    for now, (result, health, wait) in enumerate(zip(results, healths, waits, strict=True)):
        changed = one.attempt_ended(succeeded=result == "+", began=now, now=now)
        assert (changed, one.health) == (health is not before, health)
        assert one.due == (None if wait is None else now + wait)
        before = health


def test_with_an_interval_a_target_is_checked_while_nobody_connects() -> None:
    one = machine(INTERVAL)
    dues = [one.due]
    one.check_begins()
    dues.append(one.due)
    assert dues == [0.5, None], "soon after the start, and not again during the check"
    one.attempt_ended(succeeded=True, began=0.5, now=0.6)
    one.check_ends()
    assert one.due == 0.6 + INTERVAL
    one.attempt_ended(succeeded=True, began=20.0, now=20.0)
    assert one.due == 20.0 + INTERVAL, "a stream that is opened takes the place of a check"
    for _ in range(FALL):
        one.attempt_ended(succeeded=False, began=50.0, now=50.0)
    assert one.due == 50.0 + RECHECK_SECONDS
    for _ in range(RISE):
        one.attempt_ended(succeeded=True, began=60.0, now=60.0)
    assert one.due == 60.0 + INTERVAL


def test_attempts_that_began_while_the_target_was_away_do_not_count_after_it_is_back() -> None:
    one = machine()
    for _ in range(FALL):
        one.attempt_ended(succeeded=False, began=0.0, now=10.0)
    for began in (11.0, 12.0):
        one.attempt_ended(succeeded=True, began=began, now=12.0)
    assert one.health is HEALTHY
    for _ in range(100):  # streams that have waited for their deadline
        assert not one.attempt_ended(succeeded=False, began=5.0, now=15.0)
    assert (one.health, one.due) == (HEALTHY, None)
    for _ in range(FALL):
        one.attempt_ended(succeeded=False, began=12.5, now=16.0)
    assert one.health is UNHEALTHY


@pytest.mark.parametrize(("random", "wait"), [(0.0, 4.5), (0.5, 5.0), (0.999999, 5.5)])
def test_checks_of_an_unhealthy_target_are_up_to_a_tenth_early_or_late(random: float, wait: float) -> None:
    one = machine(random=random)
    for _ in range(FALL):
        one.attempt_ended(succeeded=False, began=0.0, now=0.0)
    assert one.due == pytest.approx(wait, abs=0.001)


@given(st.lists(st.booleans(), max_size=60), st.none() | st.just(INTERVAL))
def test_whatever_happens_it_follows_the_latest_results(results: list[bool], interval: float | None) -> None:
    one, changes = machine(interval), 0
    for now, result in enumerate(results):
        changes += one.attempt_ended(succeeded=result, began=now, now=now)
        assert one.due is None or one.due > now
        assert one.due is not None or (interval is None and one.health is HEALTHY and result)
        if set(results[max(0, now - 2) : now + 1]) == {False} and now >= FALL - 1:
            assert one.health is UNHEALTHY
        if set(results[max(0, now - 1) : now + 1]) == {True} and now >= RISE - 1:
            assert one.health is HEALTHY
    assert changes <= 1 + len(results) // RISE
