"""Measures the relay's resident memory for each connection, by port and phase."""

from __future__ import annotations

import contextlib
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import attrs

from ..ports import HOST, free_port
from ..programs import Program
from ..usage import cpu_seconds, memory_bytes
from .peers import Make, connect, loopback, phases

PORTS = ("probe", "control", "data", "http", "https")
#: The relay closes connections that have not authenticated after 15 s, so a phase is measured before that.
PHASE_SECONDS = 12.0
#: After this time, the relay has processed what was sent.
SETTLE_SECONDS = 0.5


@attrs.frozen
class Footprint:
    """The cost of `opened` connections in one phase."""

    port: str
    phase: str
    opened: int
    #: How many connections the relay still had when its memory was read. This includes the first ones, which `opened`
    #: excludes.
    held: int
    bytes_each: float
    #: The memory of all connections, including the first ones.
    total_bytes: int
    peak_bytes: int
    cpu_seconds_each: float


@contextlib.contextmanager
def relay(
    directory: Path, program_arguments: Sequence[str] = ("-m", "hybridrelay")
) -> Iterator[tuple[Program, dict[str, int]]]:
    """Run a new relay with default settings during the block. Return it and its ports.

    Args:
        directory: the directory for the relay's state and log.
        program_arguments: the arguments with which Python runs the command ``hybridrelay``.
    """
    ports = {name: free_port() for name in PORTS}
    text = ",".join(f"{name}={port}" for name, port in ports.items())
    command = [sys.executable, *program_arguments, "relay", "--state", str(directory / "state"), "--host", HOST]
    with Program("relay", [*command, "--ports", text], directory) as program:
        program.wait_for_line("^ready")
        yield program, ports


def measure(port: str, phase: str, make: Make, count: int, *, started: Callable[[Path], object] = relay) -> Footprint:
    """Open connections to a new relay, each from a different address, and measure the relay's memory."""
    with tempfile.TemporaryDirectory() as directory, relay(Path(directory)) as (program, ports):
        # With these connections, the relay loads and allocates what it needs only once, which should not count.
        for number in range(3):
            with contextlib.suppress(OSError), connect(ports[port], loopback(number)) as wire:
                make(wire)
        time.sleep(SETTLE_SECONDS)
        cpu, start = cpu_seconds(program.pid), memory_bytes(program.pid)
        wires, held = [], []
        deadline = time.monotonic() + PHASE_SECONDS
        # The first connections are not counted, because they also cause allocations that happen only once.
        first, before = count // 4, 0
        for number in range(count + first):
            if number == first:
                time.sleep(SETTLE_SECONDS)
                before = memory_bytes(program.pid)
            if time.monotonic() > deadline:
                break
            wire = connect(ports[port], loopback(number))
            wires.append(wire)
            with contextlib.suppress(OSError):
                held.append(make(wire))
        time.sleep(SETTLE_SECONDS)
        after, used = memory_bytes(program.pid), cpu_seconds(program.pid) - cpu
        peak = memory_bytes(program.pid, peak=True)
        alive = sum(map(is_open, wires))
        for wire in wires:
            wire.close()
    counted = max(1, len(wires) - first)
    return Footprint(
        port,
        phase,
        len(wires) - first,
        alive,
        (after - before) / counted,
        after - start,
        peak - before,
        used / max(1, len(wires)),
    )


def is_open(wire: socket.socket) -> bool:
    """Return whether the relay still has its end of a connection. This reads everything that the relay has sent."""
    wire.setblocking(False)
    try:
        while data := wire.recv(65536):
            pass
    except BlockingIOError:
        return True
    except OSError:
        return False
    return bool(data)


def report(count: int, only: str) -> None:
    """Measure all phases whose name contains `only`, and print a line for each."""
    print(
        f"{'port':8} {'phase':42} {'opened':>6} {'held':>5} "
        f"{'KiB each':>9} {'peak':>6} {'MiB':>6} {'CPU ms each':>12}"
    )
    for port, makes in phases().items():
        for phase, make in makes.items():
            if only in f"{port}/{phase}":
                one = measure(port, phase, make, count)
                print(
                    f"{port:8} {phase:42} {one.opened:6} {one.held:5} {one.bytes_each / 1024:9.1f} "
                    f"{one.peak_bytes / max(1, one.opened) / 1024:6.1f} "
                    f"{one.total_bytes / 2**20:6.1f} {one.cpu_seconds_each * 1000:12.2f}",
                    flush=True,
                )
