"""Connecting standard input and output to the relay that uses a state directory.

The bytes are copied without being interpreted. They belong to the transport `hybridrelay_exec`, whose protocol marks
the end of a channel. An end of file here does not mean that all data has arrived.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

import trio

from ..errors import StateError
from ..streams.nowait import READ_BYTES
from ..streams.unix_sockets import connect_unix_socket
from .store.state_dir import local_socket

__all__ = ["PORT", "connect_stdio"]

#: The name of the relay's local port for this.
PORT = "stdio"
#: How long the relay may take to end the connection after standard input has ended (seconds).
_END_SECONDS = 5.0


async def connect_stdio(state_dir: Path, *, stdin: int = 0, stdout: int = 1) -> None:
    """Copy the bytes of two descriptors to the relay and back, until either side ends.

    Args:
        state_dir: the relay's state directory.
        stdin: the descriptor to read from.
        stdout: the descriptor to write to.

    Raises:
        StateError: no relay is running there, or this user may not connect to it.

    If cancelled, this ends at once, and the relay sees a broken connection.
    """
    if sys.platform == "win32":
        raise StateError("relay-stdio needs Unix sockets, which this system does not have")
    path = local_socket(state_dir, PORT)
    try:
        relay = await connect_unix_socket(path)
    except OSError as exc:
        raise StateError(
            f"no connection to the relay at {path}: {exc.strerror or exc}",
            remedy="check that a relay runs with this state directory, and run the command as its user or as root",
        ) from exc
    # Duplicates, so that closing them here does not close the descriptors of the process. FdStream makes both
    # non-blocking in the meantime.
    async with relay, trio.lowlevel.FdStream(os.dup(stdin)) as source, trio.lowlevel.FdStream(os.dup(stdout)) as sink:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_copy_to_relay, source, relay, nursery.cancel_scope)
            await _copy(relay, sink)
            nursery.cancel_scope.cancel()


async def _copy_to_relay(source: trio.abc.ReceiveStream, relay: trio.SocketStream, both: trio.CancelScope) -> None:
    await _copy(source, relay)
    with contextlib.suppress(trio.BrokenResourceError):  # the relay has ended, which the other direction notices
        await relay.send_eof()
    await trio.sleep(_END_SECONDS)
    both.cancel()


async def _copy(source: trio.abc.ReceiveStream, sink: trio.abc.SendStream) -> None:
    """Copy until either side ends."""
    try:
        while data := await source.receive_some(READ_BYTES):
            await sink.send_all(data)
    except trio.BrokenResourceError:
        return
