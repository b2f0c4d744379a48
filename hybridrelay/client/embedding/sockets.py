"""Ordinary sockets for libraries that do not use Trio."""

from __future__ import annotations

import socket
from functools import partial

from ...security import ConnectionString
from ..config import ClientConfig
from .background import call_and_wait
from .shared import as_config, check_port, check_timeout, open_in_background

__all__ = ["close_socket", "open_socket"]


def open_socket(
    config: ClientConfig | ConnectionString | str, *, port: int | None = None, timeout: float | None = None
) -> socket.socket:
    """Return a connected socket that leads to the target, for libraries that accept one.

    It is an ordinary blocking TCP socket (`socket.AF_INET`, or `AF_INET6` on a machine without IPv4), and only this
    process can use it: there is no port to which others could connect. Its peer is a thread of this process, on the
    loopback interface, so `getpeername` does not return the address of the target.

    It behaves like a connection to the target. An end of file is passed on separately in each direction
    (`shutdown`). Sending blocks if the target does not read. If the target or the session fails, the connection is
    reset: receiving then raises `ConnectionResetError`, and never returns an end of file that the target has not
    sent. Closing the socket delivers what was sent before.

    Sockets with equal configurations share a client, and so a session: a further one costs one round trip. The client
    stays open as long as the process runs.

    This blocks until the connector has connected to the target. Use `hybridrelay.aio` in asyncio, and `open_client`
    in Trio. Any thread may call it. After a fork, each process opens sockets of its own; a socket that was open
    before lasts as long as the process that has opened it. When the interpreter exits, sockets that are open count as
    closed: what was sent is delivered, for which the exit waits up to 25 seconds. If that fails, or if the process is
    killed, the target sees a reset.

    Args:
        config: an application's connection string, as text or parsed; or a `ClientConfig` with one, whose `dialer` is
            called in the thread.
        port: which port of the target, if the hybrid connection has several. None means the first one.
        timeout: how long opening may take, in seconds. None means 30, or the `open_patience` of `config` if that is
            longer. It does not become the timeout of the socket, which has none.

    Raises:
        StreamRefused: the target or the connector refused the stream, or the time has passed; `reason` says which.
        HybridRelayError: no session could be opened (see `Client.connect`), the connection string cannot be used
            (`ConfigurationError`), or the interpreter is exiting. `remedy` says what to do.
        OSError: no thread can be started (EAGAIN).
        ValueError: `timeout` is negative, or `port` is not a port number.

    If interrupted, such as by KeyboardInterrupt, nothing stays open.
    """
    config, port, timeout = as_config(config), check_port(port), check_timeout(timeout)
    opening = partial(open_in_background, config=config, port=port, timeout=timeout)
    return call_and_wait(opening, dispose=close_socket)


def close_socket(sock: socket.socket) -> None:
    """Close a socket whose caller no longer waits for it."""
    sock.close()
