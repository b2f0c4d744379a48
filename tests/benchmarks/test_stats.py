"""The arithmetic of samples."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.stats import paired_ratio, percentile, summarize

values = st.lists(st.floats(0.001, 1e9), min_size=1, max_size=50)


@pytest.mark.parametrize(("percent", "expected"), [(0, 1), (1, 1), (50, 50), (99, 99), (99.5, 100), (100, 100)])
def test_percentiles_of_one_to_a_hundred(percent: float, expected: int) -> None:
    assert percentile(list(range(100, 0, -1)), percent) == expected


@given(values, st.floats(0, 100))
def test_a_percentile_is_a_value_that_enough_do_not_exceed(sample: list[float], percent: float) -> None:
    found = percentile(sample, percent)
    assert found in sample
    assert sum(value <= found for value in sample) >= percent / 100 * len(sample) - 1e-6


def test_there_is_no_percentile_of_nothing() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)
    with pytest.raises(ValueError, match="no values"):
        summarize([])


def test_a_summary_has_median_range_and_spread() -> None:
    summary = summarize([9.0, 10.0, 12.0])
    assert (summary.median, summary.low, summary.high, summary.count) == (10, 9, 12, 3)
    assert summary.spread == pytest.approx(0.15)
    assert summarize([0.0]).spread == 0


@pytest.mark.parametrize(("other", "expected"), [([1.0, 2.0], True), ([2.1, 3.0], False), ([0.0, 9.0], True)])
def test_ranges_overlap_if_they_share_a_value(other: list[float], expected: bool) -> None:
    assert summarize([1.5, 2.0]).overlaps(summarize(other)) is expected
    assert summarize(other).overlaps(summarize([1.5, 2.0])) is expected


@given(st.floats(0.1, 10), values)
def test_noise_that_hits_both_of_a_round_cancels(ratio: float, noise: list[float]) -> None:
    theirs = dict(enumerate(noise))
    found = paired_ratio({round_: value * ratio for round_, value in theirs.items()}, theirs)
    assert found is not None
    assert found.median == pytest.approx(ratio)
    assert found.spread == pytest.approx(0, abs=1e-6)


def test_only_rounds_that_both_have_count() -> None:
    assert paired_ratio({0: 1.0, 1: 9.0}, {1: 3.0, 2: 1.0}) == summarize([3.0])
    assert paired_ratio({0: 1.0}, {1: 1.0}) is None
    assert paired_ratio({0: 1.0}, {0: 0.0}) is None
