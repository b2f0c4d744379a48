"""How often a time was how long, in plain integers. Pure."""

from __future__ import annotations

from bisect import bisect_left

import attrs

__all__ = ["Histogram", "HistogramSnapshot"]


@attrs.frozen
class HistogramSnapshot:
    """How many durations fell into each bucket of a histogram."""

    #: Upper bounds of the buckets (seconds), in increasing order.
    bounds: tuple[float, ...]
    #: One for each bucket, and one more for durations above the last bound.
    counts: tuple[int, ...]
    #: The sum of all durations (seconds).
    total: float


@attrs.define(eq=False)
class Histogram:
    """Counts of times by buckets. In each bucket is what is at most its bound, and above the bound before it."""

    #: Upper bounds (seconds), growing.
    bounds: tuple[float, ...]
    #: By bucket; the last one has no bound.
    counts: list[int] = attrs.field(init=False)
    #: Of everything that was observed (seconds).
    total: float = 0.0

    def __attrs_post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, seconds: float) -> None:
        """Count one time."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds

    def add(self, other: Histogram) -> None:
        """Add what another one with the same bounds has counted."""
        self.counts = [one + more for one, more in zip(self.counts, other.counts, strict=True)]
        self.total += other.total

    def snapshot(self) -> HistogramSnapshot:
        """What has been counted so far."""
        return HistogramSnapshot(self.bounds, tuple(self.counts), self.total)
