"""Which moments have passed, according to a clock that may be wrong for a while."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay._confirmed_time import CONFIRM_SECONDS, ConfirmedTime

#: The first reading.
START = 1_800_000_000.0
HOUR, YEAR = 3600.0, 365 * 86_400.0

#: By how much the clock is wrong (seconds), and for how long: it is read each second.
Phase = tuple[float, float]


def after(*phases: Phase, first: float = 0.0) -> ConfirmedTime:
    """`first` is by how much the first reading is wrong."""
    time, now = ConfirmedTime(START + first, 0.0), 0.0
    for error, seconds in phases:
        for _ in range(round(seconds)):
            now += 1
            time.read(START + now + error, now)
    return time


def test_a_moment_has_passed_when_a_right_clock_has_reached_it() -> None:
    assert not after((0, 99)).has_passed(START + 100)
    assert after((0, 100)).has_passed(START + 100)


def test_a_small_correction_counts_at_once() -> None:
    assert after((50, 1)).has_passed(START + 51)
    assert not after((-50, 51)).has_passed(START + 2)


@pytest.mark.parametrize("error", [61, HOUR, YEAR])
def test_a_step_forwards_counts_after_ten_minutes(error: float) -> None:
    moment = START + 10 + CONFIRM_SECONDS + error
    assert not after((0, 10), (error, CONFIRM_SECONDS)).has_passed(moment)
    assert after((0, 10), (error, CONFIRM_SECONDS + 1)).has_passed(moment)


def test_a_step_that_is_taken_back_has_no_effect() -> None:
    time = after((0, 10), (YEAR, CONFIRM_SECONDS - 1), (0, CONFIRM_SECONDS))
    assert not time.has_passed(START + YEAR)
    assert time.latest == START + 10 + CONFIRM_SECONDS - 1 + CONFIRM_SECONDS
    # Each step has to be confirmed by itself.
    assert not after((YEAR, CONFIRM_SECONDS), (0, 1), (YEAR, CONFIRM_SECONDS)).has_passed(START + YEAR)
    assert not after((YEAR, CONFIRM_SECONDS), (2 * YEAR, CONFIRM_SECONDS)).has_passed(START + YEAR)


def test_a_machine_that_starts_with_a_clock_that_is_ahead() -> None:
    ends = START + HOUR
    assert not after((YEAR, CONFIRM_SECONDS - 1), (0, CONFIRM_SECONDS), first=YEAR).has_passed(ends)
    assert after((0, HOUR), first=YEAR).has_passed(ends)
    assert after((YEAR, CONFIRM_SECONDS), first=YEAR).has_passed(ends)


def test_a_machine_that_starts_in_1970_or_was_suspended() -> None:
    assert not after((-START, 10), (0, CONFIRM_SECONDS), first=-START).has_passed(START)
    assert after((-START, 10), (0, CONFIRM_SECONDS + 1), first=-START).has_passed(START)


def test_what_was_past_at_the_first_reading_has_passed_ten_minutes_later() -> None:
    for moment in (START - YEAR, START):
        assert not after((0, CONFIRM_SECONDS - 1)).has_passed(moment)
        assert after((0, CONFIRM_SECONDS)).has_passed(moment)
    assert after((0, CONFIRM_SECONDS - 1)).latest == -math.inf
    assert after((0, CONFIRM_SECONDS)).latest == START + CONFIRM_SECONDS


@given(
    first=st.sampled_from([0.0, -START, YEAR]),
    phases=st.lists(
        st.tuples(st.sampled_from([30.0, HOUR, YEAR]) | st.floats(1, 2 * YEAR), st.floats(1, CONFIRM_SECONDS - 1)),
        max_size=4,
    ),
)
def test_nothing_passes_early_while_the_clock_is_never_wrong_for_ten_minutes(
    first: float, phases: list[Phase]
) -> None:
    """The clock is right for a second after each time that it is wrong. A correction of a minute is not wrong."""
    given_ = [part for error, seconds in phases for part in ((error, seconds), (0.0, 1.0))]
    time = after(*given_, first=first)
    right = START + time._now + 60
    assert not any(time.has_passed(moment) for moment in (right + 1, right + HOUR, right + YEAR))
