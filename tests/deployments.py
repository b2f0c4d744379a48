"""A complete deployment for tests, in which relay, connectors and forwards are processes of the command line."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any, NoReturn, Self

import attrs
import pytest
import trio

from hybridrelay.administration import (
    NewFiles,
    StoreRegistry,
    create_connection,
    import_connection,
    read_relay_record,
)
from hybridrelay.management.audited_registry import AuditedRegistry
from hybridrelay.security import parse_local_name_untrusted, parse_target_untrusted

from .waiting import TimeLimit, patience, wait_until

HYBRIDRELAY = (sys.executable, "-m", "hybridrelay")
PORT_NAMES = ("probe", "control", "data", "http", "https")
#: The time limit (seconds) for a command to print its `ready` line, or to end. All limits are for an idle machine;
#: see `TimeLimit`.
START_SECONDS = 30.0
STOP_SECONDS = 20.0
#: The time limit (seconds) for the answer to SIGUSR1 of a process that may be busy.
ANSWER_SECONDS = 20.0
_STATISTICS = " hybridrelay.statistics: "
_CLONE_NEWNET = 0x40000000


def free_port() -> int:
    """Return a TCP port that is not in use now.

    The port is below the range from which the system takes ports for outgoing connections, so that it can be closed
    and opened again.
    """
    while True:
        port = random.randrange(10_000, 32_000)
        # Without SO_REUSEADDR, so that it is none that `keep_port` keeps for another test.
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


def keep_port(host: str, port: int = 0) -> socket.socket:
    """Keep a port for the listeners of a test until the socket that is returned is closed, also while none listens.

    A socket that is bound to a port and does not listen keeps the system from using the port for others and for
    outgoing connections. It is not in the way of a listener, because both have SO_REUSEADDR (socket(7), Linux only).

    Args:
        host: a loopback address.
        port: 0 means any free port.

    Raises:
        OSError: the port is in use.
    """
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except BaseException:
        sock.close()
        raise
    return sock


def free_udp_port() -> int:
    """Return a port that neither UDP nor TCP uses now, below the same range."""
    while True:
        port = free_port()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


def _leave_other_namespace() -> None:
    """Enter the network namespace of the main thread, in which the process that is started next has to run.

    A thread inherits the namespace of the thread that starts it, and Trio keeps its worker threads for a while. A
    worker thread that was started while a test was in another namespace is therefore still in it when the next test
    uses the thread.
    """
    if sys.platform != "linux" or os.readlink("/proc/thread-self/ns/net") == os.readlink("/proc/self/ns/net"):
        return
    descriptor = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        # Python 3.11 does not have `os.setns`.
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(descriptor, _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(descriptor)


def starting_with(code: str, directory: Path) -> tuple[str, ...]:
    """Return what to put before the command of a Python program, so that it executes this code at its start.

    Args:
        code: the code.
        directory: does not exist yet.
    """
    directory.mkdir()
    (directory / "sitecustomize.py").write_text(code)
    return ("env", f"PYTHONPATH={directory}")


class EndedEarly(AssertionError):
    """A process ended before it printed what was expected. The message contains its output."""


class Program:
    """A process whose output is kept. The end of a `with` block terminates it, or kills it if it does not end."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        name: str | None = None,
        environment: dict[str, str] | None = None,
        text_in: str | None = None,
    ) -> None:
        self.name = name or Path(str(command[0])).name
        self.lines: dict[str, list[str]] = {"out": [], "err": []}
        self._heard = threading.Condition()
        _leave_other_namespace()
        self.process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL if text_in is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
            text=True,
            errors="replace",
        )
        if text_in is not None:
            assert self.process.stdin is not None
            self.process.stdin.write(text_in)
            self.process.stdin.close()
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        pipes = {"out": self.process.stdout, "err": self.process.stderr}
        self._readers = [
            threading.Thread(target=self._read, args=(which, pipe), daemon=True) for which, pipe in pipes.items()
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, which: str, pipe: IO[str]) -> None:
        for line in pipe:
            with self._heard:
                self.lines[which].append(line.rstrip("\n"))
                self._heard.notify_all()
        pipe.close()
        with self._heard:
            self._heard.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def out(self) -> str:
        """The standard output so far."""
        return "\n".join(self.lines["out"])

    @property
    def err(self) -> str:
        """The standard error so far."""
        return "\n".join(self.lines["err"])

    def wait_for_line(self, pattern: str, *, where: str = "out", seconds: float = START_SECONDS) -> re.Match[str]:
        """Wait for a line that matches, and return the first match.

        Raises:
            EndedEarly: the process ended without such a line, or did not print one in time.
        """
        found: list[re.Match[str]] = []

        def look() -> bool:
            found.extend(filter(None, (re.search(pattern, line) for line in self.lines[where])))
            return bool(found) or not any(reader.is_alive() for reader in self._readers)

        self._wait_to_hear(look, seconds)
        if not found:
            state = f"exit code {self.process.wait(patience(STOP_SECONDS))}" if look() else "it still runs"
            raise EndedEarly(f"{self.name}: no line {pattern!r} ({state})\n{self.out}\n{self.err}")
        return found[0]

    def _wait_to_hear(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait until `condition` is true. Only output, or its end, changes the condition. Returns whether it is
        true."""
        limit = TimeLimit(seconds)
        with self._heard:
            while not (is_true := condition()) and (remaining := limit.remaining) > 0:
                self._heard.wait(remaining)
        return is_true

    async def logs(self, pattern: str) -> re.Match[str]:
        """Wait for the first line of the log that matches, which may appear a moment after its cause.

        Raises:
            EndedEarly: see `wait_for_line`.
        """
        return await trio.to_thread.run_sync(partial(self.wait_for_line, pattern, where="err"))

    def wait(self, seconds: float = STOP_SECONDS) -> int:
        """Wait until the process has ended and all of its output was read. Return the exit code."""
        code = self.process.wait(patience(seconds))
        for reader in self._readers:
            reader.join(patience(seconds))
        return code

    def terminate(self, seconds: float = STOP_SECONDS) -> int:
        """Send SIGTERM, and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait(seconds)

    def kill(self) -> None:
        """Send SIGKILL, and wait for the end."""
        self.process.kill()
        self.wait()

    def close(self) -> None:
        if self.process.poll() is None:
            try:
                self.terminate()
            except subprocess.TimeoutExpired:
                self.kill()
                raise AssertionError(f"{self.name} did not stop on SIGTERM\n{self.err}") from None
        self.wait()

    def statistics(self) -> dict[str, Any]:
        """Send SIGUSR1, and return the statistics that the process logs, parsed from JSON; see docs/operating.md."""

        def answers() -> list[str]:
            return [line for line in self.lines["err"] if _STATISTICS in line]

        known = len(answers())
        self.process.send_signal(signal.SIGUSR1)
        if not self._wait_to_hear(lambda: len(answers()) > known, ANSWER_SECONDS):
            raise EndedEarly(f"{self.name} does not answer\n{self.err}")
        found: dict[str, Any] = json.loads(answers()[known].partition(_STATISTICS)[2])
        return found

    @property
    def sockets(self) -> int:
        """Return the number of open sockets (Linux). Other descriptors vary, because the relay keeps pipes for
        reuse."""
        found = 0
        for entry in Path(f"/proc/{self.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found += os.readlink(entry).startswith("socket:")
        return found

    @property
    def resident_bytes(self) -> int:
        """Return the resident memory (Linux)."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        match = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
        assert match is not None
        return int(match[1]) * 1024


@attrs.frozen
class Published:
    """The files of one hybrid connection."""

    name: str
    connector: Path
    application: Path
    authority: Path


@attrs.frozen
class RunningRelay:
    """What connection strings say about a relay, and where its state is."""

    program: Program
    host: str
    state: Path
    #: By name; empty for the default ports.
    ports: Mapping[str, int] = attrs.field(factory=dict)

    @property
    def pin(self) -> str:
        """The pin that it has printed."""
        return self.program.wait_for_line(r"pin=(\S+)")[1]


def create_at_relays(
    name: str, target: tuple[str, int], relays: Sequence[RunningRelay], *, directory: Path
) -> Published:
    """Create a hybrid connection that several relays serve.

    Does in this process what ``connections create --relay-file`` and ``connections import --state`` do.
    """
    files = {role: directory / f"{name}.{role}" for role in ("connector", "application", "authority")}
    record = directory / f"{name}.relay"
    create_connection(
        name,
        target=parse_target_untrusted(f"{target[0]}:{target[1]}"),
        hosts=[relay.host for relay in relays],
        pins=[relay.pin for relay in relays],
        ports=[relay.ports for relay in relays],
        files=NewFiles(**files, relay=record),
        now=time.time(),
    )
    for relay in relays:
        with StoreRegistry(state_dir=relay.state) as registry:
            audited = AuditedRegistry(registry, relay.state)
            import_connection(audited, read_relay_record(record), source=str(record), remedy="choose another name")
    return Published(name, **files)


@attrs.frozen
class Forward:
    """A running forward, and its local ports in the order of the connections."""

    program: Program
    ports: tuple[int, ...]

    @property
    def port(self) -> int:
        """The only local port."""
        (port,) = self.ports
        return port


class Deployment:
    """One relay on free ports of the loopback interface, and whatever is started around it."""

    def __init__(self, directory: Path, host: str = "127.0.0.1") -> None:
        self.directory = directory
        self.host = host
        self.state = directory / "state"
        self.ports: dict[str, int] = {}
        self.programs: list[Program] = []
        self._kept = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *exc_info: object) -> None:
        """Stop all processes, and check in their logs that none has found a bug."""
        with self._kept:
            for program in self.programs:
                self._kept.callback(program.close)
        if exc_type is None:
            for program in self.programs:
                assert "Traceback" not in program.err, f"{program.name}:\n{program.err}"

    def command(self, *arguments: str | Path) -> list[str]:
        """Return the command line that runs ``hybridrelay`` with these arguments."""
        return [*HYBRIDRELAY, *map(str, arguments)]

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            self.command(*arguments),
            check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=patience(60),
        )  # fmt: skip

    def start(
        self,
        *arguments: str | Path,
        ready: str = "^ready",
        descriptors: int | None = None,
        wrapper: Sequence[str | Path] = (),
        environment: dict[str, str] | None = None,
    ) -> Program:
        """Start a command, and wait for a line of output. `descriptors` limits its descriptors; `wrapper` precedes
        it."""
        limit = () if descriptors is None else ("sh", "-c", f'ulimit -n {descriptors} && exec "$@"', "sh")
        command = [*limit, *wrapper, *self.command(*arguments)]
        program = Program(command, name=f"hybridrelay {arguments[0]}", environment=environment)
        self.programs.append(program)
        program.wait_for_line(ready)
        return program

    def start_relay(
        self, *arguments: str, descriptors: int | None = None, wrapper: Sequence[str | Path] = ()
    ) -> Program:
        """Start the relay; after the first time, on the same ports."""
        known = bool(self.ports)
        while True:
            if not known:
                self.ports = {name: self._free_port() for name in PORT_NAMES}
            ports = ",".join(f"{name}={port}" for name, port in self.ports.items())
            try:
                return self.start(
                    "relay", "--state", self.state, "--host", self.host, "--ports", ports, *arguments,
                    descriptors=descriptors, wrapper=wrapper,
                )  # fmt: skip
            except EndedEarly as exc:
                if known or "cannot listen" not in str(exc):
                    raise
                # Another process has taken a port. Remove the program of this attempt.
                self.programs.pop().close()

    def _free_port(self) -> int:
        """Return a free port, which is kept until all processes have been stopped."""
        while True:
            port = free_port()
            if sys.platform != "linux":
                return port
            with contextlib.suppress(OSError):
                self._kept.enter_context(keep_port(self.host, port))
                return port

    def create(
        self, name: str, target: tuple[str, int] | str, *, endpoint: str = "127.0.0.1", local_name: str | None = None
    ) -> Published:
        """Create a hybrid connection. The target is an address and port, or text.

        Does in this process what ``connections create --state`` does, because most tests start with it.
        """
        files = {role: self.directory / f"{name}.{role}" for role in ("connector", "application", "authority")}
        text = target if isinstance(target, str) else f"{target[0]}:{target[1]}"
        with StoreRegistry(state_dir=self.state, create=True) as registry:
            create_connection(
                name,
                target=parse_target_untrusted(text),
                local_name=None if local_name is None else parse_local_name_untrusted(local_name),
                hosts=[endpoint],
                files=NewFiles(**files),
                registry=AuditedRegistry(registry, self.state),
                now=time.time(),
            )
        return Published(name, **files)

    def start_connector(
        self, *published: Published | Path, arguments: Sequence[str] = (), wrapper: Sequence[str | Path] = ()
    ) -> Program:
        """Start a connector for these hybrid connections."""
        files = [one if isinstance(one, Path) else one.connector for one in published]
        return self.start("connector", "--connection-string-file", *files, *arguments, wrapper=wrapper)

    def datagrams_allowed(self) -> tuple[str, str]:
        """Return the arguments of a connector with a policy that allows datagrams."""
        directory = self.directory / "datagrams-allowed"
        directory.mkdir(exist_ok=True)
        (directory / "10-udp.toml").write_text("AllowUdp = true\n")
        return "--policy-dir", str(directory)

    def start_forward(
        self,
        *published: Published | Path,
        mode: str = "tcp",
        arguments: Sequence[str] = (),
        wrapper: Sequence[str | Path] = (),
    ) -> Forward:
        """Start a forward with a local port for each of these hybrid connections."""
        pairs: list[str | Path] = []
        for one in published:
            file = one if isinstance(one, Path) else one.application
            pairs += ["--connection-string-file", file, "--listen", "127.0.0.1:0"]
        program = self.start("forward", *pairs, "--mode", mode, *arguments, wrapper=wrapper)
        ports = re.findall(r"127\.0\.0\.1:(\d+)", program.out)
        assert len(ports) == len(published), program.out
        return Forward(program, tuple(map(int, ports)))


def wait_for_port(port: int, program: Program, *, seconds: float = START_SECONDS) -> None:
    """Wait until a port accepts connections.

    Raises:
        EndedEarly: the program that should accept them has ended.
    """

    def reachable() -> bool:
        if program.process.poll() is not None:
            program.wait()
            raise EndedEarly(f"{program.name} ended:\n{program.out}\n{program.err}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
        return False

    wait_until(reachable, seconds=seconds, what=f"{program.name} on port {port}")


def skip_unless_ci(what: str) -> NoReturn:
    """Skip a test that needs root and other things of the machine. For root on CI, which has everything, fail it."""
    if os.environ.get("CI", "").lower() in {"1", "true"} and sys.platform == "linux" and os.geteuid() == 0:
        pytest.fail(what)
    pytest.skip(what)
