"""UDP sockets that never block: which errors mean that a datagram is lost, and not that the socket is unusable; and
how many datagrams were lost because the buffer of a socket was full."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import sys

__all__ = ["BUFFER_BYTES", "TOO_LONG_ERRNOS", "enlarge_buffer", "has_no_room", "lost_in_buffer"]

#: The receive buffer of a socket to which many programs send (bytes). Linux counts at least 768 bytes for each
#: datagram, and uses twice what it is told. By default, its buffer holds about 280 datagrams, which is fewer than a
#: port has flows; this one holds about 2,700. A larger one would hold datagrams that are too late when they are read.
BUFFER_BYTES = 1 << 20
#: Linux's socket option for memory in use: nine numbers of 32 bits, the last of which counts lost datagrams.
_SO_MEMINFO = 55
_MEMINFO = struct.Struct("=32xI")

#: The numbers of the error that a datagram is too long for the socket or the network.
TOO_LONG_ERRNOS = frozenset({errno.EMSGSIZE, getattr(errno, "WSAEMSGSIZE", errno.EMSGSIZE)})
_NO_ROOM_ERRNOS = frozenset({errno.ENOBUFS, errno.ENOMEM, getattr(errno, "WSAENOBUFS", errno.ENOBUFS)})


def has_no_room(error: OSError) -> bool:
    """Return whether the system has no room for a datagram now."""
    return isinstance(error, BlockingIOError) or error.errno in _NO_ROOM_ERRNOS


def enlarge_buffer(sock: socket.socket) -> None:
    """Let the system keep about `BUFFER_BYTES` of datagrams that were not received yet, or as much as it allows
    (``net.core.rmem_max`` on Linux)."""
    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) < BUFFER_BYTES:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)


def lost_in_buffer(sock: socket.socket) -> int:
    """Return how many datagrams a socket has lost so far because its buffer was full; 0 on systems that do not count
    them for each socket (all but Linux)."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, struct.error):  # a closed socket, or a kernel before 4.12
            (lost,) = _MEMINFO.unpack(sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size))
            return int(lost)
    return 0
