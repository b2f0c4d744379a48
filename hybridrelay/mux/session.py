"""The Trio shell of a session. A session outlives its channels: `_channels.py` uses one after another, and
`_channel.py` serves one of them."""

# This module is long because `Session` is the interface for other packages: a third of it is the documentation of its
# methods, most of which only pass a call on to the core.

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Self

import trio

from .._nursery import FlatNursery
from .._statistics import reporting
from ..errors import SessionError, StreamRefused
from ..protocol import Feature, Kind, Metadata, SessionCore, SessionRole, events
from ..protocol.config import SessionConfig
from ..protocol.errors import LocalProtocolError
from ..protocol.frames import SESSION_ID_SIZE, SESSION_SECRET_SIZE, Hello
from ..protocol.metadata import NO_METADATA
from ..protocol.reasons import Reason
from ..protocol.sending import Account
from ..protocol.stream import Stream
from ..protocol.windows import Budget
from ..streams.reactor import using_reactor
from ..streams.turns import SharedTurns
from ._channels import Channels, Reconnect
from ._offers import OfferQueue
from ._stream_ends import StreamEnds
from ._unanswered import UnansweredStreams
from .flow import DatagramFlow
from .memory_use import MemoryUse
from .offer import Offer
from .stream import MuxStream
from .stream_base import SettlingStream

#: How long the peer's HELLO may take after the channel is open (seconds).
GREETING_TIMEOUT = 15.0


