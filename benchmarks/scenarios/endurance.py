"""Scenarios about starting, reconnecting, and idle streams."""

from __future__ import annotations

import contextlib
import hashlib
import random
import selectors
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
#: How much a stream of `restart` sends before it waits for all of it to come back.
_PIECE_BYTES = 4096
#: How long a relay may take to start again, and how long streams are observed after that (seconds).
_RESTART_SECONDS = 60.0
_AFTER_SECONDS = 5.0


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


def restart(plan: Plan) -> Iterator[Case]:
    """Kill the relay's main process, and start it again at once, while streams exchange data."""
    streams = plan.restart_streams

    def measure(stage: Stage, system: System) -> Outcome:
        with stage.fresh(system) as deployment:
            return Outcome(_restart(deployment, streams))

    title = f"kill -9 of the relay's main process, and its restart, under {streams} streams"
    yield Case(f"restart/{streams}", title, measure, min(plan.rounds, 3), 8.0, lambda system: system.outlives_relay)


def _restart(deployment: Deployment, streams: int) -> dict[str, float]:
    """Raises ProgramError if a stream breaks, or returns other bytes than were sent."""
    talkers = [_Talker(wire.connect((HOST, deployment.entry))) for _ in range(streams)]
    selector = selectors.DefaultSelector()
    for talker in talkers:
        selector.register(talker.sock, selectors.EVENT_READ, talker)
        talker.send()

    def talk(seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for key, _ in selector.select(0.01):
                key.data.receive()

    talk(1.0)
    for talker in talkers:
        talker.longest = 0.0
    deployment.kill_relay()
    began = time.monotonic()
    relay = deployment.start_relay_again()
    while "ready" not in relay.output.split():
        talk(0.05)
        if time.monotonic() - began > _RESTART_SECONDS:
            raise relay.error("does not start again")
    started = time.monotonic() - began
    talk(_AFTER_SECONDS)
    now = time.monotonic()
    pause = max(max(talker.longest, now - talker.heard_at) for talker in talkers)
    for talker in talkers:
        talker.sock.close()
    return {"pause_ms": pause * 1000, "ms": started * 1000}


class _Talker:
    """A stream that sends random bytes, waits until they have come back, and sends the next ones."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.sendall(wire.header(wire.Mode.ECHO))
        #: When something came back last, and the longest time between two such moments (seconds).
        self.heard_at = time.monotonic()
        self.longest = 0.0
        self._missing = 0
        self._sent, self._received = hashlib.sha256(), hashlib.sha256()

    def send(self) -> None:
        data = random.randbytes(_PIECE_BYTES)
        self._sent.update(data)
        self._missing = len(data)
        self.sock.sendall(data)

    def receive(self) -> None:
        try:
            data = self.sock.recv(_PIECE_BYTES)
        except OSError as exc:
            raise ProgramError(f"a stream broke: {exc}") from exc
        if not data:
            raise ProgramError("a stream ended")
        now = time.monotonic()
        self.longest, self.heard_at = max(self.longest, now - self.heard_at), now
        self._received.update(data)
        self._missing -= len(data)
        if not self._missing:
            if self._sent.digest() != self._received.digest():
                raise ProgramError("other bytes came back than were sent")
            self.send()


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
