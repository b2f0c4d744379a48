"""Histograms of durations, with plain integers. Pure."""

from __future__ import annotations

from bisect import bisect_left

import attrs

from ._value import Value

__all__ = ["Histogram", "HistogramSnapshot"]


@attrs.frozen
class HistogramSnapshot(Value):
    """How many durations fell into each bucket of a histogram."""

    #: Upper bounds of the buckets (seconds), in increasing order.
    bounds: tuple[float, ...]
    #: The count of each bucket, followed by that of durations above the last bound.
    counts: tuple[int, ...]
    #: The sum of all durations (seconds).
    total: float


@attrs.define(eq=False)
class Histogram:
    """Counts durations by buckets. A bucket contains those that are at most its bound, and above the previous
    bound."""

    #: Upper bounds (seconds), in increasing order.
    bounds: tuple[float, ...]
    #: The counts by bucket; the last bucket has no bound.
    counts: list[int] = attrs.field(init=False)
    #: The sum of all durations (seconds).
    total: float = 0.0

    def __attrs_post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds

    def add(self, other: Histogram) -> None:
        """Add the counts of another histogram with the same bounds."""
        self.counts = [one + more for one, more in zip(self.counts, other.counts, strict=True)]
        self.total += other.total

    def snapshot(self) -> HistogramSnapshot:
        """Return the current counts."""
        return HistogramSnapshot(self.bounds, tuple(self.counts), self.total)
