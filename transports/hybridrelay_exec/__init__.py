"""Channels over the standard input and output of a command, such as `ssh`.

The dialing side runs the command that its operator configured. Whatever the command does, its standard input and
output have to end at ``hybridrelay relay-stdio`` on the relay's host, which connects them to the relay's Unix socket.
Each channel is a command of its own.
"""

from __future__ import annotations

from hybridrelay.abc import Transport

from .stream import FramedStream
from .transport import ExecTransport

__all__ = ["ExecTransport", "FramedStream", "transport"]

#: What the entry point names.
transport: Transport = ExecTransport()
