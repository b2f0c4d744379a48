"""Clients of a Unix socket that seem to be of another user."""

from __future__ import annotations

import os
import socket
import struct

import pytest
import trio


def pretend_user(monkeypatch: pytest.MonkeyPatch, sockets: type[trio.socket.SocketType], user: int) -> None:
    """Let the system state, for all sockets of a class, that the other side is of this user. Only on Linux."""
    assert hasattr(socket, "SO_PEERCRED")
    real = sockets.getsockopt

    def getsockopt(self: trio.socket.SocketType, level: int, option: int, size: int | None = None) -> int | bytes:
        if (level, option) == (socket.SOL_SOCKET, socket.SO_PEERCRED):
            return struct.pack("3i", os.getpid(), user, os.getegid())
        return real(self, level, option) if size is None else real(self, level, option, size)

    monkeypatch.setattr(sockets, "getsockopt", getsockopt)
