"""Counted frames: numbered when written, kept until acknowledged, written again on the next channel if necessary
(SPEC.md, sections 3 and 5)."""

from __future__ import annotations

from collections import deque
from typing import Any

import attrs

from .config import ACK_AFTER_BYTES, ACK_AFTER_FRAMES, ACK_AFTER_SECONDS, FRAME_OVERHEAD
from .errors import RemoteProtocolError
from .reasons import Reason
from .sending import SESSION_SHARE, SendingMemory

Buffer = bytes | memoryview

#: Used in place of an empty queue, because an empty deque takes 760 bytes and a session has a dozen of them. It is
#: replaced by a real deque before something is added, and put back when that is empty again.
EMPTY: deque[Any] = deque(maxlen=0)


@attrs.define
class Outbox:
    """Our counted frames. It keeps the bytes of each frame until the peer has acknowledged the frame."""

    max_bytes: int
    sending: SendingMemory = attrs.field(factory=SendingMemory)
    #: Number of the last frame written.
    written: int = attrs.field(default=0, init=False)
    #: Number of the last frame that the peer has acknowledged.
    acknowledged: int = attrs.field(default=0, init=False)
    #: How many frames, the last ones, have to be written again on the current channel. The peer cannot have received
    #: them, so it must not acknowledge them.
    to_write_again: int = attrs.field(default=0, init=False)
    #: The size of the frames that were written and not acknowledged (bytes, with `FRAME_OVERHEAD` for each).
    kept_bytes: int = attrs.field(default=0, init=False)
    #: The cost, the memory and the buffers of each of these frames.
    #: A list and not a deque: few frames are kept at a time, and those that a count acknowledges are dropped in one
    #: step, while a deque would take 760 bytes for one frame.
    _kept: list[tuple[int, int, tuple[Buffer, ...]]] = attrs.field(factory=list, init=False)

    @property
    def is_full(self) -> bool:
        """Whether no further frame may be written until the peer has acknowledged some."""
        kept = self.kept_bytes  # `max_bytes` is greater than `SESSION_SHARE`
        return kept >= SESSION_SHARE and (kept >= self.max_bytes or self.sending.available <= 0)

    def write(self, frame: bytes) -> int:
        """Give the frame its number and keep it. Its memory is counted from now on."""
        cost = len(frame) + FRAME_OVERHEAD
        self.sending.take(cost)
        self._keep(cost, cost, (frame,))
        return self.written

    def write_data(self, size: int, memory: int, buffers: tuple[Buffer, ...]) -> None:
        """Like `write`, for a DATA frame whose bytes were counted when they were queued.

        Args:
            size: the length of all `buffers` (bytes).
            memory: the counted memory of the queued buffers that end in this frame (bytes), or 0 if none does. It is
                released when the frame is acknowledged.
        """
        if not memory:  # the memory of a queued buffer includes the overhead of one frame
            memory = FRAME_OVERHEAD
            self.sending.take(memory)
        self._keep(size + FRAME_OVERHEAD, memory, buffers)

    def _keep(self, cost: int, memory: int, buffers: tuple[Buffer, ...]) -> None:
        self.written += 1
        self.kept_bytes += cost
        self._kept.append((cost, memory, buffers))

    def release_with(self, number: int, memory: int) -> None:
        """Release this much counted memory when the frame with this number is acknowledged."""
        if number <= self.acknowledged:
            self.sending.release(memory)
        else:
            index = number - self.acknowledged - 1
            cost, before, buffers = self._kept[index]
            self._kept[index] = cost, before + memory, buffers

    def acknowledge_untrusted(self, count: int) -> bool:
        """Drop the frames up to number `count`, and return whether there were any.

        Raises:
            RemoteProtocolError: `count` is lower than before, or higher than the number of the last frame that the
                peer can have received.
        """
        most = self.written - self.to_write_again
        if not self.acknowledged <= count <= most:
            raise RemoteProtocolError(
                f"acknowledged {count}, outside {self.acknowledged} to {most}", reason=Reason.SESSION_LOST
            )
        fresh = count - self.acknowledged
        if not fresh:
            return False
        costs = free = 0
        for cost, memory, _ in self._kept[:fresh]:
            costs += cost
            free += memory
        del self._kept[:fresh]
        self.kept_bytes -= costs
        self.sending.take(-free)
        self.acknowledged = count
        return True

    def unacknowledged(self) -> list[tuple[Buffer, ...]]:
        """Return the kept frames in order, to be written again."""
        return [buffers for _, _, buffers in self._kept]

    def clear(self) -> None:
        """Drop all frames, because the session is over."""
        self.sending.release(sum(memory for _, memory, _ in self._kept))
        self._kept.clear()
        self.kept_bytes = self.to_write_again = 0


@attrs.define
class Inbox:
    """The peer's counted frames: how many arrived, and when to acknowledge them."""

    #: How many frames have arrived.
    received: int = attrs.field(default=0, init=False)
    #: The count in the last ACK or HELLO that was written, and the bytes that have arrived since then.
    _stated: int = attrs.field(default=0, init=False)
    _bytes: int = attrs.field(default=0, init=False)
    #: When the acknowledgement becomes due; None if there is nothing to acknowledge, or if it is already due.
    deadline: float | None = attrs.field(default=None, init=False)
    #: Whether the acknowledgement has to be sent even if nothing else is.
    due: bool = attrs.field(default=False, init=False)

    def receive(self, size: int, now: float) -> None:
        """Count a frame of `size` bytes."""
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
        """Whether a frame has arrived that was not acknowledged."""
        return self.received != self._stated

    def take_count(self) -> int:
        """Return the count to put into an ACK or HELLO that is written now. Nothing is owed afterwards."""
        self._stated = self.received
        self._bytes = 0
        self.deadline = None
        self.due = False
        return self.received
