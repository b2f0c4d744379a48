"""Memory for sending: data that is queued, or that was written and may have to be written again.

Receive windows bound how much of a peer's data we hold. How much of *our* data we hold for a peer that does not read
or acknowledge must be bounded, too, and for the whole process, because one application may have hundreds of sessions.
There are four rules:

1. All bytes that are queued or not acknowledged count against the process's `Budget`, which provides at most
   `Budget.sending_limit` for this.
2. A session is *short of memory* while it holds as much as is left of that limit. A single session thus gets half of
   the limit, and each of n sessions that use all they can gets 1 / (n + 1), so that the same amount is always left
   for a new one. If several peers share a process, the sessions of each peer have a common `Account`, and a session
   is also short while it and its account together hold as much as is left. A peer thus does not gain by opening more
   sessions.
3. If a session is short, each of its streams may still queue `STREAM_SHARE`, and the session may still keep
   `SESSION_SHARE` of unacknowledged frames. Every stream thus makes progress while its peer reads and acknowledges,
   and no session waits for the memory of another.
4. Memory is counted until it is free. A buffer that is sent in several frames counts in full until the last of them
   is acknowledged, because each frame is a view of the same buffer. The overhead of a frame is counted with the
   buffers that end in it, so that a small message is counted and released once.

A stream that the peer opened is kept after its end until the peer has acknowledged the end. These streams have a
separate part of the budget, which rule 2 shares among peers. If a peer has used up its share, a session with many
such streams is ended, because it is the peer that creates them.
"""

from __future__ import annotations

import sys

import attrs

from .config import FRAME_OVERHEAD, KIB
from .windows import Budget

#: How much a stream may queue although its session is short of memory (bytes). Reads are then limited to this, too.
STREAM_SHARE = 4 * KIB
#: How much a session may keep of unacknowledged frames although it is short of memory (bytes): two full frames. With
#: less, each frame would wait for the peer's acknowledgement timer.
SESSION_SHARE = 128 * KIB
#: The cost of a stream that has ended and is not acknowledged (bytes), as measured, including its last two frames.
#: While the report of its end waits (at most `mux._stream_ends.SETTLING_SECONDS`), it costs about 5 KiB.
ENDED_STREAM = KIB
#: The cost of a queued buffer beyond its bytes, including the overhead of the frame in which it will end (bytes).
BUFFER_OVERHEAD = 64 + FRAME_OVERHEAD


@attrs.define(eq=False, weakref_slot=True)
class Account:
    """How much memory all sessions with one peer hold for sending."""

    #: Bytes, overhead included.
    held: int = attrs.field(default=0, init=False)
    #: Bytes of streams that have ended and are not acknowledged.
    ended: int = attrs.field(default=0, init=False)


@attrs.define
class SendingMemory:
    """How much memory one session holds for sending. Without a budget it is never short; this is for control
    channels, whose other limits are small."""

    budget: Budget | None = None
    #: The peer's account; None if the peer has only this session.
    account: Account | None = None
    #: Bytes, overhead included.
    held: int = attrs.field(default=0, init=False)
    #: How many streams of the peer have ended and are not acknowledged.
    ended_streams: int = attrs.field(default=0, init=False)

    @property
    def keeps_too_many_streams(self) -> bool:
        """Whether the peer has used up its share of the memory for streams that are over and not acknowledged."""
        if (budget := self.budget) is None:
            return False
        ended = self.ended_streams * ENDED_STREAM if self.account is None else self.account.ended
        return ended > budget.ended_room

    def keep_streams(self, count: int) -> None:
        """Add to the number of streams that have ended and are not acknowledged. `count` may be negative."""
        self.ended_streams += count
        if (budget := self.budget) is not None:
            budget.ended += count * ENDED_STREAM
            if (account := self.account) is not None:
                account.ended += count * ENDED_STREAM

    @property
    def available(self) -> int:
        """How many more bytes the session may hold; zero or negative if it is short of memory."""
        budget = self.budget
        if budget is None:
            return sys.maxsize
        account = self.account
        return budget.sending_room - self.held - (0 if account is None else account.held)

    def take(self, amount: int) -> None:
        """Count `amount` bytes more."""
        self.held += amount
        if (budget := self.budget) is not None:
            budget.sending += amount
            if (account := self.account) is not None:
                account.held += amount

    def release(self, amount: int) -> None:
        """Count `amount` bytes less."""
        self.take(-amount)
