"""Sending data, and reading a stream to its end."""

from __future__ import annotations

import trio


async def receive_all(stream: trio.abc.ReceiveStream) -> bytes:
    """Everything up to the end of file."""
    received = bytearray()
    while data := await stream.receive_some():
        received += data
    return bytes(received)


async def send_and_receive(stream: trio.abc.HalfCloseableStream, data: bytes) -> bytes:
    """Send data and end the sending side, while everything up to the end of file is received."""
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            await stream.send_all(data)
            await stream.send_eof()

        nursery.start_soon(send)
        return await receive_all(stream)
