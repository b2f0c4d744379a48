"""Many streams that each send a small request from time to time, at a rate that does not depend on the answers."""

from __future__ import annotations

import json
import random
import selectors
import subprocess
import time
from collections import deque
from typing import Any

from .. import wire
from ..programs import environment, module
from ..stats import percentile
from ..usage import Sampler
from .streams import open_answered_streams

#: Selects the stream of each request, so that every run has the same order.
_SEED = 4


def measure(
    *,
    entry: int,
    pids: dict[str, list[int]],
    size: int,
    streams: int,
    rate: float,
    warm_up: float,
    seconds: float,
    beside: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Measure the times from the moment at which a request was *due* to the last byte of its answer.

    A generator that waited for answers before it sent the next request would send fewer requests to a slow system,
    and would underestimate its latency.

    Args:
        entry: the port to connect to.
        pids: the processes whose usage is measured, by role.
        size: the size of a request, and of an answer (bytes).
        streams: the number of streams.
        rate: requests per second, on all streams together.
        warm_up: the time that is not counted (seconds).
        seconds: the time that is counted.
        beside: the arguments of the generator ``bulk`` for bulk streams that start when the others are open; None
            means none.
    """
    first = wire.header(wire.Mode.ANSWER, size) + bytes(size)
    socks = open_answered_streams(entry, streams, first, seconds=60)
    if len(socks) < streams:
        raise ConnectionError(f"only {len(socks)} of {streams} streams opened in time")
    selector = selectors.DefaultSelector()
    asked: dict[int, deque[float]] = {}
    received: dict[int, int] = {}
    request, buffer = bytes(size), memoryview(bytearray(4096))
    for sock in socks:
        selector.register(sock, selectors.EVENT_READ)
        asked[sock.fileno()] = deque()
        # This begins below zero, because the first answer is not counted. One byte of it has already been read.
        received[sock.fileno()] = 1 - size
    bulk = None if beside is None else _BulkStreams({**beside, "warm_up": warm_up, "seconds": seconds})
    turns = random.Random(_SEED)
    sampler = Sampler(pids)
    times: list[float] = []
    began = time.perf_counter()
    counted_from, end = began + warm_up, began + warm_up + seconds
    due, sampling = began, False
    while (now := time.perf_counter()) < end:
        if not sampling and now >= counted_from:
            sampler.begin()
            sampling = True
        while due <= now:
            sock = turns.choice(socks)
            asked[sock.fileno()].append(due)
            sock.send(request)
            due += 1 / rate
        for key, _ in selector.select(max(due - now, 0)):
            length = key.fileobj.recv_into(buffer)  # type: ignore[union-attr]
            if not length:
                raise ConnectionError("a stream was closed")
            received[key.fd] += length
            while received[key.fd] >= size:
                received[key.fd] -= size
                at = asked[key.fd].popleft()
                if at >= counted_from:
                    times.append(time.perf_counter() - at)
    usage = sampler.end()
    # Requests without an answer yet have waited at least until now.
    times += [end - at for waiting in asked.values() for at in waiting if at >= counted_from]
    for sock in socks:
        sock.close()
    if bulk is not None:
        bulk.finish()
    metrics = {"p99_us": percentile(times, 99) * 1e6, "p50_us": percentile(times, 50) * 1e6}
    return {"metrics": metrics, "usage": usage, "requests": len(times)}


class _BulkStreams:
    """Bulk streams in a separate process. They are running when the constructor returns."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            module("load", "bulk"), stdin=pipe, stdout=pipe, text=True, env=environment()
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({**arguments, "announce": True}))
        self._process.stdin.close()
        if self._process.stdout.readline() != "running\n":
            raise ConnectionError("the bulk streams did not start")

    def finish(self) -> None:
        """Wait until they have finished. Raises OSError if they failed."""
        if self._process.wait(10):
            raise ConnectionError("the bulk streams broke")
