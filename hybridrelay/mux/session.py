"""The Trio shell of a session: one reader, one writer and one timer task per channel, and nothing else.

The reader waits for nobody: what it reads goes into the core, which is bounded by the windows it has granted. The
writer alone writes, so cancelling a stream's sender leaves whole frames behind. The timer is apart from both, so a
channel on which the writer is stuck is found dead all the same.
"""

from __future__ import annotations

import math
import secrets

import attrs
import trio

from ..errors import SessionError, StreamRefused
from ..protocol import events
from ..protocol.config import SessionConfig
from ..protocol.errors import LocalProtocolError
from ..protocol.frames import SESSION_ID_SIZE, SESSION_SECRET_SIZE, GoAway, clip_text
from ..protocol.reasons import Reason
from ..protocol.session import Role, SessionCore
from ..protocol.states import Opening
from ..protocol.stream import Stream
from ..protocol.windows import Budget
from ._waiter import Waiter
from .stream import MuxStream

#: Seconds for the peer's HELLO once both ends of the channel are there.
GREETING_TIMEOUT = 15.0
#: Seconds to get a final GOAWAY out, and then to close the channel.
CLOSING_TIMEOUT = 2.0
#: Seconds to tell the peer when we are cancelled.
_GOODBYE_TIMEOUT = 0.5
#: One write: large enough to amortize a system call, small enough not to delay a control frame.
_WRITE_SIZE = 256 * 1024


class Offer:
    """A stream that the peer wants to open: `accept` or `refuse` it."""

    def __init__(self, session: Session, core: Stream) -> None:
        self._session = session
        self._core = core
        self._stream = MuxStream(session, core)

    @property
    def metadata(self) -> bytes:
        """What the opener sent with OPEN; untrusted, at most 1024 bytes."""
        return self._core.metadata

    @property
    def is_withdrawn(self) -> bool:
        """The opener gave up, or the session ended."""
        return self._core.is_aborted

    def accept(self) -> MuxStream:
        """Answer OPENED. Where the offer was withdrawn, the stream is broken from the start."""
        if self._core.states.opening is Opening.OFFERED:
            self._session.core.accept(self._core, trio.current_time())
            self._session._output()
        self._stream._wake()
        return self._stream

    def refuse(self, reason: Reason, text: str = "") -> None:
        """Answer REFUSED. Does nothing where the offer was withdrawn."""
        if self._core.states.opening is Opening.OFFERED:
            self._session.core.refuse(self._core, reason, text)
            self._session._output()
        self._stream._wake()

    async def wait_withdrawn(self) -> None:
        """Wait until the opener gives up; for ever once the offer was answered."""
        await self._stream._answer.wait()
        if not self.is_withdrawn:
            await trio.sleep_forever()


@attrs.frozen
class SessionStatistics:
    """A snapshot."""

    #: Streams that are not over.
    streams: int
    #: Bytes promised to the peer's streams.
    reserved_bytes: int
    #: Lowest round trip of the last minute in seconds, or None.
    round_trip: float | None


