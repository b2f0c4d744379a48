"""Free ports of the loopback interface."""

from __future__ import annotations

import contextlib
import random
import socket

HOST = "127.0.0.1"

_given: set[int] = set()


def free_port() -> int:
    """Return a TCP port that is free now, and that this function has not returned before.

    The port is below the range from which systems take ports for outgoing connections, so that it stays free.
    """
    while True:
        port = random.randrange(10_000, 32_000)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((HOST, port))
            if port not in _given:
                _given.add(port)
                return port
