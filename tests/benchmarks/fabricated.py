"""Runs that never took place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.model import Run, Sample, Skipped, Usage

Figures = Mapping[str, Sequence[float]]


def make_run(case: str, metric: str, figures: Figures, *, complete: bool = True) -> Run:
    """A run of one case: the figures of each system, round by round."""
    samples = [
        Sample(case, system, round_, {metric: value}, {"client": Usage(0.25, 5 << 20)})
        for system, values in figures.items()
        for round_, value in enumerate(values)
    ]
    return Run(
        started="2026-01-02T03:04:05+00:00",
        machine={"cores": "2"},
        versions={"python": "3.11"},
        parameters={"rounds": 3, "bulk": [[1, "down"]]},
        skipped=(Skipped("chisel", "chisel not found", "https://example.com"),),
        samples=tuple(samples),
        complete=complete,
    )
