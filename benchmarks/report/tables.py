"""Formats the results as a table of plain text for each case."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import attrs

from ..metrics import METRICS
from ..model import Run
from ..stats import paired_ratio, summarize

#: The baselines of ratios.
REFERENCES = ("ssh", "ssh-aes128", "haproxy", "direct")
_ROLES = ("client", "relay", "connector")


@attrs.frozen
class Table:
    """Text in rows and columns."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __str__(self) -> str:
        return f"{self.title}\n{align(self.header, self.rows)}"


def align(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Align the first column to the left, and the others, which are figures, to the right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def tables(run: Run) -> Iterator[Table]:
    """Yield a table for each case, with all metrics, ratios of the first one, and the usage of each role."""
    for case in run.cases:
        names = run.metrics(case)
        systems = [system for system in run.systems if _has(run, case, system)]
        references = [one for one in REFERENCES if names and run.values(case, one, names[0])]
        roles = [role for role in _ROLES if any(role in run.usages(case, system) for system in systems)]
        header = [
            "",
            *(f"{METRICS[name].title}{f', {METRICS[name].unit}' if METRICS[name].unit else ''}" for name in names),
            *(f"x {reference}" for reference in references),
            *(f"CPU {role}" for role in roles),
            *(f"MiB {role}" for role in roles),
        ]
        errors = {system: error for system in systems if (error := _error(run, case, system))}
        if errors:
            header.append("failed")
        rows = []
        for system in systems:
            row = [
                system,
                *(_value(run, case, system, name) for name in names),
                *(_ratio(run, case, system, reference, names[0]) for reference in references),
                *(_cpu(run, case, system, role) for role in roles),
                *(_memory(run, case, system, role) for role in roles),
            ]
            rows.append([*row, errors.get(system, "")] if errors else row)
        yield Table(case, header, rows)


def _has(run: Run, case: str, system: str) -> bool:
    return any(sample.case == case and sample.system == system for sample in run.samples)


def _error(run: Run, case: str, system: str) -> str | None:
    """Return why a round failed; None if none did."""
    samples = (sample for sample in run.samples if sample.case == case and sample.system == system)
    return next((sample.error for sample in samples if sample.error), None)


def _value(run: Run, case: str, system: str, name: str) -> str:
    values = run.values(case, system, name)
    if not values:
        return "-"
    summary = summarize(list(values.values()))
    text = METRICS[name].format(summary.median)
    return f"{text} ±{summary.spread:3.0%}" if summary.count > 1 else text


def _ratio(run: Run, case: str, system: str, reference: str, name: str) -> str:
    if system == reference:
        return "1.00"
    ratio = paired_ratio(run.values(case, system, name), run.values(case, reference, name))
    return "-" if ratio is None else f"{ratio.median:.2f}"


def _cpu(run: Run, case: str, system: str, role: str) -> str:
    """Return the processor time in one measurement (seconds)."""
    used = run.usages(case, system).get(role)
    return f"{summarize([one.cpu_seconds for one in used]).median:.2f}" if used else "-"


def _memory(run: Run, case: str, system: str, role: str) -> str:
    """Return the peak memory of all rounds (MiB)."""
    used = run.usages(case, system).get(role)
    return f"{max(one.peak_bytes for one in used) / 2**20:.0f}" if used else "-"
