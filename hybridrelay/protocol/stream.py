"""One stream of a session: its states, its two windows, what waits to be written and what waits to be read."""

from __future__ import annotations

from typing import Protocol

import attrs

from .datagrams import Flow
from .delivery import Buffer, Outbox
from .features import Kind
from .metadata import NO_METADATA, Metadata
from .reasons import Reason
from .sending import BUFFER_OVERHEAD
from .states import Opening, Receiving, Sending, StreamStates
from .windows import ReceiveWindow, SendWindow

#: Received pieces are joined up to this size (bytes). Otherwise a peer that sends tiny frames could make us use much
#: more memory than its window allows, because each piece has an overhead of about 50 bytes.
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
        """The stream was refused or reset by the peer, reset by the session, or lost with it."""

    def on_settled(self) -> None:
        """It is known now whether the peer has received everything (`Stream.is_delivered`), or the session has ended.

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
    """The state of one stream. Any code may read its attributes; only its own methods change them.

    Only the session calls the methods that change `states` and the windows.
    """

    id: int
    states: StreamStates
    receive_window: ReceiveWindow
    #: What the stream is for: one of `Kind`. A stream of an unknown kind is refused at once.
    kind: int = Kind.STREAM
    #: The metadata in OPEN, for the acceptor's application. Dropped when the stream is aborted, because a peer that
    #: acknowledges nothing could make us keep a lot of it.
    metadata: Metadata = NO_METADATA
    send_window: SendWindow = attrs.field(factory=SendWindow)
    #: Why the stream was aborted, or why the peer stopped reading; NO_ERROR while neither happened.
    reason: Reason = Reason.NO_ERROR
    text: str = ""
    #: Whether the peer has stopped reading.
    stopped_by_peer: bool = False
    #: Why this side has stopped reading.
    stop_reason: Reason = Reason.NO_ERROR
    #: Whether OPEN was written. Before that, nothing else may be written for the stream.
    announced: bool = True
    #: Number of the last counted frame that we wrote for this stream, or 0.
    last_number: int = 0
    #: How many frames for this stream, other than OPEN, DATA and FIN, wait to be written.
    queued_controls: int = 0
    #: Whether the stream counts against its opener's limit of streams.
    counts: bool = True
    #: Whether the stream is over and its memory counts as that of an ended stream until the peer acknowledges the
    #: end.
    waits: bool = False
    #: Whether the stream is in the queue of streams that have something to write.
    scheduled: bool = False
    send_queue: list[Buffer] = attrs.field(factory=list)
    queued_bytes: int = 0
    #: The memory of the first buffer in the queue if a part of the buffer was taken; otherwise 0.
    _head_memory: int = attrs.field(default=0, init=False)
    #: Whether the driver waits for room in the send queue and has to be informed, once.
    wants_room: bool = False
    #: Number of our FIN; 0 if it was not written yet.
    fin_number: int = 0
    #: Whether the peer has acknowledged our FIN, and so everything before it, without having stopped reading.
    is_delivered: bool = False
    #: Whether the driver has to be informed, once, when it is known whether everything was delivered.
    wants_delivery: bool = False
    #: The datagrams of a stream of `Kind.DATAGRAMS`; None for other kinds. A flow has nothing in the other queues,
    #: and its windows have no effect.
    flow: Flow | None = None
    receive_queue: list[Buffer] = attrs.field(factory=list)
    readable_bytes: int = 0
    #: The observer that is informed of this stream's events.
    observer: StreamObserver = _NO_OBSERVER

    @property
    def at_eof(self) -> bool:
        """Whether the peer ended its direction and everything was read."""
        return self.states.receiving is Receiving.FINISHED and not self.has_input

    @property
    def has_input(self) -> bool:
        """Whether something has arrived that the application has not read."""
        return bool(self.receive_queue) or (self.flow is not None and bool(self.flow.received))

    @property
    def is_aborted(self) -> bool:
        return self.states.is_aborted

    @property
    def can_send(self) -> bool:
        """Whether the application may queue data."""
        return self.states.sending is Sending.OPEN and self.states.opening is not Opening.OFFERED

    @property
    def owes_fin(self) -> bool:
        """Whether FIN has to be written, after the queued data."""
        return self.states.sending in (Sending.FINISHING, Sending.STOPPED)

    @property
    def bytes_to_send(self) -> int:
        """How many bytes wait to be written, of data or of datagrams."""
        return self.queued_bytes if self.flow is None else self.flow.to_send.size

    @property
    def bytes_to_read(self) -> int:
        """How many bytes have arrived and were not read, of data or of datagrams."""
        return self.readable_bytes if self.flow is None else self.flow.received.size

    @property
    def has_output(self) -> bool:
        """Whether this stream has something to write, and enough credit of its own for it."""
        if self.states.opening is Opening.OFFERED or not self.announced:
            return False
        if self.send_queue:
            return self.send_window.limit > self.send_window.sent
        if self.flow is not None and self.flow.to_send:
            return True
        return self.owes_fin

    # --- the driver

    def observe(self, observer: StreamObserver) -> None:
        """Inform `observer` of events of this stream from now on."""
        self.observer = observer

    def stop_observing(self) -> None:
        """Inform no observer of events of this stream from now on."""
        self.observer = _NO_OBSERVER

    def ask_for_room(self) -> None:
        """Cause one `StreamWritable` as soon as the send queue has room."""
        self.wants_room = True

    def ask_for_delivery(self) -> None:
        """Cause one `StreamSettled` as soon as it is known whether the peer has received everything."""
        self.wants_delivery = True

    # --- sending

    def queue_output(self, data: bytes) -> int:
        """Append to the send queue. Returns how much memory this takes (bytes)."""
        self.send_queue.append(data)
        size = len(data)
        self.queued_bytes += size
        return size + BUFFER_OVERHEAD

    def take_output(self, amount: int, number: int) -> tuple[int, list[Buffer]]:
        """Take `amount` bytes off the send queue, which has that many, for the counted frame with this number.

        Returns:
            The memory of the buffers that end within these bytes, and the bytes, in pieces.
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
            # The rest remains as a view of the same bytes: nothing is copied until it is encrypted.
            view = memoryview(queue[0])
            self._head_memory = self._head_memory or len(view) + BUFFER_OVERHEAD
            taken.append(view[:left])
            queue[0] = view[left:]
        return memory, taken

    def drop_output(self, outbox: Outbox) -> None:
        """Drop what is queued. Frames that were written stay in the outbox, and so does a buffer that they use in
        part."""
        if self.flow is not None:
            self.flow.to_send.clear()
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
        """Return whether to inform the driver now that there is room. True only once for each request."""
        if not self.wants_room or self.queued_bytes >= max_queued or not self.can_send:
            return False
        self.wants_room = False
        return True

    def stop_sending(self, reason: Reason, text: str, outbox: Outbox) -> None:
        """Update the state after the peer has stopped reading."""
        self.stopped_by_peer = True
        self.reason, self.text = reason, text
        self.drop_output(outbox)

    def fin_written(self) -> None:
        """Note that the last counted frame that was written was our FIN."""
        self.fin_number = self.last_number

    def fin_acknowledged(self) -> None:
        """Note that the peer has received our FIN. If it had stopped reading, it has dropped data before the FIN."""
        self.is_delivered = not (self.is_aborted or self.stopped_by_peer)

    def settle(self) -> bool:
        """Note that it is known whether everything was delivered. Returns whether the driver has to be informed
        now."""
        wanted, self.wants_delivery = self.wants_delivery and not self.is_aborted, False
        return wanted

    # --- the queues of the session

    def schedule(self) -> bool:
        """Note that the stream is in the queue of streams with output, if it has output. Returns whether the caller
        has to put it there now."""
        if self.scheduled or not self.has_output:
            return False
        self.scheduled = True
        return True

    def reschedule(self) -> bool:
        """Return whether to queue the stream again after its turn, because it has more output."""
        self.scheduled = self.has_output
        return self.scheduled

    def unschedule(self) -> None:
        """Note that the stream was taken out of the queue."""
        self.scheduled = False

    def control_queued(self) -> None:
        """Note that a frame other than OPEN, DATA and FIN was queued."""
        self.queued_controls += 1

    def control_taken(self) -> None:
        """Note that such a frame was taken out of its queue."""
        self.queued_controls -= 1

    def announce(self) -> None:
        """Note that OPEN is written now."""
        self.announced = True

    def written(self, number: int) -> None:
        """Note that a counted frame other than DATA was written."""
        self.last_number = number

    def start_waiting(self) -> bool:
        """Note that the stream is over and waits for an acknowledgement. Returns False if this was already noted."""
        waited, self.waits = self.waits, True
        return not waited

    def stop_counting(self) -> bool:
        """Stop counting the stream against its opener's limit. Returns False if it did not count any more."""
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
        """Take up to `max_bytes` off the receive queue. Returns the pieces, and the number of bytes in them."""
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
            # A view is used, because with copies, small reads of a large piece would cost quadratic time.
            view = memoryview(queue[0])
            pieces.append(view[:left])
            queue[0] = view[left:]
        self.readable_bytes -= max_bytes
        return pieces, max_bytes

    def drop_input(self) -> None:
        """Drop what was received and not read."""
        if self.flow is not None:
            self.flow.received.clear()
        self.receive_queue = []
        self.readable_bytes = 0

    def stop_receiving(self, reason: Reason) -> None:
        """Update the state after we have stopped reading. What still arrives is not kept."""
        self.drop_input()
        self.receive_window.close()
        if self.stop_reason is Reason.NO_ERROR:
            self.stop_reason = reason

    # --- the end

    def abort(self, reason: Reason, text: str, outbox: Outbox) -> None:
        """Update a stream whose states are already ABORTED."""
        self.metadata = NO_METADATA
        self.reason, self.text = reason, text
        self.drop_output(outbox)
        self.drop_input()
        self.receive_window.close()
