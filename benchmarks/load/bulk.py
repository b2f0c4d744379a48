"""Sends or receives as many bytes as possible, on one stream or many."""

from __future__ import annotations

import selectors
import socket
import time
from typing import Any

from .. import wire
from ..ports import HOST
from ..usage import Sampler
from .streams import open_streams

_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
_DIRECTIONS = {
    "up": (wire.Mode.SINK, _WRITE),
    "down": (wire.Mode.SOURCE, _READ),
    "both": (wire.Mode.BOTH, _READ | _WRITE),
}


def measure(
    *,
    entry: int,
    target: int,
    pids: dict[str, list[int]],
    direction: str,
    streams: int,
    warm_up: float,
    seconds: float,
    announce: bool = False,
) -> dict[str, Any]:
    """Measure how many bytes arrive in a time window after the warm-up.

    Bytes are counted where they arrive: in this process, or in the target, which reports its count over a separate
    connection.

    Args:
        entry: the port to connect to.
        target: the port of the target itself.
        pids: the processes whose usage is measured, by role.
        direction: ``up`` to the target, ``down`` from it, or ``both``.
        streams: the number of streams.
        warm_up: the time before the window (seconds).
        seconds: the length of the window.
        announce: whether to print a line when the streams are running, for a program that measures something else at
            the same time.
    """
    mode, events = _DIRECTIONS[direction]
    sampler = Sampler(pids)
    counter = wire.Counter((HOST, target))
    socks = open_streams(entry, streams, wire.header(mode))
    pump = _Pump(socks, events)
    if announce:
        print("running", flush=True)
    pump.run(warm_up)
    sampler.begin()
    began, before = time.perf_counter(), pump.received + counter.read()
    pump.run(seconds)
    moved, took = pump.received + counter.read() - before, time.perf_counter() - began
    usage = sampler.end()
    counter.close()
    for sock in socks:
        sock.close()
    if not moved:
        raise ConnectionError("nothing arrived")
    return {"metrics": {"mb_per_s": moved / took / 1e6}, "usage": usage, "bytes": moved}


class _Pump:
    """One loop that sends and receives on all connections."""

    def __init__(self, socks: list[socket.socket], events: int) -> None:
        self._selector = selectors.DefaultSelector()
        self._buffer = memoryview(bytearray(wire.BLOCK_BYTES))
        self._zeros = memoryview(bytes(wire.BLOCK_BYTES))
        self.received = 0
        for sock in socks:
            sock.setblocking(False)
            self._selector.register(sock, events)

    def run(self, seconds: float) -> None:
        """Send and receive for `seconds`.

        Raises:
            OSError: a connection broke.
        """
        deadline = time.perf_counter() + seconds
        while (left := deadline - time.perf_counter()) > 0:
            for key, events in self._selector.select(left):
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                if events & _READ:
                    self._receive(sock)
                if events & _WRITE:
                    self._send(sock)

    def _receive(self, sock: socket.socket) -> None:
        size = sock.recv_into(self._buffer)
        if not size:
            raise ConnectionError("the connection was closed")
        self.received += size

    def _send(self, sock: socket.socket) -> None:
        try:
            sock.send(self._zeros)
        except BlockingIOError:
            return