class Session:
    """A session: many streams, over one channel at a time. `create` makes a new one.

    Args:
        core: the state machine, for use by this object alone.
        refused: called with the id of each stream that the session itself refuses (because of a limit, its kind or
            its metadata, or because the session is going away), and with the reason. Such a stream is not in
            `offers`. Must not raise or wait.
        turns: shared by all sessions with the same peer; see `SharedTurns`. None: the session has turns of its own.
    """

    def __init__(
        self,
        core: SessionCore,
        *,
        refused: Callable[[int, Reason], None] = lambda _stream, _reason: None,
        turns: SharedTurns | None = None,
    ) -> None:
        self._refused = refused
        #: The turns of this session, or of all sessions with the same peer.
        self.turns = SharedTurns() if turns is None else turns
        self._ends = StreamEnds(turns)
        self.core = core
        self._offers: OfferQueue[Offer] = OfferQueue(self.core.config.max_backlog)
        #: Set when the peer has greeted (sent HELLO) on a channel, and at the end of the session. If that channel was
        #: lost, `wait_attached` replaces it by a new event.
        self._attached = trio.Event()
        #: The number of channels on which the peer has greeted.
        self.greeting_count = 0
        self._ended = trio.Event()
        #: Set once the session is going away or has ended: no further stream can be opened, now or later.
        self._leaving = trio.Event()
        #: Set unless `aclose` waits for the streams to end.
        self._delivered = trio.Event()
        self._delivered.set()
        self._channels = Channels(self.core, self._dispatch, self.turns)
        #: Limits how many streams of this side wait for an answer.
        self.unanswered = UnansweredStreams()
        self._task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
        self._is_started = False
        self._on_greeting: Callable[[], None] | None = None

    @classmethod
    def create(
        cls,
        role: SessionRole,
        *,
        config: SessionConfig | None = None,
        budget: Budget | None = None,
        account: Account | None = None,
        refused: Callable[[int, Reason], None] = lambda _stream, _reason: None,
        turns: SharedTurns | None = None,
    ) -> Self:
        """Make a new session, which begins when `run` is called.

        Args:
            role: `SessionRole.INITIATOR` for the side that dialed.
            config: limits and timers.
            budget: the process's memory budget, shared among sessions.
            account: shared by all sessions with the same peer; see `protocol.sending`.
            refused, turns: see `Session`.
        """
        initiator = role is SessionRole.INITIATOR
        core = SessionCore(
            role,
            config=config,
            budget=budget,
            account=account,
            # An acceptor learns it from the peer's HELLO.
            session_id=secrets.token_bytes(SESSION_ID_SIZE) if initiator else bytes(SESSION_ID_SIZE),
            secret=secrets.token_bytes(SESSION_SECRET_SIZE),
        )
        return cls(core, refused=refused, turns=turns)

    @classmethod
    def take_over(cls, core: SessionCore, stream: Stream, turns: SharedTurns | None = None) -> tuple[Self, MuxStream]:
        """Continue with a core that `EarlySession` has used until now. Pass its current channel to `run`.

        Args:
            core: the state machine. Both sides have greeted on its channel; the session may have ended since.
            stream: the one stream that was opened and accepted.
            turns: see `Session`.

        Returns:
            The session, and the stream.
        """
        session = cls(core, turns=turns)
        mux_stream = MuxStream(session, stream)
        mux_stream.on_answered()
        return session, mux_stream

    def __repr__(self) -> str:
        core = self.core
        return f"<Session {core.role.name.lower()} {core.state.name.lower()}, {len(core.streams)} streams>"

    # --- state, and streams

    @property
    def session_id(self) -> bytes:
        """Identifies the session, the same on both sides. An acceptor knows it once the peer has greeted."""
        return self.core.session_id

    @property
    def offers(self) -> trio.abc.ReceiveChannel[Offer]:
        """The streams that the peer wants to open. Ends with the session. An offer that is withdrawn before it is
        received is left out."""
        return self._offers

    @property
    def is_open(self) -> bool:
        """Whether streams can be opened: both sides have greeted on the channel, and neither is going away."""
        return self.core.is_established and self.core.accepts_streams

    @property
    def is_attached(self) -> bool:
        """Whether there is a channel on which both sides have greeted. The session may be going away."""
        return self.core.is_established

    @property
    def detached_at(self) -> float | None:
        """When the session lost its channel, on Trio's clock; None unless it is resuming.

        A session that is going away counts as resuming while it has no channel; see `accepts_streams`.
        """
        return self.core.detached_at

    @property
    def accepts_streams(self) -> bool:
        """Whether the session will accept streams: False once either side is going away or the session has ended. It
        may have no channel now."""
        return self.core.accepts_streams

    @property
    def outcome(self) -> events.SessionOutcome | None:
        """How the session ended; None until then."""
        return self.core.ended

    @property
    def stream_count(self) -> int:
        """How many streams are open, or have ended but are not yet completely acknowledged and read."""
        return len(self.core.streams)

    @property
    def bytes_sent(self) -> int:
        """How many bytes all streams together have sent over channels, without headers."""
        return self.core.data_written

    @property
    def bytes_received(self) -> int:
        """How many bytes all streams together have received, without headers."""
        return self.core.data_received

    @property
    def round_trip(self) -> float | None:
        """The lowest round trip of the last minute (seconds); None if none was measured."""
        return self.core.round_trip(trio.current_time())

    def memory_use(self) -> MemoryUse:
        """Return how much memory the session uses now. Takes time in proportion to the number of its streams."""
        core = self.core
        streams = core.streams.values()
        return MemoryUse(
            sum(stream.bytes_to_send for stream in streams),
            sum(stream.bytes_to_read for stream in streams),
            core.unacknowledged_bytes,
            core.budget.reserved,
        )

    def statistics(self) -> dict[str, int]:
        """Return how many streams there are and how much memory they use, by the names in docs/operating.md."""
        memory = self.memory_use()
        data = {"data_sessions": 1, "streams": self.stream_count}
        return {
            **({"control_sessions": 1} if self.core.config.is_control else data),
            "queued_bytes": memory.queued,
            "unread_bytes": memory.unread,
            "unacknowledged_bytes": memory.unacknowledged,
        }

    async def wait_ended(self) -> events.SessionOutcome:
        """Wait until the session has ended, and return how it ended."""
        await self._ended.wait()
        assert self.core.ended is not None
        return self.core.ended

    async def wait_leaving(self) -> None:
        """Wait until the session is going away or has ended: neither side can open further streams."""
        await self._leaving.wait()

    @property
    def features(self) -> Feature:
        """The features in use: those that both sides have offered. Empty before the peer's HELLO."""
        return self.core.features

    def open_stream_nowait(self, kind: Kind = Kind.STREAM, *, metadata: Metadata = NO_METADATA) -> MuxStream:
        """Open a stream without waiting for the answer. Up to 16 KiB may be sent before it arrives.

        Args:
            kind: what the stream is for; not `Kind.DATAGRAMS`. Every kind but `Kind.STREAM` needs its own feature to
                be in `features`.
            metadata: for the peer's application, which finds it in `Offer.metadata`.

        Raises:
            StreamRefused: the session has ended or is going away, a limit is reached, or `kind` is not offered.
                `reason` says which.
        """
        assert kind is not Kind.DATAGRAMS, "use open_flow_nowait"
        stream = MuxStream(self, self._open(kind, metadata))
        self.output()
        return stream

    def open_flow_nowait(self, *, metadata: Metadata = NO_METADATA) -> DatagramFlow:
        """Open a flow of datagrams without waiting for the answer. Raises StreamRefused, as `open_stream_nowait`."""
        flow = DatagramFlow(self, self._open(Kind.DATAGRAMS, metadata))
        self.output()
        return flow

    def _open(self, kind: Kind, metadata: Metadata) -> Stream:
        try:
            stream = self.core.open_stream(kind, metadata)
        except LocalProtocolError as exc:
            raise StreamRefused(str(exc), reason=exc.reason) from exc
        if not self.core.accepts_streams:
            self._set_leaving()  # that was the last stream that the session can open
        self.unanswered.opened(stream.id)
        return stream

    def answered(self, stream_id: int) -> None:
        """Note that a stream was accepted or refused, or has ended before that. For use by the session's streams."""
        self.unanswered.answered(stream_id)

    def _set_leaving(self) -> None:
        self._leaving.set()
        self.unanswered.stop_waiting()

    async def open_stream(self, kind: Kind = Kind.STREAM, *, metadata: Metadata = NO_METADATA) -> MuxStream:
        """Open a stream and wait until the peer has accepted it. If cancelled, the stream is reset.

        Arguments as for `open_stream_nowait`.

        Raises:
            StreamRefused: as `open_stream_nowait`; or the peer refused the stream, or the session was lost before the
                peer answered. `reason` says why.
        """
        stream = self.open_stream_nowait(kind, metadata=metadata)
        try:
            await stream.wait_opened()
        except BaseException:
            stream.reset(Reason.CANCELLED)
            raise
        return stream

    def drain(self, reason: Reason = Reason.GOING_AWAY, text: str = "") -> None:
        """Begin going away: open and accept no further streams, and tell the peer. Open streams continue."""
        self.core.drain(reason, text)
        self._set_leaving()
        self.output()

    def close(self, reason: Reason = Reason.NO_ERROR, text: str = "") -> None:
        """End the session now. Open streams are reset on both sides, and `run` returns."""
        self._dispatch(self.core.close(reason, text))
        self.output()

    def reset_open_streams(self, reason: Reason) -> None:
        """Reset every stream that was not closed on this side. Closed streams still deliver what is queued."""
        self._dispatch(self.core.reset_open_streams(reason))
        self.output()

    async def aclose(self, *, grace: float = 0.0, reason: Reason = Reason.NO_ERROR) -> None:
        """Accept no more streams, give open ones up to `grace` seconds to finish, then end the session.

        Returns when `run` has closed the channel, so `run` has to be running, or to begin soon. If cancelled, the
        session ends at once.
        """
        try:
            self.drain()
            with trio.move_on_after(grace):
                while self._is_delivering():
                    if self._delivered.is_set():
                        self._delivered = trio.Event()
                    await self._delivered.wait()
        finally:
            self.close(reason)
        await self._ended.wait()

    # --- running

    async def run(
        self,
        channel: trio.abc.Stream,
        *,
        initial: bytes = b"",
        reconnect: Reconnect | None = None,
        on_greeting: Callable[[], None] | None = None,
        greeting_timeout: float = GREETING_TIMEOUT,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> events.SessionOutcome:
        """Serve the session until it ends, over `channel` and its successors. All of them are closed.

        `task_status.started` is called when the peer's HELLO has arrived. When a channel is lost, the session waits
        up to `SessionConfig.resume_deadline` for another one: the initiator gets it from `reconnect`, the acceptor
        from `replace_channel`. Until then its streams wait.

        If cancelled, the session ends with `Reason.GOING_AWAY`, and the peer is informed if that is possible within
        half a second.

        Args:
            channel: the first channel, which belongs to the session from now on.
            initial: bytes that were already received from it.
            reconnect: called when a channel was lost; returns another one to the same peer. It needs no deadline,
                because it is cancelled at the resume deadline and by `replace_channel`. If it raises
                `HybridRelayError`, further attempts are pointless and the session ends.
            on_greeting: called whenever the peer has greeted on a channel.
            greeting_timeout: the deadline for the peer's HELLO, in seconds.
            task_status: for `nursery.start`.

        Returns:
            The session's outcome.

        Raises:
            SessionError: the peer never greeted, or refused the session. The channel's exception is the cause.
        """
        self._on_greeting = on_greeting
        self._channels.begin(channel, initial)
        del channel, initial  # the session may outlive its first channel
        with reporting(self, *([] if self.core.config.is_control else [self.core.budget.root])):
            return await self._run(reconnect, greeting_timeout, task_status)

    async def _run(
        self,
        reconnect: Reconnect | None,
        greeting_timeout: float,
        task_status: trio.TaskStatus[None],
    ) -> events.SessionOutcome:
        self._task_status = task_status
        try:
            async with using_reactor() as reactor, FlatNursery() as nursery:
                self._ends.started(nursery)
                try:
                    await self._channels.use(reactor, reconnect, greeting_timeout)
                finally:
                    self._dispatch(self.core.close(Reason.GOING_AWAY))  # cancelled between two channels
                    self._ends.session_ended()
        finally:
            self._ends.stopped()
            self._ended.set()
            await self._channels.aclose()
        outcome = self.core.ended
        assert outcome is not None
        if self.core.peer_hello is None:
            text = outcome.text or outcome.reason.describe
            if outcome.reason is Reason.NO_ERROR:
                text = outcome.text or "the session was closed before the other side had greeted"
            raise SessionError(text, reason=outcome.reason) from self._channels.take_first_error()
        return outcome

    async def replace_channel(self, channel: trio.abc.Stream, initial: bytes = b"") -> None:
        """Continue over another channel, whether or not the current one still works. Only datagrams can be lost.

        The channel belongs to the session from now on, and is closed if the session has ended.

        Args:
            channel: the other channel.
            initial: bytes that were already received from it. For the acceptor, they begin with the peer's HELLO, for
                which `attach_refusal` has returned None.
        """
        await self._channels.replace(channel, initial)

    def check_alive(self) -> None:
        """Send a ping at once. If the peer does not answer, the channel is given up within seconds.

        Call it when the machine was suspended, or its network has changed.
        """
        if (channel := self._channels.current) is not None:
            channel.check_alive()

    def drop_channel(self) -> None:
        """Give up the current channel, so that the session resumes over another one.

        Does nothing if the session cannot resume.
        """
        if (channel := self._channels.current) is not None and self.core.config.resume_deadline > 0:
            channel.lose("given up for another channel")

    @property
    def channel_age(self) -> float:
        """Seconds since the current channel was opened; 0 if there is none."""
        channel = self._channels.current
        return 0.0 if channel is None else trio.current_time() - channel.opened_at

    @property
    def channel_bytes(self) -> int:
        """Bytes that the current channel has carried, in both directions together."""
        channel = self._channels.current
        return 0 if channel is None else channel.bytes_moved

    def attach_refusal(self, hello: Hello) -> Reason | None:
        """Return why the acceptor must not continue this session over a channel with this HELLO; None if it may."""
        return self._channels.attach_refusal(hello)

    async def wait_attached(self) -> None:
        """Wait until the session has a channel (again), or has ended."""
        if self._attached.is_set() and not self.core.is_established and self.core.ended is None:
            self._attached = trio.Event()  # the channel for which it was set has been lost
        await self._attached.wait()

    def output(self) -> None:
        """Write the core's output, as much as the channel accepts now. For use by the session's streams."""
        if (channel := self._channels.current) is not None:
            channel.output()

    def limit_settling(self, stream: SettlingStream) -> None:
        """Limit how long a stream that was closed on this side waits for the peer's acknowledgement; see
        `StreamEnds.limit_settling`. For use by the session's streams."""
        if self.core.ended is None:
            self._ends.limit_settling(stream)

    def settled(self, stream: SettlingStream) -> None:
        """Note that the stream no longer waits for the acknowledgement; see `limit_settling`. For use by the
        session's streams."""
        self._ends.settled(stream)

    def _dispatch(self, happened: list[events.SessionEvent]) -> None:
        for event in self._ends.defer(happened):
            match event:
                case events.StreamReadable(stream):
                    stream.observer.on_readable()
                case events.StreamWritable(stream):
                    stream.observer.on_writable()
                case events.StreamOffered(stream):
                    # The peer may already have reset the stream, in a frame that arrived together with OPEN.
                    offer = Offer(self, stream)
                    if not offer.is_withdrawn and not self._offers.put(offer):
                        self.core.refuse(stream, Reason.LIMIT)
                        self._refused(stream.id, Reason.LIMIT)
                case events.OpenRefused(stream_id, reason):
                    self._refused(stream_id, reason)
                case events.StreamAnswered(stream):
                    stream.observer.on_answered()
                case events.StreamAborted() | events.StreamSettled():
                    self._ends.report(event)
                case events.Established():
                    if (channel := self._channels.current) is not None:
                        channel.greeted()
                    self.greeting_count += 1
                    if self._on_greeting is not None:
                        self._on_greeting()
                    self._attached.set()
                    if not self._is_started:
                        self._is_started = True
                        self._task_status.started()
                case events.SessionOutcome(reason=reason):
                    self._attached.set()
                    self._set_leaving()
                    self._offers.close()
                    self._channels.session_ended(reason)
                case events.GoingAway():
                    self._set_leaving()
        if not self._delivered.is_set() and not self._is_delivering():
            self._delivered.set()

    def _is_delivering(self) -> bool:
        """Whether any stream is not completely delivered yet. Streams that were reset have nothing to deliver."""
        return any(not stream.is_aborted for stream in self.core.streams.values())
