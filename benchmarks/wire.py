"""The protocol between load generators and target.

A connection begins with eight bytes that state what the target has to do; the rest depends on that.
"""

from __future__ import annotations

import enum
import socket
import struct

HEADER = struct.Struct("!BxxxI")
COUNT = struct.Struct("!Q")
#: What is read and written at once. Larger blocks gain nothing on a loopback interface.
BLOCK_BYTES = 256 * 1024


class Mode(enum.IntEnum):
    """What the target does."""

    #: Read and drop everything.
    SINK = 1
    #: Send indefinitely.
    SOURCE = 2
    #: SINK and SOURCE at the same time.
    BOTH = 3
    #: Answer every ``size`` bytes with the same number of bytes.
    ANSWER = 4
    #: Answer every byte with the number of bytes that all sinks have read so far.
    COUNT = 5


def header(mode: Mode, size: int = 0) -> bytes:
    """The first bytes of a connection."""
    return HEADER.pack(mode, size)


#: Begins a connection with one-byte requests and sends the first one. The answer is the shortest possible one.
HELLO = header(Mode.ANSWER, 1) + b"?"


class Counter:
    """Asks the target how much its sinks have read. Connected directly, and not through the system under test."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._sock = connect(target)
        self._sock.sendall(header(Mode.COUNT))

    def read(self) -> int:
        """The bytes so far."""
        self._sock.sendall(b"?")
        return int(COUNT.unpack(receive_exactly(self._sock, COUNT.size))[0])

    def close(self) -> None:
        """Close the connection."""
        self._sock.close()


def connect(address: tuple[str, int], *, seconds: float = 20.0) -> socket.socket:
    """A blocking connection without Nagle's algorithm; its calls time out after `seconds`."""
    sock = socket.create_connection(address, timeout=seconds)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def receive_exactly(sock: socket.socket, size: int) -> bytes:
    """Read `size` bytes.

    Raises:
        ConnectionError: the connection ended before that.
    """
    data = b""
    while len(data) < size:
        block = sock.recv(size - len(data))
        if not block:
            raise ConnectionError("the connection was closed before the answer was complete")
        data += block
    return data
