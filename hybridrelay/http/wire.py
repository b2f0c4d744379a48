"""The byte stream of one connection: bounded reads, a deadline for every write, and an abort that never waits."""

from __future__ import annotations

import sys

import trio

from ..streams.nowait import NowaitStream, UnitTooLong, nowait
from ..streams.sockets import close_forcefully, reset_on_close
from .body import ClientGone
from .failure import Failure, RequestError
from .limits import Limits

__all__ = ["Wire"]


class Wire:
    """A stream with what HTTP needs: received data can be put back, and every write has a deadline.

    Args:
        stream: any stream; `close` closes it.
        limits: the limits of the connection.
    """

    __slots__ = ("_ahead", "_ended", "_limits", "_nowait", "is_gone", "is_unfinished", "sent_bytes", "stream")

    def __init__(self, stream: trio.abc.Stream, limits: Limits) -> None:
        self.stream = stream
        self._limits = limits
        #: Non-blocking access, which is cheaper; None if the stream itself does not support it.
        self._nowait = nowait(stream) if _supports_nowait(stream) else None
        #: Received data that was not consumed yet.
        self._ahead = b""
        self._ended = False
        #: Whether the connection is lost, or treated as lost because the client does not read.
        self.is_gone = False
        #: Whether a message was sent only in part. Every write sets it, and code that completes a message resets it.
        self.is_unfinished = False
        #: How many bytes were sent since the connection began.
        self.sent_bytes = 0

    # --- receiving

    def receive_nowait(self) -> bytes | None:
        """Receive without waiting; None if nothing has arrived, or if this stream cannot be read without waiting.

        Raises:
            ClientGone, RequestError: see `receive`.
        """
        if self._ahead:
            return self.take_ahead()
        if self._nowait is None or self._ended:
            return None
        try:
            data = self._nowait.receive_nowait(self._limits.read_bytes)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise self._receive_failure(exc) from exc
        return None if data is None else bytes(data)

    async def receive(self) -> bytes:
        """Receive data that was put back or read ahead, or else the next bytes; b"" at the end of file.

        Raises:
            ClientGone: the connection is lost.
            RequestError: 431 if the client sends a TLS record that is longer than `NowaitStream.limit_held` allows.
                There is such a limit for clients that have not authenticated.

        The caller sets the deadline. If cancelled, nothing is lost.
        """
        if self._ahead:
            await trio.lowlevel.checkpoint()
            return self.take_ahead()
        if self._ended:
            return b""
        try:
            return await self._receive(self._limits.read_bytes)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise self._receive_failure(exc) from exc

    def _receive_failure(self, exc: Exception) -> ClientGone | RequestError:
        if isinstance(exc, UnitTooLong):
            return RequestError(Failure(431, "the request is too long", close=True))
        return self.lose("the connection was lost")

    def unreceive(self, data: bytes) -> None:
        """Put `data` back, to be received next."""
        self._ahead = data + self._ahead

    def take_ahead(self) -> bytes:
        """Remove and return received data that was not consumed."""
        ahead, self._ahead = self._ahead, b""
        return ahead

    def has_received(self) -> bool:
        """Return whether there is received data that was not consumed yet."""
        return bool(self._ahead)

    async def wait_left(self) -> str:
        """Wait until the client ends its sending, and return a sentence that says so.

        Data that it sends before that is kept, up to `Limits.read_bytes`. A client that sends more counts as one that
        has left, because its end of file would follow after data that is not read.
        """
        while len(self._ahead) < self._limits.read_bytes:
            try:
                data = await self._receive(self._limits.read_bytes - len(self._ahead))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self.is_gone = True
                data = b""
            if not data:
                self._ended = True
                return "the client has left"
            self._ahead += data
        return "the client sent too much before it received its response"

    async def _receive(self, max_bytes: int) -> bytes:
        nowait_stream = self._nowait
        if nowait_stream is None:
            return bytes(await self.stream.receive_some(max_bytes))
        await trio.lowlevel.checkpoint_if_cancelled()
        waited = False
        while (data := nowait_stream.receive_nowait(max_bytes)) is None:
            await nowait_stream.wait_readable()
            waited = True
        data = bytes(data)
        if not waited:
            await trio.lowlevel.cancel_shielded_checkpoint()
        return data

    # --- sending

    async def send(self, *parts: bytes) -> None:
        """Send `parts` in order, at most `Limits.write_bytes` at a time. Not always a checkpoint.

        Raises:
            ClientGone: the connection is lost, or the client has not accepted a piece within `Limits.write_seconds`.

        If cancelled, any part of it may have been sent, and the wire can only be closed.
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
            if self._nowait is None or not self._nowait.send_nowait(data):
                with trio.move_on_after(self._limits.write_seconds) as scope:
                    await (self.stream.send_all(data) if self._nowait is None else self._nowait.flush())
                if scope.cancelled_caught:
                    raise self.lose("the client does not read")
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise self.lose("the connection was lost") from exc
        except trio.Cancelled:
            self.is_gone = True  # a part of the message is missing, so nothing can follow
            raise
        self.sent_bytes += len(data)

    def lose(self, why: str) -> ClientGone:
        """Treat the connection as lost from now on; returns the exception to raise."""
        self.is_gone = True
        return ClientGone(why)

    # --- the end

    async def linger(self) -> None:
        """End the sending, and wait for the client to read what it was sent.

        At most `Limits.linger_bytes` are read and dropped, within `Limits.linger_seconds`.
        """
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
                    # TLS has no half-close: closing announces the end of the data, and reads a little.
                    await self.stream.aclose()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass

    async def close(self) -> None:
        """Close without waiting; with a reset if a message was sent in part."""
        if self.is_unfinished:
            # The socket is closed first: TLS would send close_notify, which indicates a regular end.
            below: object = self.stream
            while (inner := getattr(below, "transport_stream", None)) is not None:
                below = inner
            if isinstance(below, trio.SocketStream):
                reset_on_close(below, on=True)
            assert isinstance(below, trio.abc.AsyncResource)
            await close_forcefully(below, self.stream)
        else:
            await trio.aclose_forcefully(self.stream)


def _supports_nowait(stream: trio.abc.Stream) -> bool:
    # For other streams, `nowait` would read ahead, and a protocol that takes over the stream would miss those bytes.
    return isinstance(stream, NowaitStream) or (isinstance(stream, trio.SocketStream) and sys.platform != "win32")
