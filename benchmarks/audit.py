"""What the audit log costs: ``python -m benchmarks.audit``.

Two things are measured: how many records per second are written to audit files and verified, in one process; and what
a stream costs when the connector has audit files, compared with the same connector without them. For the latter, both
deployments run at the same time, and are measured in turns, so that what else happens on the machine affects both.

The files are in a temporary directory (``--directory`` changes this): the result depends on its disk.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from hybridrelay.audit.chain import FieldValue
from hybridrelay.audit.directory import AuditDirectory
from hybridrelay.audit.disk import Disk
from hybridrelay.audit.reading import verify_directory
from hybridrelay.audit.record import Record

from .load.opens import measure
from .programs import Program, module
from .systems.base import Deployment, Server
from .systems.ours import HybridRelay

_FIELDS: dict[str, FieldValue] = {
    "connection": "orders-db", "activity_id": "91c2e6a03b5d4f78-17", "label": "billing", "serial": "0F" * 20,
    "target": "sql01.corp.example:1433", "route": "tcp at relay.example.com", "client_address": "203.0.113.7",
    "address": "10.0.0.5:1433", "outcome": "closed", "reason": "no-error", "to_target": "finished",
    "to_client": "finished", "bytes_to_target": 12345, "bytes_to_client": 67890, "seconds": 1.5,
}  # fmt: skip


def measure_records(directory: Path, batch: int, seconds: float) -> dict[str, float]:
    """Write records in batches of one size for a time, each of which is on the disk before the next one, and verify
    them."""
    log = AuditDirectory(Disk(directory), clock=time.time)
    log.open()
    written, began = 0, time.perf_counter()
    while (took := time.perf_counter() - began) < seconds:
        now = time.time()
        log.append([Record(now, "stream.closed", _FIELDS) for _ in range(batch)])
        written += batch
    log.close()
    size = sum(path.stat().st_size for path in directory.glob("audit-*"))
    began = time.perf_counter()
    verify_directory(directory)
    return {
        "written per s": written / took,
        "ms per batch": took / written * batch * 1e3,
        "bytes each": size / written,
        "verified per s": written / (time.perf_counter() - began),
    }


def measure_streams(directory: Path, rounds: int, seconds: float) -> dict[str, dict[str, list[float]]]:
    """Open streams one after the other, and 32 at a time, without and with audit files."""
    audit = ["--audit-dir", str(directory / "audit"), "--audit-required", "file"]
    found: dict[str, dict[str, list[float]]] = {}
    with contextlib.ExitStack() as stack:
        (directory / "target").mkdir()
        target = stack.enter_context(contextlib.closing(Program("target", module("target"), directory / "target")))
        server = Server(int(target.wait_for_line(r"^ready (\d+)")[1]))
        deployments = {}
        for name, options in (("without", []), ("with", audit)):
            (directory / name).mkdir()
            deployment = deployments[name] = stack.enter_context(Deployment(directory / name, server))
            system = HybridRelay(name, "", "tcp", ("probe", "control", "data"), connector_options=options)
            system.start(deployment)
            deployment.wait_until_serving()
        for _ in range(rounds):
            for at_once in (1, 32):
                for name, deployment in deployments.items():
                    got = measure(
                        entry=deployment.entry, pids=deployment.pids(), at_once=at_once, warm_up=0.5, seconds=seconds
                    )["metrics"]
                    row = found.setdefault(f"open/{at_once} {name}", {})
                    for metric, value in got.items():
                        row.setdefault(metric, []).append(value)
    return found


def main() -> None:
    """Measure, and print the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.audit", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--directory", type=Path, help="on the disk that is measured")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.directory) as name:
        directory = Path(name)
        records = {
            str(batch): measure_records(directory / f"records-{batch}", batch, args.seconds)
            for batch in (1, 32, 1000)
        }
        streams = measure_streams(directory, args.rounds, args.seconds)
    if args.json:
        print(json.dumps({"load": os.getloadavg(), "records": records, "streams": streams}))
        return
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}")
    for batch, row in records.items():
        print(f"records in batches of {batch}: " + ", ".join(f"{value:.3g} {what}" for what, value in row.items()))
    for case, metrics in streams.items():
        shown = (
            f"{metric} {statistics.median(values):.0f} ({min(values):.0f} to {max(values):.0f})"
            for metric, values in metrics.items()
        )
        print(f"{case}: " + ", ".join(shown))


if __name__ == "__main__":
    main()
