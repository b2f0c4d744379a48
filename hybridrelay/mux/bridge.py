"""Joining a stream of a session with a TCP connection on this machine: the application's, or the target's.

What arrives for the TCP connection is handed to it by the task that reads the channel, as far as the connection takes
it without waiting; what the TCP connection sends goes through the session to the channel in the same way. So a small
message wakes one task in each process, and not three.
"""

from __future__ import annotations

import attrs
import trio

from ..errors import HybridRelayError
from ..protocol.reasons import Reason
from ..streams.nowait import nowait
from ..streams.sockets import abort_stream, reset_on_close
from .stream import MuxStream

#: How much one direction moves before it lets other tasks run (bytes).
_YIELD_BYTES = 1024 * 1024
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


_STREAM_ERRORS = (trio.BrokenResourceError, trio.ClosedResourceError)


class _Bridge:
    def __init__(self, stream: MuxStream, local: trio.SocketStream) -> None:
        self.stream = stream
        self.local = local
        self.port = nowait(local)
        self.sent = 0
        self.received = 0
        self.reason = Reason.NO_ERROR
        #: The peer reads no more.
        self.stopped = False
        #: All that the peer sent has been handed to the TCP connection, its end of file included.
        self.delivered = False
        #: `inward` waits for the stream, so `take` may do its work.
        self._inward_waits = False
        #: The TCP connection did not take all that was handed to it.
        self._clogged = False
        #: What `take` met, for `inward` to raise.
        self._failure: _Broke | None = None

    @property
    def finished(self) -> bool:
        """Everything that could be delivered was."""
        return self.delivered and (self.stopped or self.reason is Reason.NO_ERROR)

    # --- from the TCP connection into the stream

    async def outward(self, both: trio.CancelScope) -> None:
        """All of it, and the end of file."""
        since_yield = 0
        try:
            while True:
                try:
                    data = self.port.receive_nowait()
                    if data is None:
                        since_yield = 0
                        await self.port.wait_readable()
                        continue
                except _STREAM_ERRORS as exc:
                    raise _Broke(Reason.TARGET_RESET) from exc
                if self.stopped:
                    pass  # read and dropped
                elif data:
                    size = len(data)
                    try:
                        if not self.stream.send_nowait(data):
                            since_yield = 0
                            await self.stream.flush()
                        self.sent += size
                    except _STREAM_ERRORS as exc:
                        self._not_heard(_stream_broke(exc), both)
                else:
                    try:
                        await self.stream.send_eof()
                    except _STREAM_ERRORS as exc:
                        self._not_heard(_stream_broke(exc), both)
                if not data:
                    return
                since_yield += len(data)
                if since_yield >= _YIELD_BYTES:
                    since_yield = 0
                    await trio.lowlevel.checkpoint()
        except _Broke as exc:
            self._end(exc.reason, both)

    def _not_heard(self, broke: _Broke, both: trio.CancelScope) -> None:
        """The stream takes nothing more: because the peer reads no more, or because it was reset."""
        if self.stream.reset_reason is not Reason.NO_ERROR:
            raise broke
        # The application closed right behind its last bytes, and the TCP connection answers to the first of them.
        # The rest has to arrive all the same. Until it has, answers are read and dropped, or both would wait.
        self.stopped = True
        self.reason = broke.reason
        both.deadline = trio.current_time() + _LAST_BYTES_SECONDS
        if self.delivered:
            both.cancel()

    # --- from the stream into the TCP connection

    async def inward(self, both: trio.CancelScope) -> None:
        """All of it, and the end of file: what `take` does not do."""
        self.stream.set_taker(self.take)
        try:
            while not self._hand_over():
                try:
                    if self._clogged:
                        await self.port.flush()
                        self._clogged = False
                        continue
                except _STREAM_ERRORS as exc:
                    raise _Broke(Reason.TARGET_RESET) from exc
                self._inward_waits = True
                try:
                    await self.stream.wait_readable()
                except _STREAM_ERRORS as exc:
                    raise _stream_broke(exc) from exc
                finally:
                    self._inward_waits = False
            try:
                await self.local.send_eof()
            except _STREAM_ERRORS as exc:
                raise _Broke(Reason.TARGET_RESET) from exc
            self.delivered = True
            if self.stopped:
                both.cancel()
        except _Broke as exc:
            self._end(exc.reason, both)

    def take(self) -> bool:
        """Hand over what has arrived, in place of `inward`; False where `inward` has to see to it."""
        if not self._inward_waits:
            return True  # it is awake, and looks again before it waits
        try:
            at_end = self._hand_over()
        except _Broke as exc:
            self._failure = exc
            return False
        return not at_end and not self._clogged

    def _hand_over(self) -> bool:
        """Move what has arrived, as far as the TCP connection takes it; True at the end of the stream."""
        if self._failure is not None:
            raise self._failure
        while not self._clogged:
            try:
                pieces = self.stream.receive_pieces_nowait()
            except _STREAM_ERRORS as exc:
                raise _stream_broke(exc) from exc
            if pieces is None:
                return False
            if not pieces:
                return True
            size = sum(map(len, pieces))
            try:
                self._clogged = not self.port.send_nowait(*pieces)
            except _STREAM_ERRORS as exc:
                raise _Broke(Reason.TARGET_RESET) from exc
            self.received += size
        return False

    def _end(self, reason: Reason, both: trio.CancelScope) -> None:
        if self.reason is Reason.NO_ERROR:
            self.reason = reason
        both.cancel()


def _stream_broke(exc: BaseException) -> _Broke:
    cause = exc.__cause__
    return _Broke(cause.reason if isinstance(cause, HybridRelayError) else Reason.CANCELLED)


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
            nursery.start_soon(joined.inward, nursery.cancel_scope)
            await joined.outward(nursery.cancel_scope)
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
