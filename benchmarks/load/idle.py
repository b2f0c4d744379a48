"""Opens thousands of idle streams, and measures how much memory each process needs for one of them."""

from __future__ import annotations

import time
from typing import Any

from .. import wire
from ..usage import memory_bytes
from .streams import open_answered_streams


def measure(
    *, entry: int, pids: dict[str, list[int]], streams: int, open_seconds: float, rest_seconds: float
) -> dict[str, Any]:
    """Measure the resident memory of each role with `streams` streams, minus that with one stream.

    Args:
        entry: the port to connect to.
        pids: the processes whose memory is measured, by role.
        streams: the number of streams.
        open_seconds: the time for opening them (seconds). If it is not enough, only the streams that are open count.
        rest_seconds: the pause between the last opening and the measurement (seconds).
    """
    socks = open_answered_streams(entry, 1, wire.HELLO, seconds=20)
    before = _memory(pids)
    socks += open_answered_streams(entry, streams, wire.HELLO, seconds=open_seconds)
    time.sleep(rest_seconds)
    after = _memory(pids)
    opened = len(socks) - 1
    if opened <= 0:
        raise ConnectionError("no stream opened in time")
    per_stream = {role: max(after[role] - before[role], 0) / opened for role in pids}
    metrics = {"streams": float(opened)}
    ends = [per_stream[role] for role in ("client", "connector") if role in per_stream]
    if ends:
        metrics = {"bytes_per_stream": max(ends), **metrics}
    if "relay" in per_stream:
        metrics["relay_bytes_per_stream"] = per_stream["relay"]
    usage = {role: {"cpu_seconds": 0.0, "peak_bytes": after[role]} for role in pids}
    for sock in socks:
        sock.close()
    return {"metrics": metrics, "usage": usage}


def _memory(pids: dict[str, list[int]]) -> dict[str, int]:
    return {role: sum(map(memory_bytes, ids)) for role, ids in pids.items()}
