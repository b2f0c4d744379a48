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


def _median(what: str, limit: float, case: str, theirs: str) -> Line:
    """Return a target for the median of native, which has to be at most `limit` times that of another system."""
    return Line(what, limit, False, _against(case, "p50_us", "tcp", theirs))


def _rate(what: str, limit: float, case: str, theirs: str) -> Line:
    """Return a target for the rate of native, which has to be at least `limit` times that of another system."""
    return Line(what, limit, True, _against(case, "per_s", "tcp", theirs))


LINES = (
    *_each_way("native bulk, one stream {}, against the ssh chain", 1.9, "tcp", "ssh"),
    *_each_way("native bulk, one stream {}, against the ssh chain with AES-128", 1.5, "tcp", "ssh-aes128"),
    *_each_way("native bulk, one stream {}, against wstunnel", 1.1, "tcp", "wstunnel"),
    *_each_way("native bulk, one stream {}, against plaintext haproxy", 0.5, "tcp", "haproxy"),
    *_each_way("ws bulk {}, against native", 0.8, "ws", "tcp"),
    *_each_way("wss bulk {}, against native", 0.55, "wss", "tcp"),
    Line("relay's CPU per GB down, against the client's", 0.3, False, _relay_share("bulk/down/1")),
    Line("relay's CPU per GB up, against the client's", 0.3, False, _relay_share("bulk/up/1")),
    _median("request-response 64 B, median, against the ssh chain", 1.5, "requests/64/1", "ssh"),
    _median("request-response 64 B, median, against chisel", 1.2, "requests/64/1", "chisel"),
    _rate("request-response 64 B, 16 streams, rate, against chisel", 2.0, "requests/64/16", "chisel"),
    Line(
        "the same, CPU per request, against chisel",
        0.6,
        False,
        _against("requests/64/16", "cpu_us_per_request", "tcp", "chisel"),
    ),
    _median("open a stream, get one byte, median, against the ssh chain", 1.0, "open/1", "ssh"),
    _median("open a stream, get one byte, median, against three plain hops", 2.0, "open/1", "haproxy"),
    _median("open a stream, get one byte, median, against chisel", 1.2, "open/1", "chisel"),
    _rate("the same, 16 at a time, rate, against chisel", 1.2, "open/16", "chisel"),
    Line("p99 of chatty streams beside bulk, against alone", 1.5, False, _beside_alone),
    Line("idle streams, client and connector", 6.0, False, _idle("bytes_per_stream"), "KiB"),
    Line("idle streams, relay", 0.1, False, _idle("relay_bytes_per_stream"), "KiB"),
    Line("one stream down over 60 ms after 3 s, against plain TCP", 0.9, True, _line("down")),
    Line("one stream up over 60 ms after 3 s, against plain TCP", 0.9, True, _line("up")),
    _rate("pgbench, transactions, against the ssh chain", 0.7, "pgbench/transactions", "ssh"),
    _rate("pgbench, transactions, against chisel", 1.3, "pgbench/transactions", "chisel"),
    _rate("pgbench, transactions, against wstunnel", 0.8, "pgbench/transactions", "wstunnel"),
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
