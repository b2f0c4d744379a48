"""A stream of a session, as an ordinary Trio stream."""

# This module is long because `MuxStream` is one class with two interfaces, those of Trio's streams and of
# `NowaitStream`, and documents what each method raises and what cancelling it does.

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType

import attrs
import trio
from trio.lowlevel import cancel_shielded_checkpoint, checkpoint, checkpoint_if_cancelled

from ..protocol.config import BASE_WINDOW
from ..protocol.reasons import Reason
from ..protocol.sending import STREAM_SHARE
from ..protocol.states import Opening, Sending
from ..protocol.stream import Stream
from ..streams.conflict import ConflictDetector
from ..streams.nowait import READ_BYTES, Buffer, NowaitStream, Turn
from ..streams.waiter import Waiter
from .bridging import Party
from .stream_base import SessionPort, StreamBase
from .stream_end import LocalEnd, StreamEnd, StreamProgress
from .watcher import StreamWatcher

#: How much all streams of a session together may queue until it is written to the channel (bytes). Each stream has an
#: equal share, but at most `SessionConfig.send_queue` and at least `BASE_WINDOW`. Limits the memory that a peer can
#: use up by opening thousands of streams, requesting a lot of data on each, and reading nothing.
QUEUED_PER_SESSION = 64 * 1024 * 1024
#: How long the peer's answer to OPEN may take (seconds): 10 s for connecting to the target, and the rest for a
#: session that resumes in the meantime.
OPENING_SECONDS = 30.0
#: What is said about a stream that has no answer by then.
NO_ANSWER = "no answer to OPEN in time"


