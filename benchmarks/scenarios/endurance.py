"""Scenarios about starting, reconnecting, and idle streams."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from functools import partial

from .. import wire
from ..limits import raise_descriptor_limit
from ..plan import Plan
from ..ports import HOST
from ..programs import ProgramError
from ..stage import Outcome, Stage
from ..systems import Deployment, Line, System
from .base import Case

#: A line without a delay and with a rate that is never reached. It is used only because it can be cut.
_CUTTABLE = Line(round_trip_ms=0.0, rate=1e9)
#: Descriptors that are kept free for everything other than streams.
_DESCRIPTORS_TO_SPARE = 500


def cold(plan: Plan) -> Iterator[Case]:
    """Measure the time from the start of the client's process to the first byte of the target. Everything else is
    running already."""

    def measure(stage: Stage, system: System) -> Outcome:
        deployment = stage.deployment(system)
        deployment.restart_client()
        return Outcome({"ms": (deployment.wait_until_serving(pause=0.002) - deployment.client_started) * 1000})

    yield Case("cold/start", "start the client, get one byte", measure, plan.rounds, 2.0, _has_client)


def idle(plan: Plan) -> Iterator[Case]:
    """Open many streams, and leave them idle."""
    descriptors = raise_descriptor_limit() - _DESCRIPTORS_TO_SPARE
    # A connector gives a single application half of its descriptors.
    streams = min(plan.idle_streams, descriptors // 2)

    def suits(system: System) -> bool:
        return _has_client(system) and streams * system.descriptors_per_stream <= descriptors

    def measure(stage: Stage, system: System) -> Outcome:
        with stage.fresh(system) as deployment:
            return stage.load(deployment, "idle", streams=streams, open_seconds=60.0, rest_seconds=1.0)

    title = f"{streams} idle streams"
    yield Case(f"idle/{streams}", title, measure, plan.idle_rounds, streams / 600 + 5, suits)


def reconnect(plan: Plan) -> Iterator[Case]:
    """Break every connection between client and relay, and measure the time until a byte arrives again."""
    measure = partial(_reconnect, give_up=plan.reconnect_seconds)
    title = "break the client's connections, get one byte on a new stream"
    yield Case("reconnect/cut", title, measure, min(plan.rounds, 3), 4.0, lambda system: system.reconnects)


def _has_client(system: System) -> bool:
    return system.has_client


def _reconnect(stage: Stage, system: System, *, give_up: float) -> Outcome:
    with stage.fresh(system, _CUTTABLE) as deployment, wire.connect((HOST, deployment.entry)) as survivor:
        survivor.sendall(wire.HELLO)
        wire.receive_exactly(survivor, 1)
        deployment.cut()
        began = time.monotonic()
        _wait_until_noticed(survivor)
        metrics = {"ms": (_first_byte(deployment, began + give_up) - began) * 1000}
        pause = _pause(survivor, began)
        return Outcome(metrics if pause is None else {**metrics, "pause_ms": pause})


def _wait_until_noticed(survivor: socket.socket) -> None:
    """Wait until the old stream has ended, or for 50 ms, because a byte may still be in transit."""
    survivor.settimeout(0.05)
    with contextlib.suppress(OSError):
        survivor.recv(1)


def _first_byte(deployment: Deployment, deadline: float) -> float:
    while not deployment.answers():
        if time.monotonic() > deadline:
            raise ProgramError("does not reconnect by itself")
        time.sleep(0.005)
    return time.monotonic()


def _pause(survivor: socket.socket, began: float) -> float | None:
    """Return how long it takes until a stream that was open before answers again (ms); None if it did not survive."""
    survivor.settimeout(5)
    with contextlib.suppress(OSError):
        survivor.sendall(b"?")
        if survivor.recv(1):
            return (time.monotonic() - began) * 1000
    return None
