"""Time counts as it passes, and a clock that is wrong for less than a week changes nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay._counted_time import EARLIEST, counted

DAY = 86_400.0
NOW = 21_000 * DAY
YEAR = 400 * DAY


@pytest.mark.parametrize(
    ("days", "expected"),
    [
        ([0, 1, 2, 2.5], [0, 1, 2, 2.5]),
        ([0, 1, 401], [0, 1, 1]),
        ([0, 1, 401, 401.5, 402], [0, 1, 1, 1, 1]),
        ([0, 1, 401, 2, 3], [0, 1, 1, 2, 3]),  # it was wrong
        ([0, 1, *range(41, 49)], [0, 1, *range(41, 49)]),  # the program did not run for 40 days
        ([0, 1, *range(41, 48)], [0, 1, *[1] * 7]),
        ([0, 1, 41, 42, 41.99, 48], [0, 1, 41, 42, 42, 42]),  # it was set a little
        ([0, 1, 41, 44, 5], [0, 1, 1, 1, 1]),
        ([0, 1, -20_999, -20_998, 2], [0, 1, 1, 1, 2]),  # the machine started in 1970
        ([0, 30, 60, 90, 120], [0, 30, 60, 90, 90]),  # runs once a month
        ([0, 1, 401, 1201, 1202], [0, 1, 1, 1, 1]),
        ([0, 1, 401, 1201, 1202, 1208], [0, 1, 1, 1201, 1202, 1202]),
    ],
)
def test_the_clock_counts_unless_it_jumps(days: list[float], expected: list[float]) -> None:
    assert counted([NOW + day * DAY for day in days]) == [NOW + day * DAY for day in expected]


def test_without_a_reading_time_has_not_begun() -> None:
    assert counted([]) == []
    assert counted([0.0, DAY]) == [EARLIEST, EARLIEST]


def test_a_log_that_begins_with_a_wrong_time() -> None:
    assert counted([0.0, 5.0, NOW, NOW + DAY]) == [NOW, NOW, NOW, NOW + DAY]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.data())
def test_readings_that_are_wrong_change_nothing_for_others(steps: list[float], data: st.DataObject) -> None:
    """Readings of a right clock, among which others are far ahead or far behind."""
    right, now = list[float](), NOW
    for step in steps:
        now += step * DAY
        right.append(now)
    mixed, is_right = list[float](), list[bool]()
    for reading in right:
        mixed.append(reading)
        is_right.append(True)
        for _ in range(data.draw(st.integers(0, 2))):
            mixed.append(reading + data.draw(st.sampled_from([YEAR, -YEAR, 3 * YEAR, -reading])))
            is_right.append(False)
    mixed.append(right[-1])
    is_right.append(True)
    found = counted(mixed)
    assert found == sorted(found)
    assert [at for at, one in zip(found, is_right, strict=True) if one][:-1] == right


@given(st.lists(st.floats(EARLIEST, 1e10), max_size=30))
def test_it_never_goes_back_and_never_runs_ahead(readings: list[float]) -> None:
    found = counted(readings)
    assert found == sorted(found)
    assert all(at <= max(readings[: index + 1]) for index, at in enumerate(found))
