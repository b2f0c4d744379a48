"""Buckets of permits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.management.rates import Buckets


def test_a_burst_and_then_a_rate() -> None:
    buckets = Buckets(rate=20, burst=100)
    assert [buckets.take("a", 5.0) for _ in range(100)] == [0.0] * 100
    assert buckets.take("a", 5.0) == pytest.approx(0.05)
    assert buckets.wait("a", 5.0) == pytest.approx(0.05)
    assert buckets.take("a", 5.05) == pytest.approx(0, abs=1e-9)
    assert buckets.take("b", 5.0) == 0.0
    assert sum(buckets.take("a", 5.05 + n / 200) == 0 for n in range(2000)) == pytest.approx(200, abs=2)


def test_what_has_happened_is_charged_also_without_a_permit() -> None:
    buckets = Buckets(rate=5 / 60, burst=5)
    for _ in range(100):
        buckets.charge("a", 0.0)
    assert buckets.wait("a", 0.0) == pytest.approx(72)  # five are owed, and one is needed
    assert buckets.wait("a", 72.1) == 0
    assert buckets.wait("b", 0.0) == 0


def test_the_number_of_keys_is_bounded() -> None:
    buckets = Buckets(rate=1, burst=2, max_keys=10)
    for key in range(10):
        buckets.charge(key, 0.0)
        buckets.charge(key, 0.0)
    assert [buckets.take(key, 0.0) for key in range(10, 13)] == [0.0, 0.0, 1.0]  # they share a bucket
    assert buckets.wait(99, 0.0) == 1.0
    assert buckets.wait(0, 0.0) == 1.0  # its own is as it was
    assert len(buckets) == 11
    assert buckets.take(50, 10.0) == 0.0  # those that are full again say nothing
    assert len(buckets) == 1


@given(st.lists(st.tuples(st.integers(0, 4), st.floats(0, 3)), max_size=200))
def test_never_more_than_the_burst_and_the_rate(calls: list[tuple[int, float]]) -> None:
    buckets = Buckets(rate=2, burst=3, max_keys=5)
    now, admitted = 0.0, dict.fromkeys(range(5), 0)
    for key, pause in calls:
        now += pause
        waited, taken = buckets.wait(key, now), buckets.take(key, now)
        assert waited == taken
        admitted[key] += taken == 0
    assert all(count <= 3 + 2 * now + 1e-6 for count in admitted.values())


@given(st.lists(st.tuples(st.integers(0, 1000), st.floats(0, 3)), max_size=200))
def test_never_more_buckets_than_keys_that_are_allowed(calls: list[tuple[int, float]]) -> None:
    buckets = Buckets(rate=2, burst=3, max_keys=5)
    now = 0.0
    for key, pause in calls:
        now += pause
        buckets.take(key, now)
        assert len(buckets) <= 6
