"""What has to be written to the channel, and in which order. SPEC.md, sections 3 and 5.

Frames are ordered and numbered when they are written, never when they are queued. So only these rules determine the
order on the wire:

1. PONG and PING: liveness does not depend on how much there is to write.
2. After a reattachment, frames that have to be written again, before any other counted frame.
3. GOAWAY and WINDOW; ACK, if there is something to acknowledge, and either another frame is written anyway or the ACK
   is due; then counted frames other than OPEN, DATA and FIN, in the order in which they were queued. ACK precedes
   RESET and STOP, so that the peer knows whether its own FIN had arrived. ACK also precedes OPEN, so that a stream
   that has ended no longer counts when its successor is opened.
4. OPEN; DATAGRAM, round robin among flows, up to a quarter of each write, and not while too much of it is in
   flight (`datagram_pace.py`), with a PING after it when one is due; FIN of streams without data; DATA, round
   robin among streams, each stream's FIN after its last DATA. OPEN and DATA wait while the unacknowledged frames are
   at their limit. DATAGRAM precedes DATA, because a datagram that had to wait for its turn among thousands of streams
   would be useless, and because the streams have three quarters of each write anyway.
"""

from __future__ import annotations

from collections import OrderedDict, deque

from . import frames
from .config import FAIR_DATA, MAX_DATA, MAX_DATAGRAM, MAX_PONGS_OWED, SessionConfig
from .datagram_pace import DatagramPace
from .delivery import EMPTY, Buffer, Inbox, Outbox
from .errors import RemoteProtocolError
from .events import SessionEvent, StreamWritable
from .liveness import Liveness
from .reasons import Reason
from .sending import SESSION_SHARE
from .states import Input, Opening, Receiving
from .stream import Stream
from .table import StreamTable

#: Buffers shorter than this are joined (bytes), because a separate buffer costs more than copying this much.
_JOIN_BELOW = 4096
#: Datagrams may use a write divided by this. The longest datagram always fits into an empty write.
_DATAGRAM_SHARE = 4
_LONGEST_DATAGRAM = frames.HEADER_SIZE + MAX_DATAGRAM


