"""Resources that this machine can run out of: descriptors, local ports, memory for sockets, threads, epoll watches.

Such a failure is not caused by the other side. It is reported as a shortage of this machine, and it is temporary: the
operation is retried or refused, and no program ends because of it.
"""

from __future__ import annotations

import errno
import socket

import attrs

from ._descriptors import RAISE_LIMIT
from ._value import Value

__all__ = [
    "OUT_OF_DESCRIPTORS",
    "OUT_OF_MEMORY",
    "Shortage",
    "datagram_shortage_of",
    "remedy_or",
    "shortage_of",
    "socket_shortage_of",
    "text_or",
]


@attrs.frozen
class Shortage(Value):
    """What has run out, as text for people."""

    #: Text that completes "this machine ..." or "the connector ...".
    text: str
    remedy: str


#: EMFILE, and its remedy.
OUT_OF_DESCRIPTORS = Shortage("has run out of file descriptors", RAISE_LIMIT)
#: MemoryError, and its remedy.
OUT_OF_MEMORY = Shortage(
    "has no memory left for this program",
    "free memory on this machine, or raise the limit of this program: ulimit -v, MemoryMax= in the service's unit",
)
_PORTS = Shortage(
    "has no local port left for the connection",
    "widen net.ipv4.ip_local_port_range, or find out with 'ss -tan' what holds so many connections",
)
_DATAGRAM_PORTS = Shortage(
    "has no local UDP port left",
    "widen net.ipv4.ip_local_port_range, or find out with 'ss -uan' what holds so many sockets",
)
_MEMORY = Shortage(
    "has no memory left for connections", "free memory on this machine, or raise net.ipv4.tcp_mem (see tcp(7))"
)
_WATCHES = Shortage(
    "may not wait for more sockets",
    "raise fs.epoll.max_user_watches, or find out which programs of the same user have so many sockets open",
)
_SHORTAGES = {
    errno.EMFILE: OUT_OF_DESCRIPTORS,
    errno.ENFILE: Shortage(
        "has run out of file descriptors in all of its processes",
        "raise fs.file-max, or find out with 'lsof' which process has so many files open",
    ),
    errno.ENOBUFS: _MEMORY,
    errno.ENOMEM: _MEMORY,
    errno.EAGAIN: Shortage(
        "cannot start another thread",
        "raise the limit of processes and threads: ulimit -u, TasksMax= in the service's unit",
    ),
}


def shortage_of(error: OSError) -> Shortage | None:
    """Return what has run out, according to the error of a system call; None if the error has another cause."""
    if error.errno is None or isinstance(error, socket.gaierror | BlockingIOError):
        return None  # not an errno, or EAGAIN from a call that would block
    if error.errno == errno.EADDRNOTAVAIL:
        return None if _has_free_port(socket.SOCK_STREAM) else _PORTS
    return _SHORTAGES.get(error.errno)


def socket_shortage_of(error: OSError) -> Shortage | None:
    """Like `shortage_of`, for a call about a socket, or one that waits for it. There, ENOSPC is about epoll(7), and
    not about a disk."""
    return _WATCHES if error.errno == errno.ENOSPC else shortage_of(error)


def datagram_shortage_of(error: OSError) -> Shortage | None:
    """Like `socket_shortage_of`, for making a UDP socket and connecting it. That never blocks: on Linux, EAGAIN means
    there that no local port is left. Other systems use EADDRNOTAVAIL."""
    if isinstance(error, BlockingIOError):
        return _DATAGRAM_PORTS
    if error.errno == errno.EADDRNOTAVAIL and not isinstance(error, socket.gaierror):
        return None if _has_free_port(socket.SOCK_DGRAM) else _DATAGRAM_PORTS
    return socket_shortage_of(error)


def text_or(error: Exception, usual: str) -> str:
    """Return what has failed: that this machine is short of something, or the usual text about other causes."""
    shortage = shortage_of(error) if isinstance(error, OSError) else None
    return usual if shortage is None else f"this machine {shortage.text}"


def remedy_or(error: Exception, usual: str) -> str:
    """Return what to do about a failure: the remedy of a shortage, or the usual one for other causes."""
    shortage = shortage_of(error) if isinstance(error, OSError) else None
    return usual if shortage is None else shortage.remedy


def _has_free_port(kind: socket.SocketKind) -> bool:
    """Return whether a local port is left, for TCP or UDP. If so, EADDRNOTAVAIL means that there is no local address
    (often of IPv6)."""
    try:
        with socket.socket(socket.AF_INET, kind) as sock:
            sock.bind(("", 0))
    except OSError as exc:
        return exc.errno != errno.EADDRINUSE
    return True
