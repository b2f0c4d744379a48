"""The two directions of a bridge: they move bytes, and report what ends them to the machine in `bridging.py`.

Their methods never wait.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import trio

from ..errors import HybridRelayError
from ..protocol.reasons import Reason
from ..streams.nowait import READ_BYTES, Buffer, NowaitSocket, NowaitStream
from ..streams.registration import Next
from .bridging import Input
from .stream import MuxStream

__all__ = ["Broke", "IncomingDirection", "OutgoingDirection", "Report", "stream_broke"]

_STREAM_ERRORS = (trio.BrokenResourceError, trio.ClosedResourceError)


class Report(Protocol):
    """The function to which the directions report inputs for the machine, except for those that `Broke` contains."""

    def __call__(self, cause: Input, reason: Reason = Reason.NO_ERROR) -> None: ...


class Broke(Exception):
    """One side of the bridge failed. `cause` is the input for the machine, which the bridge reports."""

    def __init__(self, cause: Input, reason: Reason) -> None:
        super().__init__(reason.describe)
        self.cause = cause
        self.reason = reason


def stream_broke(stream: MuxStream, reason: Reason) -> Broke:
    """Return the error for a stream that was reset, or lost with its session."""
    return Broke(Input.STREAM_LOST if stream.was_lost else Input.STREAM_RESET, reason)


def _reason_of(error: BaseException) -> Reason:
    """Return why a call of a stream failed. It is `CANCELLED` if the stream was closed on this side, without a
    reason."""
    return error.__cause__.reason if isinstance(error.__cause__, HybridRelayError) else Reason.CANCELLED


def _local_broke() -> Broke:
    return Broke(Input.LOCAL_BROKE, Reason.TARGET_RESET)


class OutgoingDirection:
    """Moves bytes from the TCP connection into the stream.

    Args:
        stream: the stream.
        local: the TCP connection.
        early: the pieces of data that were sent on an earlier, refused stream and have to be sent again; b"" means
            the end of file. Data that is sent on this stream before the peer accepts it is appended.
        report: called with what happens.
    """

    __slots__ = ("_again", "_drops", "_local", "_needs_room", "_report", "_stream", "early", "has_ended")

    def __init__(self, stream: MuxStream, local: NowaitStream, early: list[bytes], report: Report) -> None:
        self.early = early
        #: What still has to be sent again, the last piece first.
        self._again = early[::-1]
        self._stream = stream
        self._local = local
        self._report = report
        #: Whether the peer has stopped reading: what the TCP connection sends is read and dropped.
        self._drops = False
        #: Whether the stream's queue is full.
        self._needs_room = False
        #: Whether the TCP connection has ended its direction.
        self.has_ended = False

    def move(self) -> Next:
        """Read once, and queue what was read. Returns when to do so again.

        Raises:
            Broke: one side has failed.
        """
        if self._again:
            return self._send_again()
        local = self._local
        try:
            data = local.receive_nowait(min(READ_BYTES, self._stream.send_share))
        except _STREAM_ERRORS as exc:
            raise _local_broke() from exc
        if data is None:
            return Next.AGAIN if local.has_more else Next.WAIT
        size = len(data)
        if not size:
            self._end(data)
            return Next.PAUSE
        has_room = self._send(data)
        self._stream.turns.count(0, size)
        if not has_room:
            return self._wait_for_room()
        return Next.AGAIN if local.has_more else Next.WAIT

    def continue_with_room(self) -> bool:
        """Return whether there is room in the stream's queue after `move` has stopped for lack of it, so that `move`
        should be called again.

        Raises:
            Broke: the stream has failed.
        """
        if not self._needs_room:
            return False
        try:
            self._needs_room = not self._stream.has_room()
        except _STREAM_ERRORS as exc:
            self._needs_room = False
            self._not_taken(exc)
        return not self._needs_room

    def _send(self, data: Buffer) -> bool:
        """Queue `data`. Returns False if the stream's queue is full now."""
        if self._drops:
            return True
        stream = self._stream
        if not stream.was_accepted:
            data = bytes(data)
            self.early.append(data)
        try:
            return stream.send_nowait(data)
        except _STREAM_ERRORS as exc:
            self._not_taken(exc)
            return True

    def _wait_for_room(self) -> Next:
        self._needs_room = True
        return Next.AGAIN if self.continue_with_room() else Next.PAUSE

    def _end(self, data: Buffer) -> None:
        """Pass on the end of file."""
        self.has_ended = True
        if self._drops:
            return
        if not (self._stream.was_accepted or self.early[-1:] == [b""]):
            self.early.append(bytes(data))
        try:
            self._stream.send_eof_nowait()
        except _STREAM_ERRORS as exc:
            self._not_taken(exc)
        else:
            self._report(Input.LOCAL_ENDED)

    def _send_again(self) -> Next:
        """Send a piece of what was sent on an earlier, refused stream."""
        data = self._again.pop()
        if not data:
            self._end(data)
            return Next.PAUSE
        if not self._drops:
            try:
                if not self._stream.send_nowait(data):
                    return self._wait_for_room()
            except _STREAM_ERRORS as exc:
                self._not_taken(exc)
        return Next.AGAIN

    def _not_taken(self, error: BaseException) -> None:
        """Handle a stream that accepts nothing more, because the peer has stopped reading or because it was reset."""
        stream = self._stream
        if stream.reset_reason is not Reason.NO_ERROR:
            raise stream_broke(stream, _reason_of(error)) from error
        # The peer may close the stream right after its last bytes, while the local program still answers earlier
        # ones. The last bytes still have to be delivered to the program. Until then, its answers are read and
        # dropped; otherwise the program and this bridge could wait for each other.
        self._drops = True
        self._report(Input.PEER_STOPPED, _reason_of(error))


