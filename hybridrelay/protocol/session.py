"""The session: many streams over one channel, and over its successors. SPEC.md, sections 3, 5 and 6.

`SessionCore` knows no socket, no clock and no randomness. A driver calls it like this::

    core.channel_opened(now)                    # a channel is there; the initiator's HELLO is due
    for event in core.receive_data(data, now):  # whatever arrived
        ...
    buffers = core.data_to_send(now)            # after every call that may cause output, until it is empty
    core.next_deadline()                        # when to call handle_timeout(now)

Its methods are of four kinds: getters; those for what the network and the clock bring (`channel_opened`,
`channel_lost`, `receive_data`, `handle_timeout`); those for the application's wishes (`open_stream`, `accept`,
`refuse`, `send_data`, `send_fin`, `stop`, `reset`, `read`, `drain`, `close`); and `data_to_send`, which alone writes.
Frames are encoded when they are written, so the order on the wire is the order of the rules below and nothing else:

1. HELLO; then, after a reattachment, what has to be written again.
2. PONG, PING, GOAWAY, WINDOW; then counted frames other than DATA and FIN, in the order of their causes.
3. DATA and FIN, round robin among streams, while the unacknowledged do not exceed their limit.
4. ACK, when one is owed and anything leaves anyway, or its time has come.
"""

from __future__ import annotations

import enum
import hmac
from collections import deque
from collections.abc import Callable
from typing import Any

from . import events, frames
from .config import BASE_WINDOW, FAIR_DATA, MAX_DATA, MAX_PONGS_OWED, MAX_REFUSED_STREAMS, SessionConfig
from .delivery import Buffer, Inbox, Outbox
from .errors import LocalProtocolError, RemoteProtocolError
from .events import Event
from .liveness import Liveness
from .reasons import Reason
from .states import Input, Opening, Receiving, Sending, StreamStates
from .stream import Stream
from .windows import Budget, ReceiveWindow


class Role(enum.Enum):
    """Who dialed: the initiator sends the first HELLO, opens odd streams, and alone attaches."""

    INITIATOR = 1
    ACCEPTOR = 0


class State(enum.Enum):
    #: No channel: before the first, or between two.
    DETACHED = enum.auto()
    #: A channel is there, the peer's HELLO is not.
    GREETING = enum.auto()
    ESTABLISHED = enum.auto()
    #: Final GOAWAY is queued; the driver flushes it and ends the channel.
    CLOSED = enum.auto()


#: Small frames are joined, because a buffer of its own costs more than copying this much.
_JOIN_BELOW = 4096


