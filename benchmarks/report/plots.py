"""Bar charts of each system's median and range, with a dot for each round. Needs matplotlib (group ``bench``)."""

from __future__ import annotations

import io
import re

import matplotlib as mpl
from matplotlib.figure import Figure

from ..metrics import METRICS
from ..model import Run
from ..stats import summarize
from ..systems import OURS

_OURS, _THEIRS = "#1f6feb", "#9aa4b2"
mpl.rcParams["svg.hashsalt"] = "hybridrelay"  # the same run always gives the same file
mpl.rcParams["svg.fonttype"] = "none"


def plot(run: Run, case: str) -> tuple[str, bytes] | None:
    """Plot the first metric of a case. Return an SVG element and a PNG file; None if nothing was measured."""
    names = run.metrics(case)
    if not names:
        return None
    metric = METRICS[names[0]]
    measured = {system: list(run.values(case, system, names[0]).values()) for system in run.systems}
    measured = {system: values for system, values in measured.items() if values}
    figure = Figure(figsize=(7.5, 0.9 + 0.32 * len(measured)), layout="constrained")
    axes = figure.subplots()
    for row, (system, values) in enumerate(reversed(measured.items())):
        summary = summarize(values)
        axes.barh(row, summary.median, color=_OURS if system in OURS else _THEIRS, height=0.7)
        axes.plot(values, [row] * len(values), "k.", markersize=4)
        axes.annotate(
            f" {metric.format(summary.median)}", (summary.high, row), va="center", fontsize=8, xytext=(3, 0),
            textcoords="offset points",
        )  # fmt: skip
    axes.set_yticks(range(len(measured)), list(reversed(measured)))
    axes.set_xlim(left=0)
    axes.margins(x=0.12)
    better = "more is better" if metric.higher_is_better else "less is better"
    axes.set_title(f"{case}: {metric.title}, {metric.unit} ({better})", fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    return _svg(figure), _png(figure)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    # The text before the element is needed only in a separate file.
    return re.sub(r"\A.*?(?=<svg)", "", buffer.getvalue(), flags=re.DOTALL)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()
