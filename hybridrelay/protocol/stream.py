"""One stream of a session: its states, its two windows, what waits to be written and what waits to be read."""

from __future__ import annotations

from collections import deque
from typing import Any

import attrs

from .delivery import EMPTY, Buffer, Outbox
from .features import Kind
from .metadata import NO_METADATA, Metadata
from .reasons import Reason
from .sending import BUFFER_OVERHEAD
from .states import Opening, Receiving, Sending, StreamStates
from .windows import ReceiveWindow, SendWindow

#: Received pieces are joined up to this size. A peer that sends tiny frames would otherwise make us hold many times
#: the bytes that its window allows, because each piece costs about 50 bytes of its own.
_JOIN_RECEIVED = 4096


@attrs.define(eq=False)
class Stream:
    """State of one stream. Only the session changes it; any code may read it."""

    id: int
    states: StreamStates
    receive_window: ReceiveWindow
    #: What the stream is for: one of `Kind`. A stream of an unknown kind is refused at once.
    kind: int = Kind.STREAM
    #: What the opener stated about the stream, for the acceptor's application.
    metadata: Metadata = NO_METADATA
    send_window: SendWindow = attrs.field(factory=SendWindow)
    #: Why the stream was aborted, or why the peer stopped reading; NO_ERROR while neither happened.
    reason: Reason = Reason.NO_ERROR
    text: str = ""
    #: The peer will read no more.
    stopped_by_peer: bool = False
    #: Why we will read no more.
    stop_reason: Reason = Reason.NO_ERROR
    #: OPEN has left; before that nothing else may.
    announced: bool = True
    #: Number of the last counted frame that we wrote for this stream, or 0.
    last_number: int = 0
    #: Frames for this stream that wait to be written, apart from OPEN, DATA and FIN.
    queued_controls: int = 0
    #: It counts against the limit of its opener.
    counts: bool = True
    #: In the round robin of those with something to write.
    scheduled: bool = False
    send_queue: deque[Buffer] = EMPTY
    queued_bytes: int = 0
    #: Memory of the first buffer in the queue, where a part of it has been taken; otherwise 0.
    _head_memory: int = attrs.field(default=0, init=False)
    #: The driver waits for room in the send queue, and has to be informed once.
    wants_room: bool = False
    #: Whatever the driver wants to find again when an event names this stream.
    owner: Any = None
    receive_queue: deque[Buffer] = EMPTY
    readable_bytes: int = 0

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

    def queue_output(self, data: bytes) -> int:
        """Append to the send queue; gives the memory that this takes."""
        if self.send_queue is EMPTY:
            self.send_queue = deque()
        self.send_queue.append(data)
        self.queued_bytes += len(data)
        return len(data) + BUFFER_OVERHEAD

    def take_output(self, amount: int) -> tuple[int, int, list[Buffer]]:
        """Take up to `amount` bytes off the send queue.

        Returns:
            How many bytes they are, the memory of the buffers that end among them, and the bytes in pieces.
        """
        taken: list[Buffer] = []
        left = amount
        memory = 0
        queue = self.send_queue
        while queue and left:
            chunk = queue[0]
            size = len(chunk)
            if size <= left:
                taken.append(queue.popleft())
                left -= size
                memory += self._head_memory or size + BUFFER_OVERHEAD
                self._head_memory = 0
            else:
                # The rest stays a view of the same bytes: nothing is copied until it is encrypted.
                self._head_memory = self._head_memory or size + BUFFER_OVERHEAD
                view = memoryview(chunk)
                taken.append(view[:left])
                queue[0] = view[left:]
                left = 0
        if not queue:
            self.send_queue = EMPTY
        amount -= left
        self.queued_bytes -= amount
        return amount, memory, taken

    def drop_output(self, outbox: Outbox) -> None:
        """Forget what is queued. What was written of it stays in the outbox, and with it the buffer it belongs to."""
        if not self.send_queue:
            return
        if self._head_memory:
            self.send_queue.popleft()
            outbox.release_with(self.last_number, self._head_memory)
            self._head_memory = 0
        outbox.sending.release(sum(map(len, self.send_queue)) + BUFFER_OVERHEAD * len(self.send_queue))
        self.send_queue.clear()
        self.queued_bytes = 0

    def add_input(self, data: bytes) -> None:
        queue = self.receive_queue
        if queue is EMPTY:
            queue = self.receive_queue = deque()
        if queue and len(queue[-1]) + len(data) <= _JOIN_RECEIVED:
            queue[-1] = b"".join((queue[-1], data))
        else:
            queue.append(data)
        self.readable_bytes += len(data)

    def take_input(self, max_bytes: int) -> tuple[list[Buffer], int]:
        """Take up to `max_bytes` off the receive queue: the pieces, and how many bytes they are."""
        queue = self.receive_queue
        pieces: list[Buffer] = []
        left = max_bytes
        while queue and left:
            piece = queue[0]
            if len(piece) <= left:
                pieces.append(queue.popleft())
                left -= len(piece)
            else:
                # A view, or small reads of a large piece would cost quadratic time.
                view = memoryview(piece)
                pieces.append(view[:left])
                queue[0] = view[left:]
                left = 0
        if not queue:
            self.receive_queue = EMPTY
        size = max_bytes - left
        self.readable_bytes -= size
        return pieces, size

    def drop_input(self) -> None:
        self.receive_queue.clear()
        self.readable_bytes = 0

    def abort(self, reason: Reason, text: str, outbox: Outbox) -> None:
        """Bookkeeping of a stream whose states are ABORTED already."""
        self.reason, self.text = reason, text
        self.drop_output(outbox)
        self.drop_input()
        self.receive_window.close()
