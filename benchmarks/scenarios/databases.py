"""Scenarios that run the unmodified pgbench and redis-benchmark."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping

from ..model import Usage
from ..plan import Plan
from ..ports import HOST
from ..programs import ProgramError, run
from ..servers import find_postgresql, missing_postgresql, missing_redis
from ..stage import Outcome, Stage
from ..systems import System
from ..usage import Sampler, process_tree
from .base import Case

#: Connects to a port, and returns metrics.
_Client = Callable[[int], Mapping[str, float]]
#: pgbench's built-in transactions. Its query protocol "simple" needs a round trip for each statement.
_SCRIPTS = {"transactions": [], "select": ["-S"]}


def pgbench(plan: Plan) -> Iterator[Case]:
    """Measure the transactions per second of a few clients."""
    for name in plan.pgbench_scripts:
        options = _SCRIPTS[name]
        seconds = max(round(plan.seconds), 2)

        def measure(stage: Stage, system: System, options: list[str] = options, seconds: int = seconds) -> Outcome:
            clients = str(plan.pgbench_clients)
            settings = ["-n", "-M", "simple", "-c", clients, "-j", "2", "-T", str(seconds), *options]
            return _run(stage, system, "postgresql", lambda port: _pgbench(port, settings))

        title = f"pgbench, {plan.pgbench_clients} clients, simple protocol, {name}"
        yield Case(f"pgbench/{name}", title, measure, plan.rounds, seconds + 1.0, missing=missing_postgresql)


def redis(plan: Plan) -> Iterator[Case]:
    """Measure the GET requests per second of many clients."""

    def measure(stage: Stage, system: System) -> Outcome:
        return _run(stage, system, "redis", lambda port: _redis(port, plan))

    title = f"redis-benchmark GET, {plan.redis_clients} clients"
    seconds = plan.redis_requests / 3000 + 0.5
    yield Case("redis/get", title, measure, plan.rounds, seconds, missing=missing_redis)


def _run(stage: Stage, system: System, kind: str, client: _Client) -> Outcome:
    deployment = stage.deployment(system, kind)
    server, _ = stage.server(kind)
    sampler = Sampler({**deployment.pids(), "target": process_tree([server.pid])})
    sampler.begin()
    metrics = client(deployment.entry)
    usage = {role: Usage(cpu_seconds=used["cpu_seconds"], peak_bytes=int(used["peak_bytes"]))
             for role, used in sampler.end().items()}  # fmt: skip
    return Outcome(metrics, usage)


def _pgbench(port: int, settings: list[str]) -> dict[str, float]:
    program = find_postgresql("pgbench")
    assert program is not None, "the server could not have been started"
    out = run([program, "-h", HOST, "-p", str(port), "-U", "postgres", *settings, "postgres"])
    rate = re.search(r"^tps = ([\d.]+)", out, re.MULTILINE)
    latency = re.search(r"^latency average = ([\d.]+) ms", out, re.MULTILINE)
    if rate is None or latency is None:
        raise ProgramError(f"pgbench printed no rate:\n{out}")
    return {"per_s": float(rate[1]), "ms": float(latency[1])}


def _redis(port: int, plan: Plan) -> dict[str, float]:
    count, clients = str(plan.redis_requests), str(plan.redis_clients)
    out = run(["redis-benchmark", "-h", HOST, "-p", str(port), "-n", count, "-c", clients, "-t", "get", "--csv"])
    lines = list(csv.DictReader(io.StringIO(out[out.index('"test"') :])))
    if not lines:
        raise ProgramError(f"redis-benchmark printed no rate:\n{out}")
    (line,) = lines
    return {
        "per_s": float(line["rps"]),
        "p50_us": float(line["p50_latency_ms"]) * 1000,
        "p99_us": float(line["p99_latency_ms"]) * 1000,
    }
