"""A listener that answers nobody."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator


@contextlib.contextmanager
def silent_listener(address: str, port: int) -> Iterator[None]:
    """Listen at a loopback address so that attempts to connect are neither accepted nor refused, as at an address
    that is offline: the backlog is full, and Linux then drops what requests another connection."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(0)  # for one connection
        with socket.create_connection((address, port)):
            yield
