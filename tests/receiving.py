"""Reading a stream to its end."""

from __future__ import annotations

import trio


async def receive_all(stream: trio.abc.ReceiveStream) -> bytes:
    """Everything up to the end of file."""
    received = bytearray()
    while data := await stream.receive_some():
        received += data
    return bytes(received)
