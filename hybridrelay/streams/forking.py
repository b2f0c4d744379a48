"""Sockets that a forked child process must not keep open.

A child that `os.fork` has made has a copy of every descriptor. As long as it keeps the copy of a socket, closing the
socket in the parent ends nothing: the peer sees no end of file, and a port on which the parent listened stays taken.
The child does not need these sockets, because the thread that uses them does not exist in it.

Trio creates the sockets of a run with a factory, which remembers them; sockets that come from elsewhere, such as
accepted ones, are passed to `close_in_children`.
"""

from __future__ import annotations

import contextlib
import os
import socket
from weakref import WeakSet

import trio

__all__ = ["OwnSockets", "close_in_children"]


_Socket = socket.socket | trio.socket.SocketType


class OwnSockets(trio.abc.SocketFactory):
    """The sockets of one Trio run, which its process does not share with children."""

    def __init__(self) -> None:
        self._sockets: WeakSet[_Socket] = WeakSet()

    def use(self) -> None:
        """Remember the sockets of the running Trio run from now on."""
        trio.socket.set_custom_socket_factory(self)
        _OWN.set(self)

    def socket(
        self,
        family: socket.AddressFamily | int = socket.AF_INET,
        type: socket.SocketKind | int = socket.SOCK_STREAM,  # noqa: A002
        proto: int = 0,
    ) -> trio.socket.SocketType:
        """Create a socket. Called by `trio.socket.socket`."""
        created = trio.socket.from_stdlib_socket(socket.socket(family, type, proto))
        self._sockets.add(created)
        return created

    def add(self, sock: _Socket) -> None:
        """Remember a socket."""
        self._sockets.add(sock)

    def close_copies(self) -> None:
        """Close the copies of all sockets in a child process. The connections of the parent are not affected."""
        for sock in list(self._sockets):
            # Closing a Trio socket needs a Trio run. Nor may its descriptor be closed again when the object goes.
            fd = sock.detach()
            if fd != -1:
                with contextlib.suppress(OSError):
                    os.close(fd)


_OWN: trio.lowlevel.RunVar[OwnSockets | None] = trio.lowlevel.RunVar("hybridrelay own sockets", None)


def close_in_children(sock: _Socket) -> None:
    """Remember a socket of this Trio run, if the run remembers its sockets."""
    own = _OWN.get()
    if own is not None:
        own.add(sock)