class Session:
    """Many streams over one channel.

    Args:
        role: `Role.INITIATOR` for the side that dialed.
        config: limits and timers.
        budget: the process's memory budget, shared among sessions.
    """

    def __init__(self, role: Role, *, config: SessionConfig | None = None, budget: Budget | None = None) -> None:
        initiator = role is Role.INITIATOR
        self.core = SessionCore(
            role,
            config=config,
            budget=budget,
            session_id=secrets.token_bytes(SESSION_ID_SIZE) if initiator else bytes(SESSION_ID_SIZE),
            secret=secrets.token_bytes(SESSION_SECRET_SIZE) if initiator else bytes(SESSION_SECRET_SIZE),
        )
        # Unbounded here because the core refuses streams beyond SessionConfig.max_backlog.
        self._offer_in, offers = trio.open_memory_channel[Offer](math.inf)
        #: The streams that the peer wants to open; ends with the session.
        self.offers: trio.abc.ReceiveChannel[Offer] = offers
        self._established = trio.Event()
        self._ended = trio.Event()
        self._empty = trio.Event()
        self._writer = Waiter()
        self._output_due = False
        self._timer = Waiter()
        self._timer_until = -math.inf
        self._channel_error: BaseException | None = None
        self._channel_lost = False
        #: A write has begun and not succeeded.
        self._writing = False
        self._write_scope = trio.CancelScope()
        #: When a write is given up: not before the session has ended.
        self._write_deadline = math.inf
        self._read_all = trio.Event()

    def __repr__(self) -> str:
        core = self.core
        return f"<Session {core.role.name.lower()} {core.state.name.lower()}, {len(core.streams)} streams>"

    # --- for everybody

    @property
    def is_open(self) -> bool:
        """Streams can be opened: HELLO was exchanged, and neither side is going away."""
        core = self.core
        return core.is_established and not core.peer_going_away and not core.going_away

    @property
    def outcome(self) -> events.SessionEnded | None:
        """How the session ended, or None while it has not."""
        return self.core.ended

    def statistics(self) -> SessionStatistics:
        budget = self.core.budget
        return SessionStatistics(
            len(self.core.streams), budget.base + budget.elastic, self.core.round_trip(trio.current_time())
        )

    async def wait_ended(self) -> events.SessionEnded:
        """Wait for the session's one outcome."""
        await self._ended.wait()
        assert self.core.ended is not None
        return self.core.ended

    def open_stream_nowait(self, metadata: bytes = b"") -> MuxStream:
        """Open a stream without waiting for the answer: up to 16 KiB may be sent at once.

        Raises:
            StreamRefused: the session is over or going away, or a limit is reached.
        """
        try:
            core = self.core.open_stream(metadata)
        except LocalProtocolError as exc:
            ended = self.core.ended
            reason = Reason.LIMIT if ended is None and self.is_open else Reason.GOING_AWAY
            raise StreamRefused(str(exc), reason=ended.reason if ended else reason) from exc
        stream = MuxStream(self, core)
        self._output()
        return stream

    async def open_stream(self, metadata: bytes = b"") -> MuxStream:
        """Open a stream and wait until the peer has accepted it. Cancelled, the stream is reset.

        Raises:
            StreamRefused: by the peer, or because the session is over. `reason` says why.
        """
        stream = self.open_stream_nowait(metadata)
        try:
            await stream.wait_opened()
        except BaseException:
            stream.reset(Reason.CANCELLED)
            raise
        return stream

    def drain(self, reason: Reason = Reason.GOING_AWAY, text: str = "") -> None:
        """Tell the peer to open no further streams; those that are open go on."""
        self.core.drain(reason, text)
        self._output()

    def close(self, reason: Reason = Reason.NO_ERROR, text: str = "") -> None:
        """End the session now: streams that remain are reset on both sides. `run` then returns."""
        self._dispatch(self.core.close(reason, text))
        self._output()

    def reset_open_streams(self, reason: Reason) -> None:
        """Reset every stream that its owner has not closed; what closed ones still have to deliver goes on."""
        for stream in list(self.core.streams.values()):
            if not stream.owner.is_closed:
                stream.owner.reset(reason)

    async def aclose(self, *, grace: float = 0.0, reason: Reason = Reason.NO_ERROR) -> None:
        """Accept no more streams, give those that are open `grace` seconds, then end the session.

        Returns when the channel is closed. Cancelled, the session ends at once.
        """
        try:
            self.drain()
            with trio.move_on_after(grace):
                while self.core.streams:
                    self._empty = trio.Event()
                    await self._empty.wait()
        finally:
            self.close(reason)
        await self._ended.wait()

    # --- running

    async def run(
        self,
        channel: trio.abc.Stream,
        *,
        greeting_timeout: float = GREETING_TIMEOUT,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> events.SessionEnded:
        """Serve the session on `channel`, and close the channel. `task_status.started()` comes with the peer's HELLO.

        Returns:
            The session's outcome. Cancelled, the session ends with `Reason.GOING_AWAY`, and the peer is told where
            that is possible within half a second.

        Raises:
            SessionError: the peer never greeted, or refused the session. What the channel raised is the cause.
        """
        try:
            self.core.channel_opened(trio.current_time())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read, channel)
                nursery.start_soon(self._write, channel, nursery.cancel_scope)
                nursery.start_soon(self._tick)
                with trio.move_on_after(greeting_timeout):
                    await self._established.wait()
                if self.core.is_established:
                    task_status.started()
                elif self.core.ended is None:
                    self.close(Reason.PEER_SILENT, "no HELLO in time")
        finally:
            if self.core.ended is None:  # cancelled
                await self._say_goodbye(channel)
            await self._close_channel(channel)
            self._ended.set()
        outcome = self.core.ended
        assert outcome is not None
        if self.core.peer_hello is None:
            text = outcome.text or outcome.reason.describe
            raise SessionError(text, reason=outcome.reason) from self._channel_error
        return outcome

    async def _say_goodbye(self, channel: trio.abc.Stream) -> None:
        self._dispatch(self.core.close(Reason.GOING_AWAY))
        if self._writing:
            return  # cancelled within a write: half of it may have left, and nothing may follow
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _GOODBYE_TIMEOUT):
            try:
                for buffer in self.core.data_to_send(trio.current_time()):
                    await channel.send_all(buffer)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # the peer is gone

    async def _close_channel(self, channel: trio.abc.Stream) -> None:
        outcome = self.core.ended
        if self._channel_lost or outcome is None or outcome.reason is Reason.PEER_SILENT:
            await trio.aclose_forcefully(channel)
        else:
            with trio.move_on_after(CLOSING_TIMEOUT):
                await channel.aclose()

    async def _read(self, channel: trio.abc.Stream) -> None:
        core = self.core
        while True:
            try:
                data = await channel.receive_some()
            except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                self._lost(exc)
                break
            if not data:
                self._lost(None)
                break
            if core.ended is not None:
                continue  # what the peer wrote before it saw our GOAWAY
            now = trio.current_time()
            self._dispatch(core.receive_data(bytes(data), now))
            deadline = core.next_deadline()
            if deadline is not None and deadline < self._timer_until:
                self._timer.wake()
            self._output()
        self._read_all.set()

    async def _write(self, channel: trio.abc.Stream, scope: trio.CancelScope) -> None:
        core = self.core
        while True:
            now = trio.current_time()
            buffers = core.data_to_send(now, _WRITE_SIZE)
            self._dispatch(core.pending_events())
            if buffers:
                data = buffers[0] if len(buffers) == 1 else b"".join(buffers)
                self._writing = True
                try:
                    with trio.CancelScope(deadline=self._write_deadline) as self._write_scope:
                        await channel.send_all(data)
                        self._writing = False
                except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                    self._lost(exc)
                if self._writing:
                    # Broken, or stuck when the session ended: nothing may follow half a write.
                    self._channel_lost = True
                    scope.cancel()
                    return
            elif core.ended is not None:
                if not (core.ended.by_peer or self._channel_lost):
                    # The peer closes first, so that its side of the channel ends in good order too.
                    with trio.move_on_after(CLOSING_TIMEOUT):
                        await self._read_all.wait()
                scope.cancel()
                return
            elif self._output_due:
                self._output_due = False
            else:
                await self._writer.wait()

    async def _tick(self) -> None:
        core = self.core
        while core.ended is None:
            deadline = core.next_deadline()
            self._timer_until = math.inf if deadline is None else deadline
            if self._timer_until > trio.current_time():
                with trio.move_on_at(self._timer_until):
                    await self._timer.wait()
                self._timer_until = -math.inf
            self._dispatch(core.handle_timeout(trio.current_time()))
            self._output()

    def _lost(self, exc: BaseException | None) -> None:
        self._channel_lost = True
        if self.core.ended is None:
            self._channel_error = exc
            text = "the channel was lost" if exc is None else f"the channel was lost: {exc}"
            self._dispatch(self.core.channel_lost(trio.current_time(), text))
        self._output()

    def _output(self) -> None:
        """Something may have to be written."""
        self._output_due = True
        self._writer.wake()

    def _dispatch(self, happened: list[events.Event]) -> None:
        for event in happened:
            match event:
                case events.StreamReadable(stream):
                    stream.owner._receiver.wake()
                case events.StreamWritable(stream):
                    stream.owner._sender.wake()
                case events.StreamOffered(stream):
                    self._offer_in.send_nowait(Offer(self, stream))
                case events.StreamAnswered(stream) | events.StreamAborted(stream):
                    stream.owner._wake()
                case events.Established():
                    self._established.set()
                case events.SessionEnded(reason=reason):
                    self._established.set()
                    self._offer_in.close()
                    self._timer.wake()
                    # A silent peer hears no goodbye.
                    patience = 0.0 if reason is Reason.PEER_SILENT else CLOSING_TIMEOUT
                    self._write_deadline = trio.current_time() + patience
                    self._write_scope.deadline = self._write_deadline
                case events.GoingAway():
                    pass  # core.peer_going_away is what counts
        if not self.core.streams:
            self._empty.set()


async def refuse_session(channel: trio.abc.Stream, reason: Reason, text: str = "") -> None:
    """Answer a channel with nothing but a final GOAWAY, and close it. Has a deadline of its own."""
    with trio.move_on_after(CLOSING_TIMEOUT):
        try:
            await channel.send_all(GoAway(reason, 0, final=True, text=clip_text(text)).encode())
            await channel.aclose()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the peer left first: it is refused all the same
    await trio.aclose_forcefully(channel)
