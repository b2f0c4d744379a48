"""Charts: where the script draws them, and the table that each of them has. Pure, except for what a visit knows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs

from ..history import HistoryValue, IntervalValue
from .html import Child, Element, h
from .parts import api_line, table
from .shown import bytes_of, count, moment
from .visit import Visit

__all__ = ["CHARTS", "CHART_FILES", "RANGES", "Chart", "Range", "chart_section", "charts_div"]

#: The number of rows in the table below each chart. The chart itself has shorter intervals.
_ROWS = 24
#: The files in ``static`` that a page with charts needs.
CHART_FILES = ("uplot.css", "uplot.js", "monitor.js")


@attrs.frozen
class Range:
    label: str
    seconds: int
    #: The length of the intervals in the chart (seconds).
    resolution: int


RANGES = {
    "1h": Range("1 hour", 3600, 10),
    "24h": Range("24 hours", 86_400, 300),
    "14d": Range("14 days", 14 * 86_400, 3600),
    "400d": Range("400 days", 400 * 86_400, 86_400),
}


@attrs.frozen
class Chart:
    id: str
    title: str
    #: Names of the API's fields, and of the attributes of `IntervalValue`, with labels.
    series: tuple[tuple[str, str, str], ...]
    #: ``rate``: bytes, shown per second. ``sum``: numbers of events. ``maximum``: the highest number at a time.
    kind: str


CHARTS = (
    Chart(
        "data",
        "Data",
        (
            ("bytesToSenders", "bytes_to_senders", "To clients"),
            ("bytesToListeners", "bytes_to_listeners", "To connectors"),
        ),
        "rate",
    ),
    Chart("sessions", "Sessions", (("sessionsMax", "sessions_max", "Sessions"),), "maximum"),
    Chart("listeners", "Listeners", (("listenersMax", "listeners_max", "Listeners"),), "maximum"),
    Chart("senders", "Senders", (("sendersMax", "senders_max", "Senders"),), "maximum"),
    Chart("joins", "Joins", (("joins", "joins", "Joined"), ("joinsFailed", "joins_failed", "Failed")), "sum"),
    Chart("disconnects", "Listeners that have left", (("disconnects", "disconnects", "Left"),), "sum"),
)


def charts_div(charts: Sequence[Child], shown: Range, url: str, scale: str = "absolute") -> Element:
    """Make charts that show the same time. The script gets their data from `url`."""
    return h("div", charts, class_="columns", data_history=url, data_seconds=shown.seconds, data_scale=scale)


def chart_section(
    visit: Visit,
    chart: Chart,
    history: HistoryValue,
    shown: Range,
    end: int,
    scale: str,
    url: str,
    more: Child = None,
) -> Element:
    labels = [label for _, _, label in chart.series]
    unit = {
        "rate": "per second",
        "sum": f"in each interval of {_length(shown.resolution)}",
        "maximum": f"the most in each interval of {_length(shown.resolution)}",
    }[chart.kind]
    note = "percent of the highest value in this time" if scale == "relative" else unit
    legend = [h("span", label, class_=f"series-{index}") for index, label in enumerate(labels, 1)]
    return h(
        "section",
        h(
            "div",
            h("h2", chart.title, id=f"{chart.id}-title"),
            h("span", note, class_="hint"),
            more,
            class_="section-head",
        ),
        h("div", legend, class_="legend") if len(legend) > 1 else None,
        h(
            "div",
            id=f"{chart.id}-chart",
            class_="chart",
            tabindex=0,
            role="img",
            aria_label=f"Chart: {chart.title}, {shown.label}. The arrow keys read its values; a table is below it.",
            data_fields="|".join(field for field, _, _ in chart.series),
            data_labels="|".join(labels),
            data_kind=chart.kind,
        ),
        h(
            "details",
            h("summary", "Table"),
            h(
                "div",
                table(
                    f"{chart.title}, {shown.label}",
                    ("Begins at", *labels),
                    _rows(chart, history.value, shown, end, scale),
                    numeric=range(1, len(labels) + 1),
                ),
                id=f"{chart.id}-table",
                data_live=True,
            ),
        ),
        api_line(visit, url),
        id=chart.id,
        class_="card",
        aria_labelledby=f"{chart.id}-title",
    )


def _length(seconds: int) -> str:
    units = ((86_400, "day"), (3600, "hour"), (60, "minutes"), (1, "seconds"))
    size, unit = next((size, unit) for size, unit in units if seconds >= size)
    number = seconds // size
    return f"one {unit}" if number == 1 else f"{number} {unit}"


def _rows(chart: Chart, intervals: Sequence[IntervalValue], shown: Range, end: int, scale: str) -> list[list[Child]]:
    """Return one row for each of `_ROWS` equal parts of the time, the latest first."""
    step = shown.seconds // _ROWS
    begin = end - shown.seconds
    sums = [[0] * len(chart.series) for _ in range(_ROWS)]
    for interval in intervals:
        row = min(_ROWS - 1, max(0, (interval.time - begin) // step))
        for index, (_, attribute, _) in enumerate(chart.series):
            value: int = getattr(interval, attribute)
            sums[row][index] = max(sums[row][index], value) if chart.kind == "maximum" else sums[row][index] + value
    highest = [max(column) or 1 for column in zip(*sums, strict=True)]

    def text(value: int, index: int) -> str:
        if scale == "relative":
            return f"{math.floor(100 * value / highest[index] + 0.5)} %"
        return bytes_of(value) if chart.kind == "rate" else count(value)

    return [
        [moment(begin + row * step), *(text(value, index) for index, value in enumerate(sums[row]))]
        for row in reversed(range(_ROWS))
    ]
