"""The page "Monitor": charts of what has happened, each with a table."""

from __future__ import annotations

import math
import urllib.parse
from collections.abc import Sequence

import attrs

from ..history import HistoryValue, IntervalValue
from ..values import ConnectionPage
from .html import Child, Element, h
from .layout import View
from .overview import path_of
from .page import Page
from .parts import api_line, button, empty, table
from .shown import bytes_of, count, moment, segment
from .visit import Visit

__all__ = ["MONITOR_PAGES"]

#: Rows of the table below each chart. The chart itself has shorter intervals.
_ROWS = 24
_LISTED = 200


@attrs.frozen
class _Range:
    label: str
    seconds: int
    #: The length of the intervals in the chart (seconds).
    resolution: int


_RANGES = {
    "1h": _Range("1 hour", 3600, 10),
    "24h": _Range("24 hours", 86_400, 300),
    "14d": _Range("14 days", 14 * 86_400, 3600),
    "400d": _Range("400 days", 400 * 86_400, 86_400),
}


@attrs.frozen
class _Chart:
    id: str
    title: str
    #: Names of the API's fields, and of the attributes of `IntervalValue`, with labels.
    series: tuple[tuple[str, str, str], ...]
    #: ``rate``: bytes, shown per second. ``sum``: events. ``maximum``: how many there were at once.
    kind: str


_CHARTS = (
    _Chart(
        "data",
        "Data",
        (
            ("bytesToSenders", "bytes_to_senders", "To clients"),
            ("bytesToListeners", "bytes_to_listeners", "To connectors"),
        ),
        "rate",
    ),
    _Chart("sessions", "Sessions", (("sessionsMax", "sessions_max", "Sessions"),), "maximum"),
    _Chart("listeners", "Listeners", (("listenersMax", "listeners_max", "Listeners"),), "maximum"),
    _Chart("senders", "Senders", (("sendersMax", "senders_max", "Senders"),), "maximum"),
    _Chart("joins", "Joins", (("joins", "joins", "Joined"), ("joinsFailed", "joins_failed", "Failed")), "sum"),
    _Chart("disconnects", "Listeners that have left", (("disconnects", "disconnects", "Left"),), "sum"),
)


async def _show(visit: Visit) -> View:
    chosen = visit.asked("range") if visit.asked("range") in _RANGES else "1h"
    scale = "relative" if visit.asked("scale") == "relative" else "absolute"
    name = visit.asked("connection", 260)
    shown = _RANGES[chosen]
    end = int(visit.managed.clock())
    query: dict[str, object] = {"resolution": shown.resolution, "from": max(0, end - shown.seconds), "to": end + 1}
    if name:
        path = f"/v1/hybridConnections/{segment(name)}/history"
        history = await visit.get("getHybridConnectionHistory", HistoryValue, query=query, name=name)
    else:
        path = "/v1/history"
        history = await visit.get("getHistory", HistoryValue, query=query)
    names = await visit.get("listHybridConnections", ConnectionPage, query={"limit": _LISTED})
    url = f"{path}?resolution={shown.resolution}"
    return View(
        title="Monitor",
        place="/monitor",
        files=("uplot.css", "uplot.js", "monitor.js"),
        content=(
            _controls(chosen, scale, name, [one.name for one in names.value]),
            h("p", "This is about ", h("a", h("bdi", name), href=path_of(name)), ".") if name else None,
            None if history.value else _nothing(),
            h(
                "div",
                [_chart(visit, chart, history, shown, end, scale, url) for chart in _CHARTS],
                class_="columns",
                data_history=url,
                data_seconds=shown.seconds,
                data_scale=scale,
            ),
        ),
    )


def _nothing() -> Element:
    return h(
        "div",
        empty(
            "Nothing has happened in this time.",
            "Charts show something about ten seconds after a connector has registered or a client has connected.",
        ),
        class_="card",
    )


def _link(label: str, is_current: bool, **query: str) -> Element:
    wanted = {key: value for key, value in query.items() if value}
    current = "true" if is_current else None
    return h("a", label, href=f"/monitor?{urllib.parse.urlencode(wanted)}", class_="button", aria_current=current)


def _controls(chosen: str, scale: str, name: str, names: Sequence[str]) -> Element:
    if name and name not in names:
        names = [name, *names]
    options = [h("option", "All hybrid connections", value="")]
    options += [h("option", one, value=one, selected=one == name) for one in names]
    return h(
        "div",
        h(
            "div",
            [
                _link(one.label, key == chosen, range=key, scale=scale, connection=name)
                for key, one in _RANGES.items()
            ],
            class_="tabs",
            role="group",
            aria_label="Time",
        ),
        h(
            "div",
            [
                _link(label, key == scale, range=chosen, scale=key, connection=name)
                for key, label in (("absolute", "Absolute"), ("relative", "Relative"))
            ],
            class_="tabs",
            role="group",
            aria_label="Scale",
        ),
        h(
            "form",
            h("input", type="hidden", name="range", value=chosen),
            h("input", type="hidden", name="scale", value=scale),
            h("label", "Hybrid connection", for_="connection", class_="unseen"),
            h("select", options, id="connection", name="connection"),
            button("Show"),
            class_="inline-form",
        ),
        class_="card controls",
    )


def _chart(
    visit: Visit, chart: _Chart, history: HistoryValue, shown: _Range, end: int, scale: str, url: str
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
        h("div", h("h2", chart.title, id=f"{chart.id}-title"), h("span", note, class_="hint"), class_="section-head"),
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


def _rows(
    chart: _Chart, intervals: Sequence[IntervalValue], shown: _Range, end: int, scale: str
) -> list[list[Child]]:
    """One row for each of `_ROWS` equal parts of the time, the latest first."""
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


MONITOR_PAGES: tuple[Page, ...] = (Page(id="showMonitor", method="GET", path="/monitor", show=_show),)
