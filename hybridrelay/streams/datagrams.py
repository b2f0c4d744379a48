"""UDP sockets that never block: which errors mean that a datagram is lost, and not that the socket is unusable."""

from __future__ import annotations

import errno

__all__ = ["TOO_LONG", "has_no_room"]

#: The numbers of the error that a datagram is too long for the socket or the network.
TOO_LONG = frozenset({errno.EMSGSIZE, getattr(errno, "WSAEMSGSIZE", errno.EMSGSIZE)})
_NO_ROOM = frozenset({errno.ENOBUFS, errno.ENOMEM, getattr(errno, "WSAENOBUFS", errno.ENOBUFS)})


def has_no_room(error: OSError) -> bool:
    """Return whether the system has no room for a datagram now."""
    return isinstance(error, BlockingIOError) or error.errno in _NO_ROOM
