"""Scenarios on open streams: bulk, requests, opening, and chatty streams beside bulk."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from ..plan import Plan
from ..stage import Outcome, Stage
from ..systems import System
from .base import Case

#: How long the start of a load generator is expected to take (seconds).
_START_SECONDS = 0.4


def bulk(plan: Plan) -> Iterator[Case]:
    """Transfer as many bytes as possible."""
    for streams, direction in plan.bulk:
        yield _case(
            plan,
            f"bulk/{direction}/{streams}",
            f"bulk, {_count(streams)}, {direction}",
            "bulk",
            direction=direction,
            streams=streams,
        )


def requests(plan: Plan) -> Iterator[Case]:
    """Send requests, one at a time on each stream."""
    for size, streams in plan.requests:
        yield _case(
            plan,
            f"requests/{size}/{streams}",
            f"request and answer of {size} bytes, {_count(streams)}",
            "requests",
            size=size,
            streams=streams,
        )


def opens(plan: Plan) -> Iterator[Case]:
    """Open streams, and receive one byte on each."""
    for at_once in plan.opens:
        title = f"open a stream and get one byte, {at_once} at a time"
        yield _case(plan, f"open/{at_once}", title, "opens", at_once=at_once)


def chatty(plan: Plan) -> Iterator[Case]:
    """Send small requests on many streams, alone and beside bulk streams."""
    common = {"size": plan.chatty_bytes, "streams": plan.chatty_streams, "rate": plan.chatty_rate}
    seconds = 2 * plan.seconds
    title = f"{plan.chatty_streams} chatty streams, {plan.chatty_rate:.0f} requests/s"
    yield _case(plan, "chatty/alone", title, "chatty", window=seconds, extra=3.0, **common)
    count = plan.bulk_beside_chatty

    def measure(stage: Stage, system: System) -> Outcome:
        deployment = stage.deployment(system)
        target = stage.server("target")[1].port
        beside = {"entry": deployment.entry, "target": target, "pids": {}, "direction": "down", "streams": count}
        return stage.load(deployment, "chatty", warm_up=plan.warm_up, seconds=seconds, beside=beside, **common)

    estimate = plan.warm_up + seconds + _START_SECONDS + 3.0
    yield Case("chatty/beside", f"{title}, beside {count} bulk streams", measure, plan.rounds, estimate)


def _case(
    plan: Plan, name: str, title: str, kind: str, *, window: float | None = None, extra: float = 0.0, **arguments: Any
) -> Case:
    seconds = plan.seconds if window is None else window
    measure = partial(_measure, kind=kind, warm_up=plan.warm_up, seconds=seconds, **arguments)
    return Case(name, title, measure, plan.rounds, plan.warm_up + seconds + _START_SECONDS + extra)


def _measure(stage: Stage, system: System, *, kind: str, **arguments: Any) -> Outcome:
    return stage.load(stage.deployment(system), kind, **arguments)


def _count(streams: int) -> str:
    return "1 stream" if streams == 1 else f"{streams} streams"
