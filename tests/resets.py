"""Why a stream was reset, and whether a socket will be."""

from __future__ import annotations

import socket
import struct

import trio

from hybridrelay.errors import StreamReset
from hybridrelay.protocol import Reason


def reset_reason(broken: BaseException) -> Reason:
    """The reason of the `StreamReset` that caused what a stream has raised. Fails the test if something else did."""
    assert isinstance(broken.__cause__, StreamReset), broken.__cause__
    return broken.__cause__.reason


def resets_on_close(sock: socket.socket | trio.socket.SocketType) -> bool:
    """Whether closing a socket resets its connection (SO_LINGER)."""
    on, seconds = struct.unpack("ii", sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8))
    return bool(on) and not seconds
