"""A channel for tests of what reads from it: it discards everything that is sent."""

from __future__ import annotations

import trio

from hybridrelay.streams.nowait import Buffer, NowaitStream


class Discarding(trio.abc.HalfCloseableStream, NowaitStream):
    """Subclasses have `receive_nowait`, and `readable`: whether it would return something, or has work to do."""

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
