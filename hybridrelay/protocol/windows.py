"""Flow control: credit, and the memory that it promises. SPEC.md, section 6.

Three rules:

1. A receive window has an absolute `limit`: the total number of bytes that the peer may send. ``limit - consumed`` is
   the number of bytes that the peer may still send plus those that have arrived and were not read. This much memory
   is reserved, but at least `BASE_WINDOW`.
2. `BASE_WINDOW` of that belongs to the stream from OPEN to its end, so that no stream ever waits for memory that
   another one uses. The rest is borrowed from the elastic part of the budget when the limit is raised, and returned
   as the application reads.
3. The size of a window doubles when half of it was used up within two round trips, because then the window, and not
   the path, limits the sender. It does not grow if the budget has not even granted its current size.
"""

from __future__ import annotations

import attrs

from .config import BASE_WINDOW
from .frames import MAX_LIMIT

#: The share of a budget that may be lent beyond `BASE_WINDOW`; the rest is kept for further streams.
_ELASTIC_SHARE = 0.4
#: The share that may be used for data to send; see `sending.py`.
_SENDING_SHARE = 0.125
#: Another share, for streams that have ended and are not acknowledged yet; see `sending.py`.
_ENDED_SHARE = 0.0625


@attrs.define
class Budget:
    """How much memory a process or a session may promise to peers. The budget of a session has that of the process as
    its `parent`."""

    #: The size of the budget (bytes).
    limit: int
    parent: Budget | None = None
    #: Bytes that are reserved for base windows.
    base: int = attrs.field(default=0, init=False)
    #: Bytes lent beyond the base windows.
    elastic: int = attrs.field(default=0, init=False)
    #: Bytes that all sessions of the process hold for sending. Only the budget of the process counts them.
    sending: int = attrs.field(default=0, init=False)
    #: The limit for `sending`. The fixed shares in `sending.py` may exceed it.
    sending_limit: int = attrs.field(init=False)

    @sending_limit.default
    def _sending_limit(self) -> int:
        return int(self.limit * _SENDING_SHARE)

    #: Bytes that all sessions of the process hold for streams that have ended and are not acknowledged yet.
    #: Only the budget of the process counts them.
    ended: int = attrs.field(default=0, init=False)

    @property
    def ended_room(self) -> int:
        """The bytes that are left for streams that have ended."""
        return int(self.limit * _ENDED_SHARE) - self.ended

    @property
    def sending_room(self) -> int:
        """The bytes that are left for sending."""
        return min(self.sending_limit, self.limit - self.base - self.elastic) - self.sending

    @property
    def root(self) -> Budget:
        """The budget of the process, of which this one is a part."""
        return self if self.parent is None else self.parent.root

    def statistics(self) -> dict[str, int]:
        """Return the reserved memory (bytes); the names are those in docs/operating.md."""
        return {"reserved_bytes": self.reserved, "sending_bytes": self.sending}

    @property
    def reserved(self) -> int:
        """The memory that is promised to peers (bytes)."""
        return self.base + self.elastic

    @property
    def elastic_limit(self) -> int:
        return int(self.limit * _ELASTIC_SHARE)

    def reserve_base(self) -> bool:
        """Reserve one base window. Returns False if the budget has no room for another."""
        if self.base + BASE_WINDOW > self.limit - self.elastic - self.sending:
            return False
        if self.parent is not None and not self.parent.reserve_base():
            return False
        self.base += BASE_WINDOW
        return True

    def release_base(self) -> None:
        self.base -= BASE_WINDOW
        assert self.base >= 0
        if self.parent is not None:
            self.parent.release_base()

    def borrow(self, wanted: int) -> int:
        """Lend up to `wanted` bytes of the elastic part. Returns how many were lent, possibly 0."""
        unused = self.limit - self.base - self.elastic - self.sending
        granted = min(wanted, self.elastic_limit - self.elastic, unused)
        if granted > 0 and self.parent is not None:
            granted = self.parent.borrow(granted)
        if granted <= 0:
            return 0
        self.elastic += granted
        return granted

    def give_back(self, amount: int) -> None:
        self.elastic -= amount
        assert self.elastic >= 0
        if self.parent is not None:
            self.parent.give_back(amount)


