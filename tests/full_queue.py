"""A Unix socket whose program hangs, so that its queue of connections is full."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

from hybridrelay.streams.unix_sockets import short_path

from .waiting import patience


@contextlib.contextmanager
def full_queue(path: Path) -> Iterator[socket.socket]:
    """Listen at a path, and fill the queue; gives the listening socket. Only on Linux: other systems answer in other
    ways."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server, contextlib.ExitStack() as waiting:
        with short_path(path) as name:
            server.bind(name)
        server.listen(0)
        server.settimeout(patience(20))
        while True:
            filling = waiting.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            filling.setblocking(False)
            try:
                with short_path(path) as name:
                    filling.connect(name)
            except BlockingIOError:
                break
        yield server
