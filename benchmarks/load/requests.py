"""Sends requests whose answers have the same size, on one or more streams. Each request follows the answer to the
previous one."""

from __future__ import annotations

import contextlib
import selectors
import socket
import time
from typing import Any

from .. import wire
from ..usage import Sampler
from .streams import open_streams
from .times import measure_times

_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


def measure(
    *,
    entry: int,
    pids: dict[str, list[int]],
    size: int,
    streams: int,
    warm_up: float,
    seconds: float,
) -> dict[str, Any]:
    """Measure the times from the first byte of a request to the last byte of its answer.

    Args:
        entry: the port to connect to.
        pids: the processes whose usage is measured, by role.
        size: the size of a request, and of an answer (bytes).
        streams: the number of streams. On each, there is always one request that is not answered yet.
        warm_up: the time that is not counted (seconds).
        seconds: the time that is counted.
    """
    sampler = Sampler(pids)
    asker = _Asker(open_streams(entry, streams, wire.header(wire.Mode.ANSWER, size)), size)
    return measure_times(asker, sampler, warm_up=warm_up, seconds=seconds)


class _Asker:
    """One loop over all connections."""

    def __init__(self, socks: list[socket.socket], size: int) -> None:
        self._selector = selectors.DefaultSelector()
        self._buffer = memoryview(bytearray(max(size, 4096)))
        self._request = memoryview(bytes(size))
        self._size = size
        #: The times of all requests that were answered (seconds).
        self.times: list[float] = []
        for sock in socks:
            sock.setblocking(False)
            self._selector.register(sock, _READ, _Exchange())
        for key in list(self._selector.get_map().values()):
            self._ask(key.fileobj, key.data)  # type: ignore[arg-type]

    def run(self, seconds: float) -> None:
        """Send requests for `seconds`. Raises OSError if a connection breaks."""
        deadline = time.perf_counter() + seconds
        while (left := deadline - time.perf_counter()) > 0:
            for key, events in self._selector.select(left):
                sock, exchange = key.fileobj, key.data
                assert isinstance(sock, socket.socket)
                if events & _WRITE:
                    self._send(sock, exchange)
                if events & _READ:
                    self._receive(sock, exchange)

    def close(self) -> None:
        """Close all connections."""
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()

    def _ask(self, sock: socket.socket, exchange: _Exchange) -> None:
        exchange.began, exchange.sent, exchange.received = time.perf_counter(), 0, 0
        self._send(sock, exchange)

    def _send(self, sock: socket.socket, exchange: _Exchange) -> None:
        with contextlib.suppress(BlockingIOError):
            exchange.sent += sock.send(self._request[exchange.sent :])
        clogged = exchange.sent < self._size
        if clogged != exchange.clogged:
            exchange.clogged = clogged
            self._selector.modify(sock, _READ | _WRITE if clogged else _READ, exchange)

    def _receive(self, sock: socket.socket, exchange: _Exchange) -> None:
        size = sock.recv_into(self._buffer)
        if not size:
            raise ConnectionError("the connection was closed")
        exchange.received += size
        if exchange.received == self._size:
            self.times.append(time.perf_counter() - exchange.began)
            self._ask(sock, exchange)


class _Exchange:
    """The current request of one connection."""

    __slots__ = ("began", "clogged", "received", "sent")

    def __init__(self) -> None:
        self.began = 0.0
        self.sent = self.received = 0
        self.clogged = False
