"""Channels over the standard input and output of a command, such as `ssh`.

The dialing side runs the command that its administrator configured. The command's standard input and output have to
lead to ``hybridrelay relay-stdio`` on the relay's host, which connects them to the relay's Unix socket. The command
is run once for each channel.
"""

from __future__ import annotations

from hybridrelay.abc import Transport

from .stream import FramedStream
from .transport import ExecTransport

__all__ = ["ExecTransport", "FramedStream", "transport"]

#: The object that the entry point names.
transport: Transport = ExecTransport()
