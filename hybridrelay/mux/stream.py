"""A stream of a session, as an ordinary trio stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

import trio
from trio.lowlevel import cancel_shielded_checkpoint, checkpoint, checkpoint_if_cancelled

from ..errors import StreamRefused, StreamReset
from ..protocol import Metadata
from ..protocol.config import BASE_WINDOW
from ..protocol.reasons import Reason
from ..protocol.sending import STREAM_SHARE
from ..protocol.states import Opening, Sending
from ..protocol.stream import Stream
from ..streams.conflict import ConflictDetector
from ..streams.nowait import READ_BYTES, Buffer, NowaitStream, Turn
from ._waiter import Waiter

if TYPE_CHECKING:
    from .session import Session

#: What all senders of a session together may run ahead of the writer: each has its share of this, but no more than
#: `SessionConfig.send_queue`, and no less than a window that every stream has. Defends the memory against a peer that
#: opens thousands of streams, asks for a lot on each, and reads nothing.
QUEUED_PER_SESSION = 64 * 1024 * 1024


class MuxStream(trio.abc.HalfCloseableStream, NowaitStream):
    """One stream of a `Session`.

    A stream that the peer reset, or that was lost with its session, raises `trio.BrokenResourceError` with a
    `StreamReset` as its cause, on both directions and at once; it never reads as end of file. Leaving an
    ``async with`` block by an exception resets the stream, so that the peer cannot take what it has for complete.
    """

    def __init__(self, session: Session, core: Stream) -> None:
        self._session = session
        self._core = core
        core.owner = self
        self._closed = False
        self._send_conflict = ConflictDetector("another task is sending on this stream")
        self._receive_conflict = ConflictDetector("another task is receiving on this stream")
        self._sender = Waiter()
        self._receiver = Waiter()
        self._answer = trio.Event()
        #: Cancelled when the stream is aborted; see `Offer.cancel_when_withdrawn`.
        self.withdrawal: trio.CancelScope | None = None
        #: The peer has accepted the stream, or we have; it may be over by now.
        self.was_accepted = False
        #: Takes what has arrived in place of the task that waits for it; see `set_taker`.
        self._taker: Callable[[], bool] | None = None

    def __repr__(self) -> str:
        states = self._core.states
        return f"<MuxStream {self._core.id} {states.sending.name}/{states.receiving.name}>"

    @property
    def metadata(self) -> Metadata:
        """What the opener sent with OPEN; at most 1,024 bytes."""
        return self._core.metadata

    @property
    def reset_reason(self) -> Reason:
        """Why the peer (or we) aborted the stream; `Reason.NO_ERROR` while that has not happened."""
        return self._core.reason if self._core.is_aborted else Reason.NO_ERROR

    @property
    def was_lost(self) -> bool:
        """The stream ended with its session, and not by what the peer did to it alone."""
        return self._session.core.ended is not None

    @property
    def is_closed(self) -> bool:
        """We closed or reset the stream."""
        return self._closed

    # --- sending

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Queue `data` to be written. Returns when all of it is queued, at most 128 KiB ahead of the channel.

        Cancelled, a part of the data may have been queued; the session and its other streams are not touched.

        Raises:
            trio.BrokenResourceError: the stream was reset, or the peer stopped reading.
            trio.ClosedResourceError: we closed the stream, or ended this direction.
            trio.BusyResourceError: another task is sending.
        """
        with self._send_conflict:
            self._check_can_send()
            await checkpoint_if_cancelled()
            view: bytes | memoryview = data if isinstance(data, bytes) else memoryview(data).cast("B")
            position, end = 0, len(view)
            turn = Turn()
            while position < end:
                room = self._queue_limit - self._core.queued_bytes
                if room > 0:
                    whole = position == 0 and end <= room and isinstance(view, bytes)
                    piece = view if whole else bytes(view[position : position + room])
                    self._session.core.send_data(self._core, piece)  # type: ignore[arg-type]
                    self._session._output()
                    position += len(piece)
                    if position < end and turn.is_over(len(piece)):
                        await checkpoint()
                        turn = Turn()
                else:
                    await self._wait_for_room()
                    turn = Turn()
                if position < end:
                    self._check_can_send()  # the channel, and with it the session, may have been lost in `_output`
            await cancel_shielded_checkpoint()

    async def send_whole(self, data: bytes) -> None:
        """As `send_all`, but cancelled, nothing of `data` has been queued: for messages, half of which would spoil
        all that come after. In return the queue may grow beyond its bound by the length of `data`."""
        await self.wait_send_all_might_not_block()
        self._check_can_send()
        self._session.core.send_data(self._core, data)
        self._session._output()

    def send_nowait(self, *buffers: Buffer) -> bool:
        """Queue all of `buffers`, and send what leaves at once; False where the queue is full, until `flush`.

        Raises:
            trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError: as `send_all`.
        """
        if self._send_conflict.held:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._check_can_send()
        for buffer in buffers:
            self._session.core.send_data(self._core, bytes(buffer))
        self._session._output()
        return self._core.queued_bytes < self._queue_limit

    async def flush(self) -> None:
        """Wait until the send queue has room."""
        await self.wait_send_all_might_not_block()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the send queue has room, or sending would fail at once."""
        with self._send_conflict:
            self._check_can_send()
            await checkpoint()
            while self._core.queued_bytes >= self._queue_limit:
                self._check_can_send()
                await self._wait_for_room()
            if self._closed:
                raise trio.ClosedResourceError("the stream was closed")

    async def send_eof(self) -> None:
        """End our direction behind what was queued; the peer reads end of file. Idempotent."""
        with self._send_conflict:
            if self._closed:
                raise trio.ClosedResourceError("the stream was closed")
            await checkpoint_if_cancelled()
            if self._core.states.sending not in (Sending.FINISHING, Sending.FINISHED):
                self._check_can_send()
                self._session.core.send_fin(self._core)
                self._session._output()
            await cancel_shielded_checkpoint()

    async def _wait_for_room(self) -> None:
        self._core.wants_room = True
        await self._sender.wait()

    @property
    def send_share(self) -> int:
        """This stream's part of what the senders of its session may have in memory together (bytes): the most that is
        worth reading for it at a time. Little where memory for sending is short in this process."""
        core = self._session.core
        share = max(BASE_WINDOW, QUEUED_PER_SESSION // max(1, len(core.streams)))
        return max(STREAM_SHARE, min(share, core.sending.available))

    @property
    def _queue_limit(self) -> int:
        return min(self._session.core.config.send_queue, self.send_share)

    def _check_can_send(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("the stream was closed")
        core = self._core
        if core.can_send:
            return
        if core.is_aborted or core.stopped_by_peer:
            self._raise_broken()
        raise trio.ClosedResourceError("this direction was ended by send_eof")

    # --- receiving

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Take what has arrived, or wait for something; b"" is the peer's end of file and nothing else.

        Raises:
            trio.BrokenResourceError: the stream was reset, or lost with its session.
            trio.ClosedResourceError: we closed the stream.
            trio.BusyResourceError: another task is receiving.
        """
        if max_bytes is None:
            max_bytes = READ_BYTES
        elif not isinstance(max_bytes, int):
            raise TypeError("max_bytes must be an int")
        elif max_bytes < 1:
            raise ValueError("max_bytes must be at least 1")
        with self._receive_conflict:
            if self._closed:
                raise trio.ClosedResourceError("the stream was closed")
            core = self._core
            if core.receive_queue or core.at_eof or core.is_aborted:
                await checkpoint()
            while not core.receive_queue:
                if self._closed:
                    raise trio.ClosedResourceError("the stream was closed")
                if core.is_aborted:
                    self._raise_broken()
                if core.at_eof:
                    return b""
                await self._receiver.wait()
            data = self._session.core.read(core, max_bytes, trio.current_time())
            self._session._output()
            return data

    def receive_nowait(self, max_bytes: int = READ_BYTES) -> Buffer | None:
        """What has arrived, b"" at the end of file, or None. See `NowaitStream.receive_nowait`."""
        pieces = self.receive_pieces_nowait(max_bytes)
        return None if pieces is None else b"".join(pieces)

    def receive_pieces_nowait(self, max_bytes: int = READ_BYTES) -> Sequence[Buffer] | None:
        """As `receive_nowait`, in the pieces in which it arrived: no piece at all is the end of file."""
        core = self._core
        if self._closed:
            raise trio.ClosedResourceError("the stream was closed")
        if core.receive_queue:
            pieces = self._session.core.read_pieces(core, max_bytes, trio.current_time())
            self._session._output()
            return pieces
        if core.is_aborted:
            self._raise_broken()
        return [] if core.at_eof else None

    async def wait_readable(self) -> None:
        """Wait until something arrives, or the stream comes to an end of whatever kind."""
        with self._receive_conflict:
            core = self._core
            if self._closed or core.receive_queue or core.at_eof or core.is_aborted:
                await checkpoint()
            else:
                await self._receiver.wait()

    def set_taker(self, taker: Callable[[], bool]) -> None:
        """Have `taker` called for what arrives, inside the task that reads the channel.

        It spares a small message the path through the scheduler. It must neither wait nor raise, and returns whether
        it has taken everything. Otherwise, and whenever the stream ends, the task in `wait_readable` is woken.
        """
        self._taker = taker

    # --- ending

    async def aclose(self) -> None:
        """Close: what was queued still leaves, followed by end of file; the peer is told that we read no more.

        Never waits, and cannot fail: closed even when cancelled. Use `reset` where the peer must not take what it
        has for complete.
        """
        self._close()
        await checkpoint()

    def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        core, states = self._session.core, self._core.states
        if core.ended is None and not states.is_over:
            if states.opening is not Opening.ANSWERED:
                core.reset(self._core, Reason.CANCELLED)
            else:
                if states.sending is Sending.OPEN:
                    core.send_fin(self._core)
                core.stop(self._core)
            self._session._output()
        elif self._core.receive_queue and core.ended is None:
            core.stop(self._core)
        self._wake()

    def reset(self, reason: Reason = Reason.CANCELLED, text: str = "") -> None:
        """Abort both directions at once and drop what was not written. Synchronous and idempotent.

        `text` reaches the peer: at most 256 bytes, nothing secret.
        """
        self._closed = True
        core = self._session.core
        if core.ended is None:
            core.reset(self._core, reason, text)
            self._session._output()
        self._wake()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if exc is not None:
            self.reset(Reason.CANCELLED)
        await self.aclose()

    # --- opening

    async def wait_opened(self) -> None:
        """Wait until the peer has accepted the stream.

        Raises:
            StreamRefused: it did not, or the session was lost. `reason` says why.
        """
        await self._answer.wait()
        if self._core.is_aborted:
            reason, text = self._core.reason, self._core.text
            raise StreamRefused(text or reason.describe, reason=reason)

    # --- called by the session

    def _raise_broken(self) -> None:
        reason, text = self._core.reason, self._core.text
        message = f"{reason.describe} ({text})" if text and text != reason.describe else reason.describe
        if self._core.is_aborted:
            raise trio.BrokenResourceError(message) from StreamReset(message, reason=reason)
        raise trio.BrokenResourceError("the peer reads no more") from StreamReset(message, reason=reason)

    def _readable(self) -> None:
        if self._taker is None or not self._taker():
            self._receiver.wake()

    def _wake(self) -> None:
        self._sender.wake()
        self._receiver.wake()
        if self._core.states.opening not in (Opening.AWAITING, Opening.OFFERED):
            self._answer.set()
        if self.withdrawal is not None and self._core.is_aborted:
            self.withdrawal.cancel()
