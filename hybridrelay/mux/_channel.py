"""One channel of a session: the reactor reads and writes it, and a task watches the time.

Reading waits for nothing: what was read is passed to the core, whose memory is bounded by the receive windows that it
has granted. A task watches the time, so that a dead channel is also detected while a write is blocked.

Output that is caused by handlers of the reactor is collected, and written when all handlers that are due have been
called: one write with several messages takes less processor time, here, at the relay, and at the peer. Output that is
caused by another task is written immediately, as much as the channel accepts without blocking, unless it follows
shortly after another write. A write is never interrupted: if the channel does not accept all of it, all later output
waits for the rest. So if a task that sends is cancelled, only whole frames have been queued.
"""

# This module is long because reading, writing, the time and the end of a channel share the state of one class.

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from functools import partial

import trio

from ..protocol.events import SessionEvent
from ..protocol.reasons import Reason
from ..protocol.session import SessionCore, State
from ..streams.nowait import READ_BYTES, SMALL_READ_BYTES, Buffer, nowait
from ..streams.reactor import Reactor
from ..streams.registration import Handler, Next, Registration
from ..streams.turns import MAX_FRAMES, SharedTurns
from ..streams.waiter import Waiter
from .pace import Pace

#: How long sending a final GOAWAY may take, and after that closing the channel (seconds).
CLOSING_TIMEOUT = 2.0
#: How long sending GOAWAY may take when the session is cancelled (seconds).
_GOODBYE_TIMEOUT = 0.5
#: How long to read from a channel to which nothing can be written any more (seconds).
_LAST_READ_SECONDS = 0.5
#: The size of one write (bytes): large enough to amortize a system call, small enough not to delay a control frame.
_WRITE_SIZE = 256 * 1024
#: Output that follows a write within this time (seconds) is written a little later, together with everything that is
#: queued by then. About as long as a write takes.
_TOGETHER_SECONDS = 50e-6

_BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError)


