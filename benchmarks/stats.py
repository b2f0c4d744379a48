"""Statistics: medians and ranges instead of means and deviations, because there are few samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median

import attrs


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that at least `percent` of all values do not exceed (nearest rank).

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("no values")
    rank = math.ceil(percent / 100 * len(values))
    return sorted(values)[max(rank, 1) - 1]


@attrs.frozen
class Summary:
    """The values of several rounds of one measurement."""

    median: float
    low: float
    high: float
    count: int

    @property
    def spread(self) -> float:
        """Half the range, as a fraction of the median. 0.05 means "plus or minus 5 %"."""
        return (self.high - self.low) / 2 / abs(self.median) if self.median else 0.0

    def overlaps(self, other: Summary) -> bool:
        """Return whether the two ranges have a value in common. If so, the difference may be noise."""
        return self.low <= other.high and other.low <= self.high


def summarize(values: Sequence[float]) -> Summary:
    """Summarize the values of all rounds.

    Raises:
        ValueError: there are none.
    """
    if not values:
        raise ValueError("no values")
    return Summary(median(values), min(values), max(values), len(values))


def paired_ratio(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Summary | None:
    """Return the ratio of `ours` to `theirs`, computed for each round.

    A temporary disturbance of the machine affects both values of a round, so it cancels out. It would not cancel out
    in a ratio of the medians of all rounds.

    Args:
        ours: values by round.
        theirs: values by round.

    Returns:
        The ratios; None if no round has both values.
    """
    ratios = [value / theirs[round_] for round_, value in ours.items() if theirs.get(round_)]
    return summarize(ratios) if ratios else None
