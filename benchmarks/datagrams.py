"""What datagrams lose, and how late they are: ``python -m benchmarks.datagrams``.

Flows of datagrams go through relay, connector and forward to a target that sends each datagram back, first alone, and
then beside connections that move as much as they can through the same session. Then there are 10,000 flows over
several sessions, and the memory of the connector is measured.

Less than 5 % may be lost, and no datagram may be later than the queues allow in which it can wait: two on each way,
for half a second each, and the connector's for two seconds while it opens the flow (docs/concepts.md). The exit code
is 1 if that is not so.

For each measurement, the datagrams are counted at each program that they pass, and so are those that each program and
the buffers of sockets have dropped. This shows where the others were lost.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import re
import resource
import selectors
import socket
import struct
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from .ports import HOST, free_port
from .programs import Program, run
from .systems.ours import HYBRIDRELAY
from .usage import memory_bytes

_STAMP = struct.Struct(">Qd")
#: The limits.
MOST_LOST = 0.05
LATEST_SECONDS = 3 * 0.5 + 2.0
#: Fewer than a local port of `forward` may have.
_FLOWS_PER_SESSION = 900
#: How long to wait for the last answers (seconds).
_AFTER_SECONDS = 3.0


def _echo(port: int, count: Any) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        sock.bind((HOST, port))
        while True:
            data, source = sock.recvfrom(65_536)
            count.value += 1
            sock.sendto(data, source)


def _flood(port: int) -> None:
    """Send without end to every connection."""
    with socket.create_server((HOST, port)) as listener:
        selector, zeros = selectors.DefaultSelector(), bytes(1 << 18)
        selector.register(listener, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is listener:
                    one, _ = listener.accept()
                    one.setblocking(False)
                    selector.register(one, selectors.EVENT_WRITE)
                else:
                    _send(selector, key.fileobj, zeros)


def _send(selector: selectors.BaseSelector, sock: Any, data: bytes) -> None:
    try:
        sock.send(data)
    except BlockingIOError:
        pass
    except OSError:
        selector.unregister(sock)
        sock.close()


def _drain(port: int, moved: Any) -> None:
    """Read from one connection without end."""
    with socket.create_connection((HOST, port)) as sock:
        buffer = bytearray(1 << 18)
        while size := sock.recv_into(buffer):
            moved.value += size


@contextlib.contextmanager
def _process(function: Any, *arguments: Any) -> Iterator[None]:
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments, daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


@attrs.frozen
class Stage:
    """A deployment for streams and datagrams."""

    connector: Program
    forwards: list[Program]
    #: The local ports, one of each forward.
    ports: list[int]
    #: By program: where it serves its metrics.
    status: dict[str, int]
    #: How many datagrams have reached the target.
    echoed: Any

    def counts(self) -> Counter[str]:
        """Return how many datagrams have passed each program, in the order of their way, and how many were dropped
        where; all forwards together."""
        found = Counter({"at the target": self.echoed.value})
        for name, port in self.status.items():
            program = name.partition("-")[0]
            with urllib.request.urlopen(f"http://{HOST}:{port}/metrics") as answer:
                for what, label, value in _METRIC.findall(answer.read().decode()):
                    if what == "_dropped":
                        found[f"dropped by {program} ({label})"] += int(value)
                    else:
                        found[f"{label.replace('_', ' ')} at {program}"] += int(value)
        found["lost in buffers of sockets"] = _lost_in_buffers()
        return found


#: A count of datagrams in the metrics of a program.
_METRIC = re.compile(r'^hybridrelay_datagrams(_dropped|)_total\{\w+="(\w+)"\} (\d+)$', re.MULTILINE)


def _lost_in_buffers() -> int:
    """Return how many datagrams the buffers of all UDP sockets of this machine have lost; 0 if it is not known."""
    try:
        names, values = (
            line.split() for line in Path("/proc/net/snmp").read_text().splitlines() if line[:4] == "Udp:"
        )
    except OSError:
        return 0
    return int(dict(zip(names, values, strict=True))["RcvbufErrors"])


@contextlib.contextmanager
def stage(directory: Path, forwards: int) -> Iterator[Stage]:
    """Start target, relay, connector and forwards."""
    with contextlib.ExitStack() as stack:

        def start(name: str, *arguments: str | Path) -> Program:
            program = Program(name, [*HYBRIDRELAY, *arguments], directory)
            stack.callback(program.close)
            program.wait_for_line("^ready")
            return program

        target, state = free_port(), directory / "state"
        echoed = multiprocessing.get_context("spawn").Value("Q", 0)
        stack.enter_context(_process(_echo, target, echoed))
        stack.enter_context(_process(_flood, target))
        ports = {name: free_port() for name in ("probe", "control", "data")}
        text = ",".join(f"{name}={port}" for name, port in ports.items()) + ",http=off,https=off"
        start("relay", "relay", "--state", state, "--host", HOST, "--ports", text)
        connector, application = directory / "string.connector", directory / "string.application"
        run([
            *HYBRIDRELAY, "connections", "create", "bench", "--endpoint", HOST, "--state", state,
            "--target", f"{HOST}:{target}/tcp+udp", "--connector-file", connector,
            "--application-file", application, "--authority-file", directory / "authority",
        ])  # fmt: skip
        strings = "--connection-string-file"
        policy = directory / "policy"
        policy.mkdir()
        (policy / "10-udp.toml").write_text("AllowUdp = true\n")
        status = {"connector": free_port()}
        common = ("--mode", "tcp", "--status", f"{HOST}:{status['connector']}")
        served = start("connector", "connector", strings, connector, *common, "--policy-dir", policy)
        found, local = [], []
        for number in range(forwards):
            local.append(free_port())
            listen = f"{HOST}:{local[-1]}/tcp+udp"
            own = status[f"forward-{number}"] = free_port()
            options: list[str | Path] = [strings, application, "--listen", listen, "--mode", "tcp"]
            found.append(start(f"forward-{number}", "forward", *options, "--status", f"{HOST}:{own}"))
        yield Stage(served, found, local, status, echoed)


@attrs.define
class Result:
    """What came back."""

    sent: int = 0
    received: int = 0
    late: list[float] = attrs.field(factory=list)

    def shown(self) -> dict[str, float]:
        """Return the numbers."""
        times = sorted(self.late)
        return {
            "sent": self.sent,
            "lost %": 100 * (1 - self.received / max(1, self.sent)),
            "median ms": 1e3 * times[len(times) // 2] if times else 0.0,
            "latest ms": 1e3 * times[-1] if times else 0.0,
        }


def counted(stage: Stage, flows: int, seconds: float, interval: float, size: int) -> tuple[Result, dict[str, int]]:
    """Like `exchange`. Also return what `Stage.counts` has counted meanwhile, if anything was lost."""
    before = stage.counts()
    result = exchange(stage.ports, flows, seconds, interval, size)
    more = stage.counts()
    more.subtract(before)
    return result, {name: more[name] for name in sorted(more)} if result.received < result.sent else {}


def exchange(ports: list[int], flows: int, seconds: float, interval: float, size: int) -> Result:
    """Send a datagram on each of `flows` sockets in each interval, and count what comes back.

    Args:
        ports: the local ports; the sockets are distributed among them.
        flows: how many sockets.
        seconds: how long.
        interval: the time between two datagrams of one flow (seconds).
        size: the size of each datagram (bytes).
    """
    result, selector = Result(), selectors.DefaultSelector()
    sockets = []
    for number in range(flows):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.connect((HOST, ports[number % len(ports)]))
        selector.register(sock, selectors.EVENT_READ)
        sockets.append(sock)
    began, number = time.perf_counter(), 0
    while (now := time.perf_counter()) < began + seconds + _AFTER_SECONDS:
        due = min(int((min(now - began, seconds)) / interval * flows), int(seconds / interval * flows))
        while number < due:
            data = _STAMP.pack(number, time.perf_counter())
            with contextlib.suppress(OSError):
                sockets[number % flows].send(data + bytes(size - len(data)))
                result.sent += 1
            number += 1
        for key, _ in selector.select(0.001):
            with contextlib.suppress(OSError):
                while True:
                    data = key.fileobj.recv(65_536)  # type: ignore[union-attr]
                    result.received += 1
                    result.late.append(time.perf_counter() - _STAMP.unpack_from(data)[1])
    for sock in sockets:
        sock.close()
    return result


def main() -> int:
    """Measure, print the results, and compare them with the limits."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.datagrams", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--flows", type=int, default=50)
    parser.add_argument("--bulk", type=int, default=4, help="connections beside the flows")
    parser.add_argument("--many", type=int, default=10_000, help="flows over several sessions; 0: none")
    parser.add_argument("--interval", type=float, default=50.0, help="between two datagrams of these flows (seconds)")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    found: dict[str, dict[str, float]] = {}
    kept = True
    with tempfile.TemporaryDirectory() as name, stage(Path(name), 1) as one:
        for size in (100, 1400):
            result, counts = counted(one, args.flows, args.seconds, 0.1, size)
            found[f"{args.flows} flows of {size} bytes, alone"] = {**result.shown(), **counts}
            kept = kept and result.received >= (1 - MOST_LOST) * result.sent and max(result.late) < LATEST_SECONDS
        moved = multiprocessing.get_context("spawn").Value("Q", 0)
        with contextlib.ExitStack() as stack:
            for _ in range(args.bulk):
                stack.enter_context(_process(_drain, one.ports[0], moved))
            time.sleep(2)
            before, began = moved.value, time.perf_counter()
            result, counts = counted(one, args.flows, args.seconds, 0.1, 100)
            rate = (moved.value - before) / (time.perf_counter() - began)
        found[f"{args.flows} flows beside {args.bulk} connections"] = {
            **result.shown(),
            "bulk MB/s": rate / 1e6,
            **counts,
        }
        kept = kept and result.received >= (1 - MOST_LOST) * result.sent and max(result.late) < LATEST_SECONDS
    if args.many:
        sessions = -(-args.many // _FLOWS_PER_SESSION)
        with tempfile.TemporaryDirectory() as name, stage(Path(name), sessions) as several:
            before = memory_bytes(several.connector.pid)
            result, counts = counted(several, args.many, 2 * args.interval, args.interval, 100)
            grown = memory_bytes(several.connector.pid) - before
            found[f"{args.many} flows over {sessions} sessions"] = {
                **result.shown(),
                "MiB more at the connector": grown / 2**20,
                "KiB for each": grown / args.many / 1024,
                **counts,
            }
    if args.json:
        print(json.dumps({"load": os.getloadavg(), "kept": kept, "found": found}))
    else:
        print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}")
        for case, row in found.items():
            print(f"{case}: " + ", ".join(f"{value:.4g} {what}" for what, value in row.items()))
        print("within the limits" if kept else "NOT within the limits")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