class Channel(Handler):
    """One channel of a session, from attachment to loss.

    Args:
        core: the session's state machine, after `channel_opened`.
        stream: the channel, which `serve` closes at its end.
        initial: bytes that were already received from `stream`.
        dispatch: called with the core's events.
        turns: shared by all sessions with the same peer.
        reactor: reads and writes the channel. It has to run as long as `serve`.
    """

    def __init__(
        self,
        core: SessionCore,
        stream: trio.abc.Stream,
        initial: bytes,
        dispatch: Callable[[list[SessionEvent]], None],
        turns: SharedTurns,
        reactor: Reactor,
    ) -> None:
        self._core = core
        self._stream = stream
        self._nowait = nowait(stream)
        self._initial: Buffer = initial
        self._dispatch = dispatch
        #: The turns in which reading and writing are counted.
        self.turns = turns
        self._reactor = reactor
        self._registration: Registration | None = None
        #: When the channel was opened, on Trio's clock, and how many bytes it has carried since, in both directions.
        self.opened_at = trio.current_time()
        self.bytes_moved = 0
        #: The exception with which the stream was lost, or None; see `serve`.
        self._error: BaseException | None = None
        #: The exception that a bug has caused in the reactor.
        self._bug: Exception | None = None
        self._lost = False
        #: Whether the reactor no longer serves the channel, so that nothing may be written except a last frame.
        self._is_unregistered = False
        self._read_bytes = READ_BYTES
        #: Limits the rate of a control channel.
        self._pace: Pace | None = None
        if core.config.is_control:
            self._read_bytes, self._pace = SMALL_READ_BYTES, Pace(trio.current_time())
        #: Wakes `_tick` before its time.
        self._timer = Waiter()
        #: When `_tick` wakes by itself, on Trio's clock; minus infinity unless it sleeps.
        self._timer_until = -math.inf
        self._greeted = trio.Event()
        #: Set when nothing more can be read, when the session has ended, and when everything was written after that.
        self._read_all, self._ended, self._written = trio.Event(), trio.Event(), trio.Event()
        #: Whether a write has begun and has not been completed.
        self._writing = False
        #: How many bytes of that write the underlying stream has buffered; counted as memory for sending.
        self._held = 0
        #: When the last write began, on Trio's clock.
        self._wrote_at = -math.inf
        #: Whether the reactor is going to call `write`.
        self._writes_later = False
        #: When to give up a write; infinite until the session has ended.
        self._write_deadline = math.inf
        self._tasks = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        #: Whether the nursery waits only for its tasks, which are cancelled, and may close at any time.
        self._is_closing = False

    async def serve(self, greeting_timeout: float) -> BaseException | None:
        """Run until the session has ended, or the channel is lost or replaced; then close the stream.

        Args:
            greeting_timeout: the deadline for the peer's HELLO (seconds).

        Returns:
            The exception with which the stream was lost; None if there was none. Through its traceback, it refers to
            this object, the stream, and the memory that OpenSSL has allocated for it.

        If cancelled, the session ends, and the peer is informed if that is possible within `_GOODBYE_TIMEOUT`.
        """
        try:
            with self._tasks:
                async with trio.open_nursery() as self._nursery:
                    try:
                        await self._run(greeting_timeout)
                    finally:
                        self._is_closing = True
            if self._bug is not None:
                raise self._bug
            return self._error
        except BaseException:
            await self._unregister()
            if not self._lost and self._core.ended is None:
                await self._say_goodbye()
            raise
        finally:
            try:
                await self._unregister()
                await self._close()
            finally:
                # Break the reference cycles of this object. Otherwise what OpenSSL has allocated for the stream would
                # stay until the garbage collector examines this object, which it rarely does with old ones.
                self._registration = self._error = self._bug = None

    # --- called by the session, at any time

    def output(self) -> None:
        """Write what the core has to write, immediately or together with what follows."""
        if self._writing or self._writes_later or self._is_unregistered or not self._core.has_output:
            return
        now = trio.current_time()
        if self._reactor.is_running or now - self._wrote_at < _TOGETHER_SECONDS:
            self._write_later()
        else:
            self._write_once(now)

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
        self._ended.set()
        self.output()

    def lose(self, text: str, *, reason: Reason = Reason.SESSION_LOST, error: BaseException | None = None) -> None:
        """Stop using the channel: it is broken, the peer is silent, or another channel replaces it."""
        if self._lost:
            return
        self._lost = self._is_unregistered = True
        self._error = error
        if self._registration is not None:
            self._registration.close()
        if self._core.ended is None:
            self._dispatch(self._core.channel_lost(trio.current_time(), text, reason=reason))
        self._tasks.cancel()

    # --- called by the reactor

    def on_readable(self) -> Next:
        """Read once, and pass what was read to the core. See `Handler.on_readable`."""
        core = self._core
        if core.has_input and core.ended is None:
            return self._take_in(b"")
        if self._initial:
            data, self._initial = self._initial, b""
        else:
            try:
                received = self._nowait.receive_nowait(self._read_bytes)
            except _BROKEN as exc:
                return self._end_of_input(f"the channel was lost: {exc}", exc)
            if received is None:
                return Next.AGAIN if self._nowait.has_more else Next.WAIT
            if not received:
                return self._end_of_input("the channel was lost", None)
            data = received
        if core.ended is not None:  # data after the end was sent before the peer received our GOAWAY
            return Next.AGAIN if self._nowait.has_more else Next.WAIT
        return self._take_in(data)

    def on_flushed(self, error: BaseException | None) -> None:
        """See `Handler.on_flushed`."""
        if error is not None:
            self._stop_writing(error)
            return
        self._writing = False
        self._hold(0)
        self._write_later()

    def on_broken(self) -> None:
        """See `Handler.on_broken`."""
        if not self._read_all.is_set():
            self._end_of_input("the channel was lost: the connection broke", None)

    def on_failed(self, error: Exception) -> None:
        """See `Handler.on_failed`."""
        self._bug = error
        self._tasks.cancel()

    def write(self) -> None:
        """Write once. See `Writer.write`."""
        self._writes_later = False
        if not (self._writing or self._is_unregistered):
            try:
                self._write_once(trio.current_time())
            except Exception as exc:  # noqa: BLE001 - a bug, which `serve` raises
                self.on_failed(exc)

    # --- reading

    def _take_in(self, data: Buffer) -> Next:
        """Pass what was received to the core. Returns when to continue."""
        core = self._core
        before, size = core.frames_received, len(data)
        self.bytes_moved += size
        self._dispatch(core.receive_data(data, trio.current_time(), max_frames=MAX_FRAMES))
        deadline = core.next_deadline()
        if deadline is not None and deadline < self._timer_until:
            self._timer.wake()
        self.output()
        frames = core.frames_received - before
        self.turns.count(frames, size)
        if self._pace is not None:
            pause = self._pace.take(frames, size, trio.current_time())
            if pause and self._nursery is not None:
                self._start_soon(partial(self._resume_after, pause))
                return Next.PAUSE
        return Next.AGAIN if core.has_input or self._nowait.has_more else Next.WAIT

    def _end_of_input(self, text: str, error: BaseException | None) -> Next:
        self._read_all.set()
        # After the end of the session, `_run` decides when the channel is closed.
        if self._core.ended is None:
            self.lose(text, error=error)
        return Next.PAUSE

    async def _resume_after(self, seconds: float) -> None:
        await trio.sleep(seconds)
        if self._registration is not None:
            self._registration.resume()

    # --- writing

    def _write_later(self) -> None:
        if not self._writes_later:
            self._writes_later = True
            self._reactor.write_later(self)

    def _write_once(self, now: float) -> None:
        """Make one write. If the channel does not accept it all, `_writing` is set until `on_flushed` continues."""
        core = self._core
        buffers = core.data_to_send(now, _WRITE_SIZE)
        if happened := core.pending_events():
            self._dispatch(happened)
        if not buffers:
            if core.ended is not None:
                self._written.set()
            return
        self._wrote_at, self._writing = now, True
        size = sum(map(len, buffers))
        self.bytes_moved += size
        try:
            self._writing = not self._nowait.send_nowait(*buffers)
        except _BROKEN as exc:
            self._stop_writing(exc)
            return
        if self._writing:
            self._hold(size)
            if self._registration is not None:
                self._registration.flush()
        elif core.has_output or core.ended is not None:
            self._write_later()

    def _stop_writing(self, error: BaseException) -> None:
        """Write nothing more, because a write has failed. Data that has arrived may still say why the peer has closed
        the channel, so the channel is given up only when everything was read, or after `_LAST_READ_SECONDS`."""
        self._writing = True  # nothing may follow
        self._written.set()
        if self._nursery is None:
            self.lose(f"the channel was lost: {error}", error=error)
        else:
            self._start_soon(partial(self._lose_soon, error))

    def _start_soon(self, function: Callable[[], Awaitable[None]]) -> None:
        """Run a task until the channel is closed. Does nothing once `serve` has begun to close it, because the task
        would be cancelled: other tasks may still write in the pass of the event loop in which the nursery closes."""
        assert self._nursery is not None
        if not self._is_closing:
            self._nursery.start_soon(function)

    async def _lose_soon(self, error: BaseException) -> None:
        with trio.move_on_after(_LAST_READ_SECONDS):
            await self._read_all.wait()
        if self._core.ended is None:
            self.lose(f"the channel was lost: {error}", error=error)

    def _hold(self, size: int) -> None:
        """Count the bytes that the underlying stream holds, because the channel has not accepted them yet."""
        self._core.sending.take(size - self._held)
        self._held = size

    # --- the tasks

    async def _run(self, greeting_timeout: float) -> None:
        """Begin to read and write, and wait for the end of the session, and for everything that it still writes."""
        self._registration = self._reactor.register(self._nowait, self, self.turns)
        self._registration.mark_readable()  # there may be `_initial`, or data in the layers of the stream
        if self._writing:
            self._registration.flush()
        self.output()
        self._start_soon(self._tick)
        with trio.move_on_after(greeting_timeout):
            await self._greeted.wait()
        if not self._greeted.is_set():
            self.lose("no HELLO in time", reason=Reason.PEER_SILENT)
        await self._ended.wait()
        self._write_later()
        with trio.move_on_at(self._write_deadline):
            await self._written.wait()
        ended = self._core.ended
        assert ended is not None
        if not self._written.is_set():  # nothing may follow an incomplete write
            self.lose("the channel did not accept the end of the session in time")
        elif not ended.by_peer:
            # The peer closes first, so that its side of the channel also ends gracefully.
            with trio.move_on_after(CLOSING_TIMEOUT):
                await self._read_all.wait()
        self._tasks.cancel()

    async def _tick(self) -> None:
        """Tell the core when its deadlines are reached: pings, acknowledgements, and the silence of the peer."""
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

    async def _unregister(self) -> None:
        self._is_unregistered = True
        if self._registration is not None:
            self._registration.close()
            await self._registration.wait_closed()

    async def _say_goodbye(self) -> None:
        """Complete a write that has begun and send GOAWAY, because the session was cancelled."""
        self._dispatch(self._core.close(Reason.GOING_AWAY))
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _GOODBYE_TIMEOUT):
            try:
                if self._writing:
                    await self._nowait.flush()
                self._writing = not self._nowait.send_nowait(*self._core.data_to_send(trio.current_time()))
                if self._writing:
                    await self._nowait.flush()
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
