"""Memory on the sending side: what is queued, and what was written and may have to be written again.

Receive windows bound what a peer makes us hold of its own data. What we hold of *ours*, for a peer that reads or
acknowledges nothing, must also be bounded, for the process and not only for a session: one application may have
hundreds of sessions. Four rules:

1. All bytes that are queued or not acknowledged count against the process's `Budget`, which lends at most
   `Budget.sending_limit` for this.
2. A session is *short of memory* while it holds as much as is left in that part of the budget. Therefore a session
   gets half of it if there is no other, and each of n sessions that use all they can gets 1 / (n + 1); as much is
   always left for a new one. If several peers share a process, the sessions of each peer have a common `Account`, and
   the same holds for accounts: a session is short while it and its account together hold as much as is left.
   Therefore a peer does not gain by opening more sessions.
3. If a session is short, each of its streams may still queue `STREAM_SHARE`, and the session may still keep
   `SESSION_SHARE` of frames that await acknowledgement. Therefore every stream makes progress while its peer reads
   and acknowledges, and no session waits for memory of another session.
4. Memory is counted until it is free: a buffer that is sent in several frames counts in full until the last of them
   is acknowledged, because each frame is a view of the same buffer. The overhead of a frame is counted with the
   buffers that end in it, so that a small message is counted once and released once.

A stream that the peer opened is also kept after its end, until the peer has acknowledged how it ended. These streams
have a part of the budget of their own, which is shared among peers by rule 2. A session that has many of them while
its peer has used up its share is ended: unlike queued data, they are created by what the peer sends.
"""

from __future__ import annotations

import sys

import attrs

from .config import FRAME_OVERHEAD, KIB
from .windows import Budget

#: What a stream may have queued although its session is short (bytes). Reads are also limited to this.
STREAM_SHARE = 4 * KIB
#: What a session may keep of frames that are not acknowledged although it is short (bytes): two full frames. Less
#: would make each frame wait for the peer's acknowledgement timer.
SESSION_SHARE = 128 * KIB
#: The cost of a stream that has ended and is not acknowledged (bytes), as measured, including its last two
#: frames. It costs more, about 5 KiB, while the report of its end waits: `mux.session.SETTLING_SECONDS` at most.
ENDED_STREAM = KIB
#: The cost of a queued buffer beyond its bytes, including the overhead of the frame in which it will end (bytes).
BUFFER_OVERHEAD = 64 + FRAME_OVERHEAD


@attrs.define(eq=False, weakref_slot=True)
class Account:
    """How much memory all sessions with one peer hold for sending."""

    #: Bytes, overhead included.
    held: int = attrs.field(default=0, init=False)
    #: Bytes of streams that are over and not acknowledged.
    ended: int = attrs.field(default=0, init=False)


@attrs.define
class SendingMemory:
    """How much memory one session holds for sending. Without a budget (control channels) it is never short, because
    the limits of such a session are small."""

    budget: Budget | None = None
    #: The peer's account; None if this session is the only one of its peer.
    account: Account | None = None
    #: Bytes, overhead included.
    held: int = attrs.field(default=0, init=False)
    #: Streams of the peer that are over and not acknowledged.
    ended_streams: int = attrs.field(default=0, init=False)

    @property
    def keeps_too_many_streams(self) -> bool:
        """The peer has used up its share of the memory for streams that are over and not acknowledged."""
        if (budget := self.budget) is None:
            return False
        ended = self.ended_streams * ENDED_STREAM if self.account is None else self.account.ended
        return ended > budget.ended_room

    def keep_streams(self, count: int) -> None:
        """Count so many more streams that are over and not acknowledged; negative: fewer."""
        self.ended_streams += count
        if (budget := self.budget) is not None:
            budget.ended += count * ENDED_STREAM
            if (account := self.account) is not None:
                account.ended += count * ENDED_STREAM

    @property
    def available(self) -> int:
        """How many more bytes the session may hold; not positive if it is short."""
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
