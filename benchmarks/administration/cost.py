"""Measures the cost of administration: its time and memory, and its effect on the latency of an open stream."""

from __future__ import annotations

import contextlib
import http.client
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs

from hybridrelay.relay import SQLiteStore
from hybridrelay.security import Right, Rule, parse_connection_string_untrusted

from ..ports import HOST, free_port
from ..programs import Program, environment, module, run
from ..strangers.latency import INTERVAL_SECONDS, Actor, Window
from ..strangers.memory import PORTS
from ..usage import cpu_seconds, memory_bytes, reset_peak

_COMMAND: tuple[str | Path, ...] = (sys.executable, "-m", "hybridrelay")
_FORM = "application/x-www-form-urlencoded"
#: How long the start, or one request, may take (seconds).
_PATIENCE = 600.0
_MIB = 1 << 20


@attrs.frozen
class Used:
    """The resource usage of a command: processor time (seconds), and peak memory (bytes)."""

    cpu: float
    memory: int


@attrs.frozen
class Scene:
    """A relay with very many listeners, and an open stream through it."""

    directory: Path
    relay_pid: int
    port: int
    talker: Actor
    token: str

    def look(self, seconds: float, meanwhile: Callable[[], object] | None = None) -> Window:
        """Measure the round trips of the open stream while `meanwhile` is called repeatedly."""
        self.talker.ask()
        cpu, began = cpu_seconds(self.relay_pid), time.perf_counter()
        while (left := began + seconds - time.perf_counter()) > 0:
            if meanwhile is None:
                time.sleep(left)
            else:
                meanwhile()
        used = (cpu_seconds(self.relay_pid) - cpu) / (time.perf_counter() - began)
        return Window([float(one) for one in _parse(self.talker.ask())], used)

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(HOST, self.port, timeout=_PATIENCE)

    def log_in(self) -> str:
        """Log in to the dashboard, and return the cookie."""
        body = urllib.parse.urlencode({"token": self.token})
        with contextlib.closing(self.connect()) as connection:
            origin = f"http://{HOST}:{self.port}"
            connection.request("POST", "/login", body, {"Content-Type": _FORM, "Origin": origin})
            answer = connection.getresponse()
            cookie = answer.headers["Set-Cookie"]
            if answer.status != 303 or cookie is None:
                raise RuntimeError(f"logging in failed: {answer.status} {answer.read()[:200]!r}")
            return str(cookie.partition(";")[0])

    def status(self) -> Used:
        """Run ``hybridrelay status``, with all requests that it sends to the relay."""
        command = [*map(str, _COMMAND), "status", "--json", "--state", str(self.directory / "state")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment()) as process:
            output = process.stdout
            assert output is not None
            size = sum(map(len, iter(lambda: output.read(1 << 16), b"")))
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode not in (0, 1) or size < 1000:  # 1: the relay has a problem
            raise RuntimeError(f"status: {process.returncode}, {size} bytes")
        return Used(usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)

    def get(self, path: str, **headers: str) -> bytes:
        with contextlib.closing(self.connect()) as connection:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            content = answer.read()
            if answer.status != 200:
                raise RuntimeError(f"{path}: {answer.status} {content[:200]!r}")
            return content


def _parse(line: str) -> list[float]:
    return [float(one) for one in line.strip().strip("[]").split(",") if one.strip()]