class MuxStream(StreamBase, trio.abc.HalfCloseableStream, NowaitStream):
    """One stream of a `Session`. It observes the stream's state in the core.

    If the peer resets the stream, or it is lost with its session, both directions raise `trio.BrokenResourceError`
    immediately, with a `StreamReset` as the cause. This never looks like end of file. If an exception leaves an
    ``async with`` block of the stream, the stream is reset, so that the peer does not consider the data complete.
    """

    __slots__ = (
        "_answer_deadline", "_end_callback", "_received_eof", "_send_conflict", "_sender", "_sent_eof",
        "_settled_callback", "_unsettled_end", "_watcher",
    )  # fmt: skip

    def __init__(self, session: SessionPort, state: Stream) -> None:
        super().__init__(session, state, "stream")
        state.observe(self)
        #: Whether `send_eof` was called, and whether `receive_some` has returned b"".
        self._sent_eof = self._received_eof = False
        self._end_callback: Callable[[StreamEnd], None] | None = None
        #: How the stream has ended on this side, while it is not known whether the peer has received everything.
        self._unsettled_end: LocalEnd | None = None
        self._settled_callback: Callable[[], None] | None = None
        #: Until when a stream that was closed before its answer waits for it, on Trio's clock.
        self._answer_deadline = 0.0
        self._send_conflict = ConflictDetector("another task is sending on this stream")
        self._sender = Waiter()
        #: Is informed in place of a task that waits; see `set_watcher`.
        self._watcher: StreamWatcher | None = None

    def __repr__(self) -> str:
        states = self._state.states
        return f"<MuxStream {self._state.id} {states.sending.name}/{states.receiving.name}>"

    @property
    def was_aborted(self) -> bool:
        """Whether the stream was refused or reset, or lost with its session."""
        return self._state.is_aborted

    def so_far(self) -> StreamProgress:
        """Return the progress of the stream, which may have ended."""
        state = self._state
        half_closed = state.states.sending is not Sending.OPEN or state.at_eof
        return StreamProgress(state.send_window.sent, state.receive_window.consumed, half_closed)

    @property
    def sent_bytes(self) -> int:
        """How many bytes were written to the channel or are queued, without those that were dropped."""
        return self._state.send_window.sent + self._state.queued_bytes

    @property
    def is_delivered(self) -> bool:
        """Whether the peer has acknowledged everything that was sent, including the end of file, without having
        stopped reading."""
        return self._state.is_delivered

    @property
    def is_settled(self) -> bool:
        """Whether `is_delivered` is final: it is known now whether everything that was sent was delivered."""
        state = self._state
        return state.is_delivered or state.stopped_by_peer or state.is_aborted or self.was_lost

    @property
    def failure_reason(self) -> Reason:
        """Why the stream was aborted or lost, or why the peer stopped reading; `NO_ERROR` if neither happened."""
        ended = self._core.ended
        if self._state.reason is Reason.NO_ERROR and ended is not None:
            return Reason.SESSION_LOST if ended.reason is Reason.NO_ERROR else ended.reason
        return self._state.reason

    # --- sending

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Queue `data` for sending. Returns when all of it is queued.

        By default, the queue holds at most 128 KiB, and less if the session has thousands of streams.

        If cancelled, a part of the data may have been queued; the session and its other streams are not affected.

        Raises:
            trio.BrokenResourceError: the stream was reset or lost with its session, or the peer stopped reading.
            trio.ClosedResourceError: we closed the stream, or ended this direction.
            trio.BusyResourceError: another task is sending.
        """
        with self._send_conflict:
            self._check_can_send()
            await checkpoint_if_cancelled()
            view = memoryview(data).cast("B")
            position, end = 0, len(view)
            turn = Turn()
            while position < end:
                room = self._queue_limit - self._state.queued_bytes
                if room > 0:
                    whole = position == 0 and end <= room
                    piece = data if whole and isinstance(data, bytes) else bytes(view[position : position + room])
                    self._core.send_data(self._state, piece)
                    self._output()
                    position += len(piece)
                    if position < end and turn.is_over(len(piece)):
                        await checkpoint()
                        turn = Turn()
                else:
                    await self._wait_for_room()
                    turn = Turn()
                if position < end:
                    self._check_can_send()  # the channel, and with it the session, may have been lost in the meantime
            await cancel_shielded_checkpoint()

    async def send_whole(self, data: bytes) -> None:
        """Like `send_all`, but if it is cancelled, no part of `data` was queued. This is for messages, because a
        partial message would make all later ones unreadable. The queue may exceed its limit by the length of
        `data`."""
        await self.wait_send_all_might_not_block()
        self._check_can_send()
        self._core.send_data(self._state, data)
        self._output()

    def send_nowait(self, *buffers: Buffer) -> bool:
        """Queue all of `buffers`. Returns False if the queue is full: call `flush` before sending more.

        Raises:
            trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError: as for `send_all`.
        """
        if self._send_conflict.held:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._check_can_send()
        for buffer in buffers:
            self._core.send_data(self._state, bytes(buffer))
        self._output()
        queued = self._state.queued_bytes
        return queued < STREAM_SHARE or queued < self._queue_limit  # the limit is never lower than `STREAM_SHARE`

    async def flush(self) -> None:
        """Wait until the send queue has room. The same as `wait_send_all_might_not_block`."""
        await self.wait_send_all_might_not_block()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the send queue has room.

        Raises:
            trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError: as for `send_all`.

        If cancelled, nothing changes.
        """
        with self._send_conflict:
            self._check_can_send()
            await checkpoint()
            while self._state.queued_bytes >= self._queue_limit:
                self._check_can_send()
                await self._wait_for_room()
            if self._closed:
                raise trio.ClosedResourceError("the stream was closed")

    async def send_eof(self) -> None:
        """End the sending direction: after what was queued, the peer reads end of file. Idempotent.

        Raises:
            trio.BrokenResourceError: the stream was reset or lost with its session, or the peer stopped reading.
            trio.ClosedResourceError: we closed the stream.
            trio.BusyResourceError: another task is sending.
        """
        with self._send_conflict:
            if self._closed:
                raise trio.ClosedResourceError("the stream was closed")
            await checkpoint_if_cancelled()
            self._send_eof()
            await cancel_shielded_checkpoint()

    def send_eof_nowait(self) -> None:
        """Like `send_eof`, but without a checkpoint. Raises the same errors."""
        if self._send_conflict.held:
            raise trio.BusyResourceError("another task is sending on this stream")
        if self._closed:
            raise trio.ClosedResourceError("the stream was closed")
        self._send_eof()

    def _send_eof(self) -> None:
        if self._state.states.sending not in (Sending.FINISHING, Sending.FINISHED):
            self._check_can_send()
            self._core.send_fin(self._state)
            self._output()
        self._sent_eof = True
        self._end_if_finished()

    def has_room(self) -> bool:
        """Return whether the send queue has room. If not, the watcher (`set_watcher`) is informed when it has.

        Raises:
            trio.BrokenResourceError, trio.ClosedResourceError: as for `send_all`.
        """
        self._check_can_send()
        if self._state.queued_bytes < self._queue_limit:
            return True
        self._state.ask_for_room()
        return False

    async def _wait_for_room(self) -> None:
        self._state.ask_for_room()
        await self._sender.wait()

    @property
    def queued_bytes(self) -> int:
        """How many bytes wait to be written to the channel."""
        return self._state.queued_bytes

    @property
    def written_bytes(self) -> int:
        """How many bytes were written to the channel. While bytes are queued, this grows only if the peer reads."""
        return self._state.send_window.sent

    @property
    def send_share(self) -> int:
        """This stream's share of its session's memory for sending (bytes), which is small if this process has little
        left for that. It makes no sense to read more than this at a time from the source of the data."""
        core = self._core
        share = max(BASE_WINDOW, QUEUED_PER_SESSION // (len(core.streams) or 1))
        return min(share, max(STREAM_SHARE, core.sending.available))

    @property
    def _queue_limit(self) -> int:
        return min(self._core.config.send_queue, self.send_share)

    def _check_can_send(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("the stream was closed")
        state = self._state
        if state.can_send:
            return
        if state.is_aborted or state.stopped_by_peer:
            self._raise_broken()
        raise trio.ClosedResourceError("this direction was ended by send_eof")

    # --- receiving

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return data that has arrived, or wait for it. b"" always means that the peer sent end of file.

        Args:
            max_bytes: how many bytes to return at most, 1 or more; None means `READ_BYTES`.

        Raises:
            trio.BrokenResourceError: the stream was reset, or lost with its session.
            trio.ClosedResourceError: we closed the stream.
            trio.BusyResourceError: another task is receiving.
            TypeError, ValueError: `max_bytes` is not an integer, or is less than 1.

        If cancelled, no data is lost.
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
            state = self._state
            if state.receive_queue or state.at_eof or state.is_aborted:
                await checkpoint()
            while not state.receive_queue:
                if self._closed:
                    raise trio.ClosedResourceError("the stream was closed")
                if state.is_aborted:
                    self._raise_broken()
                if state.at_eof:
                    self._received_eof = True
                    self._end_if_finished()
                    return b""
                await self._receiver.wait()
            data = self._core.read(state, max_bytes, trio.current_time())
            self._output()
            self._end_if_finished()
            return data

    def receive_nowait(self, max_bytes: int = READ_BYTES) -> Buffer | None:
        """Return data that has arrived, b"" at the end of file, or None. See `NowaitStream.receive_nowait`."""
        pieces = self.receive_pieces_nowait(max_bytes)
        return None if pieces is None else b"".join(pieces)

    def receive_pieces_nowait(self, max_bytes: int = READ_BYTES) -> Sequence[Buffer] | None:
        """Like `receive_nowait`, but return the pieces in which the data arrived. An empty sequence means end of
        file."""
        state = self._state
        if self._closed:
            raise trio.ClosedResourceError("the stream was closed")
        if state.receive_queue:
            pieces = self._core.read_pieces(state, max_bytes, trio.current_time())
            self._output()
            self._end_if_finished()
            return pieces
        if state.is_aborted:
            self._raise_broken()
        if not state.at_eof:
            return None
        self._received_eof = True
        self._end_if_finished()
        return []

    async def wait_readable(self) -> None:
        """Wait until something arrives, or the stream ends in any way. If cancelled, nothing changes."""
        with self._receive_conflict:
            state = self._state
            if self._closed or state.receive_queue or state.at_eof or state.is_aborted:
                await checkpoint()
            else:
                await self._receiver.wait()

    def set_watcher(self, watcher: StreamWatcher | None) -> None:
        """From now on, inform `watcher` of what happens to the stream; None: inform nobody. Earlier events are
        not reported."""
        self._watcher = watcher

    # --- ending

    async def aclose(self) -> None:
        """Close the stream. What was queued is still sent, followed by end of file. The peer is told that we stop
        reading.

        This also holds if the peer has not answered yet: it gets the data if it accepts the stream within 30
        seconds. But if nothing was sent, such a stream is reset, so that the peer need not connect to the target.

        Never blocks. If cancelled, the stream is closed nevertheless. Use `reset` instead if the data is incomplete.
        """
        self.close_nowait()
        await checkpoint()

    def close_nowait(self) -> None:
        """Like `aclose`, but without a checkpoint."""
        if self._closed:
            return
        self._closed = True
        core, states = self._core, self._state.states
        unanswered = states.opening is Opening.AWAITING
        delivers = states.opening is Opening.ANSWERED or (unanswered and self._has_sent)
        if delivers:
            finished = self._state.at_eof and not self._state.stopped_by_peer
            reason = self._state.reason if self._state.stopped_by_peer else Reason.CANCELLED
            self._end(Party.LOCAL, Reason.NO_ERROR if finished else reason, was_closed=True)
        else:
            self._end(Party.LOCAL, Reason.CANCELLED)
        if core.ended is None and not states.is_over:
            if not delivers:
                core.reset(self._state, Reason.CANCELLED)
            else:
                if states.sending is Sending.OPEN:
                    core.send_fin(self._state)
                core.stop(self._state)
                if unanswered:
                    self._answer_deadline = trio.current_time() + OPENING_SECONDS
                    self._session.limit_settling(self)
            self._output()
        elif self._state.receive_queue and core.ended is None:
            core.stop(self._state)
        self._wake()
        self._let_go()

    @property
    def _has_sent(self) -> bool:
        """Whether data or the end of file was queued, or written to the channel."""
        return self.sent_bytes > 0 or self._state.states.sending is not Sending.OPEN

    @property
    def _awaits_answer(self) -> bool:
        """Whether the stream was closed, and the session has not reported the peer's answer yet. Before that, it is
        not known whether anything is delivered, even if the peer has acknowledged it."""
        return self._closed and not self._answer.is_set()

    def reset(self, reason: Reason = Reason.CANCELLED, text: str = "") -> None:
        """Abort both directions immediately, and drop what was not written yet. Synchronous and idempotent.

        `text` is sent to the peer: at most 256 bytes, and nothing secret.
        """
        self._closed = True
        self._settled_callback = None
        if not (self._unsettled_end and self._state.states.is_over):  # otherwise everything was written
            self._end(Party.LOCAL, reason)
        core = self._core
        if core.ended is None:
            core.reset(self._state, reason, text)
            self._output()
        self._wake()
        self._let_go()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if exc is not None:
            self.reset(Reason.CANCELLED)
        await self.aclose()

    def set_end_callback(self, callback: Callable[[StreamEnd], None]) -> None:
        """Call `callback` once, when the stream has ended, or at once if it was already aborted.

        A stream ends when both directions have finished (`send_eof` was called, and everything was read), when it is
        closed or reset on this side, when the peer aborts it, or when its session ends. A stream that was not aborted
        still delivers what is queued. In this case, the callback is called only when it is known whether the peer has
        received this, or after 5 seconds without an acknowledgement; if the peer has not answered yet, after 30
        seconds without an answer. The callback must neither wait nor raise.
        """
        self._end_callback = callback
        if self._state.is_aborted:
            self._end_aborted()

    def set_settled_callback(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, as soon as `is_settled` is true. For use after `send_eof`.

        `reset` removes the callback. The callback must neither wait nor raise.
        """
        if self.is_settled:
            callback()
        else:
            self._settled_callback = callback
            self._state.ask_for_delivery()

    def limit_settling(self) -> None:
        """Call the callback of `set_settled_callback` after 5 seconds at the latest, even if the peer has
        acknowledged nothing.

        For use when the stream is closed on this side.
        """
        if self._settled_callback is not None:
            self._session.limit_settling(self)

    def stop_waiting(self) -> None:
        """Report the end of the stream now, although the peer has not acknowledged everything. For the session.

        A stream that has no answer yet continues to wait for that, and is reset if there is none in time.
        """
        if not self._awaits_answer:
            self._settle()
        elif trio.current_time() < self._answer_deadline:
            self._session.limit_settling(self)
        else:
            self.reset(Reason.TARGET_TIMEOUT, NO_ANSWER)

    def _let_go(self) -> None:
        """Let this object be freed if nothing is to be reported; the core keeps the state until the peer has
        acknowledged the end."""
        if self._awaits_answer:
            return
        if self._closed and self._settled_callback is None and self._end_callback is None:
            self._session.settled(self)
            self._watcher = None
            self._state.stop_observing()

    def _end(self, ended_by: Party, reason: Reason, *, was_closed: bool = False) -> None:
        if self._end_callback is None:
            return
        received_all = self._received_eof or self._state.at_eof
        end = LocalEnd(ended_by, reason, was_closed, received_all, trio.current_time())
        if not (was_closed or ended_by is Party.NOBODY):
            self._report_end(end)
        elif self.is_settled and not self._awaits_answer:
            self._report_end(self._settled(end))
        elif self._unsettled_end is None:
            self._unsettled_end = end
            self._state.ask_for_delivery()
            self._session.limit_settling(self)

    def _report_end(self, end: LocalEnd) -> None:
        callback, self._end_callback = self._end_callback, None
        self._unsettled_end = None
        if callback is None:
            return
        state = self._state
        callback(
            StreamEnd(
                ended_by=end.ended_by,
                reason=end.reason,
                text=state.text,
                was_accepted=self.was_accepted,
                sent=state.send_window.sent,
                received=state.receive_window.consumed,
                sent_all=self._was_delivered,
                received_all=end.received_all,
                peer_stopped=state.stopped_by_peer,
                was_closed=end.was_closed,
                ended_at=end.ended_at,
            )
        )

    def _end_if_finished(self) -> None:
        if self._sent_eof and (self._received_eof or self._state.at_eof):
            self._end(Party.NOBODY, self._state.reason if self._state.stopped_by_peer else Reason.NO_ERROR)

    def _end_aborted(self) -> None:
        if self._unsettled_end is None:
            self._end(self._aborted_by, self._state.reason)

    def _settle(self) -> None:
        """Call the callbacks that have waited until it is known whether everything was delivered."""
        if not self._awaits_answer:
            self._session.settled(self)
        callback, self._settled_callback = self._settled_callback, None
        if callback is not None:
            callback()
        if self._awaits_answer:
            return
        if self._unsettled_end is not None:
            self._report_end(self._settled(self._unsettled_end))
        self._let_go()

    def _settled(self, end: LocalEnd) -> LocalEnd:
        """Complete the end of a stream: it is known now whether everything was delivered, or the wait is over."""
        state = self._state
        if self._was_delivered:
            return end
        if not self.is_settled:
            return attrs.evolve(end, ended_by=Party.NOBODY)
        stopped = state.stopped_by_peer and not state.is_aborted
        return attrs.evolve(end, reason=self.failure_reason, ended_by=end.ended_by if stopped else self._aborted_by)

    @property
    def _was_delivered(self) -> bool:
        """Whether the peer has acknowledged everything, and has accepted the stream. Otherwise it may have refused
        afterwards what it had acknowledged."""
        return self._state.is_delivered and self.was_accepted

    # --- `StreamObserver`, for the session

    def on_answered(self) -> None:
        """Note that the stream was accepted, by the peer or by us."""
        super().on_answered()
        if self._closed and self.is_settled:
            self._settle()
        elif self._closed:
            self._session.settled(self)
            self._session.limit_settling(self)  # from now on, it waits for an acknowledgement
            self._let_go()

    def on_readable(self) -> None:
        """Note that data or the end of file arrived."""
        if self._watcher is not None:
            self._watcher.on_data()
        self._receiver.wake()
        self._end_if_finished()

    def on_writable(self) -> None:
        """Note that the send queue has room, or that the peer stopped reading."""
        self._sender.wake()
        if self._watcher is not None:
            self._watcher.on_room()

    def on_aborted(self) -> None:
        """Note that the stream was refused or reset, or lost with its session."""
        self._note_answer()
        self._settle()
        self._end_aborted()
        self._wake()

    def on_settled(self) -> None:
        """Note that it is known whether the peer has received everything. Not called if the stream was aborted."""
        self._settle()
        if self.was_lost and self._unsettled_end is None:
            # Data that has arrived can still be read, but perhaps nobody will.
            self._end(Party.SESSION, self.failure_reason)

    def _raise_broken(self) -> None:
        error = self._reset_error()
        message = str(error) if self._state.is_aborted else "the peer has stopped reading"
        raise trio.BrokenResourceError(message) from error

    def _wake(self) -> None:
        self._sender.wake()
        super()._wake()
        if self._watcher is not None:
            self._watcher.on_changed()
