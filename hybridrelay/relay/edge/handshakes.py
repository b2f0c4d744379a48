"""Which TLS handshake begins next: a rate limit for peers that have not authenticated. Pure: the clock is passed in.

A handshake costs the relay about a millisecond, and anybody who can reach a port can ask for one. The rules:

1. A peer that wants a handshake waits in a queue with a complete ClientHello. It begins at once while fewer
   handshakes are outstanding than the burst of the rate limit allows, in total and for its address.
2. A handshake is outstanding until its peer authenticates. Those of peers that do not authenticate stop counting at a
   fixed rate. So peers with a key use nothing up, even if thousands of them are behind one address, and strangers get
   no more than that rate.
3. Peers that have proved that they share an access key with the relay (`admission`) come first, whatever their
   address. Each key has a rate limit of its own. Such a peer also waits in the queue of its address, so that somebody
   who observes a proof and repeats it can use up the limit of that key and nothing else: peers with that key are then
   served as if they had sent no proof.
4. Addresses from which a peer authenticated recently come next, and have a total limit that strangers cannot use up.
5. Within each of these three priorities (keys, known addresses, other addresses), the key or address with the fewest
   outstanding handshakes comes first, so that an address which asks rarely does not wait for one that asks all the
   time.
6. A connection that needs a second handshake (TLS inside HTTP or inside outer TLS) keeps the position that its
   address had before the first one, so that the work already done for it is not wasted. This holds only while the
   limit of its address has room; its handshakes count in any case.
7. Within an address or a key, connections that wait for their second handshake come first, and then the newest: it is
   the most likely to be still connected.
"""

from __future__ import annotations

import enum
import heapq
import itertools
from collections import OrderedDict
from collections.abc import Callable

import attrs

from ..limits import RateLimit

__all__ = ["Handshake", "HandshakeQueue"]


@attrs.define
class _Outstanding:
    """How many handshakes are outstanding under one limit.

    It is stored as the time at which none will be, so that it need not be updated as time passes (the generic cell
    rate algorithm).
    """

    limit: RateLimit
    #: In seconds, on the clock that is passed in.
    none_at: float = 0.0

    def room_at(self) -> float:
        """When the limit has room for one more, at the earliest."""
        return self.none_at - (self.limit.burst - 1) / self.limit.per_second

    def add(self, now: float) -> None:
        self.none_at = max(self.none_at, now) + 1 / self.limit.per_second

    def subtract(self, count: float) -> None:
        self.none_at -= count / self.limit.per_second


#: Who asks for handshakes: an address (see `slots.address_group`), or an access key, by its id.
Party = str | bytes


class _Priority(enum.IntEnum):
    """The priorities, in the order in which they are served."""

    #: Access keys.
    PROVED = 0
    #: Addresses from which a peer authenticated recently.
    KNOWN = 1
    #: All other addresses.
    STRANGERS = 2


@attrs.define(eq=False)
class Handshake:
    """One that is wanted, or under way. One connection may want several, one after the other."""

    #: See `slots.address_group`.
    group: str
    #: Called when it may begin; must not raise.
    on_permit: Callable[[], None]
    #: The id of the access key that the peer has proved to have. Not to be changed while it waits.
    key_id: bytes | None = None
    #: Where it counts as outstanding, once for each time that it has begun.
    _counted_in: list[_Outstanding] = attrs.field(factory=list)
    #: The position of its address before it began for the first time. None before that.
    _position: float | None = None

    @property
    def parties(self) -> tuple[Party, ...]:
        """Those that it waits for: its peer's key, if there is one, and its peer's address."""
        return (self.group,) if self.key_id is None else (self.key_id, self.group)


@attrs.define(eq=False)
class _PartyQueue:
    """The handshakes of one party: those that wait, and how many are outstanding."""

    outstanding: _Outstanding
    #: In the order in which they came; the newest is served first.
    waiting: dict[Handshake, None] = attrs.field(factory=dict)
    #: The same for connections that have had a handshake; they are served before the others.
    again: dict[Handshake, None] = attrs.field(factory=dict)
    #: Which entry in the heap stands for it, and what that says; any other is out of date.
    entry: int = -1
    queued: tuple[_Priority, float] | None = None

    @property
    def is_waiting(self) -> bool:
        return bool(self.waiting or self.again)

    def next(self) -> Handshake:
        """The one that is served next; one must be waiting."""
        return next(reversed(self.again or self.waiting))

    def add(self, handshake: Handshake) -> None:
        (self.waiting if handshake._position is None else self.again)[handshake] = None

    def remove(self, handshake: Handshake) -> bool:
        """Whether it was waiting."""
        waited = handshake in self.waiting or handshake in self.again
        self.waiting.pop(handshake, None)
        self.again.pop(handshake, None)
        return waited

    def position(self, now: float) -> float:
        """Its position among the parties of its priority: the lowest comes first."""
        if self.again and self.outstanding.room_at() <= now:
            position = self.next()._position
            assert position is not None
            return min(position, self.outstanding.none_at)
        return self.outstanding.none_at


