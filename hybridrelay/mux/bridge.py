"""Joining a stream of a session with a TCP connection on this machine: the application's, or the target's."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

import attrs
import trio

from ..errors import HybridRelayError
from ..protocol.reasons import Reason
from ..streams.sockets import abort_stream, reset_on_close
from .stream import MuxStream

T = TypeVar("T")

#: One read of the TCP connection. One DATA frame holds it, and it stays below the size from which glibc
#: gives memory back to the kernel at every free.
_READ_SIZE = 64 * 1024
#: Where the peer reads no more, how long the TCP connection may take for what the peer had sent before (seconds).
_LAST_BYTES_SECONDS = 30.0


@attrs.frozen
class Bridged:
    """How a bridge ended."""

    #: Bytes from the TCP connection into the stream, and the other way.
    sent: int
    received: int
    #: `Reason.NO_ERROR`: both directions came to their end.
    reason: Reason


class _Broke(Exception):
    """One side failed; `reason` says which and why."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.describe)
        self.reason = reason


class _Bridge:
    def __init__(self, stream: MuxStream, local: trio.SocketStream) -> None:
        self.stream = stream
        self.local = local
        self.sent = 0
        self.received = 0
        self.reason = Reason.NO_ERROR
        #: The peer reads no more.
        self.stopped = False
        #: All that the peer sent has been handed to the TCP connection, its end of file included.
        self.delivered = False

    @property
    def finished(self) -> bool:
        """Everything that could be delivered was."""
        return self.delivered and (self.stopped or self.reason is Reason.NO_ERROR)

    async def outward(self, both: trio.CancelScope) -> None:
        """From the TCP connection into the stream."""
        try:
            while data := await self._local_call(self.local.receive_some(_READ_SIZE)):
                if not self.stopped and await self._heard(self.stream.send_all(bytes(data)), both):
                    self.sent += len(data)
            if not self.stopped:
                await self._heard(self.stream.send_eof(), both)
        except _Broke as exc:
            self._end(exc.reason, both)

    async def _heard(self, call: Awaitable[None], both: trio.CancelScope) -> bool:
        """Send into the stream; False where the peer reads no more."""
        try:
            await self._stream_call(call)
        except _Broke as exc:
            if self.stream.reset_reason is not Reason.NO_ERROR:
                raise
            # The application closed right behind its last bytes, and the TCP connection answers to the first of them.
            # The rest has to arrive all the same. Until it has, answers are read and dropped, or both would wait.
            self.stopped = True
            self.reason = exc.reason
            both.deadline = trio.current_time() + _LAST_BYTES_SECONDS
            if self.delivered:
                both.cancel()
            return False
        return True

    async def inward(self, both: trio.CancelScope) -> None:
        """From the stream into the TCP connection."""
        try:
            while data := await self._stream_call(self.stream.receive_some()):
                await self._local_call(self.local.send_all(data))
                self.received += len(data)
            await self._local_call(self.local.send_eof())
            self.delivered = True
            if self.stopped:
                both.cancel()
        except _Broke as exc:
            self._end(exc.reason, both)

    def _end(self, reason: Reason, both: trio.CancelScope) -> None:
        if self.reason is Reason.NO_ERROR:
            self.reason = reason
        both.cancel()

    @staticmethod
    async def _local_call(call: Awaitable[T]) -> T:
        try:
            return await call
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise _Broke(Reason.TARGET_RESET) from exc

    @staticmethod
    async def _stream_call(call: Awaitable[T]) -> T:
        try:
            return await call
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            cause = exc.__cause__
            raise _Broke(cause.reason if isinstance(cause, HybridRelayError) else Reason.CANCELLED) from exc


async def bridge(stream: MuxStream, local: trio.SocketStream) -> Bridged:
    """Join the two until both directions have ended, or one side breaks.

    End of file travels on its own in each direction. What breaks on one side breaks on the other: the stream is reset
    with a reason, the TCP connection is reset, and neither ever ends as if it were complete. Where the peer only
    reads no more, what it had sent is still delivered. Both are closed on every way out; cancelled, both are reset.
    """
    reset_on_close(local, True)
    joined = _Bridge(stream, local)
    finished = False
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(joined.outward, nursery.cancel_scope)
            nursery.start_soon(joined.inward, nursery.cancel_scope)
        finished = joined.finished
    finally:
        if finished:
            try:
                await stream.aclose()
            finally:
                reset_on_close(local, False)
                await trio.aclose_forcefully(local)  # all FINs have left; nothing is discarded
        else:
            stream.reset(Reason.CANCELLED if joined.reason is Reason.NO_ERROR else joined.reason)
            await abort_stream(local)
    return Bridged(joined.sent, joined.received, joined.reason)
