"""Opens streams, one after another or several at the same time: a connection, one byte sent, one byte received."""

from __future__ import annotations

import selectors
import socket
import time
from typing import Any

from .. import wire
from ..ports import HOST
from ..usage import Sampler
from .times import measure_times

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
    return measure_times(_Opener(entry, at_once), Sampler(pids), warm_up=warm_up, seconds=seconds)


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
