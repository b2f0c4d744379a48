"""TCP socket options, which differ between platforms, and resetting connections."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import sys

import trio

__all__ = [
    "abort_socket",
    "abort_stream",
    "close_forcefully",
    "has_unread",
    "reset_on_close",
    "tune_socket",
    "tune_stream",
    "wait_reset",
]

#: A socket counts as writable while less than this is unsent (bytes). Without this option, the kernel accepts
#: megabytes, and a ping has to wait behind all of them. Trio's default of 16 KiB costs a wake-up for every 16 KiB on
#: fast paths.
NOTSENT_LOWAT = 128 * 1024
#: Keepalive: the first probe is sent after this many seconds of silence, then one per interval. This is less than the
#: idle timeouts of common middleboxes (60 s and more), so that it also keeps an idle channel open.
KEEPALIVE_IDLE = 30
KEEPALIVE_INTERVAL = 10
#: Together with idle time and interval, the connection is given up after 90 s, as with the user timeout.
KEEPALIVE_COUNT = 6
#: How long sent data may stay unacknowledged (seconds). With less than a minute, channels would be lost that could
#: survive until the network recovers (a rerouted path, a laptop that changes its wireless network).
USER_TIMEOUT = 90

#: How often a connection that stays readable is checked for a reset (seconds); see `wait_reset`.
_RESET_CHECK_SECONDS = 0.25

# macOS has a different name for this option. Both are in seconds.
_KEEPIDLE_NAMES = ("TCP_KEEPIDLE", "TCP_KEEPALIVE")


def tune_socket(sock: socket.socket | trio.socket.SocketType, *, user_timeout: bool = True) -> None:
    """Set the options that every socket of a channel needs: TCP_NODELAY, a bounded unsent queue, keepalive, user
    timeout.

    Options that the platform or the address family lacks are skipped, and errors are ignored: if the connection has
    failed in the meantime, the next read reports it.

    Args:
        sock: a connected TCP socket.
        user_timeout: whether to give up after `USER_TIMEOUT` seconds without acknowledgement. Only for peers whose
            program always reads: the timeout also runs while the peer's window is closed, so it would cut off an
            application that pauses.
    """
    tcp = socket.IPPROTO_TCP
    _set(sock, tcp, "TCP_NODELAY", 1)
    _set(sock, tcp, "TCP_NOTSENT_LOWAT", NOTSENT_LOWAT)
    _set(sock, socket.SOL_SOCKET, "SO_KEEPALIVE", 1)
    for name in _KEEPIDLE_NAMES:
        if hasattr(socket, name):
            _set(sock, tcp, name, KEEPALIVE_IDLE)
            break
    _set(sock, tcp, "TCP_KEEPINTVL", KEEPALIVE_INTERVAL)
    _set(sock, tcp, "TCP_KEEPCNT", KEEPALIVE_COUNT)
    if user_timeout:
        _set(sock, tcp, "TCP_USER_TIMEOUT", USER_TIMEOUT * 1000)  # Linux, in milliseconds


def tune_stream(stream: trio.abc.AsyncResource) -> None:
    """Call `tune_socket` if the stream is a plain socket. Other streams (through a proxy, in tests) are not
    changed."""
    if isinstance(stream, trio.SocketStream):
        tune_socket(stream.socket)


def reset_on_close(stream: trio.SocketStream | trio.socket.SocketType, *, on: bool) -> None:
    """Set whether closing the socket resets the connection instead of ending it.

    The kernel then also resets the connection when the process dies. A program that forwards bytes therefore sets
    this at the beginning, and unsets it when both ends of file have been passed on. If it is killed in between,
    neither side gets incomplete data that seems to end normally.
    """
    # A linger time of zero turns close() into a reset. The fields have 16 bits on Windows.
    linger = struct.pack("hh" if sys.platform == "win32" else "ii", on, 0)
    with contextlib.suppress(OSError):
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


async def abort_stream(stream: trio.abc.AsyncResource) -> None:
    """Close a stream so that the peer sees an error and not end of file, if the stream can distinguish the two.

    A plain socket is reset, and unsent data is discarded. Any other stream is closed forcefully: TLS, for example,
    then sends no close_notify. (The standard input of a command just ends.) The stream is closed even if this is
    cancelled.
    """
    if isinstance(stream, trio.SocketStream):
        reset_on_close(stream, on=True)
    await trio.aclose_forcefully(stream)


def abort_socket(stream: trio.SocketStream) -> None:
    """Like `abort_stream`, for a socket, and without a checkpoint."""
    reset_on_close(stream, on=True)
    stream.socket.close()


async def close_forcefully(*resources: trio.abc.AsyncResource) -> None:
    """Close all resources forcefully, in this order, even if this is cancelled or closing one of them fails.

    Does not block.
    """
    with trio.CancelScope(shield=True):
        async with contextlib.AsyncExitStack() as stack:
            for resource in reversed(resources):
                stack.push_async_callback(trio.aclose_forcefully, resource)


async def wait_reset(stream: trio.SocketStream) -> None:
    """Wait until the peer resets a connection. Reads nothing, and nothing else may read or write in the meantime.

    End of file is not a reset, because the peer may still wait for data. A peer that closes its socket also sends
    only an end of file, so this is not detected.

    The system reports a reset once. When this function has returned, whoever reads from the connection gets what had
    arrived before the reset and then an end of file, so the connection must not be used any more. If cancelled, the
    connection is unchanged.
    """
    sock = stream.socket
    try:
        await sock.recv(1, socket.MSG_PEEK)
        # Because of unread data or end of file, the socket stays readable, and only its pending error shows a reset.
        while sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:  # noqa: ASYNC110
            await trio.sleep(_RESET_CHECK_SECONDS)
    except OSError:
        return


def has_unread(fd: int) -> bool:
    """Return whether a socket has something to be received: data, the end of file, or an error.

    Args:
        fd: the descriptor; -1 if the socket was closed.
    """
    if fd == -1:
        return False
    if not hasattr(select, "poll"):  # Windows, where `select` does not limit the number of a descriptor
        return bool(select.select([fd], [], [], 0)[0])
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _set(sock: socket.socket | trio.socket.SocketType, level: int, name: str, value: int) -> None:
    option = getattr(socket, name, None)
    if option is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(level, option, value)
