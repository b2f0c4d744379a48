"""Opens many connections at the same time, without overflowing the listener's queue."""

from __future__ import annotations

import selectors
import socket
import time

from ..ports import HOST
from ..wire import connect

#: The maximum number of connections whose first answer has not arrived yet.
_AT_ONCE = 64


def open_streams(entry: int, count: int, first: bytes) -> list[socket.socket]:
    """Open blocking connections, and send `first` on each."""
    socks = []
    for _ in range(count):
        sock = connect((HOST, entry))
        sock.sendall(first)
        socks.append(sock)
    return socks


def open_answered_streams(entry: int, count: int, first: bytes, *, seconds: float) -> list[socket.socket]:
    """Open connections, send `first`, and wait for one byte on each, which proves that they reach the target.

    Returns:
        The non-blocking connections on which a byte has arrived within `seconds`.

    Raises:
        OSError: a connection was refused, or broke.
    """
    deadline = time.monotonic() + seconds
    selector = selectors.DefaultSelector()
    answered: list[socket.socket] = []
    started = 0
    while len(answered) < count:
        while started < count and started - len(answered) < _AT_ONCE:
            sock = connect((HOST, entry))
            sock.sendall(first)
            sock.setblocking(False)
            selector.register(sock, selectors.EVENT_READ)
            started += 1
        events = selector.select(max(deadline - time.monotonic(), 0))
        if not events:
            break
        for key, _ in events:
            sock = key.fileobj  # type: ignore[assignment]
            if not sock.recv(1):
                raise ConnectionError(f"stream {len(answered) + 1} was closed")
            selector.unregister(sock)
            answered.append(sock)
        if time.monotonic() > deadline:
            break
    for key in list(selector.get_map().values()):
        key.fileobj.close()  # type: ignore[union-attr]
    selector.close()
    return answered
