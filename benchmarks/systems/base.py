"""The interface of a system under test, and what all systems have in common."""

from __future__ import annotations

import abc
import contextlib
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

import attrs

from .. import wire
from ..ports import HOST, free_port
from ..programs import START_SECONDS, Program, ProgramError, find, module
from ..usage import process_tree

#: The roles, in the order in which data passes them. Every system assigns them to its processes.
CLIENT, RELAY, CONNECTOR = "client", "relay", "connector"


@attrs.frozen
class Line:
    """A long, slow line between the client and the relay."""

    round_trip_ms: float
    #: Bytes per second, in each direction.
    rate: float


@attrs.frozen
class Server:
    """The server at the far end."""

    port: int
    #: A message to which the server answers with at least one byte. It shows whether the server can be reached.
    hello: bytes = wire.HELLO


class Deployment:
    """The processes of one system, between a port to which applications connect and a server."""

    def __init__(self, directory: Path, server: Server, line: Line | None = None) -> None:
        self.directory = directory
        self.server = server
        self.line = line
        #: The port to which applications connect. `System.start` sets it.
        self.entry = 0
        #: When the client was last started (`time.monotonic`).
        self.client_started = 0.0
        self.programs: dict[str, list[Program]] = {CLIENT: [], RELAY: [], CONNECTOR: []}
        self._links: list[Program] = []
        #: The relay's command, if it can be started again.
        self._relay: Sequence[str | Path] | None = None
        #: The client's command and environment.
        self._client: tuple[Sequence[str | Path], Mapping[str, str] | None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """End all processes."""
        with contextlib.ExitStack() as stack:
            for program in [*self._links, *(one for programs in self.programs.values() for one in programs)]:
                stack.callback(program.close)

    def start(self, role: str, command: Sequence[str | Path], *, env: Mapping[str, str] | None = None) -> Program:
        """Start a process for `role`. `env` is its environment; None for the one that all have."""
        program = Program(role, command, self.directory, env=env)
        self.programs[role].append(program)
        return program

    def start_client(self, command: Sequence[str | Path], *, env: Mapping[str, str] | None = None) -> Program:
        """Start the process to which applications connect. `restart_client` uses the same command and environment."""
        self._client = command, env
        self.client_started = time.monotonic()
        return self.start(CLIENT, command, env=env)

    def restart_client(self) -> None:
        """End the client, and start it again. Does not wait until it serves.

        Raises:
            ProgramError: the system has no client process.
        """
        if self._client is None:
            raise ProgramError("has no client process")
        for running in self.programs[CLIENT]:
            running.close()
        self.programs[CLIENT].clear()
        command, env = self._client
        self.start_client(command, env=env)

    def start_relay(self, command: Sequence[str | Path]) -> Program:
        """Start the relay. `kill_relay` and `start_relay_again` use the same command."""
        self._relay = command
        return self.start(RELAY, command)

    def kill_relay(self) -> None:
        """Kill the main process of the relay, and none of the processes that it has started."""
        (running,) = self.programs[RELAY]
        running.process.kill()
        running.process.wait()
        self.programs[RELAY].clear()

    def start_relay_again(self) -> Program:
        """Start the relay that was killed. Does not wait until it serves."""
        assert self._relay is not None
        return self.start(RELAY, self._relay)

    def across(self, port: int) -> int:
        """Return the port that leads to `port` over the line, or `port` itself if there is no line."""
        if self.line is None:
            return port
        near = free_port()
        delay = str(self.line.round_trip_ms / 2)
        link = Program(
            "link", module("link", str(near), str(port), delay, str(self.line.rate)), self.directory, stdin=-1
        )
        self._links.append(link)
        link.wait_for_line("^ready")
        return near

    def cut(self) -> None:
        """Break all connections that cross the line."""
        for link in self._links:
            assert link.process.stdin is not None
            link.process.stdin.write(b"cut\n")
            link.process.stdin.flush()

    def wait_until_serving(self, *, seconds: float = START_SECONDS, pause: float = 0.02) -> float:
        """Connect repeatedly until a byte of the server arrives; return the time of its arrival.

        Raises:
            ProgramError: a process ended, or no byte arrived in time.
        """
        deadline = time.monotonic() + seconds
        while not self.answers():
            for ended in self.ended():
                raise ended.error(f"ended with exit code {ended.process.returncode}")
            if time.monotonic() > deadline:
                raise ProgramError(f"no byte arrived through port {self.entry} within {seconds:.0f} s")
            time.sleep(pause)
        return time.monotonic()

    def ended(self) -> list[Program]:
        """Return the processes that have ended by themselves."""
        every = [*self._links, *(one for programs in self.programs.values() for one in programs)]
        return [one for one in every if one.process.poll() is not None]

    def answers(self) -> bool:
        """Return whether a byte of the server arrives now. Blocks for a few seconds at most."""
        with contextlib.suppress(OSError), socket.create_connection((HOST, self.entry), timeout=2) as sock:
            sock.sendall(self.server.hello)
            return bool(sock.recv(1))
        return False

    def pids(self) -> dict[str, list[int]]:
        """Return all processes of each role that has any, including their descendants."""
        return {
            role: process_tree(program.pid for program in programs)
            for role, programs in self.programs.items()
            if programs
        }


class System(abc.ABC):
    """A way in which an application can reach a server."""

    #: The name in tables and on the command line.
    name: str
    #: A line about the system.
    description: str
    #: The programs that have to be on PATH, and in `remedy`, how to get them.
    needs: Sequence[str] = ()
    remedy: str = ""
    #: Whether the system reconnects by itself after its connections broke.
    reconnects: bool = False
    #: Whether streams survive a restart of the relay (`Deployment.start_relay`).
    outlives_relay: bool = False
    #: Whether applications connect to a process of the system on their side of the relay.
    has_client: bool = True
    #: How many descriptors the process that needs most of them needs for a stream: 1 if streams share a connection.
    descriptors_per_stream: int = 1

    def missing(self) -> str | None:
        """Return why the system cannot be measured on this machine, or None."""
        absent = [name for name in self.needs if find(name) is None]
        return f"{', '.join(absent)} not found" if absent else None

    def deploy(self, directory: Path, server: Server, line: Line | None = None) -> Deployment:
        """Start the system, and wait until a byte of the server has arrived through it.

        Raises:
            ProgramError: the system cannot be deployed.
        """
        directory.mkdir(parents=True, exist_ok=True)
        deployment = Deployment(directory, server, line)
        try:
            self.start(deployment)
            deployment.wait_until_serving()
        except ProgramError as exc:
            ended = [one.error(f"ended with exit code {one.process.returncode}") for one in deployment.ended()]
            deployment.close()
            raise ProgramError("\n".join(map(str, [exc, *ended]))) from None
        except BaseException:
            deployment.close()
            raise
        return deployment

    @abc.abstractmethod
    def start(self, deployment: Deployment) -> None:
        """Start the processes, and set ``deployment.entry``. The processes need not serve yet when this returns."""


def program(name: str) -> str:
    """Return the path of a program.

    Raises:
        ProgramError: the program is not installed.
    """
    path = find(name)
    if path is None:
        raise ProgramError(f"{name} not found")
    return path


Chain = Callable[[int, int], Sequence[str | Path]]


def start_chain(deployment: Deployment, hop: Chain) -> None:
    """Start three forwarders in a row. If there is a line, it is between the first and the second.

    Args:
        deployment: the deployment to which the processes are added.
        hop: returns the command of one forwarder, from its own port and the port to which it forwards.
    """
    connector, relay, client = free_port(), free_port(), free_port()
    deployment.start(CONNECTOR, hop(connector, deployment.server.port))
    deployment.start(RELAY, hop(relay, connector))
    deployment.entry = client
    deployment.start_client(hop(client, deployment.across(relay)))