class HandshakeQueue:
    """Decides which connections may begin a handshake.

    Args:
        total: for all peers whose address has not authenticated lately, together.
        known: for all others together.
        each: for one address.
        proved: for all peers that have proved to have a key, together.
        each_key: for one key.
        remembered: addresses that are remembered because a peer authenticated from there.
    """

    def __init__(
        self,
        total: RateLimit,
        known: RateLimit,
        each: RateLimit,
        *,
        proved: RateLimit,
        each_key: RateLimit,
        remembered: int,
    ) -> None:
        self._totals = {
            _Priority.PROVED: _Outstanding(proved),
            _Priority.KNOWN: _Outstanding(known),
            _Priority.STRANGERS: _Outstanding(total),
        }
        self._each = each
        self._each_key = each_key
        self._remembered = remembered
        self._known: OrderedDict[str, None] = OrderedDict()
        self._queues: dict[Party, _PartyQueue] = {}
        #: (The position of a party, a number, the party). The lowest comes first.
        self._heaps: dict[_Priority, list[tuple[float, int, Party]]] = {priority: [] for priority in _Priority}
        self._numbers = itertools.count()
        self._waiting = 0

    @property
    def waiting(self) -> int:
        """Handshakes that wait."""
        return self._waiting

    def add(self, handshake: Handshake, now: float) -> None:
        """A connection wants a handshake, with a complete ClientHello."""
        for party in handshake.parties:
            queue = self._queues.get(party)
            if queue is None:
                each = self._each if isinstance(party, str) else self._each_key
                queue = self._queues[party] = _PartyQueue(_Outstanding(each))
            queue.add(handshake)
            self._update_entry(party, now)
        self._waiting += 1

    def leave(self, handshake: Handshake, now: float) -> None:
        """Its connection is over; without authentication, its handshakes stay outstanding. Harmless at any time."""
        self._stop_waiting(handshake)
        for party in handshake.parties:
            self._update_entry(party, now)
        self._forget(now)

    def begin(self, now: float) -> Handshake | None:
        """Take the next one out of the queue, if one may begin now."""
        for priority in _Priority:
            if self._totals[priority].room_at() > now:
                continue
            party = self._first(priority)
            if party is None:
                continue
            queue = self._queues[party]
            if queue.outstanding.room_at() > now:
                continue  # all others of this priority have more outstanding handshakes
            handshake = queue.next()
            self._stop_waiting(handshake)
            if handshake._position is None:
                handshake._position = self._queues[handshake.group].outstanding.none_at
            for outstanding in (queue.outstanding, self._totals[priority]):
                outstanding.add(now)
                handshake._counted_in.append(outstanding)
            for each in handshake.parties:
                self._update_entry(each, now)
            return handshake
        return None

    def next_at(self) -> float | None:
        """When `begin` will have one; None while none waits."""
        times = [
            max(self._totals[priority].room_at(), self._queues[party].outstanding.room_at())
            for priority in _Priority
            if (party := self._first(priority)) is not None
        ]
        return min(times, default=None)

    def authenticated(self, handshake: Handshake, now: float) -> None:
        """The peer has shown a key or a ticket: its handshakes do not count, and its address is known from now on."""
        for outstanding in handshake._counted_in:
            # Twice, for other connections from this address that do not authenticate, such as those of the prober.
            outstanding.subtract(2)
        handshake._counted_in.clear()
        self._known[handshake.group] = None
        self._known.move_to_end(handshake.group)
        for party in handshake.parties:
            self._update_entry(party, now)
        while len(self._known) > self._remembered:
            forgotten, _ = self._known.popitem(last=False)
            self._update_entry(forgotten, now)
        self._forget(now)

    # --- the order of the parties

    def _stop_waiting(self, handshake: Handshake) -> None:
        """Take it out of the queues of all its parties."""
        waited = False
        for party in handshake.parties:
            queue = self._queues.get(party)
            if queue is not None and queue.remove(handshake):
                waited = True
        self._waiting -= waited

    def _priority_of(self, party: Party) -> _Priority:
        if isinstance(party, bytes):
            return _Priority.PROVED
        return _Priority.KNOWN if party in self._known else _Priority.STRANGERS

    def _update_entry(self, party: Party, now: float) -> None:
        """Make sure that the right entry in the heaps stands for a party, if a handshake waits there."""
        queue = self._queues.get(party)
        if queue is None or not queue.is_waiting:
            return
        priority, position = queued = self._priority_of(party), queue.position(now)
        if queue.queued != queued:
            queue.queued, queue.entry = queued, next(self._numbers)
            heapq.heappush(self._heaps[priority], (position, queue.entry, party))

    def _first(self, priority: _Priority) -> Party | None:
        """The party that is served next among those of a priority."""
        heap = self._heaps[priority]
        while heap:
            _, entry, party = heap[0]
            queue = self._queues.get(party)
            if queue is not None and queue.entry == entry:
                if queue.is_waiting:
                    return party
                queue.queued = None
            heapq.heappop(heap)
        return None

    def _forget(self, now: float) -> None:
        """Look at a few parties, and forget those without handshakes that wait or are outstanding."""
        for _ in range(min(2, len(self._queues))):
            party, queue = next(iter(self._queues.items()))
            del self._queues[party]
            if queue.is_waiting or queue.outstanding.none_at > now:
                self._queues[party] = queue  # looked at again after all others
