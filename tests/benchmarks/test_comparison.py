"""What counts as a move between two runs."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import pytest

from benchmarks.comparison import (
    Missing,
    Move,
    compare,
    compare_ratios_of_ours,
    missing_ratios_of_ours,
    moves_table,
)
from benchmarks.model import Run, Sample, SkippedCase

from .fabricated import make_run


def move(metric: str, old: Sequence[float], new: Sequence[float]) -> Move:
    runs = (make_run("a/b", metric, {"tcp": values}) for values in (old, new))
    (found,) = compare(*runs, ratios=False)
    return found


@pytest.mark.parametrize(
    ("metric", "old", "new", "verdict"),
    [
        ("mb_per_s", [100, 101, 102], [150, 151, 152], "better"),
        ("mb_per_s", [100, 101, 102], [80, 81, 82], "WORSE"),
        ("p50_us", [100, 101, 102], [150, 151, 152], "WORSE"),
        ("p50_us", [100, 101, 102], [80, 81, 82], "better"),
        # the rounds of the two overlap
        ("mb_per_s", [100, 101, 140], [130, 150, 152], ""),
        # they do not, but it is too little to be worth a look
        ("mb_per_s", [100, 101, 102], [104, 105, 106], ""),
    ],
)
def test_the_verdict_about_a_change_follows_from_both_ranges(
    metric: str, old: Sequence[float], new: Sequence[float], verdict: str
) -> None:
    assert move(metric, old, new).verdict == verdict


def test_less_time_is_a_positive_change() -> None:
    assert move("ms", [10.0], [5.0]).change == pytest.approx(1.0)


def test_a_machine_twice_as_fast_moves_no_ratio() -> None:
    old = make_run("a/b", "mb_per_s", {"ssh": [100, 90], "tcp": [150, 135]})
    new = make_run("a/b", "mb_per_s", {"ssh": [200, 180], "tcp": [300, 270]})
    (found,) = compare_ratios_of_ours(old, new)
    assert (found.system, found.reference) == ("tcp", "ssh")
    assert found.change == pytest.approx(0)
    assert {one.verdict for one in compare(old, new, ratios=False)} == {"better"}


def test_only_what_both_runs_have() -> None:
    old = make_run("a/b", "mb_per_s", {"ssh": [100], "tcp": [150]})
    assert list(compare(old, make_run("a/c", "mb_per_s", {"tcp": [1]}), ratios=False)) == []
    assert compare_ratios_of_ours(old, make_run("a/b", "mb_per_s", {"tcp": [1]})) == []


def test_what_moved_comes_first_and_worst() -> None:
    old = make_run("a/b", "mb_per_s", {"direct": [100], "tcp": [100], "ws": [100]})
    new = make_run("a/b", "mb_per_s", {"direct": [101], "tcp": [200], "ws": [50]})
    moves = list(compare(old, new, ratios=False))
    assert [row[0] for row in moves_table(moves).rows] == ["a/b ws", "a/b tcp", "a/b direct"]
    assert [row[0] for row in moves_table(moves, everything=False).rows] == ["a/b ws", "a/b tcp"]


def with_failure(run: Run, case: str, system: str) -> Run:
    return attrs.evolve(run, samples=(*run.samples, Sample(case, system, 0, error="would not start")))


def test_a_ratio_that_can_no_longer_be_measured_is_missing() -> None:
    old = make_run("a/b", "mb_per_s", {"ssh": [100], "tcp": [150], "ws": [120]})
    assert missing_ratios_of_ours(old, old) == []
    failed = with_failure(make_run("a/b", "mb_per_s", {"ssh": [100], "tcp": [150]}), "a/b", "ws")
    assert missing_ratios_of_ours(old, failed) == [Missing("a/b", "ws", was_tried=True)]
    # The baseline failed: then there is no ratio either.
    failed = with_failure(make_run("a/b", "mb_per_s", {"tcp": [150]}), "a/b", "ssh")
    assert missing_ratios_of_ours(old, failed) == [
        Missing("a/b", "tcp", was_tried=True),
        Missing("a/b", "ws", was_tried=False),
    ]
    assert missing_ratios_of_ours(make_run("a/c", "mb_per_s", {"ssh": [100]}), failed) == []  # nor was there one


def test_a_case_that_was_skipped_is_missing_and_says_why() -> None:
    old = make_run("a/b", "mb_per_s", {"ssh": [100], "tcp": [150]})
    skipped = SkippedCase("a/b", "PostgreSQL is not installed", "apt install postgresql")
    new = attrs.evolve(make_run("a/c", "mb_per_s", {"ssh": [100], "tcp": [150]}), skipped_cases=(skipped,))
    (missing,) = missing_ratios_of_ours(old, new)
    assert not missing.was_tried
    assert str(missing) == "a/b tcp (PostgreSQL is not installed; to get it: apt install postgresql)"
    assert missing_ratios_of_ours(new, old) == [Missing("a/c", "tcp", was_tried=False)]
