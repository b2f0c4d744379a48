"""When a failed data channel is a reason for a thorough check of the routes."""

from __future__ import annotations

import itertools

import pytest

from hybridrelay.connectivity.doubts import FIRST_SECONDS, MAX_SECONDS, Doubts


def test_the_first_failure_is_a_reason_and_those_that_follow_closely_are_not() -> None:
    doubts = Doubts()
    assert [doubts.failed(now) for now in (-5.0, -4.0, -5.0 + FIRST_SECONDS - 0.1)] == [True, False, False]
    assert doubts.failed(-5.0 + FIRST_SECONDS)


def test_whoever_makes_data_channels_fail_without_end_causes_few_checks() -> None:
    doubts = Doubts()
    checks = [now for now in range(24 * 3600) if doubts.failed(float(now))]
    waits = [after - before for before, after in itertools.pairwise(checks)]
    assert waits[:6] == [10, 20, 40, 80, 160, 320]
    assert set(waits[6:]) == {int(MAX_SECONDS)}


@pytest.mark.parametrize(("pause", "begins_anew"), [(MAX_SECONDS - 1, False), (MAX_SECONDS, True)])
def test_after_a_long_time_without_a_check_it_begins_anew(pause: float, begins_anew: bool) -> None:
    doubts = Doubts()
    now = 0.0
    for wait in (10, 20, 40):
        assert doubts.failed(now)
        now += wait
    now += pause
    assert doubts.failed(now)
    assert doubts.failed(now + FIRST_SECONDS) is begins_anew
