"""Channels and turns for tests of what reads from channels."""

from __future__ import annotations

import trio

from hybridrelay.streams.nowait import Buffer, NowaitStream
from hybridrelay.streams.turns import SharedTurns


class CountedTurns(SharedTurns):
    """Counts how often a task waited for another turn."""

    waits = 0

    async def next(self) -> None:
        self.waits += 1
        await super().next()


class Discarding(trio.abc.HalfCloseableStream, NowaitStream):
    """A channel that discards everything that is sent.

    Subclasses have `receive_nowait`, and `readable`: whether it would return something, or has work to do."""

    @property
    def readable(self) -> bool:
        raise NotImplementedError

    async def wait_readable(self) -> None:
        if not self.readable:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()

    def send_nowait(self, *buffers: Buffer) -> bool:
        return True

    async def flush(self) -> None:
        await trio.lowlevel.checkpoint()

    async def send_all(self, data: Buffer) -> None:
        await trio.lowlevel.checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        raise AssertionError("readers use receive_nowait")

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
