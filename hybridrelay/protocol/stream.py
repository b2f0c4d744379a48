"""One stream of a session: its states, its two windows, what waits to be written and what waits to be read."""

from __future__ import annotations

from collections import deque
from typing import Any

import attrs

from .reasons import Reason
from .states import Opening, Receiving, Sending, StreamStates
from .windows import ReceiveWindow, SendWindow


@attrs.define(eq=False)
class Stream:
    """State of one stream. Only `SessionCore` changes it; everybody may look."""

    id: int
    states: StreamStates
    receive_window: ReceiveWindow
    #: What the opener said about the stream, for the acceptor's application.
    metadata: bytes = b""
    send_window: SendWindow = attrs.field(factory=SendWindow)
    #: Why the stream was aborted, or why the peer stopped reading; NO_ERROR while neither happened.
    reason: Reason = Reason.NO_ERROR
    text: str = ""
    #: The peer will read no more.
    stopped_by_peer: bool = False
    #: OPEN has left; before that an abort needs no frame.
    announced: bool = True
    #: Number of our last closing frame, or 0.
    closing_number: int = 0
    #: In the round robin of those with something to write.
    scheduled: bool = False
    send_queue: deque[bytes] = attrs.field(factory=deque)
    queued_bytes: int = 0
    #: Whatever the driver wants to find again when an event names this stream.
    owner: Any = None
    receive_queue: deque[bytes] = attrs.field(factory=deque)
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
    def has_output(self) -> bool:
        """Something could be written now, as far as this stream's own credit goes."""
        if self.states.opening is Opening.OFFERED or not self.announced:
            return False
        if self.send_queue:
            return self.send_window.limit > self.send_window.sent
        return self.states.sending in (Sending.FINISHING, Sending.STOPPED)

    def take(self, amount: int) -> tuple[int, list[bytes | memoryview]]:
        """Take up to `amount` bytes off the send queue: their count, and the buffers."""
        taken: list[bytes | memoryview] = []
        left = amount
        queue = self.send_queue
        while queue and left:
            chunk = queue[0]
            if len(chunk) <= left:
                taken.append(queue.popleft())
                left -= len(chunk)
            else:
                # The rest stays a view of the same bytes: nothing is copied until it is encrypted.
                view = memoryview(chunk)
                taken.append(view[:left])
                queue[0] = view[left:]  # type: ignore[assignment]
                left = 0
        amount -= left
        self.queued_bytes -= amount
        return amount, taken

    def drop_output(self) -> None:
        self.send_queue.clear()
        self.queued_bytes = 0
