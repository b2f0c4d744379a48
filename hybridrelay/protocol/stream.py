"""One stream of a session: its states, its two windows, what waits to be written and what waits to be read."""

from __future__ import annotations

from typing import Protocol

import attrs

from .delivery import Buffer, Outbox
from .features import Kind
from .metadata import NO_METADATA, Metadata
from .reasons import Reason
from .sending import BUFFER_OVERHEAD
from .states import Opening, Receiving, Sending, StreamStates
from .windows import ReceiveWindow, SendWindow

#: Received pieces are joined up to this size. A peer that sends tiny frames would otherwise make us hold many times
#: the bytes that its window allows, because each piece costs about 50 bytes of its own.
_JOIN_RECEIVED = 4096


class StreamObserver(Protocol):
    """Receives the events of one stream. The driver calls it for the core's events. No method may raise or wait."""

    def on_answered(self) -> None:
        """The peer accepted the stream."""

    def on_readable(self) -> None:
        """Data or the end of file arrived."""

    def on_writable(self) -> None:
        """The send queue has room again (`Stream.ask_for_room`), or the peer stopped reading."""

    def on_aborted(self) -> None:
        """The stream was refused or reset by the peer, or lost with the session."""

    def on_settled(self) -> None:
        """It is known whether the peer has received everything (`Stream.is_delivered`), or the session has ended.

        Called after `Stream.ask_for_delivery` or at the end of the session, and not after `on_aborted`.
        """


class _NoObserver:
    """Used while a stream has no observer."""

    def on_answered(self) -> None: ...

    def on_readable(self) -> None: ...

    def on_writable(self) -> None: ...

    def on_aborted(self) -> None: ...

    def on_settled(self) -> None: ...


_NO_OBSERVER = _NoObserver()