class IncomingDirection:
    """Moves bytes from the stream into the TCP connection.

    Args:
        stream: the stream.
        local: the TCP connection.
        report: called with what happens.
        flush: called when the connection does not accept everything; `unblock` has to be called when it has.
    """

    __slots__ = ("_flush", "_is_blocked", "_local", "_received", "_report", "_stream", "has_ended")

    def __init__(self, stream: MuxStream, local: NowaitSocket, report: Report, flush: Callable[[], None]) -> None:
        self._stream = stream
        self._local = local
        self._report = report
        self._flush = flush
        self._received = 0
        #: Whether the TCP connection has not accepted everything that was written to it.
        self._is_blocked = False
        #: Whether the end of file was passed on.
        self.has_ended = False

    @property
    def received(self) -> int:
        """The number of bytes that the TCP connection has accepted."""
        return max(0, self._received - self._local.unsent_bytes)

    def deliver(self) -> None:
        """Move as much of what has arrived as the TCP connection accepts, and the end of file.

        Raises:
            Broke: one side has failed.
        """
        while not (self._is_blocked or self.has_ended):
            try:
                pieces = self._stream.receive_pieces_nowait()
            except _STREAM_ERRORS as exc:
                raise stream_broke(self._stream, _reason_of(exc)) from exc
            if pieces is None:
                return
            try:
                if not pieces:
                    self._local.send_eof_nowait()
                    self.has_ended = True
                    self._report(Input.PEER_ENDED)
                    return
                self._is_blocked = not self._local.send_nowait(*pieces)
            except _STREAM_ERRORS as exc:
                raise _local_broke() from exc
            if self._is_blocked:
                self._flush()
            self._received += sum(map(len, pieces))

    def unblock(self, error: BaseException | None) -> None:
        """Continue, because the TCP connection has accepted everything, or has failed.

        Raises:
            Broke: as for `deliver`.
        """
        if error is not None:
            raise _local_broke() from error
        self._is_blocked = False
        self.deliver()
