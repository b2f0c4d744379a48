"""A connection through a proxy whose first bytes were read together with the proxy's answer, or that is inside
TLS."""

from __future__ import annotations

import trio


class Tunnel(trio.abc.HalfCloseableStream):
    """A connection through a proxy.

    Args:
        stream: the connection to the proxy. Closing the tunnel closes it.
        early: bytes of the tunnel that were read together with the proxy's answer.
    """

    def __init__(self, stream: trio.abc.Stream, early: bytes) -> None:
        self._stream = stream
        self._early = early
        self._ended = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """See `trio.abc.SendStream.send_all`."""
        await self._check_not_ended()
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """See `trio.abc.SendStream.wait_send_all_might_not_block`."""
        await self._check_not_ended()
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """End the sending direction.

        With TLS to the proxy, the other side notices only when this stream is closed, because `TLSStream` cannot end
        its sending direction alone.
        """
        if isinstance(self._stream, trio.abc.HalfCloseableStream):
            await self._stream.send_eof()
        else:
            await trio.lowlevel.checkpoint()
        self._ended = True

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """See `trio.abc.ReceiveStream.receive_some`."""
        if not self._early:
            return bytes(await self._stream.receive_some(max_bytes))
        if max_bytes is not None and max_bytes < 1:
            raise ValueError("max_bytes must be at least 1")
        await trio.lowlevel.checkpoint()
        count = len(self._early) if max_bytes is None else max_bytes
        taken, self._early = self._early[:count], self._early[count:]
        return taken

    async def aclose(self) -> None:
        """See `trio.abc.AsyncResource.aclose`."""
        self._early = b""
        await self._stream.aclose()

    async def _check_not_ended(self) -> None:
        if self._ended:
            await trio.lowlevel.checkpoint()
            raise trio.ClosedResourceError("this direction was ended by send_eof")
