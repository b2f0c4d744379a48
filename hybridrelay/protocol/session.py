"""The session: many streams, over one channel at a time. SPEC.md, sections 3, 5 and 6.

`SessionCore` uses no socket, no clock and no randomness. A driver calls it like this::

    core.channel_opened(now)                    # a channel is open; the initiator's HELLO is due
    for event in core.receive_data(data, now):  # whatever arrived
        ...
    buffers = core.data_to_send(now)            # after every call that may cause output, until it is empty
    for event in core.pending_events():         # after data_to_send: there may be room for more data
        ...
    core.next_deadline()                        # when to call handle_timeout(now)

Its methods are of four kinds: getters; inputs from the network and the clock, such as `receive_data`; requests of the
application, such as `open_stream`; and `data_to_send`, the only one that produces output.

`greetings.py` makes and checks HELLO, `incoming.py` applies the peer's frames to streams, `output.py` decides what is
written in which order, and `table.py` decides when a stream is forgotten.
"""

# This module is long because it has everything that a driver calls, and a third of it is the documentation of that.
# What needs only a part of the session's state is in the modules above.

from __future__ import annotations

import enum
import itertools
from collections.abc import Callable
from typing import Any

from . import events, frames
from .config import MAX_DATA, MAX_IGNORED_IN_A_ROW, MAX_STREAM_ID, SessionConfig
from .datagrams import Flow
from .delivery import Buffer, Inbox, Outbox
from .errors import LocalProtocolError, RemoteProtocolError
from .events import SessionEvent
from .features import Feature, Kind, may_open
from .flows import FlowRequests
from .greetings import Greetings
from .incoming import Incoming
from .liveness import Liveness
from .metadata import NO_METADATA, Metadata
from .output import Output
from .reasons import Reason
from .sending import Account, SendingMemory
from .states import Input, Opening, Receiving, Sending, StreamStates
from .stream import Stream
from .table import SessionRole, StreamTable
from .windows import Budget, ReceiveWindow

__all__ = ["SessionCore", "SessionRole", "State"]


class State(enum.Enum):
    """The states of a session."""

    #: There is no channel: before the first one, or between two channels.
    DETACHED = enum.auto()
    #: There is a channel, but the peer's HELLO has not arrived.
    GREETING = enum.auto()
    ESTABLISHED = enum.auto()
    #: The session is over. The driver writes the final GOAWAY, if one is queued, and then ends the channel.
    CLOSED = enum.auto()


