"""Charts: the element in which the script draws each one, and the table below it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import attrs

from ..._value import Value
from ...relay.history import RECENT, WRITTEN
from ..history import HistoryValue, IntervalValue
from ..sizes import bytes_of
from .html import Child, Element, h
from .parts import api_line, table
from .shown import count, moment, segment
from .visit import Visit

__all__ = [
    "CHARTS",
    "CHART_FILES",
    "RANGES",
    "Chart",
    "Drawn",
    "Range",
    "chart_section",
    "charts_div",
    "drawn",
    "start_note",
]

#: The number of rows in the table below each chart. The chart itself has shorter intervals.
_ROWS = 24
#: The files in ``static`` that a page with charts needs.
CHART_FILES = ("uplot.css", "uplot.js", "monitor.js")


@attrs.frozen
class Range(Value):
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
class Chart(Value):
    id: str
    title: str
    #: For each series: the name of the API's field, that of the attribute of `IntervalValue`, and the label.
    series: tuple[tuple[str, str, str], ...]
    #: ``rate`` for bytes, shown per second; ``sum`` for numbers of events; ``maximum`` for the highest number at a
    #: time.
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


@attrs.frozen(kw_only=True)
class Drawn(Value):
    """The content of charts that show the same period."""

    #: The path of the API for the history of the relay, or of a hybrid connection.
    path: str
    range: Range
    #: The time at which the charts end (seconds since 1970).
    end: int
    #: When the relay was started (seconds since 1970).
    started_at: float
    intervals: Sequence[IntervalValue]

    @property
    def begin(self) -> int:
        """The time at which the charts begin (seconds since 1970)."""
        return max(0, self.end - self.range.seconds)

    @property
    def url(self) -> str:
        """The URL of the API from which the script gets the charts' data."""
        return f"{self.path}?resolution={self.range.resolution}"


async def drawn(visit: Visit, shown: Range, name: str = "") -> Drawn:
    """Get the content of charts of a hybrid connection or, without a name, of the relay.

    Intervals of ten seconds are kept only in memory. For the time before the relay was started, charts therefore show
    minutes, which are also written to a file.

    Raises:
        RequestError: there is no such hybrid connection, or the caller may not see it.
    """
    end = int(visit.managed.clock())
    begin = max(0, end - shown.seconds)

    async def get(resolution: int, until: int) -> HistoryValue:
        query: Mapping[str, object] = {"resolution": resolution, "from": begin, "to": until}
        if name:
            return await visit.get("getHybridConnectionHistory", HistoryValue, query=query, name=name)
        return await visit.get("getHistory", HistoryValue, query=query)

    history = await get(shown.resolution, end + 1)
    intervals = history.value
    # The minute in which the relay was started is omitted, because the intervals of ten seconds include a part of it.
    until = min(int(history.started_at) // WRITTEN * WRITTEN, end)
    if shown.resolution == RECENT and until > begin:
        intervals = (*(await get(WRITTEN, until)).value, *intervals)
    path = f"/v1/hybridConnections/{segment(name)}/history" if name else "/v1/history"
    return Drawn(path=path, range=shown, end=end, started_at=history.started_at, intervals=intervals)


def charts_div(charts: Sequence[Child], shown: Drawn, scale: str = "absolute") -> Element:
    """Make charts that show the same period. The script gets their data from the API."""
    return h(
        "div",
        charts,
        class_="columns",
        data_history=shown.url,
        data_minutes=f"{shown.path}?resolution={WRITTEN}" if shown.range.resolution == RECENT else None,
        data_seconds=shown.range.seconds,
        data_scale=scale,
    )


def start_note(shown: Drawn) -> Element:
    """Make the note about the time before the relay was started, if the charts include some of it."""
    text: Child = None
    if shown.started_at > shown.begin:
        minutes = (
            "Charts show the time before that in steps of a minute. " if shown.range.resolution == RECENT else ""
        )
        text = [
            "The relay was started ",
            moment(shown.started_at),
            f". {minutes}Where there is a gap, nothing was recorded.",
        ]
    return h("p", text, id="start-note", class_="note", data_live=True)


def chart_section(
    visit: Visit, chart: Chart, drawn: Drawn, scale: str = "absolute", *, more: Child = None, note: Child = None
) -> Element:
    """Make a chart, and the table with its values.

    Args:
        visit: the request.
        chart: what it shows.
        drawn: its values.
        scale: ``absolute`` or ``relative``.
        more: a link beside its title.
        note: below it.
    """
    shown = drawn.range
    labels = [label for _, _, label in chart.series]
    unit = {
        "rate": "per second",
        "sum": f"in each interval of {_length(shown.resolution)}",
        "maximum": f"the most in each interval of {_length(shown.resolution)}",
    }[chart.kind]
    hint = "percent of the highest value in this period" if scale == "relative" else unit
    legend = [h("span", label, class_=f"series-{index}") for index, label in enumerate(labels, 1)]
    return h(
        "section",
        h(
            "div",
            h("h2", chart.title, id=f"{chart.id}-title"),
            h("span", hint, class_="hint"),
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
        note,
        h(
            "details",
            h("summary", "Table"),
            h(
                "div",
                table(
                    f"{chart.title}, {shown.label}",
                    ("Begins at", *labels),
                    _rows(chart, drawn, scale),
                    numeric=range(1, len(labels) + 1),
                ),
                id=f"{chart.id}-table",
                data_live=True,
            ),
        ),
        api_line(visit, drawn.url),
        id=chart.id,
        class_="card",
        aria_labelledby=f"{chart.id}-title",
    )


def _length(seconds: int) -> str:
    units = ((86_400, "day"), (3600, "hour"), (60, "minutes"), (1, "seconds"))
    size, unit = next((size, unit) for size, unit in units if seconds >= size)
    number = seconds // size
    return f"one {unit}" if number == 1 else f"{number} {unit}"


def _rows(chart: Chart, drawn: Drawn, scale: str) -> list[list[Child]]:
    """Return one row for each of `_ROWS` equal parts of the period, the latest first."""
    step = drawn.range.seconds // _ROWS
    begin = drawn.end - drawn.range.seconds
    sums = [[0] * len(chart.series) for _ in range(_ROWS)]
    is_known = [begin + (row + 1) * step > drawn.started_at for row in range(_ROWS)]
    for interval in drawn.intervals:
        row = min(_ROWS - 1, max(0, (interval.time - begin) // step))
        is_known[row] = True
        for index, (_, attribute, _) in enumerate(chart.series):
            value: int = getattr(interval, attribute)
            sums[row][index] = max(sums[row][index], value) if chart.kind == "maximum" else sums[row][index] + value
    highest = [max(column) or 1 for column in zip(*sums, strict=True)]

    def text(row: int, value: int, index: int) -> str:
        if not is_known[row]:
            return "unknown"
        if scale == "relative":
            return f"{math.floor(100 * value / highest[index] + 0.5)} %"
        return bytes_of(value) if chart.kind == "rate" else count(value)

    return [
        [moment(begin + row * step), *(text(row, value, index) for index, value in enumerate(sums[row]))]
        for row in reversed(range(_ROWS))
    ]
