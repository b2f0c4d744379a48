"""Checks whether a run reaches the targets for speed and memory. Most targets are ratios within one run."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import attrs

from ..model import Run
from ..stats import Summary, paired_ratio, summarize
from .tables import Table

_KIB = 1024


@attrs.frozen
class Line:
    """One target."""

    what: str
    limit: float
    #: Whether the figure has to be at least `limit`. Otherwise, it has to be at most `limit`.
    at_least: bool
    #: Returns the figure; None if the run did not measure it.
    measure: Callable[[Run], Summary | None]
    unit: str = "x"

    def reached(self, measured: Summary) -> bool:
        """Return whether the target is reached."""
        return measured.median >= self.limit if self.at_least else measured.median <= self.limit


def _against(case: str, metric: str, ours: str, theirs: str) -> Callable[[Run], Summary | None]:
    return lambda run: paired_ratio(run.values(case, ours, metric), run.values(case, theirs, metric))


def _relay_share(case: str) -> Callable[[Run], Summary | None]:
    def measure(run: Run) -> Summary | None:
        by_role: dict[str, dict[int, float]] = {"relay": {}, "client": {}}
        for sample in run.samples:
            if sample.case == case and sample.system == "tcp":
                for role, values in by_role.items():
                    if role in sample.usage:
                        values[sample.round] = sample.usage[role].cpu_seconds
        return paired_ratio(by_role["relay"], by_role["client"])

    return measure


def _beside_alone(run: Run) -> Summary | None:
    beside, alone = (run.values(f"chatty/{kind}", "tcp", "p99_us") for kind in ("beside", "alone"))
    return paired_ratio(beside, alone)


def _idle(metric: str) -> Callable[[Run], Summary | None]:
    def measure(run: Run) -> Summary | None:
        values = [
            value / _KIB
            for case in run.cases
            if case.startswith("idle/")
            for value in run.values(case, "tcp", metric).values()
        ]
        return summarize(values) if values else None

    return measure


def _line(direction: str) -> Callable[[Run], Summary | None]:
    return _against(f"line/60ms/{direction}", "mb_per_s", "tcp", "direct")


def _each_way(what: str, limit: float, ours: str, theirs: str) -> tuple[Line, Line]:
    """Return two targets for bulk on one stream, down and up."""
    return tuple(  # type: ignore[return-value]
        Line(what.format(way), limit, True, _against(f"bulk/{way}/1", "mb_per_s", ours, theirs))
        for way in ("down", "up")
    )


LINES = (
    *_each_way("native bulk, one stream {}, against the ssh chain", 1.4, "tcp", "ssh"),
    *_each_way("native bulk, one stream {}, against plaintext haproxy", 0.5, "tcp", "haproxy"),
    *_each_way("ws bulk {}, against native", 0.8, "ws", "tcp"),
    *_each_way("wss bulk {}, against native", 0.6, "wss", "tcp"),
    Line("relay's CPU per GB down, against the client's", 0.25, False, _relay_share("bulk/down/1")),
    Line("relay's CPU per GB up, against the client's", 0.25, False, _relay_share("bulk/up/1")),
    Line(
        "request-response 64 B, median, against the ssh chain",
        1.5,
        False,
        _against("requests/64/1", "p50_us", "tcp", "ssh"),
    ),
    Line(
        "open a stream, get one byte, median, against the ssh chain",
        1.0,
        False,
        _against("open/1", "p50_us", "tcp", "ssh"),
    ),
    Line(
        "open a stream, get one byte, median, against three plain hops",
        2.0,
        False,
        _against("open/1", "p50_us", "tcp", "haproxy"),
    ),
    Line("p99 of chatty streams beside bulk, against alone", 3.0, False, _beside_alone),
    Line("idle streams, client and connector", 16.0, False, _idle("bytes_per_stream"), "KiB"),
    Line("idle streams, relay", 0.1, False, _idle("relay_bytes_per_stream"), "KiB"),
    Line("one stream down over 60 ms after 3 s, against plain TCP", 0.9, True, _line("down")),
    Line("one stream up over 60 ms after 3 s, against plain TCP", 0.9, True, _line("up")),
    Line(
        "pgbench, transactions, against the ssh chain",
        0.7,
        True,
        _against("pgbench/transactions", "per_s", "tcp", "ssh"),
    ),
)


def speed_table(run: Run) -> Table:
    """Return the table of the targets, with the measured figures and whether each target is reached."""
    return Table("The speed", ("what", "wanted", "measured", "from", "to", ""), list(_rows(run)))


def _rows(run: Run) -> Iterator[tuple[str, ...]]:
    for line in LINES:
        wanted = f"{'>=' if line.at_least else '<='} {line.limit:g} {line.unit}"
        measured = line.measure(run)
        if measured is None:
            yield line.what, wanted, "not measured", "", "", ""
        else:
            figures = (f"{value:.2f}" for value in (measured.median, measured.low, measured.high))
            yield line.what, wanted, *figures, "reached" if line.reached(measured) else "MISSED"
