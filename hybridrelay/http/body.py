"""The body of a request, as its handler reads it."""

from __future__ import annotations

from typing import Protocol

import trio

from .chunked import ChunkedReader
from .failure import Failure, RequestError
from .head import Framing
from .limits import Limits
from .persistence import BodyState

__all__ = ["Body", "BodySource", "ClientGone"]


class ClientGone(Exception):
    """The connection is lost, or is treated as lost because the client does not read."""


class BodySource(Protocol):
    """What a body needs from its connection."""

    async def receive(self) -> bytes:
        """Receive the next bytes; b"" at the end of file. Raises ClientGone."""

    def unreceive(self, data: bytes) -> None:
        """Put back bytes that belong to the next request."""

    def has_received(self) -> bool:
        """Return whether the next `receive` returns without waiting for the client."""

    async def send_continue(self) -> None:
        """Send "100 Continue", unless the response has begun. Raises ClientGone."""


class Body:
    """The body of one request. Read all of it (`read`), or piece by piece (`receive_some`, ``async for``).

    If the handler does not read it, it is dropped, or the connection is closed.
    """

    def __init__(
        self, source: BodySource, framing: Framing, limits: Limits, *, max_bytes: int, expects_continue: bool
    ) -> None:
        self._source = source
        self._limits = limits
        self._max_bytes = max_bytes
        self._length = framing.length
        self._chunked = ChunkedReader() if framing.length is None else None
        self._waited_for = expects_continue and not framing.is_empty
        self._complete = framing.is_empty
        self._deadline: float | None = None
        #: Bytes of the body that were read so far.
        self.received_bytes = 0

    @property
    def length(self) -> int | None:
        """The length that the client has stated (bytes); None if the body is chunked."""
        return self._length

    @property
    def state(self) -> BodyState:
        """How much of the body was read."""
        left = None if self._length is None else self._length - self.received_bytes
        return BodyState(self._complete, left, self._waited_for and not self._source.has_received())

    async def read(self) -> bytes:
        """Read the whole body, or the rest of it.

        Raises:
            RequestError, ClientGone: see `receive_some`.
        """
        data = bytearray()
        while piece := await self.receive_some():
            data += piece
        return bytes(data)

    async def receive_some(self) -> bytes:
        """Read the next piece, of any size; b"" at the end.

        Raises:
            RequestError: 400 if the body is malformed or incomplete, 408 if it takes too long, 413 if it is too long.
                Handlers should let it propagate, so that the client gets this response.
            ClientGone: the connection is lost.

        If cancelled, no data is lost.
        """
        if self._complete:
            await trio.lowlevel.checkpoint()
            return b""
        if self._waited_for and not self._source.has_received():
            await self._source.send_continue()
        self._waited_for = False
        if self._deadline is None:
            self._deadline = trio.current_time() + self._limits.body_seconds
        piece = b""
        with trio.CancelScope() as scope:
            while not piece and not self._complete:
                scope.deadline = min(self._deadline, trio.current_time() + self._limits.read_seconds)
                piece = self._decode(await self._source.receive())
        if scope.cancelled_caught:
            raise RequestError(Failure(408, "the body took too long", close=True))
        self.received_bytes += len(piece)
        if self.received_bytes > self._max_bytes:
            raise too_large()
        return piece

    def __aiter__(self) -> Body:
        return self

    async def __anext__(self) -> bytes:
        piece = await self.receive_some()
        if not piece:
            raise StopAsyncIteration
        return piece

    async def drain(self) -> bool:
        """Read and drop the rest, within `Limits.drain_bytes` and `Limits.drain_seconds`.

        Returns:
            Whether the body was complete.

        Raises:
            ClientGone: the connection is lost.
        """
        left = self._limits.drain_bytes
        with trio.move_on_after(self._limits.drain_seconds):
            try:
                while left >= 0 and not self._complete:
                    self._max_bytes = self.received_bytes + left
                    left -= len(await self.receive_some())
            except RequestError:
                return False
        return self._complete

    def _decode(self, data: bytes) -> bytes:
        if not data:
            raise RequestError(Failure(400, "the body is incomplete", close=True))
        if self._chunked is not None:
            piece = self._chunked.receive_untrusted(data)
            if self._chunked.is_done:
                self._complete = True
                self._source.unreceive(self._chunked.rest)
            return piece
        assert self._length is not None
        left = self._length - self.received_bytes
        if len(data) >= left:
            self._complete = True
            self._source.unreceive(data[left:])
        return data[:left]


def too_large() -> RequestError:
    """Return the error for a body that is too long: status 413."""
    return RequestError(Failure(413, "the body is too long", close=True))
