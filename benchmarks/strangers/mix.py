"""Measures the relay's memory with as many unauthenticated connections as it allows, in several phases at the same
time.

Several threads open connections, because the relay closes those that do not authenticate in time. With its default
settings, only a part of them can complete a handshake. For the upper bound, the relay runs without rate limits of
handshakes (`without_rate_limits`).
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attrs

from ..programs import module
from ..usage import memory_bytes, reset_peak
from .memory import SETTLE_SECONDS, is_open, relay
from .peers import Make, connect, loopback, phases

#: The maximum number of unauthenticated connections of a relay.
CONNECTIONS = 1024
#: How many of these may be in a TLS handshake inside outer TLS, and the name of this phase.
NESTED = 128
NESTED_HANDSHAKE = ("https", "a ClientHello and no more")
OPENERS = 16
#: The relay closes connections that have not authenticated after 15 s, so nothing is opened after this time.
OPEN_SECONDS = 13.0

#: A port, the phase of connections to it, and their number.
Part = tuple[str, str, int]


def every_phase() -> list[Part]:
    """Return all phases of all ports, with the same number of connections in each."""
    names = [(port, phase) for port, makes in phases().items() for phase in makes]
    counts = [CONNECTIONS // len(names) + (index < CONNECTIONS % len(names)) for index in range(len(names))]
    return [(port, phase, count) for (port, phase), count in zip(names, counts, strict=True)]


#: The mixes, by name.
MIXES: dict[str, list[Part]] = {
    "every phase": every_phase(),
    "first TLS handshakes": [
        ("control", "a ClientHello and no more", CONNECTIONS // 2),
        ("https", "outer: a ClientHello and no more", CONNECTIONS // 2),
    ],
    # The most expensive phase, with as many connections as are allowed in it, and the second most expensive one.
    "the most expensive": [
        ("https", "half of everything", CONNECTIONS - NESTED),
        (*NESTED_HANDSHAKE, NESTED),
    ],
    "the most expensive of each port": [
        ("https", "half of everything", CONNECTIONS // 2 - NESTED),
        (*NESTED_HANDSHAKE, NESTED),
        ("control", "a ClientHello and no more", CONNECTIONS // 4),
        ("http", "a ClientHello and no more", CONNECTIONS // 4),
    ],
}


@attrs.frozen
class Total:
    """The cost of all connections of a mix together."""

    opened: int
    #: How many connections the relay still had when its memory was read.
    held: int
    bytes_more: int
    peak_bytes_more: int
    seconds: float


def measure(mix: Sequence[Part], *, rate_limits: bool = True, openers: int = OPENERS) -> Total:
    """Open all connections of a mix, each from a different address, and measure the memory of a fresh relay.

    Args:
        mix: the connections to open. The parts are interleaved, except for nested handshakes. These come last,
            because each one beyond `NESTED` closes the oldest one.
        rate_limits: whether the relay limits the rate of handshakes.
        openers: how many threads open connections.
    """
    command = ["-m", "hybridrelay"] if rate_limits else module("strangers.without_rate_limits")[1:]
    with tempfile.TemporaryDirectory() as directory, relay(Path(directory), command) as (program, ports):
        for port in ports:  # what the relay loads and allocates only once
            for phase in list(phases()[port])[-2:]:
                with contextlib.suppress(OSError), connect(ports[port], loopback(0)) as wire:
                    phases()[port][phase](wire)
        time.sleep(SETTLE_SECONDS)
        before = memory_bytes(program.pid)
        reset_peak(program.pid)
        began = time.monotonic()
        wires: list[socket.socket] = []
        held: list[object] = []

        def open_one(job: tuple[int, tuple[str, Make]]) -> None:
            number, (port, make) = job
            if time.monotonic() - began > OPEN_SECONDS:
                return
            with contextlib.suppress(OSError):
                wire = connect(ports[port], loopback(number + 1))
                wires.append(wire)
                held.append(make(wire))

        with ThreadPoolExecutor(openers) as pool:
            list(pool.map(open_one, enumerate(_interleaved(mix))))
        took = time.monotonic() - began
        time.sleep(SETTLE_SECONDS)
        after, peak = memory_bytes(program.pid), memory_bytes(program.pid, peak=True)
        alive = sum(map(is_open, wires))
        for wire in wires:
            wire.close()
    return Total(len(wires), alive, after - before, peak - before, took)


def _interleaved(mix: Sequence[Part]) -> Iterator[tuple[str, Make]]:
    """Yield the connections of a mix, one of each part in turn."""
    makes = phases()
    for nested in (False, True):
        parts = [part for part in mix if (part[:2] == NESTED_HANDSHAKE) == nested]
        columns = [[(port, makes[port][phase])] * count for port, phase, count in parts]
        for row in itertools.zip_longest(*columns):
            yield from (one for one in row if one is not None)


def report(only: str, *, rate_limits: bool) -> None:
    """Measure all mixes whose name contains `only`, and print a line for each."""
    print(f"{'mix':34} {'opened':>6} {'held':>5} {'MiB':>6} {'peak':>6} {'seconds':>8}")
    for name, mix in MIXES.items():
        if only in name:
            one = measure(mix, rate_limits=rate_limits)
            print(
                f"{name:34} {one.opened:6} {one.held:5} {one.bytes_more / 2**20:6.1f} "
                f"{one.peak_bytes_more / 2**20:6.1f} {one.seconds:8.1f}",
                flush=True,
            )
    sys.stdout.flush()
