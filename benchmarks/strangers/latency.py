"""Measures how a flood of handshakes affects an open stream, and a client that connects."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import trio

from hybridrelay import ClientConfig, HybridRelayError, open_client, parse_connection_string_untrusted

from ..ports import HOST, free_port
from ..programs import environment, module, run
from ..usage import cpu_seconds
from .memory import relay

_COMMAND = (sys.executable, "-m", "hybridrelay")
#: The time between two messages of the open stream.
INTERVAL_SECONDS = 0.005
#: The time between the beginning of a flood and the beginning of the measurement.
LEAD_SECONDS = 0.5
ENTER_SECONDS = 20.0


@attrs.frozen
class Window:
    """One measurement of the open stream."""

    times: list[float]
    relay_cpu: float

    @property
    def p50(self) -> float:
        return statistics.median(self.times)

    @property
    def p99(self) -> float:
        return sorted(self.times)[int(len(self.times) * 0.99)]


class Actor:
    """A process of `actors`, connected by pipes."""

    def __init__(self, *arguments: object) -> None:
        self.process = subprocess.Popen(
            module("strangers.actors", *map(str, arguments)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
            text=True,
        )

    def line(self) -> str:
        """Read the process's next line of output."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def ask(self) -> str:
        """Write an empty line to the process, and return its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.line()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@attrs.frozen
class Scene:
    """A deployment with one open stream."""

    relay_pid: int
    ports: dict[str, int]
    talker: Actor
    application: Path

    def look(self, seconds: float) -> Window:
        """Measure the round trips of the open stream for `seconds`."""
        self.talker.ask()
        cpu, began = cpu_seconds(self.relay_pid), time.perf_counter()
        time.sleep(seconds)
        used = (cpu_seconds(self.relay_pid) - cpu) / (time.perf_counter() - began)
        return Window(json.loads(self.talker.ask()), used)


@contextlib.contextmanager
def scene(mode: str) -> Iterator[Scene]:
    """Run relay, connector and forward as processes with their default settings, during the block."""
    from ..programs import Program

    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        program, ports = stack.enter_context(relay(directory))
        target = Actor("echo")
        stack.callback(target.close)
        connector, application = directory / "connector", directory / "application"
        run([
            *_COMMAND, "connections", "create", "strangers", "--endpoint", HOST, "--state", directory / "state",
            "--target", f"{HOST}:{target.line().strip()}", "--connector-file", connector,
            "--application-file", application, "--authority-file", directory / "authority",
        ])  # fmt: skip
        strings, entry = "--connection-string-file", free_port()
        commands: list[list[str | Path]] = [
            ["connector", strings, connector, "--mode", mode],
            ["forward", strings, application, "--listen", f"{HOST}:{entry}", "--mode", mode],
        ]
        for command in commands:
            started = stack.enter_context(Program(str(command[0]), [*_COMMAND, *command], directory))
            started.wait_for_line("^ready")
        talker = Actor("talk", entry, INTERVAL_SECONDS)
        stack.callback(talker.close)
        yield Scene(program.pid, ports, talker, application)


def enter(scene: Scene, mode: str, count: int) -> list[float]:
    """Measure how long a client with a key takes to open a stream (seconds), from the probe to the first byte."""
    string = parse_connection_string_untrusted(scene.application.read_text())

    async def once() -> float:
        began = time.perf_counter()
        while (took := time.perf_counter() - began) < ENTER_SECONDS:
            with contextlib.suppress(HybridRelayError), trio.move_on_after(ENTER_SECONDS - took):
                async with open_client(ClientConfig(string, mode=mode)) as client:
                    stream = await client.open_stream()
                    await stream.send_all(b"x")
                    await stream.receive_some(1)
                    took = time.perf_counter() - began
                    await stream.aclose()
                return took
        return float("inf")

    return [trio.run(once) for _ in range(count)]


def report(mode: str, rate: float, rounds: int, seconds: float, entries: int) -> None:
    """Measure floods from one address, from 200, and from the client's own address, in alternation with no flood."""
    floods = {"one address": 1, "200 addresses": 200, "the client's address": 0}
    ports = ["control", "https"]
    with scene(mode) as stage:
        stage.look(1.0)
        for port in ports:
            for name, addresses in floods.items():
                ratios, quiet, loud, busy = [], [], [], []
                asked = 0.0
                for _ in range(rounds):
                    before = stage.look(seconds)
                    actor = Actor("flood", stage.ports[port], port, rate, addresses, seconds + LEAD_SECONDS + 0.5)
                    time.sleep(LEAD_SECONDS)
                    during = stage.look(seconds)
                    asked = json.loads(actor.line())["asked"]
                    actor.close()
                    ratios.append(during.p99 / before.p99)
                    quiet.append(before)
                    loud.append(during)
                    time.sleep(0.5)
                line = f"{mode} {port}, {name}: {asked:.0f}/s"
                p99 = [statistics.median(one.p99 for one in some) * 1000 for some in (quiet, loud)]
                p50 = [statistics.median(one.p50 for one in some) * 1000 for some in (quiet, loud)]
                busy = [statistics.median(one.relay_cpu for one in some) * 100 for some in (quiet, loud)]
                print(
                    f"{line}: p50 {p50[0]:.2f} -> {p50[1]:.2f} ms, p99 {p99[0]:.2f} -> {p99[1]:.2f} ms, ratio "
                    f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}), relay "
                    f"{busy[0]:.0f} -> {busy[1]:.0f} % of a core",
                    flush=True,
                )
                if entries:
                    calm = enter(stage, mode, entries)
                    actor = Actor("flood", stage.ports[port], port, rate, addresses, 60)
                    time.sleep(LEAD_SECONDS)
                    entered = enter(stage, mode, entries)
                    actor.close()
                    print(
                        f"    a client with a key connects within {statistics.median(entered):.2f} s, at worst "
                        f"{max(entered):.2f} s; without {statistics.median(calm):.2f} s, at worst {max(calm):.2f} s",
                        flush=True,
                    )
                    time.sleep(1)
