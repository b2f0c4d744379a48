"""Streams around other streams, for tests that change what a stream does."""

from __future__ import annotations

import trio


class WrappedStream(trio.abc.Stream):
    """Passes everything on to the stream `inner`. Subclasses change some of it."""

    def __init__(self, inner: trio.abc.Stream) -> None:
        self.inner = inner

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self.inner.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self.inner.aclose()


class WrappedHalfCloseableStream(WrappedStream, trio.abc.HalfCloseableStream):
    """The same, around a stream of which one direction can be closed."""

    inner: trio.abc.HalfCloseableStream

    def __init__(self, inner: trio.abc.HalfCloseableStream) -> None:
        super().__init__(inner)

    async def send_eof(self) -> None:
        await self.inner.send_eof()
