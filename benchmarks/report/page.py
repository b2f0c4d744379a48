"""Writes an HTML page with all results, which needs no other file and no network."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs

from ..model import Run
from .peers import peers_table
from .speed import speed_table
from .tables import Table, tables

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #1c2330; }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .7rem; border-bottom: 1px solid #d8dce3; text-align: right; }
th { background: #f2f4f7; font-weight: 600; }
th:first-child, td:first-child { text-align: left; }
td.MISSED { color: #b3261e; font-weight: 600; } td.reached { color: #1d7a3e; font-weight: 600; }
figure { margin: 0 0 2rem; } figure svg { max-width: 100%; height: auto; } .note { color: #5b6472; }
"""


def write_page(run: Run, file: Path) -> str:
    """Write the page. Return a line about it, which also says how to get plots if there are none."""
    charts = _charts(run)
    file.write_text("".join(_page(run, charts or {})), "utf-8")
    if charts is None:
        return f"{file}: without plots, which need matplotlib: pip install matplotlib"
    return f"{file}: tables and plots"


def _charts(run: Run) -> dict[str, tuple[str, bytes] | None] | None:
    """Return the plot of each case as SVG and PNG; None if matplotlib is not installed."""
    try:
        from .plots import plot
    except ImportError:
        return None
    return {case: plot(run, case) for case in run.cases}


def _page(run: Run, charts: Mapping[str, tuple[str, bytes] | None]) -> Iterator[str]:
    title = "hybridrelay benchmarks"
    yield f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    yield f"<h1>{title}</h1><p>{html.escape(run.started)}"
    yield "</p>" if run.complete else " &mdash; <strong>interrupted: not complete</strong></p>"
    yield '<p class="note">Figures are medians of all rounds; ± is half their range. Ratios are medians of ratios '
    yield "within a round. CPU is seconds of processor time in one measurement; MiB is peak resident memory.</p>"
    yield _table(speed_table(run))
    if (peers := peers_table(run)) is not None:
        yield _table(peers)
    for table in tables(run):
        yield _table(table)
        chart = charts.get(table.title)
        if chart is not None:
            svg, png = chart
            name = table.title.replace("/", "-")
            data = base64.b64encode(png).decode()
            yield f'<figure>{svg}<figcaption><a download="{name}.png" href="data:image/png;base64,{data}">PNG</a>'
            yield "</figcaption></figure>"
    if skipped := [*map(attrs.astuple, run.skipped), *map(attrs.astuple, run.skipped_cases)]:
        yield _table(Table("Skipped", ("", "why", "how to get it"), skipped))
    for name, fields in (("Machine", run.machine), ("Versions", run.versions), ("Parameters", run.parameters)):
        yield _table(Table(name, ("", ""), [(key, str(value)) for key, value in fields.items()]))
    yield "</html>\n"


def _table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.header)
    rows = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in table.rows)
    return f"<h2>{html.escape(table.title)}</h2><table><tr>{head}</tr>{rows}</table>\n"


def _cell(text: str) -> str:
    marked = f' class="{text}"' if text in {"MISSED", "reached"} else ""
    return f"<td{marked}>{html.escape(text)}</td>"
