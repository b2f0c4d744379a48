"""The streams of a session, and which of them count against the limits of streams. SPEC.md, section 3.

A stream counts from OPEN until it is over and the peer has acknowledged everything that was written for it. A peer
that keeps opening and resetting streams without acknowledging anything therefore reaches the limit before it has used
up this side's memory. A stream stays in the table until the application has also read everything that arrived.
"""

from __future__ import annotations

import enum
import heapq
from collections import deque

from .delivery import EMPTY, Outbox
from .stream import Stream


class SessionRole(enum.Enum):
    """The side of a session. The initiator sends the first HELLO, opens streams with odd ids, and is the only side
    that attaches the session to a new channel."""

    INITIATOR = 1
    ACCEPTOR = 0


class StreamTable:
    """The streams of one session."""

    def __init__(self, role: SessionRole, outbox: Outbox) -> None:
        self.streams: dict[int, Stream] = {}
        #: The id of the next stream that we open, followed by that of the last one that the peer opened.
        self.next_id = 1 if role is SessionRole.INITIATOR else 2
        self.last_peer_id = 0
        #: How many of our streams count, followed by how many of the peer's.
        self.own_count = 0
        self.peer_count = 0
        #: How many streams of the peer we have not answered.
        self.offered = 0
        self._parity = role.value
        self._outbox = outbox
        #: A heap of (last number, stream id): streams that are over and wait for an acknowledgement.
        self._over: list[tuple[int, int]] = []
        #: Streams whose FIN was written and is not acknowledged, in the order of the FINs.
        self._undelivered: deque[Stream] = EMPTY

    def is_own(self, stream_id: int) -> bool:
        return stream_id % 2 == self._parity

    def was_opened(self, stream_id: int) -> bool:
        return stream_id < self.next_id if self.is_own(stream_id) else stream_id <= self.last_peer_id

    def add_own(self, stream: Stream) -> None:
        self.streams[stream.id] = stream
        self.next_id += 2
        self.own_count += 1

    def add_offered(self, stream: Stream) -> None:
        self.streams[stream.id] = stream
        self.last_peer_id = stream.id
        self.peer_count += 1
        self.offered += 1

    def settle(self, stream: Stream) -> None:
        """Stop counting the stream and forget it, if that is possible yet. May be called at any time."""
        if not stream.states.is_over or stream.id not in self.streams:
            return
        if not self.is_own(stream.id) and stream.start_waiting():
            self._outbox.sending.keep_streams(1)
        if stream.queued_controls:
            return
        if stream.last_number > self._outbox.acknowledged:
            heapq.heappush(self._over, (stream.last_number, stream.id))
            return
        if stream.stop_counting():
            if self.is_own(stream.id):
                self.own_count -= 1
            else:
                self.peer_count -= 1
                self._outbox.sending.keep_streams(-1)
        if not stream.has_input:
            del self.streams[stream.id]
            stream.receive_window.close()

    def fin_written(self, stream: Stream) -> None:
        """Note that our FIN of the stream was written."""
        stream.fin_written()
        if self._undelivered is EMPTY:
            self._undelivered = deque()
        self._undelivered.append(stream)

    def acknowledged(self) -> list[Stream]:
        """Update the table after an acknowledgement. Returns the streams whose FIN is acknowledged now."""
        delivered = self._take_delivered()
        while self._over and self._over[0][0] <= self._outbox.acknowledged:
            stream = self.streams.get(heapq.heappop(self._over)[1])
            if stream is not None:
                self.settle(stream)
        return delivered

    def _take_delivered(self) -> list[Stream]:
        undelivered, acknowledged, delivered = self._undelivered, self._outbox.acknowledged, []
        while undelivered and undelivered[0].fin_number <= acknowledged:
            stream = undelivered.popleft()
            stream.fin_acknowledged()
            delivered.append(stream)
        if not undelivered:
            self._undelivered = EMPTY
        return delivered

    def clear(self) -> None:
        """Forget all streams, because the session is over."""
        self._outbox.sending.keep_streams(-self._outbox.sending.ended_streams)
        self.streams.clear()
        self._over.clear()
        self._undelivered = EMPTY