class SessionCore:
    """One side of a session.

    Args:
        role: which side.
        config: limits and times; None means the defaults.
        session_id: `SESSION_ID_SIZE` random bytes, from the initiator only. The acceptor learns them from HELLO.
        secret: `SESSION_SECRET_SIZE` random bytes; needed if the session may continue on another channel.
        budget: the process's memory budget, of which this session's is a part.
        account: shared by all sessions with the same peer, so that one peer leaves memory for others.
    """

    # Slots, because a peer has one before it has authenticated, and should cost little memory.
    __slots__ = (
        "_decoder", "_detached_at", "_events", "_hello_due", "_ignored", "_inbox", "_incoming", "_liveness",
        "_outbox", "_output", "_table", "budget", "config", "ended", "flows", "frames_received", "going_away",
        "greetings", "peer_going_away", "role", "sending", "state", "streams",
    )  # fmt: skip

    def __init__(
        self,
        role: SessionRole,
        *,
        config: SessionConfig | None = None,
        budget: Budget | None = None,
        account: Account | None = None,
        session_id: bytes = bytes(frames.SESSION_ID_SIZE),
        secret: bytes = bytes(frames.SESSION_SECRET_SIZE),
    ) -> None:
        self.role = role
        self.config = config or SessionConfig()
        self.state = State.DETACHED
        #: What the sides have told each other in HELLO.
        self.greetings = Greetings(role, self.config, session_id, secret)
        self.budget = Budget(self.config.budget, budget)
        #: Set once, when the session ends.
        self.ended: events.SessionOutcome | None = None
        #: Frames that the peer has sent, on all channels.
        self.frames_received = 0
        #: Whether the peer, or this side, accepts no further streams.
        self.peer_going_away = False
        self.going_away = False
        self._hello_due = False
        #: See `detached_at`.
        self._detached_at: float | None = None
        self._decoder = self._make_decoder()
        #: How many frames of unknown types arrived in a row.
        self._ignored = 0
        self._events: list[SessionEvent] = []
        #: Counts the memory of queued and unacknowledged data against the process's budget.
        self.sending = SendingMemory(budget, account)
        self._outbox = Outbox(self.config.max_unacknowledged, self.sending)
        self._inbox = Inbox()
        self._liveness = Liveness(self.config.ping_interval, self.config.ping_timeout)
        self._table = StreamTable(role, self._outbox)
        self._output = Output(self.config, self._table, self._outbox, self._inbox, self._liveness, self._events)
        self._incoming = Incoming(self.config, self.budget, self._table, self._output, self._inbox, self._events)
        #: Sends and receives datagrams.
        self.flows = FlowRequests(self._check_not_ended, self._output, self._table)
        #: The streams by id. A stream stays until it is over, acknowledged and completely read.
        self.streams = self._table.streams

    # --- getters

    @property
    def session_id(self) -> bytes:
        """Identifies the session, the same on both sides. An acceptor knows it once the peer has greeted."""
        return self.greetings.session_id

    @property
    def epoch(self) -> int:
        """The epoch of the session: the number of its last channel, from 0; -1 before the first."""
        return self.greetings.epoch

    @property
    def peer_hello(self) -> frames.Hello | None:
        """The last HELLO of the peer; None before the first."""
        return self.greetings.peer

    @property
    def features(self) -> Feature:
        """The features in use: those that both sides offered on the first channel. Empty before the peer's HELLO."""
        return self.greetings.features

    @property
    def is_established(self) -> bool:
        return self.state is State.ESTABLISHED

    def round_trip(self, now: float) -> float | None:
        """Return the lowest round trip of the last minute (seconds); the last one if it is older; None if none was
        measured."""
        return self._liveness.lowest(now)

    @property
    def unacknowledged_bytes(self) -> int:
        """The size of all frames that are kept until they are acknowledged, with `FRAME_OVERHEAD` for each."""
        return self._outbox.kept_bytes

    @property
    def data_written(self) -> int:
        """Bytes of DATA and DATAGRAM that were written so far, not counting repetitions after a resumption."""
        return self._output.data_written

    @property
    def data_received(self) -> int:
        """Bytes of DATA and DATAGRAM that have arrived so far for streams that read."""
        return self._incoming.data_received

    @property
    def detached_at(self) -> float | None:
        """When the session lost its channel. The value stays until the peer has greeted on another channel. None
        after that, before the first channel, and when the session is over."""
        return self._detached_at

    @property
    def accepts_streams(self) -> bool:
        """Whether streams can be opened, now or after a resumption: False once either side goes away or the session
        is over."""
        return self.ended is None and not self.peer_going_away and not self.going_away

    def next_deadline(self) -> float | None:
        """Return when `handle_timeout` has something to do, or None. Before the first HELLO of the peer there is no
        deadline: the driver needs one of its own."""
        if self._detached_at is not None:
            return self._detached_at + self.config.resume_deadline
        if self.state is not State.ESTABLISHED:
            return None
        deadline = self._liveness.deadline
        # An ACK that is already due waits for the writer and needs no timer.
        return deadline if self._inbox.deadline is None else min(deadline, self._inbox.deadline)

    def attach_refusal(self, hello: frames.Hello) -> Reason | None:
        """Return why the acceptor must not continue the session on the channel on which `hello` came, or None.

        A driver calls this before it takes the session away from its current channel. A stale, repeated or forged
        HELLO is answered with a final GOAWAY on its own channel, and does not affect the session.
        """
        return Reason.SESSION_UNKNOWN if self.ended is not None else self.greetings.attach_refusal(hello)

    # --- the network and the clock

    def limit_data(self, max_data: int | None = None) -> None:
        """End the session if the peer begins a DATA frame with a payload of more than `max_data` bytes.

        None restores the usual limit. Applies to the current channel only."""
        self._decoder.max_data = self._max_data if max_data is None else min(max_data, self._max_data)

    @property
    def held_bytes(self) -> int:
        """How many bytes are kept here: of an incomplete frame, and of frames that were not processed."""
        return self._decoder.held_bytes

    @property
    def _max_data(self) -> int:
        # No more than a window may be in flight, so a longer frame is known to be an error as soon as its header
        # arrives.
        return min(MAX_DATA, self.config.max_window)

    def _make_decoder(self) -> frames.FrameDecoder:
        return frames.FrameDecoder(self._max_data)

    def channel_opened(self, now: float) -> None:
        """Begin to use a new channel. The initiator sends HELLO; the acceptor waits for it.

        Raises:
            LocalProtocolError: the session has a channel, or is over.
        """
        if self.state is not State.DETACHED:
            raise LocalProtocolError(f"channel opened while {self.state.name}")
        self.state = State.GREETING
        self._decoder = self._make_decoder()
        self._ignored = 0
        self._liveness.restart(now)
        if self.role is SessionRole.INITIATOR:
            self.greetings.epoch += 1
            self._hello_due = True

    def channel_lost(
        self, now: float, text: str = "the channel was lost", *, reason: Reason = Reason.SESSION_LOST
    ) -> list[SessionEvent]:
        """Note that the channel broke, or ended without a final GOAWAY. If the session cannot resume, it ends: its
        resume deadline is 0, no HELLO has arrived yet, or its epochs are used up."""
        self._lose_channel(now, text, reason)
        return self._take_events()

    def receive_data(
        self, data: bytes | bytearray | memoryview, now: float, *, max_frames: int | None = None
    ) -> list[SessionEvent]:
        """Process bytes from the peer.

        If the peer violates the protocol, the session ends with `SessionOutcome`. No exception is raised.

        Args:
            data: the bytes, which are copied as far as they are needed later.
            now: the time.
            max_frames: the most frames to process. While `has_input`, continue with ``receive_data(b"", now)``.
        """
        if self.state not in (State.GREETING, State.ESTABLISHED):
            return self._take_events()
        self._liveness.heard(now)
        decoded = self._decoder.decode_untrusted(data)
        try:
            for frame in itertools.islice(decoded, max_frames):
                self.frames_received += 1
                self._receive_frame_untrusted(frame, now)
                if self.ended is not None:
                    break
            decoded.close()
        except RemoteProtocolError as exc:
            self._close(exc.reason, str(exc))
        return self._take_events()

    @property
    def has_input(self) -> bool:
        """Whether there is more to process, because `receive_data` stopped at `max_frames`."""
        return self.state in (State.GREETING, State.ESTABLISHED) and self._decoder.has_frames

    def handle_timeout(self, now: float) -> list[SessionEvent]:
        """Do what is due, if anything.

        If the peer has been silent for too long, this has the effect of `channel_lost`: the session is then DETACHED
        or CLOSED, and the driver has to close the channel.
        """
        if self._detached_at is not None:
            if now >= self._detached_at + self.config.resume_deadline:
                self._close(Reason.SESSION_LOST, "no new channel within the deadline")
        elif self.state is State.ESTABLISHED:
            self._inbox.handle_timeout(now)
            if now >= self._liveness.deadline:
                if self._liveness.is_unanswered:
                    self._lose_channel(now, Reason.PEER_SILENT.describe, Reason.PEER_SILENT)
                else:
                    self._liveness.ask(now)
                    self._output.ping()
        return self._take_events()

    def check_alive(self, now: float) -> None:
        """Send a PING at once, after something that may have broken the channel.

        For example, the machine was suspended, or its address changed. If nothing arrives within
        `SessionConfig.ping_timeout`, the channel is given up.
        """
        if self.state is State.ESTABLISHED:
            self._liveness.check(now)
            self._output.ping()

    # --- the application

    def open_stream(self, kind: Kind = Kind.STREAM, metadata: Metadata = NO_METADATA) -> Stream:
        """Open a stream. Data may be queued at once. If this uses the last stream id, the session goes away.

        Args:
            kind: every kind except `Kind.STREAM` needs a feature that both sides have offered, so HELLO must have
                arrived.
            metadata: for the peer's application.

        Raises:
            LocalProtocolError: `reason` is `Reason.GOING_AWAY`, `Reason.LIMIT` (the peer's limit of streams, or our
                memory) or `Reason.KIND_NOT_OFFERED`; or, if the session has ended, the reason for which it ended.
        """
        if not self.accepts_streams:
            reason = Reason.GOING_AWAY if self.ended is None else self.ended.reason
            raise LocalProtocolError("the session accepts no further streams", reason=reason)
        if not may_open(kind, self.features):
            raise LocalProtocolError(Reason.KIND_NOT_OFFERED.describe, reason=Reason.KIND_NOT_OFFERED)
        table = self._table
        limit = self.config.max_streams if self.peer_hello is None else self.peer_hello.max_streams
        if table.own_count >= limit or not self.budget.reserve_base():
            raise LocalProtocolError(Reason.LIMIT.describe, reason=Reason.LIMIT)
        window = ReceiveWindow(self.budget, self.config.max_window)
        flow = Flow(self.sending, self.budget) if kind == Kind.DATAGRAMS else None
        states = StreamStates(Opening.AWAITING)
        stream = Stream(table.next_id, states, window, kind, metadata, announced=False, flow=flow)
        table.add_own(stream)
        self._output.open(stream)
        if table.next_id > self.config.last_stream_id:
            # Ids are never used twice. Open streams continue; further streams need another session.
            self.drain(Reason.GOING_AWAY, "the stream ids of this session are used up")
        return stream

    def accept(self, stream: Stream, now: float) -> None:
        """Answer an offered stream with OPENED.

        Raises:
            LocalProtocolError: the session is over, or the stream was answered before.
        """
        self._apply_local(stream, Input.SEND_OPENED)
        self._table.offered -= 1
        if stream.flow is None:
            stream.receive_window.grow_to(self.config.initial_window, now)
        self._output.control(stream, frames.Opened(stream.id, stream.receive_window.limit))
        self._output.schedule(stream)
        if stream.flow is not None:
            self._output.end_flow(stream)

    def refuse(self, stream: Stream, reason: Reason, text: str = "") -> None:
        """Answer an offered stream with REFUSED. `text` is for people; it is cut to `MAX_TEXT` bytes.

        Raises:
            LocalProtocolError: the session is over, or the stream was answered before.
        """
        self._check_not_ended()
        self._output.refuse(stream, reason, text)

    def send_data(self, stream: Stream, data: bytes) -> None:
        """Queue data. The core accepts any amount; the driver has to respect `SessionConfig.send_queue`.

        Raises:
            LocalProtocolError: the session is over; the stream was aborted, or was offered by the peer and is not
                accepted yet; this direction was ended; or the peer has stopped reading.
        """
        if not data:
            return
        self._apply_local(stream, Input.SEND_DATA)
        self.sending.take(stream.queue_output(data))
        self._output.schedule(stream)

    def send_fin(self, stream: Stream) -> None:
        """End our direction. FIN follows after the queued data. Idempotent.

        Raises:
            LocalProtocolError: the session is over; or the stream was aborted, or was offered by the peer and is not
                accepted yet.
        """
        self._apply_local(stream, Input.SEND_FIN)
        self._output.schedule(stream)

    def stop(self, stream: Stream, reason: Reason = Reason.CANCELLED) -> None:
        """Stop reading: send STOP, and drop what is buffered and what still arrives. Idempotent.

        Raises:
            LocalProtocolError: the session is over; or the stream was aborted, or was offered by the peer and is not
                accepted yet.
        """
        already = stream.states.receiving is not Receiving.OPEN
        self._apply_local(stream, Input.SEND_STOP)
        stream.stop_receiving(reason)
        if not already and stream.announced:  # otherwise STOP follows OPEN
            self._output.control(stream, frames.Stop(stream.id, reason))
        self._table.settle(stream)

    def reset(self, stream: Stream, reason: Reason, text: str = "") -> None:
        """Abort both directions. Does nothing if the stream or the session is over. `text` is for people, cut to
        `MAX_TEXT` bytes."""
        if stream.states.is_over:
            return
        if stream.states.opening is Opening.OFFERED:
            self.refuse(stream, reason, text)
            return
        self._apply_local(stream, Input.SEND_RESET)
        stream.abort(reason, text, self._outbox)
        if stream.announced:
            self._output.control(stream, frames.Reset(stream.id, reason, frames.clip_text(text)))
        else:
            self._output.withdraw(stream)
            self._table.settle(stream)

    def reset_open_streams(self, reason: Reason) -> list[SessionEvent]:
        """Abort every stream, except those whose two directions have ended: these continue until everything that is
        queued for them was delivered."""
        for stream in list(self.streams.values()):
            states = stream.states
            if states.sending is Sending.OPEN or states.receiving is Receiving.OPEN:
                self.reset(stream, reason)
                self._events.append(events.StreamAborted(stream))
        return self._take_events()

    def read(self, stream: Stream, max_bytes: int, now: float) -> bytes:
        """Take received data, at most `max_bytes`. b"" means that there is none (for end of file see
        `Stream.at_eof`)."""
        return b"".join(self.read_pieces(stream, max_bytes, now))

    def read_pieces(self, stream: Stream, max_bytes: int, now: float) -> list[Buffer]:
        """Like `read`, but return the data in pieces, so that nothing is copied."""
        pieces, size = stream.take_input(max_bytes)
        if pieces:
            if stream.receive_window.consume(size, now, self._liveness.lowest(now)):
                self._output.window(stream)
            if not stream.receive_queue:
                self._table.settle(stream)
        return pieces

    def drain(self, reason: Reason = Reason.GOING_AWAY, text: str = "") -> None:
        """Open and accept no further streams, and tell the peer. Open streams continue."""
        if self.ended is None and not self.going_away:
            self.going_away = True
            self._output.go_away(frames.GoAway(reason, self._table.last_peer_id, text=frames.clip_text(text)))

    def close(self, reason: Reason = Reason.NO_ERROR, text: str = "") -> list[SessionEvent]:
        """End the session. Idempotent.

        Open streams are reset on both sides, with this reason; with `Reason.SESSION_LOST` if it is NO_ERROR."""
        can_acknowledge = self.state is State.ESTABLISHED and not self._hello_due
        self._close(reason, text)
        if can_acknowledge:
            self._output.acknowledge_before_goaway()
        return self._take_events()

    # --- output

    @property
    def has_output(self) -> bool:
        """Whether `data_to_send` may return something, or the session has ended and the driver has to notice
        that."""
        return self._hello_due or self.ended is not None or self._output.is_pending

    def data_to_send(self, now: float, max_bytes: int = 256 * 1024) -> list[Buffer]:
        """Return what to write next, in order: about `max_bytes`, or an empty list.

        If not all of the buffers can be written, in order, the channel has to be closed.
        """
        out: list[Buffer] = []
        if self._hello_due:
            self._hello_due = False
            out.append(self.greetings.own(self._inbox, self._outbox).encode())
        if self.state is State.ESTABLISHED:
            self._output.write(out, now, max_bytes)
        elif self.state is State.CLOSED:
            self._output.write_goaway(out)
        return out

    def pending_events(self) -> list[SessionEvent]:
        """Return the events that `data_to_send` caused (room in a send queue)."""
        return self._take_events()

    # --- private

    def _take_events(self) -> list[SessionEvent]:
        if not self._events:
            return []
        taken = self._events[:]
        self._events.clear()  # cleared in place, because other parts of the session append to this list
        return taken

    def _settle(self, streams: list[Stream]) -> None:
        """Inform the driver that the fate of these streams is known: everything was delivered, or never will be."""
        self._events.extend(events.StreamSettled(stream) for stream in streams if stream.settle())

    def _check_not_ended(self) -> None:
        if self.ended is not None:
            raise LocalProtocolError("the session is over", reason=self.ended.reason)

    def _apply_local(self, stream: Stream, cause: Input) -> None:
        self._check_not_ended()
        stream.states.apply(cause)

    def _lose_channel(self, now: float, text: str, reason: Reason) -> None:
        if self.state not in (State.GREETING, State.ESTABLISHED):
            return
        self.state = State.DETACHED
        self._hello_due = False
        self._output.detached()
        if self._detached_at is None:  # the deadline is not extended if a channel is lost before HELLO
            self._detached_at = now
        if self.peer_hello is None or self.config.resume_deadline <= 0:
            self._end(reason, text, by_peer=False)
        elif self.epoch >= frames.MAX_EPOCH:
            self._end(reason, f"{text}, and the session has used up its epochs", by_peer=False)

    def _close(self, reason: Reason, text: str) -> None:
        if self.ended is not None:
            return
        has_channel = self.state is not State.DETACHED
        self._end(reason, text, by_peer=False)
        if has_channel:
            self._output.go_away(
                frames.GoAway(reason, self._table.last_peer_id, final=True, text=frames.clip_text(text))
            )

    def _end(self, reason: Reason, text: str, *, by_peer: bool, last_stream: int = MAX_STREAM_ID) -> None:
        """End the session. `last_stream` is the last stream of ours that the peer has processed."""
        self.state = State.CLOSED
        self.ended = events.SessionOutcome(reason, text, by_peer)
        self._detached_at = None
        self._hello_due = False
        lost = Reason.SESSION_LOST if reason is Reason.NO_ERROR else reason
        for stream in self.streams.values():
            if not stream.states.is_over:
                # The peer may have accepted this stream and its answer may be lost, so the reason must not be
                # GOING_AWAY, which would mean that the stream was not processed.
                unanswered = (
                    stream.states.opening is Opening.AWAITING and stream.announced and stream.id <= last_stream
                )
                stream.states.lose()
                why = Reason.SESSION_LOST if unanswered and lost is Reason.GOING_AWAY else lost
                stream.abort(why, text, self._outbox)
                self._events.append(events.StreamAborted(stream))
            else:
                stream.settle()
                self._events.append(events.StreamSettled(stream))
            # Data that has arrived on a stream that ended normally can still be read; datagrams cannot.
            stream.receive_window.close()
            if stream.flow is not None:
                stream.flow.clear()
        self._table.clear()
        self._output.clear()
        self._outbox.clear()
        self._events.append(self.ended)

    # --- the peer's frames for the session. The handlers raise no exception but RemoteProtocolError.

    def _receive_frame_untrusted(self, frame: frames.Frame, now: float) -> None:
        if self.state is not State.ESTABLISHED:
            self._receive_greeting_untrusted(frame, now)
            return
        handler = _HANDLERS.get(type(frame))
        if self._hello_due and handler is not SessionCore._on_goaway:
            raise RemoteProtocolError("a frame before our HELLO")
        if handler is None:
            self._incoming.receive_untrusted(frame, now)
        else:
            handler(self, frame, now)
        if self._ignored and not isinstance(frame, frames.Ignorable):
            self._ignored = 0

    def _receive_greeting_untrusted(self, frame: frames.Frame, now: float) -> None:
        if isinstance(frame, frames.GoAway) and frame.final:
            self._end(frame.reason, frame.text, by_peer=True)
            return
        if not isinstance(frame, frames.Hello):
            raise RemoteProtocolError("the first frame is not HELLO")
        resumed = self.peer_hello is not None
        self.greetings.check_untrusted(frame, self._inbox.received)
        self._outbox.acknowledge_untrusted(frame.received)
        self._settle(self._table.acknowledged())
        self._incoming.replayed_until = frame.written
        self.greetings.use(frame)
        self._incoming.features = self.features
        self._decoder.datagrams = Feature.DATAGRAMS in self.features
        if self.role is SessionRole.ACCEPTOR:
            self._hello_due = True
        self._detached_at = None
        self.state = State.ESTABLISHED
        self._liveness.ask(now)
        self._output.attached(resumed=resumed)
        self._events.append(events.Established(resumed))
        # More streams may have been opened before the peer's limit was known.
        while self._table.own_count > frame.max_streams and (stream := self._output.last_unannounced):
            self.reset(stream, Reason.LIMIT)
            self._events.append(events.StreamAborted(stream))

    def _on_hello(self, frame: frames.Hello, now: float) -> None:
        raise RemoteProtocolError("a second HELLO")

    def _on_ignorable(self, frame: frames.Ignorable, now: float) -> None:
        self._ignored += 1
        if self._ignored > MAX_IGNORED_IN_A_ROW:
            raise RemoteProtocolError("too many frames of unknown types")

    def _on_ack(self, frame: frames.Ack, now: float) -> None:
        if self._outbox.acknowledge_untrusted(frame.count):
            self._settle(self._table.acknowledged())

    def _on_ping(self, frame: frames.Ping, now: float) -> None:
        self._output.pong_untrusted(frame.token)

    def _on_pong(self, frame: frames.Pong, now: float) -> None:
        self._liveness.pong(frame.token, now)
        self._output.datagram_pace.answered(frame.token)

    def _on_goaway(self, frame: frames.GoAway, now: float) -> None:
        if frame.final:
            self._end(frame.reason, frame.text, by_peer=True, last_stream=frame.last_stream)
            return
        if self._hello_due:
            raise RemoteProtocolError("a frame before our HELLO")
        if self.peer_going_away:
            return  # repeated after a reattachment
        self.peer_going_away = True
        self._events.append(events.GoingAway(frame.reason, frame.text))
        # Streams that the peer has not processed can safely be opened in another session, so inform their owners now.
        for stream in [s for s in self.streams.values() if self._table.is_own(s.id) and s.id > frame.last_stream]:
            if stream.states.opening is Opening.AWAITING:
                self.reset(stream, Reason.GOING_AWAY, frame.text)
                self._events.append(events.StreamAborted(stream))


_HANDLERS: dict[type[frames.Frame], Callable[[SessionCore, Any, float], None]] = {
    frames.Hello: SessionCore._on_hello,
    frames.Ignorable: SessionCore._on_ignorable,
    frames.Ack: SessionCore._on_ack,
    frames.Ping: SessionCore._on_ping,
    frames.Pong: SessionCore._on_pong,
    frames.GoAway: SessionCore._on_goaway,
}
