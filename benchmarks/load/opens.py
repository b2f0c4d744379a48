"""Opens streams, one after another or several at once: a connection, one byte sent, one byte received."""

from __future__ import annotations

import selectors
import socket
import time
from typing import Any

from .. import wire
from ..ports import HOST
from ..stats import percentile
from ..usage import Sampler

#: The maximum number of streams of one measurement. It leaves enough outgoing ports, which cannot be used again for a
#: minute.
_MOST = 3000


def measure(
    *, entry: int, pids: dict[str, list[int]], at_once: int, warm_up: float, seconds: float
) -> dict[str, Any]:
    """Measure the times from the call of connect to the first byte of the target.

    Args:
        entry: the port to connect to.
        pids: the processes whose usage is measured, by role.
        at_once: how many streams are being opened at any time.
        warm_up: the time that is not counted (seconds).
        seconds: the time that is counted.
    """
    opener = _Opener(entry, at_once)
    opener.run(warm_up)
    opener.times.clear()
    sampler = Sampler(pids)
    sampler.begin()
    began = time.perf_counter()
    opener.run(seconds)
    took = time.perf_counter() - began
    usage = sampler.end()
    opener.close()
    times = opener.times
    if not times:
        raise ConnectionError("no stream opened")
    metrics = {
        "p50_us": percentile(times, 50) * 1e6,
        "per_s": len(times) / took,
        "p99_us": percentile(times, 99) * 1e6,
    }
    return {"metrics": metrics, "usage": usage, "requests": len(times)}


class _Opener:
    """One loop over the streams that are being opened."""

    def __init__(self, entry: int, at_once: int) -> None:
        self._address = (HOST, entry)
        self._at_once = at_once
        self._selector = selectors.DefaultSelector()
        #: The times of all streams that were opened (seconds).
        self.times: list[float] = []

    def run(self, seconds: float) -> None:
        """Open streams for `seconds`, or until there were enough."""
        deadline = time.perf_counter() + seconds
        opened = 0
        while opened < _MOST and (left := deadline - time.perf_counter()) > 0:
            while len(self._selector.get_map()) < self._at_once:
                self._open()
            for key, _ in self._selector.select(left):
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                if not sock.recv(1):
                    raise ConnectionError("a stream was closed before its first byte")
                self.times.append(time.perf_counter() - key.data)
                self._selector.unregister(sock)
                sock.close()
                opened += 1

    def close(self) -> None:
        """Close the streams that are still being opened."""
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()

    def _open(self) -> None:
        began = time.perf_counter()
        sock = socket.create_connection(self._address, timeout=20)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(wire.HELLO)
        self._selector.register(sock, selectors.EVENT_READ, began)
