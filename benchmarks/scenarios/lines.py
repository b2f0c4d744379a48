"""The scenario of one stream over a long, slow line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from ..plan import Plan
from ..stage import Outcome, Stage
from ..systems import Line, System
from .base import Case


def line(plan: Plan) -> Iterator[Case]:
    """Measure bulk on one stream, after some seconds in which it reaches its full rate, and opening streams one at a
    time."""
    for round_trip in plan.round_trips:
        stretch = Line(round_trip, plan.line_rate)
        where = f"{round_trip:.0f} ms, {plan.line_rate * 8 / 1e6:.0f} Mbit/s"
        for direction in plan.line_directions:
            bulk = {"direction": direction, "streams": 1, "warm_up": plan.line_start, "seconds": 2 * plan.seconds}
            yield Case(
                f"line/{round_trip:.0f}ms/{direction}",
                f"one stream {direction}, {where}",
                partial(_measure, line=stretch, kind="bulk", arguments=bulk),
                plan.line_rounds,
                plan.line_start + 2 * plan.seconds + 1,
            )
        opens = {"at_once": 1, "warm_up": 4 * round_trip / 1000, "seconds": 1.0}
        yield Case(
            f"line/{round_trip:.0f}ms/open",
            f"open a stream and get one byte, {where}",
            partial(_measure, line=stretch, kind="opens", arguments=opens),
            plan.line_rounds,
            2.0,
        )


def _measure(stage: Stage, system: System, *, line: Line, kind: str, arguments: Mapping[str, object]) -> Outcome:
    return stage.load(stage.deployment(system, line=line), kind, **arguments)