@attrs.define
class ReceiveWindow:
    """The credit that this side gives the peer on one stream. Create it only after `Budget.reserve_base` returned
    True."""

    budget: Budget
    max_size: int
    #: How many bytes the peer may send in total.
    limit: int = attrs.field(default=BASE_WINDOW, init=False)
    #: How many bytes have arrived.
    received: int = attrs.field(default=0, init=False)
    #: How many bytes the application has read.
    consumed: int = attrs.field(default=0, init=False)
    #: How far ahead of `consumed` the limit is kept if the budget grants that much memory.
    size: int = attrs.field(default=BASE_WINDOW, init=False)
    _borrowed: int = attrs.field(default=0, init=False)
    _renewed_at: float = attrs.field(default=0.0, init=False)
    #: Whether the budget last granted all of `size`.
    _granted: bool = attrs.field(default=True, init=False)
    _closed: bool = attrs.field(default=False, init=False)

    @property
    def set_aside(self) -> int:
        """How much memory the budget has reserved for this window."""
        return 0 if self._closed else BASE_WINDOW + self._borrowed

    def grow_to(self, size: int, now: float) -> bool:
        """Raise the size and the limit immediately, as far as the budget allows. Returns True if the limit has
        risen."""
        if self._closed:
            return False
        self.size = max(self.size, min(size, self.max_size))
        self._renewed_at = now
        return self._raise_limit()

    def receive(self, amount: int) -> bool:
        """Count bytes that arrived. Returns False, and counts nothing, if they exceed the limit."""
        if amount > self.limit - self.received:
            return False
        self.received += amount
        return True

    def consume(self, amount: int, now: float, round_trip: float | None) -> bool:
        """Count bytes that were read. Returns True if the limit was raised, and the peer has to be told."""
        if self._closed:
            return False
        self.consumed += amount
        assert self.consumed <= self.received
        spare = self._borrowed - max(0, self.limit - self.consumed - BASE_WINDOW)
        if spare > 0:
            self._borrowed -= spare
            self.budget.give_back(spare)
        # Raise the limit after half a window. Later, senders would be idle; earlier, there would be more WINDOW
        # frames.
        if self.consumed + self.size - self.limit < self.size // 2:
            return False
        if self._granted and round_trip is not None and now - self._renewed_at < 2 * round_trip:
            self.size = min(2 * self.size, self.max_size)
        if not self._raise_limit():
            return False
        self._renewed_at = now
        return True

    def _raise_limit(self) -> bool:
        lent = self.budget.borrow(self.size - BASE_WINDOW - self._borrowed)
        window = BASE_WINDOW + self._borrowed + lent
        rise = min(self.consumed + window, MAX_LIMIT) - self.limit
        self._granted = window >= self.size
        # Raise the limit by at least half of the window that could be granted, which is smaller than `size` if memory
        # is short. Until then the peer continues with the other half.
        if rise <= 0 or rise < window // 2:
            self.budget.give_back(lent)
            return False
        self._borrowed += lent
        self.limit += rise
        return True

    def close(self) -> None:
        """Give all memory back. Idempotent."""
        if not self._closed:
            self._closed = True
            self.budget.give_back(self._borrowed)
            self._borrowed = 0
            self.budget.release_base()


@attrs.define
class SendWindow:
    """The credit that the peer gives this side on one stream."""

    limit: int = BASE_WINDOW
    sent: int = 0

    def raise_to(self, limit: int) -> bool:
        """Apply a limit that the peer has stated. Returns True if it is higher than the previous one."""
        if limit <= self.limit:
            return False
        self.limit = limit
        return True