@contextlib.contextmanager
def scene(count: int) -> Iterator[Scene]:
    """Start all processes. With 10,000 listeners, this takes a few minutes."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        target = Actor("echo")
        stack.callback(target.close)
        connector, application = directory / "connector", directory / "application"
        ports = {name: free_port() for name in PORTS}
        text = ",".join(f"{name}={port}" for name, port in ports.items())
        command = [*_COMMAND, "relay", "--state", directory / "state", "--host", HOST, "--ports", text]
        with Program("relay", [*command], directory) as first:  # creates the state directory
            first.wait_for_line("^ready")
        create: list[str | Path] = [
            "connections",
            "create",
            "strangers",
            "--endpoint",
            HOST,
            "--state",
            directory / "state",
        ]
        files: list[str | Path] = ["--connector-file", connector, "--application-file", application]
        address = f"{HOST}:{target.line().strip()}"
        run([*_COMMAND, *create, "--target", address, *files, "--authority-file", directory / "authority"])
        run([*_COMMAND, "tokens", "create", "cost", "--role", "admin", "--out", directory / "token",
             "--state", directory / "state"])  # fmt: skip
        string = parse_connection_string_untrusted(connector.read_text())
        rule = Rule(string.key_name, [Right.LISTEN], string.key)
        with SQLiteStore.open(directory / "state") as store:
            for number in range(count):
                store.create(f"many/{number}", [HOST], [rule])
        program = stack.enter_context(Program("relay", [*command, "--management", f"{HOST}:0"], directory))
        program.wait_for_line("^ready")
        found = program.wait_for_line(r"management\.listening: .* address=[^ ]*:(\d+)")
        listeners = stack.enter_context(Listeners(connector, count))
        listeners.wait()
        entry = free_port()
        strings = "--connection-string-file"
        commands: list[list[str | Path]] = [
            ["connector", strings, connector],
            ["forward", strings, application, "--listen", f"{HOST}:{entry}"],
        ]
        for one in commands:
            started = stack.enter_context(Program(str(one[0]), [*_COMMAND, *one], directory))
            started.wait_for_line("^ready")
        talker = Actor("talk", entry, INTERVAL_SECONDS)
        stack.callback(talker.close)
        token = (directory / "token").read_text().strip()
        yield Scene(directory, program.pid, int(found[1]), talker, token)


class Listeners(contextlib.AbstractContextManager["Listeners"]):
    """The process that registers at all hybrid connections."""

    def __init__(self, connector: Path, count: int) -> None:
        self._process = subprocess.Popen(
            module("administration.listeners", str(connector), str(count)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
            text=True,
        )

    def wait(self) -> None:
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "registered\n":
            raise RuntimeError("the listeners could not be registered")

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


@contextlib.contextmanager
def followers(stage: Scene, count: int) -> Iterator[None]:
    """Let clients follow events (server-sent events) during the block. A caller has at most 16 of them."""
    with contextlib.ExitStack() as stack:
        for number in range(0, count, 16):
            path = stage.directory / f"follower-{number}"
            create: list[str | Path] = ["tokens", "create", f"follower-{number}", "--role", "viewer", "--out", path]
            run([*_COMMAND, *create, "--state", stage.directory / "state"])
            token = path.read_text().strip()
            for _ in range(min(16, count - number)):
                connection = stack.enter_context(contextlib.closing(stage.connect()))
                headers = {"Authorization": f"Bearer {token}", "Accept": "text/event-stream"}
                connection.request("GET", "/v1/events", headers=headers)
                answer = connection.getresponse()
                if answer.status != 200:
                    raise RuntimeError(f"follower: {answer.status} {answer.read()[:200]!r}")
        yield


def report(listeners: int, follower_count: int, rounds: int, seconds: float) -> None:
    """Measure each kind of use, in alternation with an idle relay."""
    with scene(listeners) as stage:
        print(f"{listeners} listeners; the relay has {memory_bytes(stage.relay_pid) / _MIB:.0f} MiB", flush=True)
        cookie = stage.log_in()
        authorization = {"Authorization": f"Bearer {stage.token}"}
        uses: dict[str, Callable[[], object]] = {
            "hybridrelay status --json": stage.status,
            "GET / (dashboard)": lambda: stage.get("/", Cookie=cookie),
            "GET /v1/relay": lambda: stage.get("/v1/relay", **authorization),
            "GET /metrics": lambda: stage.get("/metrics", **authorization),
        }
        stage.look(1.0)
        for name, use in uses.items():
            _compare(stage, name, use, rounds, seconds)
        with followers(stage, follower_count):
            _compare(stage, f"{follower_count} clients that follow events", None, rounds, seconds)


def _compare(stage: Scene, name: str, use: Callable[[], object] | None, rounds: int, seconds: float) -> None:
    took: list[float] = []
    commands: list[Used] = []

    def once() -> None:
        began = time.perf_counter()
        assert use is not None
        result = use()
        took.append(time.perf_counter() - began)
        if isinstance(result, Used):
            commands.append(result)
        time.sleep(0.2)

    quiet, busy = [], []
    reset_peak(stage.relay_pid)
    before = memory_bytes(stage.relay_pid)
    for _ in range(rounds):
        quiet.append(stage.look(seconds))
        busy.append(stage.look(seconds, None if use is None else once))
    grown = (memory_bytes(stage.relay_pid, peak=True) - before) / _MIB
    p50 = _milliseconds(quiet, busy, lambda one: one.p50)
    p99 = _milliseconds(quiet, busy, lambda one: one.p99)
    worst = _milliseconds(quiet, busy, lambda one: max(one.times))
    duration = f"{statistics.median(took):.2f} s (at most {max(took):.2f} s), " if took else ""
    idle, cpu = (statistics.median(one.relay_cpu for one in some) * 100 for some in (quiet, busy))
    command = ""
    if commands:
        command = (
            f"; the command: {statistics.median(one.cpu for one in commands):.2f} s of processor time, "
            f"{max(one.memory for one in commands) / _MIB:.0f} MiB"
        )
    print(
        f"{name}: {duration}{grown:.1f} MiB more at the peak; open stream p50 {p50}, p99 {p99}, worst {worst}; "
        f"relay {idle:.0f} -> {cpu:.0f} % of a core{command}",
        flush=True,
    )


def _milliseconds(quiet: list[Window], busy: list[Window], measure: Callable[[Window], float]) -> str:
    before, after = (statistics.median(map(measure, some)) * 1000 for some in (quiet, busy))
    return f"{before:.2f} -> {after:.2f} ms"
