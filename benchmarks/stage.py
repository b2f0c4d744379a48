"""The running deployments, which are kept for the next round, and the servers at their far end."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import attrs

from .model import Usage
from .programs import Program, ProgramError, module, run
from .servers import start_postgresql, start_redis
from .systems import Deployment, Line, Server, System

#: Added to the time limit of a measurement (seconds), for starting Python and for opening streams through a slow
#: system.
_LOAD_GRACE_SECONDS = 100.0
#: How often a deployment is tried. Each attempt takes half a minute if a system cannot start at all.
_ATTEMPTS = 2
#: The roles whose processor time is the cost of the tunnel.
_BETWEEN = ("client", "relay", "connector")


@attrs.frozen
class Outcome:
    """The result of one measurement."""

    metrics: Mapping[str, float]
    usage: Mapping[str, Usage] = attrs.field(factory=dict[str, Usage])


class Stage:
    """The deployments and servers of a run. Close it, or use it with `with`, to end all processes.

    Args:
        directory: the directory for configurations, keys and logs, which is private to this run.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._count = 0
        self._servers: dict[str, tuple[Program, Server]] = {}
        #: Why each missing server did not start.
        self._missing: dict[str, str] = {}
        self._deployments: dict[tuple[str, str, Line | None], Deployment] = {}
        #: How often each deployment has failed.
        self._failures: Counter[tuple[str, str, Line | None]] = Counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        with contextlib.ExitStack() as stack:
            for program, _ in self._servers.values():
                stack.callback(program.close)
            stack.callback(self.clear)

    def clear(self) -> None:
        """End all deployments. Servers continue to run."""
        with contextlib.ExitStack() as stack:
            for deployment in self._deployments.values():
                stack.callback(deployment.close)
            self._deployments.clear()

    def server(self, kind: str) -> tuple[Program, Server]:
        """Return the server of this kind, and start it if this is the first call.

        Raises:
            ProgramError: the server does not start. Later calls raise the same error without another attempt.
        """
        if kind not in self._servers:
            if kind in self._missing:
                raise ProgramError(self._missing[kind])
            try:
                self._servers[kind] = SERVERS[kind](self._directory / kind)
            except ProgramError as exc:
                self._missing[kind] = str(exc)
                raise
        return self._servers[kind]

    def deployment(self, system: System, kind: str = "target", line: Line | None = None) -> Deployment:
        """Return a deployment that is kept until `clear`, and replaced if one of its processes has ended.

        Raises:
            ProgramError: it cannot be deployed.
        """
        key = system.name, kind, line
        if key in self._deployments and self._deployments[key].ended():
            self._deployments.pop(key).close()
        if key not in self._deployments:
            if self._failures[key] >= _ATTEMPTS:
                raise ProgramError(f"could not be deployed in {_ATTEMPTS} attempts")
            server = self.server(kind)[1]
            try:
                self._deployments[key] = system.deploy(self._new_directory(system), server, line)
            except ProgramError:
                self._failures[key] += 1
                raise
        return self._deployments[key]

    @contextlib.contextmanager
    def fresh(self, system: System, line: Line | None = None) -> Iterator[Deployment]:
        """Start a new deployment, which is closed at the end of the block.

        Raises:
            ProgramError: it cannot be deployed.
        """
        with system.deploy(self._new_directory(system), self.server("target")[1], line) as deployment:
            yield deployment

    def load(self, deployment: Deployment, kind: str, **arguments: Any) -> Outcome:
        """Run a load generator through a deployment whose server is the suite's own target.

        Raises:
            ProgramError: one of its connections failed, or it did not finish in time.
        """
        target, server = self.server("target")
        pids = {**deployment.pids(), "target": [target.pid]}
        if kind == "bulk":
            arguments["target"] = server.port
        arguments = {"entry": deployment.entry, "pids": pids, **arguments}
        answer = json.loads(run(module("load", kind), seconds=_LOAD_GRACE_SECONDS, stdin=json.dumps(arguments)))
        usage = {role: Usage(**used) for role, used in answer["usage"].items()}
        metrics = dict(answer["metrics"])
        cpu = sum(usage[role].cpu_seconds for role in _BETWEEN if role in usage)
        if "bytes" in answer:
            metrics["cpu_s_per_gb"] = cpu / (answer["bytes"] / 1e9)
        if "requests" in answer:
            metrics["cpu_us_per_request"] = cpu / answer["requests"] * 1e6
        return Outcome(metrics, usage)

    def _new_directory(self, system: System) -> Path:
        self._count += 1
        return self._directory / f"{system.name}-{self._count}"


def _start_target(directory: Path) -> tuple[Program, Server]:
    directory.mkdir()
    program = Program("target", module("target"), directory)
    try:
        return program, Server(int(program.wait_for_line(r"^ready (\d+)")[1]))
    except BaseException:
        program.close()
        raise


SERVERS: dict[str, Callable[[Path], tuple[Program, Server]]] = {
    "target": _start_target,
    "postgresql": start_postgresql,
    "redis": start_redis,
}
