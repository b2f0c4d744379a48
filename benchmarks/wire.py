"""The protocol between the load generators and the target.

A connection begins with eight bytes that tell the target its mode, on which the rest depends.
"""

from __future__ import annotations

import enum
import socket
import struct

HEADER = struct.Struct("!BxxxI")
COUNT = struct.Struct("!Q")
#: The size of reads and writes. Larger blocks are no faster on a loopback interface.
BLOCK_BYTES = 256 * 1024


class Mode(enum.IntEnum):
    """The modes of a connection to the target."""

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
    #: Send back what arrives, for clients that wait for it before they send more.
    ECHO = 6


def header(mode: Mode, size: int = 0) -> bytes:
    """Return the first bytes of a connection."""
    return HEADER.pack(mode, size)


#: The beginning of a connection with one-byte requests, including the first request. Its answer is one byte, too.
HELLO = header(Mode.ANSWER, 1) + b"?"


class Counter:
    """Asks the target how much its sinks have read, over a direct connection and not through the system under
    test."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._sock = connect(target)
        self._sock.sendall(header(Mode.COUNT))

    def read(self) -> int:
        """Return the number of bytes so far."""
        self._sock.sendall(b"?")
        return int(COUNT.unpack(receive_exactly(self._sock, COUNT.size))[0])

    def close(self) -> None:
        """Close the connection."""
        self._sock.close()


def connect(address: tuple[str, int], *, seconds: float = 20.0) -> socket.socket:
    """Open a blocking connection without Nagle's algorithm, whose calls time out after `seconds`."""
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
