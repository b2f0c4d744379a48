"""Compares two runs, and finds the figures that changed by more than the noise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs

from .metrics import METRICS
from .model import Run
from .report.tables import REFERENCES, Table
from .stats import Summary, paired_ratio, summarize
from .systems import OURS

#: Smaller changes are not reported, even if the ranges do not overlap.
THRESHOLD = 0.10


@attrs.frozen
class Move:
    """One figure in two runs."""

    case: str
    system: str
    metric: str
    #: The system by whose figure this one was divided; None for the figure itself.
    reference: str | None
    old: Summary
    new: Summary

    @property
    def change(self) -> float:
        """The relative improvement. 0.1 means 10 % better, even if lower values are better."""
        if not self.old.median or not self.new.median:
            return 0.0
        better = METRICS[self.metric].higher_is_better
        return self.new.median / self.old.median - 1 if better else self.old.median / self.new.median - 1

    @property
    def is_real(self) -> bool:
        """Whether the change exceeds the threshold, and the values of the two runs do not overlap."""
        return abs(self.change) > THRESHOLD and not self.old.overlaps(self.new)

    @property
    def verdict(self) -> str:
        """The result in one word; empty if the change is not real."""
        if not self.is_real:
            return ""
        return "better" if self.change > 0 else "WORSE"


def compare(old: Run, new: Run, *, ratios: bool, systems: Sequence[str] | None = None) -> Iterator[Move]:
    """Yield the comparison of every figure that both runs have.

    Args:
        old: the earlier run.
        new: the later run.
        ratios: whether to compare the ratios of our figures to those of the baselines in the same run. Then the runs
            may come from different machines.
        systems: the systems to compare; None for all.
    """
    for case in new.cases:
        names = new.metrics(case)[:1]
        for name in names:
            for system in new.systems:
                if systems is not None and system not in systems:
                    continue
                for reference in _references(new, case, name, system) if ratios else (None,):
                    before, after = (_figure(run, case, system, name, reference) for run in (old, new))
                    if before is not None and after is not None:
                        yield Move(case, system, name, reference, before, after)


def compare_ratios_of_ours(old: Run, new: Run) -> list[Move]:
    """Return the comparisons of the ratios that `bench-check` checks."""
    return list(compare(old, new, ratios=True, systems=OURS))


@attrs.frozen
class Missing:
    """A ratio that only the old run has."""

    case: str
    system: str
    #: Whether the new run tried to measure the ratio, and failed.
    was_tried: bool
    #: Why the new run did not try, and what to do about it; empty if the user had not selected it.
    why: str = ""

    @property
    def name(self) -> str:
        """The case and the system."""
        return f"{self.case} {self.system}"

    def __str__(self) -> str:
        return f"{self.name} ({self.why})" if self.why else self.name


def missing_ratios_of_ours(old: Run, new: Run) -> list[Missing]:
    """Return the ratios that `bench-check` cannot compare, because only the old run has them, in its order."""
    compared = {(move.case, move.system) for move in compare_ratios_of_ours(old, new)}
    tried = {(sample.case, sample.system) for sample in new.samples}
    why = {one.case: f"{one.reason}; to get it: {one.remedy}" for one in new.skipped_cases}
    had = dict.fromkeys((move.case, move.system) for move in compare_ratios_of_ours(old, old))
    return [
        Missing(case, system, (case, system) in tried, why.get(case, ""))
        for case, system in had
        if (case, system) not in compared
    ]


def moves_table(moves: Sequence[Move], *, everything: bool = True) -> Table:
    """Return a table for people, with the largest changes first."""
    shown = [move for move in moves if everything or move.is_real]
    shown.sort(key=lambda move: (not move.is_real, move.change))
    rows = [
        (
            f"{move.case} {move.system}",
            METRICS[move.metric].title
            + (f" x {move.reference}" if move.reference else f", {METRICS[move.metric].unit}"),
            _format(move, move.old),
            _format(move, move.new),
            f"{move.change:+.0%}",
            move.verdict,
        )
        for move in shown
    ]
    return Table("what moved", ("", "figure", "old", "new", "better by", ""), rows)


def _references(run: Run, case: str, name: str, system: str) -> tuple[str, ...]:
    """Return the first baseline that the case has, if any."""
    return tuple(one for one in REFERENCES if one != system and run.values(case, one, name))[:1]


def _figure(run: Run, case: str, system: str, name: str, reference: str | None) -> Summary | None:
    values = run.values(case, system, name)
    if reference is not None:
        return paired_ratio(values, run.values(case, reference, name))
    return summarize(list(values.values())) if values else None


def _format(move: Move, summary: Summary) -> str:
    text = f"{summary.median:.2f}" if move.reference else METRICS[move.metric].format(summary.median)
    return f"{text} ±{summary.spread:3.0%}"
