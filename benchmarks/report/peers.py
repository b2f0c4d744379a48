"""Compares native with every other tunnel of a run in one table: what is unfavourable to us comes first."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from ..metrics import METRICS
from ..model import Run
from ..stats import paired_ratio, summarize
from ..systems import PEERS
from ..systems.ours import NATIVE
from .tables import Table


@attrs.frozen
class Figure:
    """One row of the table."""

    what: str
    case: str
    metric: str


FIGURES = (
    Figure("bulk down, one stream", "bulk/down/1", "mb_per_s"),
    Figure("bulk up, one stream", "bulk/up/1", "mb_per_s"),
    Figure("bulk down, 10 streams", "bulk/down/10", "mb_per_s"),
    Figure("64 B, one stream, median", "requests/64/1", "p50_us"),
    Figure("64 B, 16 streams", "requests/64/16", "per_s"),
    Figure("64 B, 16 streams, CPU", "requests/64/16", "cpu_us_per_request"),
    Figure("open and get a byte, median", "open/1", "p50_us"),
    Figure("open and get a byte, 16 at a time", "open/16", "per_s"),
    Figure("1,000 chatty streams, p99", "chatty/alone", "p99_us"),
    Figure("1,000 chatty streams beside bulk, p99", "chatty/beside", "p99_us"),
    Figure("pgbench, transactions", "pgbench/transactions", "per_s"),
    Figure("redis-benchmark GET", "redis/get", "per_s"),
    Figure("bulk down over a line of 60 ms", "line/60ms/down", "mb_per_s"),
    Figure("open over a line of 60 ms, median", "line/60ms/open", "p50_us"),
    Figure("start the client, get a byte", "cold/start", "ms"),
    Figure("connections cut, new stream gets a byte", "reconnect/cut", "ms"),
)


def peers_table(run: Run) -> Table | None:
    """Return a table with a row for each figure and a column for each other tunnel; None without any tunnel.

    A cell has the other tunnel's median, and in parentheses how many times as good native is: below 1, the other
    tunnel is better. The rows are sorted by the lowest of these numbers.
    """
    peers = [name for name in PEERS if name in run.systems]
    rows = sorted(_rows(run, peers), key=lambda row: row[0])
    if not rows:
        return None
    return Table(
        "Other tunnels (and how many times as good native is)", ("", "native", *peers), [row for _, row in rows]
    )


def _rows(run: Run, peers: list[str]) -> Iterator[tuple[float, tuple[str, ...]]]:
    """Yield the lowest advantage over a peer, and the row, of each figure that native and a peer have."""
    for figure in FIGURES:
        metric = METRICS[figure.metric]
        ours = run.values(figure.case, NATIVE.name, figure.metric)
        cells, advantages = [], []
        for peer in peers:
            theirs = run.values(figure.case, peer, figure.metric)
            ratio = paired_ratio(ours, theirs) if metric.higher_is_better else paired_ratio(theirs, ours)
            if ratio is None:
                cells.append("-")
            else:
                advantages.append(ratio.median)
                cells.append(f"{metric.format(summarize(list(theirs.values())).median)} ({ratio.median:.2f})")
        if advantages:
            native = metric.format(summarize(list(ours.values())).median)
            yield min(advantages), (f"{figure.what}, {metric.unit}", native, *cells)
