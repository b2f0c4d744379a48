"""Moving bytes within the kernel (`os.splice`, Linux): what workers and the main process have in common."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import Any, Protocol

if sys.platform == "linux":
    import fcntl
    import termios

__all__ = [
    "HAS_SPLICE",
    "PIPE_BYTES",
    "SPLICE_FLAGS",
    "SPLICE_RETRY_SECONDS",
    "has_unread",
    "is_of_socket",
    "open_pipe",
]

#: Some interpreters on Linux were built without `os.splice`.
HAS_SPLICE = sys.platform == "linux" and hasattr(os, "splice")
#: SPLICE_F_MOVE and SPLICE_F_NONBLOCK.
SPLICE_FLAGS = 1 | 2
#: The capacity that is requested for a pipe. In measurements, the relay used 0.37 seconds of processor time per GB
#: with the default of 64 KiB, 0.30 with 256 KiB, and 0.24 with 512 KiB or more. It is not greater, because an
#: unprivileged user gets only tiny pipes after 64 MiB of capacity in total.
PIPE_BYTES = 512 * 1024
#: How long splicing is suspended after the system has refused it (seconds). A system call filter refuses it every
#: time, at the cost of a call, whereas a shortage of memory passes.
SPLICE_RETRY_SECONDS = 60.0
#: F_SETPIPE_SZ on Linux, for interpreters that do not define it.
_SET_PIPE_SIZE = 1031
#: Errors of a socket, caused by the network, the peer or its state (EBADF: this process has closed it). See
#: `is_of_socket`.
SOCKET_ERRORS = frozenset(
    getattr(errno, name)
    for name in (
        "EBADF", "ECONNABORTED", "ECONNREFUSED", "ECONNRESET", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETRESET",
        "ENETUNREACH", "ENONET", "ENOTCONN", "EPIPE", "EPROTO", "ESHUTDOWN", "ETIMEDOUT",
    )
    if hasattr(errno, name)
)  # fmt: skip
#: Other errors with which a connection may end: what was sent is no longer acknowledged, and an ICMP message has
#: given the cause (`icmp_err_convert` in Linux).
_ICMP_ERRORS = frozenset((errno.EACCES, errno.EMSGSIZE, errno.ENOPROTOOPT, errno.EOPNOTSUPP))


#: The answer of FIONREAD if nothing has arrived.
_NOTHING = bytes(4)


class _Socket(Protocol):
    def getpeername(self) -> Any: ...


def is_of_socket(error: OSError, sock: _Socket) -> bool:
    """Return whether an error of `os.splice` is one of this socket. Otherwise, splicing does not work.

    Some error numbers can mean either. They are an error of the socket if it is no longer connected.
    """
    if error.errno in _ICMP_ERRORS:
        try:
            sock.getpeername()
        except OSError:
            return True
    return error.errno in SOCKET_ERRORS


def has_unread(descriptor: int) -> bool:
    """Return whether a TCP socket has bytes to read. The end of file, an error, and what follows urgent data do not
    count. This takes a fraction of the time that a read needs to fail. Raises OSError."""
    assert sys.platform == "linux"
    return fcntl.ioctl(descriptor, termios.FIONREAD, _NOTHING) != _NOTHING


def open_pipe() -> tuple[int, int]:
    """Return the two ends of a new pipe. Raises OSError if the process or the system has no descriptors left."""
    assert sys.platform == "linux"
    ends = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    # The system refuses this if the user already has much pipe capacity. The pipe works with less, too.
    with contextlib.suppress(OSError):
        fcntl.fcntl(ends[1], getattr(fcntl, "F_SETPIPE_SZ", _SET_PIPE_SIZE), PIPE_BYTES)
    return ends