class SessionCore:
    """One side of a session.

    Args:
        role: which side.
        session_id, secret: random, of the initiator's making; the acceptor learns them and passes nothing.
        budget: the process's memory budget, of which this session's is a part.
    """

    def __init__(
        self,
        role: Role,
        *,
        config: SessionConfig | None = None,
        budget: Budget | None = None,
        session_id: bytes = bytes(frames.SESSION_ID_SIZE),
        secret: bytes = bytes(frames.SESSION_SECRET_SIZE),
    ) -> None:
        self.role = role
        self.config = config or SessionConfig()
        self.state = State.DETACHED
        self.session_id = session_id
        self._secret = secret
        self.epoch = -1
        self.peer_hello: frames.Hello | None = None
        #: All streams that are not over and acknowledged, by id.
        self.streams: dict[int, Stream] = {}
        self.budget = Budget(self.config.budget, budget)
        #: Set once, when the session ends.
        self.ended: events.SessionEnded | None = None
        self.peer_going_away = False
        self.going_away = False
        self._next_id = 1 if role is Role.INITIATOR else 2
        self._last_peer_id = 0
        self._backlog = 0
        #: Counted frames up to this number may be for streams that have ended (SPEC.md, section 5).
        self._replay_until = 0
        self._peer_streams = 0
        self._own_streams = 0
        self._outbox = Outbox(self.config.max_unacknowledged)
        self._inbox = Inbox()
        self._liveness = Liveness(self.config.ping_interval, self.config.ping_timeout)
        self._decoder = frames.FrameDecoder()
        self._detached_at: float | None = None
        self._events: list[Event] = []
        # Output, in the order in which it is written.
        self._hello_due = False
        self._again: deque[tuple[Buffer, ...]] = deque()
        self._pongs: deque[bytes] = deque()
        self._ping_due = False
        self._goaway: frames.GoAway | None = None
        self._goaway_due = False
        self._windows_due: dict[Stream, None] = {}
        self._controls: deque[tuple[Stream, frames.Frame]] = deque()
        self._opens: deque[Stream] = deque()
        self._ready: deque[Stream] = deque()
        #: (number of closing frame, stream): streams that are over but not yet acknowledged.
        self._closing: deque[tuple[int, Stream]] = deque()

    # --- getters

    @property
    def is_established(self) -> bool:
        return self.state is State.ESTABLISHED

    def round_trip(self, now: float) -> float | None:
        """The lowest round trip of the last minute in seconds, or None where none was measured yet."""
        return self._liveness.lowest(now)

    def next_deadline(self) -> float | None:
        """When `handle_timeout` has something to do, or None."""
        if self.state is State.DETACHED and self._detached_at is not None:
            return self._detached_at + self.config.resume_deadline
        if self.state is not State.ESTABLISHED:
            return None
        deadline = self._liveness.silent_at
        # What is due already waits for the writer, not for the clock.
        if not self._ping_due:
            deadline = min(deadline, self._liveness.ping_due)
        if self._inbox.deadline is not None:
            deadline = min(deadline, self._inbox.deadline)
        return deadline

    # --- the network and the clock

    def channel_opened(self, now: float) -> None:
        """A channel is there. The initiator greets; an acceptor waits for the greeting.

        Raises:
            LocalProtocolError: the session has a channel, or is over.
        """
        if self.state is not State.DETACHED:
            raise LocalProtocolError(f"channel opened while {self.state.name}")
        self.state = State.GREETING
        self._decoder = frames.FrameDecoder()
        self._liveness.restart(now)
        if self.role is Role.INITIATOR:
            self.epoch += 1
            self._hello_due = True

    def channel_lost(
        self, now: float, text: str = "the channel was lost", *, reason: Reason = Reason.SESSION_LOST
    ) -> list[Event]:
        """The channel broke or ended without final GOAWAY. Without a resume deadline the session ends."""
        if self.state in (State.GREETING, State.ESTABLISHED):
            fresh = self.peer_hello is None
            self.state = State.DETACHED
            self._detached_at = now
            self._hello_due = False
            self._pongs.clear()
            self._again.clear()
            if fresh or self.config.resume_deadline <= 0:
                self._end(reason, text, by_peer=False)
        return self._take_events()

    def receive_data(self, data: bytes, now: float) -> list[Event]:
        """Take bytes of the peer. Whatever it does wrong ends the session with `SessionEnded`, never an exception."""
        if self.state not in (State.GREETING, State.ESTABLISHED):
            return self._take_events()
        self._liveness.heard(now)
        try:
            for frame in self._decoder.decode_untrusted(data):
                self._receive_frame_untrusted(frame, now)
                if self.ended is not None:
                    break
        except RemoteProtocolError as exc:
            self.close(exc.reason, str(exc))
        return self._take_events()

    def handle_timeout(self, now: float) -> list[Event]:
        """Do what is due; harmless when nothing is."""
        if self.state is State.DETACHED and self._detached_at is not None:
            if now >= self._detached_at + self.config.resume_deadline:
                self._end(Reason.SESSION_LOST, "no new channel within the deadline", by_peer=False)
        elif self.state is State.ESTABLISHED:
            if now >= self._liveness.silent_at:
                events_before = self._take_events()
                return events_before + self.channel_lost(now, Reason.PEER_SILENT.describe, reason=Reason.PEER_SILENT)
            if now >= self._liveness.ping_due:
                self._ping_due = True
            self._inbox.handle_timeout(now)
        return self._take_events()

    # --- the application

    def open_stream(self, metadata: bytes = b"") -> Stream:
        """Open a stream; data may be queued at once.

        Raises:
            LocalProtocolError: the session is over or going away, or a limit is reached (`reason` in the text).
        """
        if self.ended is not None or self.peer_going_away or self.going_away:
            raise LocalProtocolError("the session accepts no further streams")
        if len(metadata) > frames.MAX_OPEN_METADATA:
            raise LocalProtocolError("metadata too long")
        limit = self.config.max_streams if self.peer_hello is None else self.peer_hello.max_streams
        if self._own_streams >= limit or self._next_id > frames.MAX_STREAM_ID or not self.budget.reserve_base():
            raise LocalProtocolError(Reason.LIMIT.describe)
        window = ReceiveWindow(self.budget, self.config.max_window)
        stream = Stream(self._next_id, StreamStates(Opening.AWAITING), window, metadata, announced=False)
        self._next_id += 2
        self._own_streams += 1
        self.streams[stream.id] = stream
        self._opens.append(stream)
        return stream

    def accept(self, stream: Stream, now: float) -> None:
        """Answer an offered stream with OPENED."""
        self._apply_local(stream, Input.SEND_OPENED)
        self._backlog -= 1
        stream.receive_window.grow_to(self.config.initial_window, now)
        self._controls.append((stream, frames.Opened(stream.id, stream.receive_window.limit)))
        self._schedule(stream)

    def refuse(self, stream: Stream, reason: Reason, text: str = "") -> None:
        """Answer an offered stream with REFUSED."""
        self._apply_local(stream, Input.SEND_REFUSED)
        self._backlog -= 1
        self._abort(stream, reason, text)
        self._controls.append((stream, frames.Refused(stream.id, reason, frames.clip_text(text))))

    def send_data(self, stream: Stream, data: bytes) -> None:
        """Queue data. The core takes any amount; the driver keeps to `SessionConfig.send_queue`."""
        if not data:
            return
        self._apply_local(stream, Input.SEND_DATA)
        stream.send_queue.append(data)
        stream.queued_bytes += len(data)
        self._schedule(stream)

    def send_fin(self, stream: Stream) -> None:
        """End our direction behind what is queued."""
        self._apply_local(stream, Input.SEND_FIN)
        self._schedule(stream)

    def stop(self, stream: Stream, reason: Reason = Reason.CANCELLED) -> None:
        """Read no more: what is buffered and what still arrives is dropped."""
        already = stream.states.receiving is not Receiving.OPEN
        self._apply_local(stream, Input.SEND_STOP)
        self._drop_input(stream)
        stream.receive_window.close()  # what still arrives is not kept
        self._maybe_closing(stream)
        if not already:
            self._controls.append((stream, frames.Stop(stream.id, reason)))

    def reset(self, stream: Stream, reason: Reason, text: str = "") -> None:
        """Abort both directions. Does nothing where the stream is over."""
        if stream.states.is_over:
            return
        if stream.states.opening is Opening.OFFERED:
            self.refuse(stream, reason, text)
            return
        self._apply_local(stream, Input.SEND_RESET)
        self._abort(stream, reason, text)
        if stream.announced:
            self._controls.append((stream, frames.Reset(stream.id, reason, frames.clip_text(text))))
        else:
            self._opens.remove(stream)
            self._retire(stream)

    def read(self, stream: Stream, max_bytes: int, now: float) -> bytes:
        """Take what was received, at most `max_bytes`; b"" where nothing is there (see `Stream.at_eof`)."""
        queue = stream.receive_queue
        if not queue:
            return b""
        if len(queue[0]) >= max_bytes:
            data, rest = queue[0][:max_bytes], queue[0][max_bytes:]
            if rest:
                queue[0] = rest
            else:
                queue.popleft()
        else:
            pieces: list[bytes] = []
            left = max_bytes
            while queue and len(queue[0]) <= left:
                pieces.append(queue.popleft())
                left -= len(pieces[-1])
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        stream.readable_bytes -= len(data)
        if stream.receive_window.consume(len(data), now, self._liveness.lowest(now)):
            self._windows_due[stream] = None
        if not queue:
            self._maybe_closing(stream)
        return data

    def drain(self, reason: Reason = Reason.GOING_AWAY, text: str = "") -> None:
        """Accept no further stream and say so; open ones go on."""
        if self.ended is None and not self.going_away:
            self.going_away = True
            self._goaway = frames.GoAway(reason, self._last_peer_id, text=frames.clip_text(text))
            self._goaway_due = True

    def close(self, reason: Reason = Reason.NO_ERROR, text: str = "") -> list[Event]:
        """End the session: what remains open is reset on both sides, with this reason. Idempotent."""
        if self.ended is None:
            greeted = self.state is not State.DETACHED
            self._end(reason, text, by_peer=False)
            if greeted:
                self._goaway = frames.GoAway(reason, self._last_peer_id, True, frames.clip_text(text))
                self._goaway_due = True
        return self._take_events()

    # --- output

    def data_to_send(self, now: float, max_bytes: int = 256 * 1024) -> list[Buffer]:
        """What to write next: about `max_bytes`, in order. Empty where there is nothing to write.

        The buffers must be written whole and in order, or the channel given up.
        """
        out: list[Buffer] = []
        if self.state is State.DETACHED:
            return out
        if self._hello_due:
            self._hello_due = False
            out.append(self._our_hello().encode())
        if self.state is State.ESTABLISHED:
            size = self._write_again(out, max_bytes)
            if not self._again:
                self._write_uncounted(out, now)
                size += self._write_controls(out)
                self._write_data(out, max_bytes - size)
            inbox = self._inbox
            if inbox.due or (inbox.owes and out):
                out.append(frames.Ack(inbox.state()).encode())
        elif self._goaway_due and self._goaway is not None:
            self._goaway_due = False
            out.append(self._goaway.encode())
        return out

    def _write_again(self, out: list[Buffer], max_bytes: int) -> int:
        size = 0
        while self._again and size < max_bytes:
            buffers = self._again.popleft()
            out.extend(buffers)
            size += sum(map(len, buffers))
        return size

    def _write_uncounted(self, out: list[Buffer], now: float) -> None:
        while self._pongs:
            out.append(frames.Pong(self._pongs.popleft()).encode())
        if self._ping_due:
            self._ping_due = False
            out.append(frames.Ping(self._liveness.ping(now)).encode())
        if self._goaway_due and self._goaway is not None:
            self._goaway_due = False
            out.append(self._goaway.encode())
        if self._windows_due:
            out.extend(
                frames.Window(stream.id, stream.receive_window.limit).encode()
                for stream in self._windows_due
                if stream.states.receiving is Receiving.OPEN and stream.states.opening is Opening.ANSWERED
            )
            self._windows_due.clear()

    def _write_controls(self, out: list[Buffer]) -> int:
        size = 0
        while self._controls:
            stream, frame = self._controls.popleft()
            if stream.id not in self.streams or (
                stream.is_aborted and not isinstance(frame, frames.Reset | frames.Refused)
            ):
                continue  # the stream was aborted in the meantime: its other frames would be an error
            size += self._write_counted(out, frame, stream)
            if isinstance(frame, frames.Reset | frames.Refused):
                self._closing_written(stream)
        while self._opens and not self._outbox.is_full:
            stream = self._opens.popleft()
            stream.announced = True
            # What the answer will allow the peer to send is reserved now, so that OPENED needs no WINDOW behind it.
            stream.receive_window.grow_to(self.config.initial_window, 0.0)
            size += self._write_counted(
                out, frames.Open(stream.id, stream.receive_window.limit, stream.metadata), stream
            )
            self._schedule(stream)
        return size

    def _write_counted(self, out: list[Buffer], frame: frames.Frame, stream: Stream) -> int:
        encoded = frame.encode()
        self._outbox.write(len(encoded), encoded)
        out.append(encoded)
        return len(encoded)

    def _write_data(self, out: list[Buffer], room: int) -> None:
        ready = self._ready
        while ready and room > 0 and not self._outbox.is_full:
            quantum = MAX_DATA if len(ready) == 1 else FAIR_DATA
            stream = ready.popleft()
            window = stream.send_window
            amount = min(stream.queued_bytes, window.limit - window.sent, quantum)
            if amount > 0 and not stream.is_aborted:
                amount, buffers = stream.take(amount)
                window.sent += amount
                header = frames.data_header(stream.id, amount)
                if amount < _JOIN_BELOW:
                    buffers = [b"".join([header, *buffers])]
                else:
                    buffers.insert(0, header)
                self._outbox.write(amount + frames.HEADER_SIZE, *buffers)
                out.extend(buffers)
                room -= amount + frames.HEADER_SIZE
                if stream.can_send and stream.queued_bytes < self.config.send_queue:
                    self._events.append(events.StreamWritable(stream))
            if not stream.send_queue and stream.states.sending in (Sending.FINISHING, Sending.STOPPED):
                room -= self._write_counted(out, frames.Fin(stream.id), stream)
                stream.states.apply(Input.FIN_WRITTEN)
                self._closing_written(stream)
            if stream.has_output:
                ready.append(stream)
            else:
                stream.scheduled = False

    def pending_events(self) -> list[Event]:
        """Events that `data_to_send` caused (room in a send queue)."""
        return self._take_events()

    # --- inside

    def _take_events(self) -> list[Event]:
        taken, self._events = self._events, []
        return taken

    def _our_hello(self) -> frames.Hello:
        initiator = self.role is Role.INITIATOR
        return frames.Hello(
            self.session_id,
            self._secret if initiator else bytes(frames.SESSION_SECRET_SIZE),
            self.config.max_streams,
            self._inbox.state(),
            self._outbox.written,
            self.epoch,
            attach=initiator and self.epoch > 0,
        )

    def _apply_local(self, stream: Stream, cause: Input) -> None:
        if self.ended is not None:
            raise LocalProtocolError("the session is over")
        stream.states.apply(cause)

    def _schedule(self, stream: Stream) -> None:
        if not stream.scheduled and stream.has_output:
            stream.scheduled = True
            self._ready.append(stream)

    def _drop_input(self, stream: Stream) -> None:
        stream.receive_queue.clear()
        stream.readable_bytes = 0

    def _abort(self, stream: Stream, reason: Reason, text: str) -> None:
        """Bookkeeping of a stream whose states are ABORTED already."""
        stream.reason, stream.text = reason, text
        stream.drop_output()
        self._drop_input(stream)
        self._windows_due.pop(stream, None)
        stream.receive_window.close()

    def _closing_written(self, stream: Stream) -> None:
        stream.closing_number = self._outbox.written
        self._maybe_closing(stream)

    def _maybe_closing(self, stream: Stream) -> None:
        """A stream that is over, and read, waits for the acknowledgement of our last closing frame."""
        if not stream.states.is_over or stream.receive_queue or stream.id not in self.streams:
            return
        if stream.closing_number > self._outbox.acknowledged:
            self._closing.append((stream.closing_number, stream))
        else:
            self._retire(stream)

    def _retire(self, stream: Stream) -> None:
        if self.streams.pop(stream.id, None) is None:
            return
        stream.receive_window.close()
        if self._is_own(stream.id):
            self._own_streams -= 1
        else:
            self._peer_streams -= 1

    def _is_own(self, stream_id: int) -> bool:
        return stream_id % 2 == self.role.value

    def _end(self, reason: Reason, text: str, *, by_peer: bool) -> None:
        self.state = State.CLOSED
        self.ended = events.SessionEnded(reason, text, by_peer)
        self._detached_at = None
        lost = Reason.SESSION_LOST if reason is Reason.NO_ERROR else reason
        for stream in self.streams.values():
            if not stream.states.is_over:
                stream.states.lose()
                self._abort(stream, lost, text)
                self._events.append(events.StreamAborted(stream))
            stream.receive_window.close()
        self.streams.clear()
        for queue in (self._again, self._pongs, self._controls, self._opens, self._ready, self._closing):
            queue.clear()
        self._windows_due.clear()
        self._outbox.clear()
        self._events.append(self.ended)

    # --- frames of the peer. Each may raise RemoteProtocolError and nothing else.

    def _receive_frame_untrusted(self, frame: frames.Frame, now: float) -> None:
        if self.state is State.ESTABLISHED:
            _HANDLERS[type(frame)](self, frame, now)
        else:
            self._receive_greeting_untrusted(frame, now)

    def _receive_greeting_untrusted(self, frame: frames.Frame, now: float) -> None:
        if isinstance(frame, frames.GoAway) and frame.final:
            self._end(frame.reason, frame.text, by_peer=True)
            return
        if not isinstance(frame, frames.Hello):
            raise RemoteProtocolError("the first frame is not HELLO")
        if frame.min_version > 1 or frame.version < 1:
            raise RemoteProtocolError("no version in common", reason=Reason.VERSION_MISMATCH)
        resumed = self.peer_hello is not None
        if self.role is Role.ACCEPTOR:
            self._check_attach_untrusted(frame, resumed)
            self.session_id, self._secret, self.epoch = frame.session_id, frame.secret, frame.epoch
            self._hello_due = True
        elif not hmac.compare_digest(frame.session_id, self.session_id) or frame.epoch != self.epoch:
            raise RemoteProtocolError("HELLO of another session")
        self._outbox.acknowledge_untrusted(frame.received)
        self._replay_until = frame.written
        self._acknowledge_closing()
        self.peer_hello = frame
        self._detached_at = None
        self.state = State.ESTABLISHED
        self._again = deque(self._outbox.unacknowledged())
        self._ping_due = True
        if resumed:
            self._goaway_due = self._goaway is not None
            for stream in self.streams.values():
                self._windows_due[stream] = None
        self._events.append(events.Established(resumed))

    def _check_attach_untrusted(self, hello: frames.Hello, resumed: bool) -> None:
        if hello.attach != resumed:
            raise RemoteProtocolError("no such session", reason=Reason.SESSION_UNKNOWN)
        if resumed:
            known = hmac.compare_digest(hello.session_id, self.session_id)
            if not (hmac.compare_digest(hello.secret, self._secret) and known):
                raise RemoteProtocolError("no such session", reason=Reason.SESSION_UNKNOWN)
            if hello.epoch <= self.epoch:
                raise RemoteProtocolError("epoch is not greater", reason=Reason.SUPERSEDED)

    def _stream_untrusted(self, frame: frames.Frame) -> Stream | None:
        """The stream of a counted frame, or None where the frame is to be ignored."""
        stream = self.streams.get(frame.stream)
        if stream is None or not stream.announced:
            once = self._next_id if self._is_own(frame.stream) else self._last_peer_id + 1
            if self._inbox.received <= self._replay_until and frame.stream < once:
                return None  # written before the peer knew that the stream had ended
            raise RemoteProtocolError(f"frame of type {frame.TYPE:#04x} for stream {frame.stream}, which is not open")
        return stream

    def _on_hello(self, frame: frames.Hello, now: float) -> None:
        raise RemoteProtocolError("a second HELLO")

    def _on_open(self, frame: frames.Open, now: float) -> None:
        if self._is_own(frame.stream) or frame.stream <= self._last_peer_id:
            raise RemoteProtocolError(f"OPEN for stream {frame.stream}")
        if self._peer_streams >= self.config.max_streams + MAX_REFUSED_STREAMS:
            raise RemoteProtocolError("too many streams")
        self._inbox.receive(frames.HEADER_SIZE, now)
        self._last_peer_id = frame.stream
        self._peer_streams += 1
        allowed = (
            self._peer_streams <= self.config.max_streams
            and self._backlog < self.config.max_backlog
            and not self.going_away
        )
        reserved = allowed and self.budget.reserve_base()
        # A stream that is refused for want of memory still has to be kept until that is acknowledged; its window
        # is never used and belongs to a budget of its own.
        budget = self.budget if reserved else Budget(BASE_WINDOW, None)
        if not reserved:
            budget.reserve_base()
        window = ReceiveWindow(budget, self.config.max_window)
        stream = Stream(frame.stream, StreamStates(Opening.OFFERED), window, frame.metadata)
        # The opener's limit holds from OPENED on, which we have to send first anyway.
        stream.send_window.raise_to(frame.limit)
        self.streams[stream.id] = stream
        self._backlog += 1
        if reserved:
            self._events.append(events.StreamOffered(stream))
        else:
            self.refuse(stream, Reason.GOING_AWAY if self.going_away else Reason.LIMIT)

    def _on_opened(self, frame: frames.Opened, now: float) -> None:
        self._inbox.receive(frames.HEADER_SIZE, now)
        stream = self._stream_untrusted(frame)
        if stream is not None and stream.states.apply(Input.RECV_OPENED):
            stream.send_window.raise_to(frame.limit)
            stream.receive_window.grow_to(self.config.initial_window, now)
            self._events.append(events.StreamAnswered(stream))
            self._schedule(stream)

    def _on_data(self, frame: frames.Data, now: float) -> None:
        size = len(frame.data)
        self._inbox.receive(size + frames.HEADER_SIZE, now)
        stream = self._stream_untrusted(frame)
        if stream is None:
            return
        fresh = stream.states.apply(Input.RECV_DATA)
        if not stream.receive_window.receive(size):
            raise RemoteProtocolError(f"stream {stream.id} sent beyond its limit")
        if fresh and stream.states.receiving is Receiving.OPEN:
            stream.receive_queue.append(frame.data)
            stream.readable_bytes += size
            self._events.append(events.StreamReadable(stream))

    def _on_fin(self, frame: frames.Fin, now: float) -> None:
        self._inbox.receive(frames.HEADER_SIZE, now)
        stream = self._stream_untrusted(frame)
        if stream is not None and stream.states.apply(Input.RECV_FIN):
            self._events.append(events.StreamReadable(stream))
            self._maybe_closing(stream)

    def _on_stop(self, frame: frames.Stop, now: float) -> None:
        self._inbox.receive(frames.HEADER_SIZE, now)
        stream = self._stream_untrusted(frame)
        if stream is None:
            return
        before = stream.states.sending
        if stream.states.apply(Input.RECV_STOP) and before in (Sending.OPEN, Sending.FINISHING):
            stream.stopped_by_peer = True
            stream.reason, stream.text = frame.reason, frame.text
            stream.drop_output()
            self._events.append(events.StreamWritable(stream))
            self._schedule(stream)

    def _on_abort(self, frame: frames.Reset | frames.Refused, now: float) -> None:
        self._inbox.receive(frames.HEADER_SIZE, now)
        stream = self._stream_untrusted(frame)
        if stream is None:
            return
        offered = stream.states.opening is Opening.OFFERED
        if stream.states.apply(Input.RECV_RESET if isinstance(frame, frames.Reset) else Input.RECV_REFUSED):
            self._backlog -= offered
            self._abort(stream, frame.reason, frame.text)
            self._events.append(events.StreamAborted(stream))
            self._retire(stream)

    def _on_window(self, frame: frames.Window, now: float) -> None:
        stream = self.streams.get(frame.stream)
        if stream is not None and stream.announced and stream.send_window.raise_to(frame.limit):
            self._schedule(stream)

    def _on_ack(self, frame: frames.Ack, now: float) -> None:
        if self._outbox.acknowledge_untrusted(frame.count):
            self._acknowledge_closing()

    def _acknowledge_closing(self) -> None:
        while self._closing and self._closing[0][0] <= self._outbox.acknowledged:
            self._retire(self._closing.popleft()[1])

    def _on_ping(self, frame: frames.Ping, now: float) -> None:
        if len(self._pongs) >= MAX_PONGS_OWED:
            raise RemoteProtocolError("a flood of PING")
        self._pongs.append(frame.token)

    def _on_pong(self, frame: frames.Pong, now: float) -> None:
        self._liveness.pong(frame.token, now)

    def _on_goaway(self, frame: frames.GoAway, now: float) -> None:
        if frame.final:
            self._end(frame.reason, frame.text, by_peer=True)
            return
        self.peer_going_away = True
        self._events.append(events.GoingAway(frame.reason, frame.text))
        # Streams that the peer never looked at are safe to open elsewhere: tell their owners now.
        for stream in [s for s in self.streams.values() if self._is_own(s.id) and s.id > frame.last_stream]:
            if stream.states.opening is Opening.AWAITING:
                self.reset(stream, Reason.GOING_AWAY, frame.text)
                self._events.append(events.StreamAborted(stream))


_HANDLERS: dict[type[frames.Frame], Callable[[SessionCore, Any, float], None]] = {
    frames.Hello: SessionCore._on_hello,
    frames.Open: SessionCore._on_open,
    frames.Opened: SessionCore._on_opened,
    frames.Refused: SessionCore._on_abort,
    frames.Data: SessionCore._on_data,
    frames.Fin: SessionCore._on_fin,
    frames.Reset: SessionCore._on_abort,
    frames.Stop: SessionCore._on_stop,
    frames.Window: SessionCore._on_window,
    frames.Ack: SessionCore._on_ack,
    frames.Ping: SessionCore._on_ping,
    frames.Pong: SessionCore._on_pong,
    frames.GoAway: SessionCore._on_goaway,
}
