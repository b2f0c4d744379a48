"""Reading an exact number of bytes, and nothing beyond them."""

from __future__ import annotations

import trio

from .nowait import SMALL_READ_BYTES


async def receive_exactly(stream: trio.abc.ReceiveStream, count: int) -> bytes:
    """Receive exactly `count` bytes; what follows stays in `stream`.

    Raises:
        trio.BrokenResourceError: the stream is broken, or ended before all bytes had arrived, perhaps before the
            first.

    If cancelled, the bytes received so far are lost, so the stream can no longer be used.
    """
    received = bytearray()
    while len(received) < count:
        chunk = await stream.receive_some(min(count - len(received), SMALL_READ_BYTES))
        if not chunk:
            raise trio.BrokenResourceError(f"the stream ended after {len(received)} of {count} bytes")
        received += chunk
    return bytes(received)
