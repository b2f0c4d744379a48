"""The benchmark of the event loop's lag reads what relays report, and says what it means."""

from __future__ import annotations

import math

from benchmarks.lag import describe_lag, parse_lag

METRICS = """\
# TYPE hybridrelay_loop_lag_seconds histogram
hybridrelay_loop_lag_seconds_bucket{le="0.001"} 2
hybridrelay_loop_lag_seconds_bucket{le="0.005"} 3
hybridrelay_loop_lag_seconds_bucket{le="0.01"} 4
hybridrelay_loop_lag_seconds_bucket{le="+Inf"} 4
hybridrelay_loop_lag_seconds_count 4
hybridrelay_other_bucket{le="0.001"} 9
"""


def test_the_histogram_in_the_metrics() -> None:
    assert parse_lag(METRICS) == {0.001: 2, 0.005: 3, 0.01: 4, math.inf: 4}


def test_only_what_came_between_two_readings_counts() -> None:
    before = {0.001: 1, 0.005: 1, 0.01: 1, math.inf: 2}
    after = {0.001: 2, 0.005: 4, 0.01: 5, math.inf: 6}
    assert describe_lag(before, after) == (
        "4 measurements: 25.0 % within 1 ms, 75.0 % within 5 ms, 100.0 % within 10 ms, all within 10 ms"
    )


def test_the_latest_may_be_beyond_every_bound() -> None:
    before = dict.fromkeys((0.001, 0.005, 0.01, math.inf), 0)
    assert describe_lag(before, before | {math.inf: 1}).endswith(", some beyond 10 ms")
