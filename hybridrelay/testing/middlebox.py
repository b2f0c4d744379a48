"""A middlebox between two programs that passes on a few bytes at a time, or cuts TCP connections."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import attrs
import trio

from ..streams.sockets import abort_stream

__all__ = ["Middlebox", "open_middlebox", "tcp_pair"]


@attrs.define
class Middlebox:
    """Passes bytes between connections that are dialed through it and their destinations. Created by
    `open_middlebox`."""

    _nursery: trio.Nursery
    #: How many bytes are passed on at a time; None for all that are available.
    _piece_bytes: int | None
    _streams: list[trio.SocketStream] = attrs.field(factory=list, init=False)

    async def dial(self, host: str, port: int) -> trio.abc.HalfCloseableStream:
        """Connect through this middlebox. This is a `hybridrelay.abc.Dial`; it raises OSError like one."""
        return await self.insert(await trio.open_tcp_stream(host, port))

    async def insert(self, onward: trio.SocketStream) -> trio.SocketStream:
        """Insert this middlebox into a connection. Returns the new near end."""
        self._streams.append(onward)
        near, far = await tcp_pair()
        self._streams.append(far)
        self._nursery.start_soon(self._pass, far, onward)
        self._nursery.start_soon(self._pass, onward, far)
        return near

    async def cut(self, *, reset: bool) -> None:
        """End every connection immediately: with a reset, or with an end of file that neither side sent."""
        close = abort_stream if reset else trio.aclose_forcefully
        with trio.CancelScope(shield=True):
            for stream in self._streams:
                await close(stream)

    async def _pass(self, source: trio.SocketStream, sink: trio.SocketStream) -> None:
        try:
            while data := await source.receive_some():
                step = self._piece_bytes or len(data)
                for start in range(0, len(data), step):
                    await sink.send_all(data[start : start + step])
            await sink.send_eof()
        except trio.BrokenResourceError:
            await abort_stream(sink)
            await abort_stream(source)
        except trio.ClosedResourceError:
            pass  # cut


@contextlib.asynccontextmanager
async def open_middlebox(*, piece_bytes: int | None = None) -> AsyncIterator[Middlebox]:
    """Yield a middlebox whose connections end with the block.

    Args:
        piece_bytes: how many bytes are passed on at a time; None for all that are available.
    """
    async with trio.open_nursery() as nursery:
        box = Middlebox(nursery, piece_bytes)
        try:
            yield box
        finally:
            await box.cut(reset=False)
            nursery.cancel_scope.cancel()


async def tcp_pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    """Return both ends of a new TCP connection on loopback."""
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        near = await trio.open_tcp_stream(*listener.socket.getsockname())
        return near, await listener.accept()
