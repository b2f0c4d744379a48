"""Counted frames: numbered when written, kept until acknowledged, written again later (SPEC.md, 3 and 5)."""

from __future__ import annotations

from collections import deque
from typing import Any

import attrs

from .config import ACK_AFTER_BYTES, ACK_AFTER_FRAMES, ACK_AFTER_SECONDS, FRAME_OVERHEAD
from .errors import RemoteProtocolError
from .reasons import Reason
from .sending import SESSION_SHARE, Sending

Buffer = bytes | memoryview

#: In place of a queue that is empty: a deque takes 760 bytes even then, and a session has a dozen of them. It is
#: replaced by a deque before something is added, and put back when the last entry has been taken.
EMPTY: deque[Any] = deque(maxlen=0)


@attrs.define
class Outbox:
    """Our counted frames. The bytes of a frame belong to it until the peer has acknowledged them."""

    max_bytes: int
    sending: Sending = attrs.field(factory=Sending)
    #: Number of the last frame written.
    written: int = attrs.field(default=0, init=False)
    #: Number of the last frame that the peer has acknowledged.
    acknowledged: int = attrs.field(default=0, init=False)
    #: How many of the last frames have yet to be written again on the present channel. The peer cannot have received
    #: them, so it may not acknowledge them.
    to_write_again: int = attrs.field(default=0, init=False)
    #: What the frames in between cost.
    kept_bytes: int = attrs.field(default=0, init=False)
    #: Cost, memory and buffers of each.
    _kept: deque[tuple[int, int, tuple[Buffer, ...]]] = attrs.field(default=EMPTY, init=False)

    @property
    def is_full(self) -> bool:
        kept = self.kept_bytes
        return kept >= self.max_bytes or (kept >= SESSION_SHARE and self.sending.available <= 0)

    def write(self, size: int, *buffers: Buffer) -> int:
        """Give the frame its number and keep it. `size` is that of all `buffers`, whose memory is counted now."""
        self.sending.take(size)
        return self.write_counted(size, size, buffers)

    def write_counted(self, size: int, memory: int, buffers: tuple[Buffer, ...]) -> int:
        """As `write`, where `memory` bytes were counted already, and are free once the frame is acknowledged."""
        self.written += 1
        cost = size + FRAME_OVERHEAD
        self.kept_bytes += cost
        self.sending.take(FRAME_OVERHEAD)
        if self._kept is EMPTY:
            self._kept = deque()
        self._kept.append((cost, memory + FRAME_OVERHEAD, buffers))
        return self.written

    def release_with(self, number: int, memory: int) -> None:
        """Memory that was counted is free once the frame with this number is acknowledged."""
        if number <= self.acknowledged:
            self.sending.release(memory)
        else:
            index = number - self.acknowledged - 1
            cost, before, buffers = self._kept[index]
            self._kept[index] = cost, before + memory, buffers

    def acknowledge_untrusted(self, count: int) -> bool:
        """Drop what the peer has received, and return whether that was anything.

        Raises:
            RemoteProtocolError: less than it stated before, or more than was written on this channel and before it.
        """
        most = self.written - self.to_write_again
        if not self.acknowledged <= count <= most:
            raise RemoteProtocolError(
                f"acknowledged {count}, outside {self.acknowledged} to {most}", reason=Reason.SESSION_LOST
            )
        fresh = count - self.acknowledged
        free = 0
        for _ in range(fresh):
            cost, memory, _ = self._kept.popleft()
            self.kept_bytes -= cost
            free += memory
        if not self._kept:
            self._kept = EMPTY
        self.sending.release(free)
        self.acknowledged = count
        return fresh > 0

    def unacknowledged(self) -> list[tuple[Buffer, ...]]:
        """The kept frames in order, to be written again."""
        return [buffers for _, _, buffers in self._kept]

    def clear(self) -> None:
        self.sending.release(sum(memory for _, memory, _ in self._kept))
        self._kept.clear()
        self.kept_bytes = self.to_write_again = 0


@attrs.define
class Inbox:
    """The peer's counted frames: how many arrived, and when to acknowledge them."""

    received: int = attrs.field(default=0, init=False)
    _stated: int = attrs.field(default=0, init=False)
    _bytes: int = attrs.field(default=0, init=False)
    #: When the acknowledgement will be due, or None: nothing is owed, or it is due already.
    deadline: float | None = attrs.field(default=None, init=False)
    #: The acknowledgement has to leave even if nothing else does.
    due: bool = attrs.field(default=False, init=False)

    def receive(self, size: int, now: float) -> None:
        self.received += 1
        self._bytes += size
        if self.received - self._stated >= ACK_AFTER_FRAMES or self._bytes >= ACK_AFTER_BYTES:
            self.due = True
            self.deadline = None
        elif self.deadline is None and not self.due:
            self.deadline = now + ACK_AFTER_SECONDS

    def handle_timeout(self, now: float) -> None:
        if self.deadline is not None and now >= self.deadline:
            self.due = True
            self.deadline = None

    @property
    def owes(self) -> bool:
        return self.received != self._stated

    def state(self) -> int:
        """The count to put into an ACK or HELLO that is written now."""
        self._stated = self.received
        self._bytes = 0
        self.deadline = None
        self.due = False
        return self.received
