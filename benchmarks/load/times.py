"""Measuring how long each of many requests takes, whatever a request is."""

from __future__ import annotations

import time
from typing import Any, Protocol

from ..stats import percentile
from ..usage import Sampler


class Load(Protocol):
    """Makes requests, and keeps their times."""

    #: The times of all requests that were completed (seconds).
    times: list[float]

    def run(self, seconds: float) -> None:
        """Make requests for this long."""

    def close(self) -> None:
        """Close what is still open."""


def measure_times(load: Load, sampler: Sampler, *, warm_up: float, seconds: float) -> dict[str, Any]:
    """Measure the times of requests, and what processes use meanwhile.

    Args:
        load: makes the requests, and is closed.
        sampler: measures the processes.
        warm_up: the time that is not counted (seconds).
        seconds: the time that is counted.

    Raises:
        ConnectionError: no request was completed.
    """
    load.run(warm_up)
    load.times.clear()
    sampler.begin()
    began = time.perf_counter()
    load.run(seconds)
    took = time.perf_counter() - began
    usage = sampler.end()
    load.close()
    times = load.times
    if not times:
        raise ConnectionError("no request was completed")
    metrics = {
        "p50_us": percentile(times, 50) * 1e6,
        "p99_us": percentile(times, 99) * 1e6,
        "per_s": len(times) / took,
    }
    return {"metrics": metrics, "usage": usage, "requests": len(times)}