class Output:
    """The queues of one session. Only `write` produces output; all other methods record what has to be written."""

    # Slots, because a peer has one before it has authenticated, and should cost little memory.
    __slots__ = (
        "_again", "_config", "_controls", "_events", "_fins", "_flows", "_goaway_due", "_inbox", "_last_ack",
        "_liveness", "_opens", "_ping_due", "_pongs", "_ready", "_table", "_windows", "data_written",
        "datagram_pace", "goaway", "outbox",
    )  # fmt: skip

    def __init__(
        self,
        config: SessionConfig,
        table: StreamTable,
        outbox: Outbox,
        inbox: Inbox,
        liveness: Liveness,
        events: list[SessionEvent],
    ) -> None:
        self._config = config
        self._table = table
        self.outbox = outbox
        self._inbox = inbox
        self._liveness = liveness
        self._events = events
        self._ping_due = False
        self._pongs: deque[bytes] = EMPTY
        self._again: deque[tuple[Buffer, ...]] = EMPTY
        #: The GOAWAY that was or will be written. It is kept, because it is written again after a reattachment.
        self.goaway: frames.GoAway | None = None
        self._goaway_due = False
        self._last_ack: frames.Ack | None = None
        self._windows: dict[Stream, None] = {}
        #: Bytes of DATA and DATAGRAM that were written on all channels, not counting repetitions.
        self.data_written = 0
        self._controls: deque[tuple[Stream, frames.Frame]] = EMPTY
        self._opens: OrderedDict[Stream, None] = OrderedDict()
        self._fins: deque[Stream] = EMPTY
        self._ready: deque[Stream] = EMPTY
        #: The flows that have datagrams to write.
        self._flows: deque[Stream] = EMPTY
        self.datagram_pace = DatagramPace()

    @property
    def is_pending(self) -> bool:
        """Whether `write` has something to do. What it finds may be outdated, and then it writes nothing. A driver
        checks this after each of its operations, so it has to be fast."""
        return bool(
            ((self._ready or self._opens) and not self.outbox.is_full)
            or self._controls
            or self._windows
            or self._fins
            or (self._flows and not self.datagram_pace.is_full)
            or self.datagram_pace.is_due
            or self._inbox.due
            or self._ping_due
            or self._pongs
            or self._again
            or self._goaway_due
        )

    # --- recording what has to be written

    def ping(self) -> None:
        self._ping_due = True

    def pong_untrusted(self, token: bytes) -> None:
        if len(self._pongs) >= MAX_PONGS_OWED:
            raise RemoteProtocolError("a flood of PING")
        if self._pongs is EMPTY:
            self._pongs = deque()
        self._pongs.append(token)

    def go_away(self, frame: frames.GoAway) -> None:
        self.goaway = frame
        self._goaway_due = True

    def window(self, stream: Stream) -> None:
        """Have a WINDOW written, with the stream's limit."""
        self._windows[stream] = None

    def control(self, stream: Stream, frame: frames.Frame) -> None:
        stream.control_queued()
        if self._controls is EMPTY:
            self._controls = deque()
        self._controls.append((stream, frame))

    def refuse(self, stream: Stream, reason: Reason, text: str) -> None:
        """Have REFUSED written for a stream that was offered."""
        stream.states.apply(Input.SEND_REFUSED)
        self._table.offered -= 1
        stream.abort(reason, text, self.outbox)
        self.control(stream, frames.Refused(stream.id, reason, frames.clip_text(text)))
        self._table.settle(stream)

    def open(self, stream: Stream) -> None:
        self._opens[stream] = None

    def withdraw(self, stream: Stream) -> None:
        """Forget an OPEN that has not been written."""
        del self._opens[stream]

    @property
    def last_unannounced(self) -> Stream | None:
        """The most recent stream whose OPEN has not been written."""
        return next(reversed(self._opens), None)

    def schedule(self, stream: Stream) -> None:
        """Queue the stream if it has something to write."""
        if stream.schedule():
            if stream.send_queue:
                if self._ready is EMPTY:
                    self._ready = deque()
                self._ready.append(stream)
            elif stream.flow is not None and stream.flow.to_send:
                if self._flows is EMPTY:
                    self._flows = deque()
                self._flows.append(stream)
            else:
                if self._fins is EMPTY:
                    self._fins = deque()
                self._fins.append(stream)

    def end_flow(self, stream: Stream) -> None:
        """End our direction of a flow whose other direction the peer has ended. What waits to be sent is dropped."""
        states = stream.states
        if states.opening is Opening.ANSWERED and states.receiving is Receiving.FINISHED:
            states.apply(Input.SEND_FIN)
            stream.drop_output(self.outbox)
            self.schedule(stream)

    # --- the channel

    def attached(self, *, resumed: bool) -> None:
        """Note that HELLO has been exchanged."""
        self._ping_due = True
        self.datagram_pace.restart()
        self._again = deque(self.outbox.unacknowledged()) or EMPTY
        self.outbox.to_write_again = len(self._again)
        if resumed:
            # Frames without a number may have been lost with the old channel.
            self._goaway_due = self.goaway is not None
            self._windows.update(dict.fromkeys(one for one in self._table.streams.values() if one.flow is None))

    def detached(self) -> None:
        """Drop what concerned only the channel, which is lost."""
        self._pongs.clear()
        self.datagram_pace.restart()
        self._again.clear()
        self.outbox.to_write_again = 0

    def clear(self) -> None:
        """Drop everything, because the session is over."""
        self.detached()
        self._ping_due = self._goaway_due = False
        for queue in (self._windows, self._controls, self._opens, self._fins, self._ready, self._flows):
            queue.clear()

    def acknowledge_before_goaway(self) -> None:
        """Have an acknowledgement that is owed written before the final GOAWAY, although the session is over. Without
        it, the peer would not know that its last streams have ended properly."""
        self._last_ack = frames.Ack(self._inbox.take_count()) if self._goaway_due and self._inbox.owes else None

    # --- writing

    def write_goaway(self, out: list[Buffer]) -> None:
        """Append GOAWAY to `out`, unless it was already written. After the end of the session, nothing else is
        written, except the last acknowledgement."""
        if self._goaway_due and self.goaway is not None:
            self._goaway_due = False
            if self._last_ack is not None:
                out.append(self._last_ack.encode())
            out.append(self.goaway.encode())

    def write(self, out: list[Buffer], now: float, max_bytes: int) -> None:
        """Append what has to be written now to `out`, about `max_bytes`."""
        before = len(out)
        room = max_bytes
        if self._pongs or self._ping_due:
            self._write_liveness(out, now)
        if self._again:
            room -= self._write_again(out, max_bytes)
        place = len(out)
        if not self._again:
            if self._goaway_due or self._windows:
                self._write_uncounted(out)
            place = len(out)
            if self._controls:
                room -= self._write_controls(out)
            if self._opens:
                room -= self._write_opens(out, now)
            if self._flows:
                room -= self._write_datagrams(out, max(max_bytes // _DATAGRAM_SHARE, _LONGEST_DATAGRAM), now)
            if self.datagram_pace.is_due:
                out.append(frames.Ping(self.datagram_pace.probe()).encode())
            if self._fins:
                self._write_fins(out)
            self._write_data(out, room)
        inbox = self._inbox
        if inbox.due or (inbox.owes and len(out) > before):
            out.insert(place, frames.Ack(inbox.take_count()).encode())

    def _write_liveness(self, out: list[Buffer], now: float) -> None:
        while self._pongs:
            out.append(frames.Pong(self._pongs.popleft()).encode())
        self._pongs = EMPTY
        if self._ping_due:
            self._ping_due = False
            out.append(frames.Ping(self._liveness.ping(now)).encode())

    def _write_again(self, out: list[Buffer], max_bytes: int) -> int:
        size = 0
        while self._again and size < max_bytes:
            buffers = self._again.popleft()
            out.extend(buffers)
            size += sum(map(len, buffers))
        self.outbox.to_write_again = len(self._again)
        return size

    def _write_uncounted(self, out: list[Buffer]) -> None:
        self.write_goaway(out)
        if self._windows:
            out.extend(
                frames.Window(stream.id, stream.receive_window.limit).encode()
                for stream in self._windows
                if stream.states.receiving is Receiving.OPEN and stream.states.opening is Opening.ANSWERED
            )
            self._windows.clear()

    def _write_controls(self, out: list[Buffer]) -> int:
        size = 0
        while self._controls:
            stream, frame = self._controls.popleft()
            stream.control_taken()
            states = stream.states
            if isinstance(frame, frames.Stop):
                outdated = states.receiving is not Receiving.STOPPED
            else:
                outdated = states.is_aborted and not states.aborted_by_us
            if not outdated:
                size += self._write_counted(out, frame, stream)
            self._table.settle(stream)
        self._controls = EMPTY
        return size

    def _write_opens(self, out: list[Buffer], now: float) -> int:
        size = 0
        while self._opens and not self.outbox.is_full:
            stream, _ = self._opens.popitem(last=False)
            stream.announce()
            if stream.flow is None:
                # Reserve now what the peer may send after OPENED, so that no WINDOW has to follow.
                stream.receive_window.grow_to(self._config.initial_window, now)
            limit = stream.receive_window.limit
            size += self._write_counted(out, frames.Open(stream.id, limit, stream.kind, stream.metadata), stream)
            if stream.states.receiving is Receiving.STOPPED:
                size += self._write_counted(out, frames.Stop(stream.id, stream.stop_reason), stream)
            self.schedule(stream)
        return size

    def _write_counted(self, out: list[Buffer], frame: frames.Frame, stream: Stream) -> int:
        encoded = frame.encode()
        stream.written(self.outbox.write(encoded))
        out.append(encoded)
        return len(encoded)

    def _write_fin(self, out: list[Buffer], stream: Stream) -> None:
        self._write_counted(out, frames.Fin(stream.id), stream)
        stream.states.apply(Input.FIN_WRITTEN)
        self._table.fin_written(stream)
        self._table.settle(stream)

    def _write_datagrams(self, out: list[Buffer], room: int, now: float) -> int:
        """Write datagrams of the flows in turn, at most `room` bytes. Returns how many bytes were written."""
        flows, left, pace = self._flows, room, self.datagram_pace
        while flows and not pace.is_full:
            stream = flows.popleft()
            flow = stream.flow
            assert flow is not None
            turn_ends = left - FAIR_DATA
            while (
                left > turn_ends
                and not pace.is_full
                and (data := flow.to_send.take(now, left - frames.HEADER_SIZE)) is not None
            ):
                pace.written(len(data))
                header = frames.datagram_header(stream.id, len(data))
                out.extend([header + data] if len(data) < _JOIN_BELOW else [header, data])
                left -= len(data) + frames.HEADER_SIZE
                flow.sent_count += 1
                flow.bytes_sent += len(data)
                self.data_written += len(data)
            if not flow.to_send and stream.owes_fin:
                self._write_fin(out, stream)
            if not stream.reschedule():
                continue
            if left > turn_ends:  # the next datagram must not be written now, and comes first in the next write
                flows.appendleft(stream)
                break
            flows.append(stream)
        if not flows:
            self._flows = EMPTY
        return room - left

    def _write_fins(self, out: list[Buffer]) -> None:
        while self._fins:
            stream = self._fins.popleft()
            stream.unschedule()
            if stream.owes_fin:
                self._write_fin(out, stream)
        self._fins = EMPTY

    def _write_data(self, out: list[Buffer], room: int) -> None:
        ready = self._ready
        outbox, full_at = self.outbox, SESSION_SHARE
        while ready and room > 0:
            if outbox.kept_bytes >= full_at:
                if outbox.is_full:
                    break
                full_at = outbox.max_bytes  # writing takes almost no memory: queued data is already counted
            quantum = MAX_DATA if len(ready) == 1 else FAIR_DATA
            stream = ready.popleft()
            window = stream.send_window
            amount = min(stream.queued_bytes, window.limit - window.sent, quantum)
            if amount > 0:
                memory, buffers = stream.take_output(amount, outbox.written + 1)
                header = frames.data_header(stream.id, amount)
                if amount < _JOIN_BELOW * len(buffers):
                    buffers = [b"".join([header, *buffers])]
                else:
                    buffers.insert(0, header)
                self.data_written += amount
                size = amount + frames.HEADER_SIZE
                outbox.write_data(size, memory, tuple(buffers))
                out.extend(buffers)
                room -= size
                if stream.wants_room and stream.has_room(self._config.send_queue):
                    self._events.append(StreamWritable(stream))
            if not stream.send_queue and stream.owes_fin:
                self._write_fin(out, stream)
            if stream.reschedule():
                ready.append(stream)
        if not ready:
            self._ready = EMPTY
