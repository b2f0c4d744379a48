"""A connected pair of TCP sockets on this machine: one end for a library that needs a socket, one for this process.

It is TCP, and not a pair of Unix sockets (`socket.socketpair`), because:

- A Unix socket cannot be reset. When one end is closed, the other end reads an end of file, whatever has happened, so
  a connection that broke would look like one that has ended. A TCP socket that is closed with a linger time of zero
  resets the connection, and reading at the other end raises `ConnectionResetError`.
- Libraries set TCP options (TCP_NODELAY, keepalive), which fail on Unix sockets, and expect addresses with a port.

For a moment there is a listening socket. Another user of the machine can connect to it, too, so a connection is used
only if its address is that of the other end of the pair.
"""

from __future__ import annotations

import errno
import socket

import trio

from .forking import close_in_children
from .sockets import abort_socket

__all__ = ["loopback_pair"]

#: How long it may take until the connection of this program is accepted (seconds). Only another program that
#: connects to the same port at the same time, again and again, can delay that.
_ACCEPT_SECONDS = 5.0
_BACKLOG = 16
_FAMILIES = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
#: The errors of an address that this machine does not have.
_NO_ADDRESS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


async def loopback_pair() -> tuple[socket.socket, trio.SocketStream]:
    """Return both ends of a new TCP connection over the loopback interface: an ordinary blocking socket, and a stream
    for this Trio run.

    Raises:
        OSError: no connection can be made: there is no loopback interface, or descriptors or ports have run out.

    If cancelled, nothing stays open.
    """
    for family, host in _FAMILIES:
        try:
            return await _pair(family, host)
        except OSError as exc:
            if exc.errno not in _NO_ADDRESS or host == _FAMILIES[-1][1]:
                raise
    raise AssertionError("there are families")


async def _pair(family: socket.AddressFamily, host: str) -> tuple[socket.socket, trio.SocketStream]:
    with trio.socket.socket(family, socket.SOCK_STREAM) as listener:
        await listener.bind((host, 0))
        listener.listen(_BACKLOG)
        near = trio.socket.socket(family, socket.SOCK_STREAM)
        far: trio.SocketStream | None = None
        try:
            with trio.move_on_after(_ACCEPT_SECONDS):
                # The system accepts the connection into the backlog, so this does not wait for `accept`.
                await near.connect(listener.getsockname())
                far = await _accept_from(listener, near.getsockname())
            if far is None:
                raise OSError(errno.ETIMEDOUT, "a connection of this machine with itself was not accepted in time")
            near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # Another object, so that the application's end is not among those that a forked child closes.
            application = socket.socket(fileno=near.detach())
        except BaseException:
            near.close()
            if far is not None:
                abort_socket(far)
            raise
    application.setblocking(True)
    return application, far


async def _accept_from(listener: trio.socket.SocketType, address: object) -> trio.SocketStream:
    """Accept the connection that comes from `address`, and reset all others."""
    while True:
        accepted, peer = await listener.accept()
        close_in_children(accepted)
        stream = trio.SocketStream(accepted)
        if peer == address:
            return stream
        abort_socket(stream)
