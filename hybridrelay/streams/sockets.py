"""TCP options for the sockets of channels, and how platforms differ in them."""

from __future__ import annotations

import contextlib
import socket
import struct
import sys

import trio

__all__ = ["abort_stream", "reset_on_close", "tune_socket", "tune_stream", "wait_reset"]

#: A socket counts as writable while less than this is unsent (bytes). Without it the kernel takes megabytes, and a
#: ping waits behind all of them. trio's own 16 KiB costs fast paths one wake-up per 16 KiB.
NOTSENT_LOWAT = 128 * 1024
#: Keepalive: the first probe after this many seconds of silence, then one per interval. Below the idle timeouts of
#: common middleboxes (60 s and more), so that an idle channel is also kept open by it.
KEEPALIVE_IDLE = 30
KEEPALIVE_INTERVAL = 10
#: With idle and interval this gives up after 90 s, as the user timeout does.
KEEPALIVE_COUNT = 6
#: How long sent data may stay unacknowledged (seconds). At least a minute: shorter, and the network's own recovery
#: (a rerouted path, a laptop changing its wireless network) loses channels that would have lived.
USER_TIMEOUT = 90

#: How often a connection that stays readable is checked for a reset (seconds); see `wait_reset`.
_RESET_CHECK_SECONDS = 0.25

# macOS has it under another name; both take seconds.
_KEEPIDLE_NAMES = ("TCP_KEEPIDLE", "TCP_KEEPALIVE")


def tune_socket(sock: socket.socket | trio.socket.SocketType, *, user_timeout: bool = True) -> None:
    """Set the options that every socket of a channel needs: TCP_NODELAY, a bounded unsent queue, keepalive, user
    timeout.

    Options that the platform or the address family lacks are skipped, and so are errors: a socket that died meanwhile
    says so on its next read.

    Args:
        sock: a connected TCP socket.
        user_timeout: whether to give up after `USER_TIMEOUT` seconds without acknowledgement. Only where the peer's
            program is one that always reads: the timeout also runs while the peer's window is closed, so it would
            cut off an application that pauses.
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
    """`tune_socket` where the stream is a plain socket; anything else (a proxy's, a test's) is left as it is."""
    if isinstance(stream, trio.SocketStream):
        tune_socket(stream.socket)


def reset_on_close(stream: trio.SocketStream | trio.socket.SocketType, on: bool) -> None:
    """Whether closing the socket resets the connection instead of ending it.

    The kernel also does that when the process dies. So a program that forwards bytes sets it at the beginning, and
    takes it back when both ends of file have been passed on: if it is killed in between, neither side receives a part
    of the bytes followed by an end of file.
    """
    # A lingering time of zero turns close() into a reset. Windows has 16-bit fields here.
    linger = struct.pack("hh" if sys.platform == "win32" else "ii", on, 0)
    with contextlib.suppress(OSError):
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


async def abort_stream(stream: trio.abc.AsyncResource) -> None:
    """Close so that the peer sees an error and no end of file; what is unsent is discarded.

    A plain socket is reset. Any other stream is closed forcefully, which by its contract announces no end. Always
    closes, cancelled or not.
    """
    if isinstance(stream, trio.SocketStream):
        reset_on_close(stream, True)
    await trio.aclose_forcefully(stream)


async def wait_reset(stream: trio.SocketStream) -> None:
    """Wait until the peer has reset a connection that nothing else reads or writes meanwhile; consume nothing.

    An end of file is no reset: a peer that has sent all it wants to, or nothing at all, may wait for data. Closing
    looks the same as that on the wire, so a peer that closes is not noticed here.

    Cancelled, the connection is as before.
    """
    sock = stream.socket
    try:
        await sock.recv(1, socket.MSG_PEEK)
        # There is data or an end of file now, so the socket stays readable, and only its pending error tells.
        while sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:  # noqa: ASYNC110
            await trio.sleep(_RESET_CHECK_SECONDS)
    except OSError:
        return


def _set(sock: socket.socket | trio.socket.SocketType, level: int, name: str, value: int) -> None:
    option = getattr(socket, name, None)
    if option is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(level, option, value)