@attrs.define(eq=False)
class Stream:
    """State of one stream. Any code may read its attributes; only its own methods change them.

    Its `states` change by `StreamStates.apply` and its windows by their methods, which only the session calls.
    """

    id: int
    states: StreamStates
    receive_window: ReceiveWindow
    #: What the stream is for: one of `Kind`. A stream of an unknown kind is refused at once.
    kind: int = Kind.STREAM
    #: What the opener stated about the stream, for the acceptor's application. Forgotten when the stream is aborted:
    #: a peer that acknowledges nothing could have us keep much of it.
    metadata: Metadata = NO_METADATA
    send_window: SendWindow = attrs.field(factory=SendWindow)
    #: Why the stream was aborted, or why the peer stopped reading; NO_ERROR while neither happened.
    reason: Reason = Reason.NO_ERROR
    text: str = ""
    #: The peer has stopped reading.
    stopped_by_peer: bool = False
    #: Why this side has stopped reading.
    stop_reason: Reason = Reason.NO_ERROR
    #: OPEN was written; before that, nothing else may be written for the stream.
    announced: bool = True
    #: Number of the last counted frame that we wrote for this stream, or 0.
    last_number: int = 0
    #: Frames for this stream that wait to be written, apart from OPEN, DATA and FIN.
    queued_controls: int = 0
    #: It counts against the limit of its opener.
    counts: bool = True
    #: It has ended, and is counted as ended until the peer has acknowledged that.
    waits: bool = False
    #: It is in the queue of the streams that have something to write.
    scheduled: bool = False
    send_queue: list[Buffer] = attrs.field(factory=list)
    queued_bytes: int = 0
    #: Memory of the first buffer in the queue, where a part of it has been taken; otherwise 0.
    _head_memory: int = attrs.field(default=0, init=False)
    #: The driver waits for room in the send queue, and has to be informed once.
    wants_room: bool = False
    #: Number of our FIN, or 0 while it was not written.
    fin_number: int = 0
    #: The peer has acknowledged our FIN, and with it everything before, and had not stopped reading.
    is_delivered: bool = False
    #: The driver has to be informed once when it is known whether everything was delivered.
    wants_delivery: bool = False
    receive_queue: list[Buffer] = attrs.field(factory=list)
    readable_bytes: int = 0
    #: Is informed of the events about this stream.
    observer: StreamObserver = _NO_OBSERVER

    @property
    def at_eof(self) -> bool:
        """The peer ended its direction and everything was read."""
        return self.states.receiving is Receiving.FINISHED and not self.receive_queue

    @property
    def is_aborted(self) -> bool:
        return self.states.is_aborted

    @property
    def can_send(self) -> bool:
        """The application may queue data."""
        return self.states.sending is Sending.OPEN and self.states.opening is not Opening.OFFERED

    @property
    def owes_fin(self) -> bool:
        """FIN has to be written, after what is queued."""
        return self.states.sending in (Sending.FINISHING, Sending.STOPPED)

    @property
    def has_output(self) -> bool:
        """Something could be written now, as far as this stream's own credit goes."""
        if self.states.opening is Opening.OFFERED or not self.announced:
            return False
        if self.send_queue:
            return self.send_window.limit > self.send_window.sent
        return self.owes_fin

    # --- the driver

    def observe(self, observer: StreamObserver) -> None:
        """Inform `observer` of events of this stream from now on."""
        self.observer = observer

    def observe_no_more(self) -> None:
        """Inform nobody of events of this stream from now on."""
        self.observer = _NO_OBSERVER

    def ask_for_room(self) -> None:
        """Cause one `StreamWritable` as soon as the send queue has room."""
        self.wants_room = True

    def ask_for_delivery(self) -> None:
        """Cause one `StreamSettled` as soon as it is known whether the peer has received everything."""
        self.wants_delivery = True

    # --- sending

    def queue_output(self, data: bytes) -> int:
        """Append to the send queue; return how much memory this takes (bytes)."""
        self.send_queue.append(data)
        size = len(data)
        self.queued_bytes += size
        return size + BUFFER_OVERHEAD

    def take_output(self, amount: int, number: int) -> tuple[int, list[Buffer]]:
        """Take `amount` bytes off the send queue, for the counted frame with this number. There are that many.

        Returns:
            The memory of the buffers that end among them, and the bytes in pieces.
        """
        self.last_number = number
        self.send_window.sent += amount
        queue = self.send_queue
        self.queued_bytes -= amount
        if not self.queued_bytes and not self._head_memory:
            self.send_queue = []
            return amount + BUFFER_OVERHEAD * len(queue), queue
        taken: list[Buffer] = []
        left, memory = amount, 0
        for chunk in queue:
            size = len(chunk)
            if size > left:
                break
            taken.append(chunk)
            left -= size
            memory += self._head_memory or size + BUFFER_OVERHEAD
            self._head_memory = 0
        del queue[: len(taken)]
        if left:
            # The rest stays a view of the same bytes: nothing is copied until it is encrypted.
            view = memoryview(queue[0])
            self._head_memory = self._head_memory or len(view) + BUFFER_OVERHEAD
            taken.append(view[:left])
            queue[0] = view[left:]
        return memory, taken

    def drop_output(self, outbox: Outbox) -> None:
        """Forget what is queued. What was written of it stays in the outbox, and with it the buffer it belongs to."""
        if not self.send_queue:
            return
        if self._head_memory:
            del self.send_queue[0]
            outbox.release_with(self.last_number, self._head_memory)
            self._head_memory = 0
        outbox.sending.release(sum(map(len, self.send_queue)) + BUFFER_OVERHEAD * len(self.send_queue))
        self.send_queue = []
        self.queued_bytes = 0

    def has_room(self, max_queued: int) -> bool:
        """Whether the driver that asked for room has to be informed now; True only once for each request."""
        if not self.wants_room or self.queued_bytes >= max_queued or not self.can_send:
            return False
        self.wants_room = False
        return True

    def stop_sending(self, reason: Reason, text: str, outbox: Outbox) -> None:
        """Update a stream whose peer has stopped reading."""
        self.stopped_by_peer = True
        self.reason, self.text = reason, text
        self.drop_output(outbox)

    def fin_written(self) -> None:
        """The last counted frame that was written was our FIN."""
        self.fin_number = self.last_number

    def fin_acknowledged(self) -> None:
        """The peer has received our FIN. A peer that has stopped reading has dropped what came before it."""
        self.is_delivered = not (self.is_aborted or self.stopped_by_peer)

    def settle(self) -> bool:
        """It is known whether everything was delivered. Return whether the driver has to be informed now."""
        wanted, self.wants_delivery = self.wants_delivery and not self.is_aborted, False
        return wanted

    # --- the queues of the session

    def schedule(self) -> bool:
        """Whether the stream has to be put into the queue of streams with output, because it is not in it yet."""
        if self.scheduled or not self.has_output:
            return False
        self.scheduled = True
        return True

    def reschedule(self) -> bool:
        """The stream's turn has come. Return whether it has to be queued again, because it has more output."""
        self.scheduled = self.has_output
        return self.scheduled

    def unschedule(self) -> None:
        """It was taken out of the queue."""
        self.scheduled = False

    def control_queued(self) -> None:
        """A frame apart from OPEN, DATA and FIN was queued."""
        self.queued_controls += 1

    def control_taken(self) -> None:
        """One of those was taken out of its queue."""
        self.queued_controls -= 1

    def announce(self) -> None:
        """OPEN leaves now."""
        self.announced = True

    def written(self, number: int) -> None:
        """A counted frame other than DATA was written."""
        self.last_number = number

    def start_waiting(self) -> bool:
        """It is over and may wait for an acknowledgement; False if that was known."""
        waited, self.waits = self.waits, True
        return not waited

    def stop_counting(self) -> bool:
        """From now on it does not count against the limit of its opener; False if it did not before."""
        counted, self.counts = self.counts, False
        return counted

    # --- receiving

    def add_input(self, data: bytes) -> None:
        """Append to what can be read."""
        queue = self.receive_queue
        if queue and len(queue[-1]) + len(data) <= _JOIN_RECEIVED:
            queue[-1] = b"".join((queue[-1], data))
        else:
            queue.append(data)
        self.readable_bytes += len(data)

    def take_input(self, max_bytes: int) -> tuple[list[Buffer], int]:
        """Take up to `max_bytes` off the receive queue: the pieces, and how many bytes they are."""
        queue = self.receive_queue
        size = self.readable_bytes
        if size <= max_bytes:
            self.receive_queue = []
            self.readable_bytes = 0
            return queue, size
        pieces: list[Buffer] = []
        left = max_bytes
        for piece in queue:
            if len(piece) > left:
                break
            pieces.append(piece)
            left -= len(piece)
        del queue[: len(pieces)]
        if left:
            # A view, or small reads of a large piece would cost quadratic time.
            view = memoryview(queue[0])
            pieces.append(view[:left])
            queue[0] = view[left:]
        self.readable_bytes -= max_bytes
        return pieces, max_bytes

    def drop_input(self) -> None:
        """Forget what was received and not read."""
        self.receive_queue = []
        self.readable_bytes = 0

    def stop_receiving(self, reason: Reason) -> None:
        """Update a stream that we have stopped reading: what still arrives is not kept."""
        self.drop_input()
        self.receive_window.close()
        if self.stop_reason is Reason.NO_ERROR:
            self.stop_reason = reason

    # --- the end

    def abort(self, reason: Reason, text: str, outbox: Outbox) -> None:
        """Update a stream whose states are ABORTED already."""
        self.metadata = NO_METADATA
        self.reason, self.text = reason, text
        self.drop_output(outbox)
        self.drop_input()
        self.receive_window.close()
