"""The bytes of one connection, with a deadline for every write and an end that waits for nobody."""

from __future__ import annotations

import sys

import trio

from ..streams.nowait import NowaitStream, nowait
from ..streams.sockets import reset_on_close
from .body import ClientGone
from .limits import Limits

__all__ = ["Wire"]


class Wire:
    """A stream as a connection needs it: input can be put back, output is bounded, an abort is final.

    Args:
        stream: any stream; the wire closes it when told to.
        limits: of the connection.
    """

    __slots__ = ("_ahead", "_ended", "_limits", "_port", "is_gone", "is_unfinished", "sent_bytes", "stream")

    def __init__(self, stream: trio.abc.Stream, limits: Limits) -> None:
        self.stream = stream
        self._limits = limits
        #: To send and receive without the price of waiting, where the stream can do that by itself.
        self._port = nowait(stream) if _can_go_on_without_waiting(stream) else None
        #: Received, and not used yet.
        self._ahead = b""
        self._ended = False
        #: Whether the client has left, or is treated as if it had: whatever is still sent is lost.
        self.is_gone = False
        #: Whether a message was begun and not sent to its end. Whoever sends messages sets it.
        self.is_unfinished = False
        #: How much was sent since the connection began.
        self.sent_bytes = 0

    # --- receiving

    def receive_nowait(self) -> bytes | None:
        """What can be received without waiting; b"" at the end of file, or None where only `receive` can tell.

        Raises:
            ClientGone: the connection is lost.
        """
        if self._ahead:
            return self.take_ahead()
        if self._port is None or self._ended:
            return None
        try:
            data = self._port.receive_nowait(self._limits.read_bytes)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise self.lose("the connection was lost") from exc
        return None if data is None else bytes(data)

    async def receive(self) -> bytes:
        """What was received ahead, or else what arrives next; b"" at the end of file.

        Raises:
            ClientGone: the connection is lost.

        The caller sets the deadline. Cancelled, nothing is lost.
        """
        if self._ahead:
            await trio.lowlevel.checkpoint()
            return self.take_ahead()
        if self._ended:
            return b""
        try:
            return await self._receive(self._limits.read_bytes)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise self.lose("the connection was lost") from exc

    def unreceive(self, data: bytes) -> None:
        """Put back what is to be received next."""
        self._ahead = data + self._ahead

    def take_ahead(self) -> bytes:
        """What was received and not used."""
        ahead, self._ahead = self._ahead, b""
        return ahead

    def has_received(self) -> bool:
        """Whether `receive` has something to return without the client."""
        return bool(self._ahead)

    async def watch(self, scope: trio.CancelScope) -> None:
        """Cancel `scope` when the client leaves. What it sends ahead is kept, up to one read's worth of it."""
        while len(self._ahead) < self._limits.read_bytes:
            try:
                data = await self._receive(self._limits.read_bytes - len(self._ahead))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self.is_gone = True
                data = b""
            if not data:
                self._ended = True
                scope.cancel()
                return
            self._ahead += data

    async def _receive(self, max_bytes: int) -> bytes:
        port = self._port
        if port is None:
            return bytes(await self.stream.receive_some(max_bytes))
        await trio.lowlevel.checkpoint_if_cancelled()
        waited = False
        while (data := port.receive_nowait(max_bytes)) is None:
            await port.wait_readable()
            waited = True
        data = bytes(data)
        if not waited:
            await trio.lowlevel.cancel_shielded_checkpoint()
        return data

    # --- sending

    async def send(self, *parts: bytes) -> None:
        """Send `parts` one after the other, no more than `Limits.write_bytes` at once. Not always a checkpoint.

        Raises:
            ClientGone: the connection is lost, or the client has not taken a piece within `Limits.write_seconds`.

        Cancelled, any part of it may have been sent, and the wire can only be closed.
        """
        size = self._limits.write_bytes
        if len(parts) > 1 and sum(map(len, parts)) <= size:
            parts = (b"".join(parts),)
        for part in parts:
            view = memoryview(part)
            for start in range(0, len(part), size):
                await self._send_piece(view[start : start + size])

    async def _send_piece(self, data: memoryview) -> None:
        if self.is_gone:
            raise ClientGone("the client has left")
        self.is_unfinished = True
        try:
            if self._port is None or not self._port.send_nowait(data):
                with trio.move_on_after(self._limits.write_seconds) as scope:
                    await (self.stream.send_all(data) if self._port is None else self._port.flush())
                if scope.cancelled_caught:
                    raise self.lose("the client does not read")
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise self.lose("the connection was lost") from exc
        self.sent_bytes += len(data)

    def lose(self, why: str) -> ClientGone:
        """Treat the client as gone from now on; the exception to raise."""
        self.is_gone = True
        return ClientGone(why)

    # --- the end

    async def linger(self) -> None:
        """End the sending, and give the client the time to read what it was sent, within the limits for that."""
        if self.is_gone or self.is_unfinished:
            return
        with trio.move_on_after(self._limits.linger_seconds):
            try:
                if isinstance(self.stream, trio.abc.HalfCloseableStream):
                    await self.stream.send_eof()
                    left = self._limits.linger_bytes
                    while left > 0 and (data := await self._receive(min(left, self._limits.read_bytes))):
                        left -= len(data)
                else:
                    # TLS has no half-close: closing says that nothing more comes, and reads a little.
                    await self.stream.aclose()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass

    async def close(self) -> None:
        """Close without waiting: with a reset where a message was not sent to its end."""
        if self.is_unfinished:
            # What is below goes first: TLS would still say that this is the end.
            below: object = self.stream
            while (inner := getattr(below, "transport_stream", None)) is not None:
                below = inner
            if isinstance(below, trio.SocketStream):
                reset_on_close(below, True)
            assert isinstance(below, trio.abc.AsyncResource)
            await trio.aclose_forcefully(below)
        await trio.aclose_forcefully(self.stream)


def _can_go_on_without_waiting(stream: trio.abc.Stream) -> bool:
    # What `nowait` does for other streams reads ahead, and another protocol would not find that.
    return isinstance(stream, NowaitStream) or (isinstance(stream, trio.SocketStream) and sys.platform != "win32")
