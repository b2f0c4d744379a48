"""Closing a connection of an application after a last reply, so that it reads the reply instead of a reset."""

from __future__ import annotations

import socket

import trio

from ...streams.sockets import abort_socket, reset_on_close

__all__ = ["REPLY_SECONDS", "close_after"]

#: How long an application may take to accept a reply (seconds).
REPLY_SECONDS = 10.0
#: How long an application may take to close its connection after the last reply (seconds).
_LINGER_SECONDS = 1.0
#: How much of what it still sends is read and dropped (bytes). A connection that is closed with unread input is
#: reset, and the reset would discard the reply.
_LINGER_BYTES = 64 * 1024


async def close_after(local: trio.SocketStream, reply: bytes) -> None:
    """Send a reply, and close the connection. Without a reply, or if it cannot be sent in time, the connection is
    reset. If cancelled, it is reset, too."""
    is_sent = False
    try:
        if reply:
            with trio.move_on_after(REPLY_SECONDS):
                await local.send_all(reply)
                is_sent = True
        if is_sent:
            with trio.move_on_after(_LINGER_SECONDS):
                local.socket.shutdown(socket.SHUT_WR)
                left = _LINGER_BYTES
                while left > 0 and (data := await local.receive_some(min(left, 4096))):
                    left -= len(data)
    except (trio.BrokenResourceError, OSError):
        is_sent = False  # the application has gone
    finally:
        if is_sent:
            reset_on_close(local, on=False)
            local.socket.close()
        else:
            abort_socket(local)
