"""The tasks of one channel: a reader, a writer and a timer.

The reader waits for no other task: it passes what it reads to the core, whose memory is bounded by the receive
windows that it has granted. The timer is separate from reader and writer, so that a dead channel is also detected
while the writer is blocked.

The task that causes output writes as much of it as the channel accepts without blocking: for a small message, this
saves a pass through the scheduler. The writer task writes the rest, and all later output waits for that. A write is
therefore never interrupted, and if a sender is cancelled, only whole frames have been queued. Output that follows
shortly after another write is also left to the writer task, because one write with several messages takes less
processor time in all three processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import trio

from ..protocol.events import SessionEvent
from ..protocol.reasons import Reason
from ..protocol.session import SessionCore, State
from ..streams.nowait import READ_BYTES, SMALL_READ_BYTES, Buffer, nowait
from ..streams.turns import MAX_FRAMES, SharedTurns
from ._waiter import Waiter
from .pace import Pace

#: How long sending a final GOAWAY may take, and after that closing the channel (seconds).
CLOSING_TIMEOUT = 2.0
#: How long sending GOAWAY may take when the session is cancelled (seconds).
_GOODBYE_TIMEOUT = 0.5
#: The size of one write (bytes): large enough to amortize a system call, small enough not to delay a control frame.
_WRITE_SIZE = 256 * 1024

#: Output that follows a write within this time (seconds) is left to the writer task, which writes everything that is
#: queued by then. About as long as a write takes.
_TOGETHER_SECONDS = 50e-6

_BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError)


class Channel:
    """One channel of a session, from attachment to loss.

    Args:
        core: the session's state machine, after `channel_opened`.
        stream: the channel, which `serve` closes at its end.
        initial: bytes that were already received from `stream`.
        dispatch: called with the core's events.
        turns: shared by all sessions with the same peer. None: this session has turns of its own.
    """

    def __init__(
        self,
        core: SessionCore,
        stream: trio.abc.Stream,
        initial: bytes,
        dispatch: Callable[[list[SessionEvent]], None],
        turns: SharedTurns | None = None,
    ) -> None:
        self._core = core
        self._stream = stream
        self._port = nowait(stream)
        self._initial = initial
        self._dispatch = dispatch
        self._turns = turns or SharedTurns()
        #: When the channel was opened, on Trio's clock, and how many bytes it has carried since, in both directions.
        self.opened_at = trio.current_time()
        self.bytes_moved = 0
        #: The exception with which the stream was lost, or None.
        self.error: BaseException | None = None
        self._lost = False
        self._writer = Waiter()
        self._timer = Waiter()
        self._timer_until = -math.inf
        self._greeted = trio.Event()
        self._read_all = trio.Event()
        #: Whether a write has begun and has not been completed.
        self._writing = False
        #: How many bytes of that write the underlying stream has buffered; counted as memory for sending.
        self._held = 0
        self._wrote_at = -math.inf
        #: Whether the core is processing what was read; its answers are written together afterwards.
        self._corked = False
        self._write_scope = trio.CancelScope()
        #: When to give up a write; infinite until the session has ended.
        self._write_deadline = math.inf
        self._tasks = trio.CancelScope()

    async def serve(self, greeting_timeout: float) -> None:
        """Run until the session has ended, or the channel is lost or replaced; then close the stream."""
        try:
            with self._tasks:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._read)
                    nursery.start_soon(self._write)
                    nursery.start_soon(self._tick)
                    with trio.move_on_after(greeting_timeout):
                        await self._greeted.wait()
                    if not self._greeted.is_set():
                        self.lose("no HELLO in time", reason=Reason.PEER_SILENT)
        except BaseException:
            if not self._lost and self._core.ended is None:
                await self._say_goodbye()
            raise
        finally:
            await self._close()

    # --- called by the session, at any time

    def output(self) -> None:
        """Write what the core has to write. The writer task checks again before it waits, so no wake-up is lost."""
        core, writing = self._core, self._writing
        if self._corked or writing or not core.has_output:
            return
        now = trio.current_time()
        if core.ended is not None or now - self._wrote_at < _TOGETHER_SECONDS:
            self._writer.wake()
        else:
            self._write_nowait(now)
            if self._writing or core.has_output:
                self._writer.wake()

    def check_alive(self) -> None:
        """Send a ping at once."""
        self._core.check_alive(trio.current_time())
        self._timer.wake()
        self.output()

    def greeted(self) -> None:
        """Note that the peer's HELLO has arrived."""
        self._greeted.set()

    def ended(self, reason: Reason) -> None:
        """Write the session's last frame and then close the channel, because the session has ended."""
        self._greeted.set()
        self._timer.wake()
        # No final GOAWAY is sent to a peer that has become silent.
        patience = 0.0 if reason is Reason.PEER_SILENT else CLOSING_TIMEOUT
        self._write_deadline = trio.current_time() + patience
        self._write_scope.deadline = self._write_deadline
        self.output()

    def lose(self, text: str, *, reason: Reason = Reason.SESSION_LOST, error: BaseException | None = None) -> None:
        """Stop using the channel: it is broken, the peer is silent, or another channel replaces it."""
        if self._lost:
            return
        self._lost = True
        self.error = error
        if self._core.ended is None:
            self._dispatch(self._core.channel_lost(trio.current_time(), text, reason=reason))
        self._tasks.cancel()

    # --- the tasks

    async def _read(self) -> None:
        core, port = self._core, self._port
        read_bytes, pace = READ_BYTES, None
        if core.config.is_control:
            read_bytes, pace = SMALL_READ_BYTES, Pace(trio.current_time())
        data: Buffer = self._initial
        turns = self._turns
        turns.begin()
        while True:
            before, is_over = core.frames_received, False
            if data and core.ended is None:  # data after the end was sent before the peer received our GOAWAY
                is_over = self._take_in(data)
                while core.has_input:
                    await turns.next()
                    is_over = self._take_in(b"")
            if pace is not None:
                await trio.sleep(pace.take(core.frames_received - before, len(data), trio.current_time()))
                is_over = turns.begin()
            if is_over:
                await turns.next()
            try:
                while (received := port.receive_nowait(read_bytes)) is None:
                    turns.use(0, 0)  # there may have been frames or records without data
                    await port.wait_readable()
                    if turns.begin():  # before reading: what is read has to be used at once
                        await turns.next()
                data = received
            except _BROKEN as exc:
                self._read_all.set()
                self._end_of_input(f"the channel was lost: {exc}", exc)
                return
            if not data:
                self._read_all.set()
                self._end_of_input("the channel was lost", None)
                return

    def _take_in(self, data: Buffer) -> bool:
        """Pass what was received to the core. Returns whether the turn is over."""
        core = self._core
        before = core.frames_received
        self.bytes_moved += len(data)
        self._corked = True
        try:
            self._dispatch(core.receive_data(data, trio.current_time(), max_frames=MAX_FRAMES))
        finally:
            self._corked = False
        deadline = core.next_deadline()
        if deadline is not None and deadline < self._timer_until:
            self._timer.wake()
        self.output()
        return self._turns.use(core.frames_received - before, len(data))

    def _end_of_input(self, text: str, error: BaseException | None) -> None:
        # After the end of the session, the writer decides when the channel is closed.
        if self._core.ended is None:
            self.lose(text, error=error)

    def _write_nowait(self, now: float) -> bool:
        """Make one write. Returns False if there is nothing to write. If the channel does not accept everything at
        once, the writer task completes the write, and `_writing` is set until then."""
        core = self._core
        buffers = core.data_to_send(now, _WRITE_SIZE)
        if happened := core.pending_events():
            self._dispatch(happened)
        if not buffers:
            return False
        self._wrote_at = now
        self._writing = True
        size = sum(map(len, buffers))
        self.bytes_moved += size
        try:
            self._writing = not self._port.send_nowait(*buffers)
        except _BROKEN as exc:
            self.lose(f"the channel was lost: {exc}", error=exc)
        if self._writing:
            self._hold(size)
        return True

    def _hold(self, size: int) -> None:
        """Count the bytes that the underlying stream holds, because the channel has not accepted them yet."""
        self._core.sending.take(size - self._held)
        self._held = size

    async def _write(self) -> None:
        core = self._core
        while True:
            if self._writing:
                await self._finish_write()
            elif self._write_nowait(trio.current_time()):
                if not self._writing:
                    await trio.lowlevel.checkpoint()
            elif core.ended is not None:
                if not core.ended.by_peer:
                    # The peer closes first, so that its side of the channel also ends gracefully.
                    with trio.move_on_after(CLOSING_TIMEOUT):
                        await self._read_all.wait()
                self._tasks.cancel()
                return
            else:
                await self._writer.wait()
            if self._lost:
                return

    async def _finish_write(self) -> None:
        """Wait until the channel has taken the rest of a write."""
        error: BaseException | None = None
        try:
            with trio.CancelScope(deadline=self._write_deadline) as self._write_scope:
                await self._port.flush()
                self._writing = False
                self._hold(0)
        except _BROKEN as exc:
            error = exc
        if self._writing:
            # The channel is broken, or was blocked when the session ended: nothing may follow an incomplete write.
            self.lose(f"the channel was lost: {error}", error=error)

    async def _tick(self) -> None:
        core = self._core
        while core.ended is None:
            deadline = core.next_deadline()
            self._timer_until = math.inf if deadline is None else deadline
            if self._timer_until > trio.current_time():
                with trio.move_on_at(self._timer_until):
                    await self._timer.wait()
                self._timer_until = -math.inf
            self._dispatch(core.handle_timeout(trio.current_time()))
            if core.state is State.DETACHED:
                self.lose(Reason.PEER_SILENT.describe, reason=Reason.PEER_SILENT)
                return
            self.output()

    # --- the end

    async def _say_goodbye(self) -> None:
        """Complete a write that has begun and send GOAWAY, because the session was cancelled."""
        self._dispatch(self._core.close(Reason.GOING_AWAY))
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _GOODBYE_TIMEOUT):
            try:
                if self._writing:
                    await self._port.flush()
                self._writing = not self._port.send_nowait(*self._core.data_to_send(trio.current_time()))
                if self._writing:
                    await self._port.flush()
                    self._writing = False
            except _BROKEN:
                pass  # the peer is gone

    async def _close(self) -> None:
        self._hold(0)
        ended = self._core.ended
        if self._lost or self._writing or ended is None or ended.reason is Reason.PEER_SILENT:
            await trio.aclose_forcefully(self._stream)
        else:
            with trio.move_on_after(CLOSING_TIMEOUT):
                await self._stream.aclose()
