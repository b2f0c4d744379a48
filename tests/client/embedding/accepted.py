"""The connections that a target accepts, for tests that play the target."""

from __future__ import annotations

import math

import trio


class Targets:
    """Passes the connections that a target accepts to the test."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[trio.SocketStream](math.inf)
        self.done = trio.Event()

    async def handle(self, stream: trio.SocketStream) -> None:
        await self._send.send(stream)
        await self.done.wait()

    async def accept(self) -> trio.SocketStream:
        return await self._receive.receive()
