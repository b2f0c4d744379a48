"""The queues of a flow of datagrams. SPEC.md, sections 3 and 6.

A datagram that is late is worth less than none, because its sender has sent another one by then. So a queue drops
its oldest datagrams instead of making anybody wait: those for which there is no room, and those that have waited too
long. Nothing is ever dropped from the middle, and what is not dropped stays in order.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

import attrs

from .config import BASE_WINDOW, KIB, MAX_DATAGRAM
from .delivery import EMPTY
from .sending import STREAM_SHARE, SendingMemory
from .windows import Budget

__all__ = [
    "MAX_OPENING_SECONDS",
    "MAX_QUEUED_BYTES",
    "MAX_QUEUED_DATAGRAMS",
    "MAX_WAIT_SECONDS",
    "DatagramQueue",
    "Dropped",
    "Flow",
    "ReceivedMemory",
]

#: How many datagrams one direction of a flow may queue on one side: the answers to a burst of requests.
MAX_QUEUED_DATAGRAMS = 64
#: How many bytes of datagrams one direction of a flow may queue on one side: four of the longest.
MAX_QUEUED_BYTES = 256 * KIB
#: How long a datagram may wait in a queue (seconds). Shorter than the time after which programs send a request again.
MAX_WAIT_SECONDS = 0.5
#: The same for datagrams that arrive before their flow was accepted (seconds). A connector first resolves the name of
#: the target, decides, and writes its audit log. If that takes a long time, because the name server or the machine
#: is slow, every flow would lose its first datagrams, and a program that sends only once (syslog, SNMP traps) would
#: lose all.
MAX_OPENING_SECONDS = 2.0
#: The memory that a queued datagram takes in addition to its bytes, as measured (bytes).
_OVERHEAD = 128


@attrs.define
class Dropped:
    """How many datagrams of a flow this side has dropped, in both directions together."""

    #: Because there was no room for them.
    queue: int = 0
    #: Because they had waited for `MAX_WAIT_SECONDS`, or `MAX_OPENING_SECONDS`.
    age: int = 0
    #: Because they were too long, for this protocol or for a network.
    size: int = 0
    #: Because the buffer of a socket was full, as the system has counted. Owners of sockets add them.
    system: int = 0
    #: Because their flow could not be opened, or has failed. Owners of local ports add them.
    refused: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.queue + self.age + self.size + self.system + self.refused


class _Memory(Protocol):
    """What counts the memory of a queue."""

    def take(self, amount: int) -> bool:
        """Count `amount` bytes more, if there is room for them. Returns whether there was."""

    def release(self, amount: int) -> None:
        """Count `amount` bytes less."""


@attrs.define
class SentMemory:
    """Counts datagrams that wait to be sent as memory for sending. As every stream, a flow may use `STREAM_SHARE`
    even if its session is short of memory."""

    sending: SendingMemory
    held: int = attrs.field(default=0, init=False)

    def take(self, amount: int) -> bool:
        """See `_Memory`."""
        if self.held + amount > STREAM_SHARE and amount > self.sending.available:
            return False
        self.held += amount
        self.sending.take(amount)
        return True

    def release(self, amount: int) -> None:
        """See `_Memory`."""
        self.held -= amount
        self.sending.release(amount)


@attrs.define
class ReceivedMemory:
    """Counts datagrams that have arrived. `BASE_WINDOW` was reserved for the flow when it was opened; the rest is
    borrowed from the elastic part of the budget."""

    budget: Budget
    held: int = attrs.field(default=0, init=False)
    borrowed: int = attrs.field(default=0, init=False)

    def take(self, amount: int) -> bool:
        """See `_Memory`."""
        wanted = self.held + amount - BASE_WINDOW - self.borrowed
        if wanted > 0:
            lent = self.budget.borrow(wanted)
            if lent < wanted:
                self.budget.give_back(lent)
                return False
            self.borrowed += lent
        self.held += amount
        return True

    def release(self, amount: int) -> None:
        """See `_Memory`."""
        self.held -= amount
        spare = self.borrowed - max(0, self.held - BASE_WINDOW)
        if spare > 0:
            self.borrowed -= spare
            self.budget.give_back(spare)


class DatagramQueue:
    """One direction of a flow on one side.

    Args:
        memory: counts the memory of what is queued.
        dropped: counts what is dropped.
    """

    __slots__ = ("_dropped", "_memory", "_queue", "size")

    def __init__(self, memory: _Memory, dropped: Dropped) -> None:
        self._memory = memory
        self._dropped = dropped
        #: The datagrams, the oldest first, and when each is too late.
        self._queue: deque[tuple[float, bytes]] = EMPTY
        #: The bytes of all of them, without overhead.
        self.size = 0

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, data: bytes, now: float, may_wait: float = MAX_WAIT_SECONDS) -> None:
        """Append a datagram of at most `MAX_DATAGRAM` bytes, which may wait for `may_wait` seconds. Drops the oldest
        ones if there is no room, and this one if there is no memory for it even then."""
        self.drop_late(now)
        queue, size = self._queue, len(data)
        while queue and (len(queue) >= MAX_QUEUED_DATAGRAMS or self.size + size > MAX_QUEUED_BYTES):
            self._pop()
            self._dropped.queue += 1
        while not self._memory.take(size + _OVERHEAD):
            self._dropped.queue += 1
            if not queue:
                return
            self._pop()
        if queue is EMPTY:
            queue = self._queue = deque()
        queue.append((now + may_wait, data))
        self.size += size

    def take(self, now: float, max_bytes: int = MAX_DATAGRAM) -> bytes | None:
        """Return the oldest datagram that has not waited for too long. None if there is none, or if it has more than
        `max_bytes`."""
        self.drop_late(now)
        queue = self._queue
        if not queue or len(queue[0][1]) > max_bytes:
            return None
        data = self._pop()
        if not queue:
            self._queue = EMPTY
        return data

    def clear(self) -> None:
        """Drop all datagrams, without counting them: the flow has ended."""
        while self._queue:
            self._pop()
        self._queue = EMPTY

    def drop_late(self, now: float) -> None:
        """Drop the datagrams that have waited for too long. `put` and `take` do so, too."""
        queue = self._queue
        while queue and now > queue[0][0]:
            self._pop()
            self._dropped.age += 1

    def _pop(self) -> bytes:
        _, data = self._queue.popleft()
        self.size -= len(data)
        self._memory.release(len(data) + _OVERHEAD)
        return data


class Flow:
    """What a stream of `Kind.DATAGRAMS` has in place of byte queues and windows.

    Args:
        sending: the session's memory for sending.
        budget: the session's budget.
    """

    __slots__ = (
        "_received_memory", "bytes_received", "bytes_sent", "dropped", "received", "received_count", "sent_count",
        "to_send",
    )  # fmt: skip

    def __init__(self, sending: SendingMemory, budget: Budget) -> None:
        self.dropped = Dropped()
        self._received_memory = ReceivedMemory(budget)
        #: Datagrams that wait to be written to the channel.
        self.to_send = DatagramQueue(SentMemory(sending), self.dropped)
        #: Datagrams that have arrived and wait for the application.
        self.received = DatagramQueue(self._received_memory, self.dropped)
        #: How many datagrams were written to a channel, and how many have arrived.
        self.sent_count = self.received_count = 0
        #: The bytes of these datagrams.
        self.bytes_sent = self.bytes_received = 0

    @property
    def borrowed(self) -> int:
        """The bytes that were borrowed from the budget for datagrams that have arrived."""
        return self._received_memory.borrowed

    def clear(self) -> None:
        """Drop what is queued in both directions, because the flow has ended."""
        self.to_send.clear()
        self.received.clear()
