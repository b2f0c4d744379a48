"""Decides which TLS handshake begins next: a rate limit for peers that have not authenticated. Pure.

A handshake takes the relay about a millisecond, and anyone who can reach a port can request one. The rules:

1. A peer whose complete ClientHello has arrived waits in a queue. Its handshake begins at once if fewer handshakes
   are outstanding than the burst of the rate limit allows, in total and for its address.
2. A handshake is outstanding until its peer authenticates. Handshakes whose peers do not authenticate stop counting
   at a fixed rate. Therefore peers with a key do not use up the limit, even if thousands of them have the same
   address, and strangers get no more than that rate.
3. Peers that have proved that they have an access key (`admission`) come first, whatever their address. Each key has
   its own rate limit. An attacker who replays an observed proof can only use up the limit of that key: such peers
   also wait in the queue of their address, and are then served from there, as if they had sent no proof.
4. Addresses from which a peer authenticated recently come next, and have a total limit that strangers cannot use up.
5. Within each of these three priorities (keys, known addresses, other addresses), the key or address with the fewest
   outstanding handshakes comes first, so that an address with few requests does not wait for one with many.
6. The fewer handshakes of an address are outstanding, the better is its *position*. A connection that needs a second
   handshake (TLS inside HTTP or inside outer TLS) keeps the position that its address had before the first one, so
   that the work already done for it is not wasted. This applies only while the limit of its address is not reached.
   Both handshakes count in any case.
7. Within an address or a key, connections that wait for their second handshake come first, and then the newest one,
   because its peer is the most likely to be still connected.
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
    """How many handshakes count against one limit.

    The number is stored as the time at which it will be zero, so that it need not be updated as time passes (the
    generic cell rate algorithm).
    """

    limit: RateLimit
    #: The time at which the number will be zero (seconds, on the clock that is passed in).
    none_at: float = 0.0

    def room_at(self) -> float:
        """Return the earliest time at which the limit allows one more."""
        return self.none_at - (self.limit.burst - 1) / self.limit.per_second

    def add(self, now: float) -> None:
        self.none_at = max(self.none_at, now) + 1 / self.limit.per_second

    def subtract(self, count: float) -> None:
        self.none_at -= count / self.limit.per_second


#: What handshakes are counted for: an address (see `slots.address_group`), or an access key, by its id.
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
    """The handshakes of one connection, which may need two, one after the other."""

    #: See `slots.address_group`.
    group: str
    #: Called when the next handshake may begin; must not raise.
    on_permit: Callable[[], None]
    #: The id of the access key, if the peer has proved that it has one. Must not be changed while it waits.
    key_id: bytes | None = None
    #: The limits against which it counts, with one entry for each handshake that has begun.
    _counted_in: list[_Outstanding] = attrs.field(factory=list)
    #: The position of its address just before its first handshake began; None until then.
    _position: float | None = None

    @property
    def parties(self) -> tuple[Party, ...]:
        """The parties in whose queues it waits: the peer's key, if there is one, and the peer's address."""
        return (self.group,) if self.key_id is None else (self.key_id, self.group)


@attrs.define(eq=False)
class _PartyQueue:
    """The handshakes of one party: those that are waiting, and how many are outstanding."""

    outstanding: _Outstanding
    #: In the order of arrival; the newest is served first.
    waiting: dict[Handshake, None] = attrs.field(factory=dict)
    #: The same for connections that have already had a handshake. They are served before the others.
    again: dict[Handshake, None] = attrs.field(factory=dict)
    #: The number of the party's current entry in a heap. Entries with other numbers are out of date.
    entry: int = -1
    #: The priority and position of that entry; None if there is none.
    queued: tuple[_Priority, float] | None = None

    @property
    def is_waiting(self) -> bool:
        return bool(self.waiting or self.again)

    def next(self) -> Handshake:
        """Return the handshake that is served next. There must be one."""
        return next(reversed(self.again or self.waiting))

    def add(self, handshake: Handshake) -> None:
        (self.waiting if handshake._position is None else self.again)[handshake] = None

    def remove(self, handshake: Handshake) -> bool:
        """Remove a handshake, and return whether it was waiting."""
        waited = handshake in self.waiting or handshake in self.again
        self.waiting.pop(handshake, None)
        self.again.pop(handshake, None)
        return waited

    def position(self, now: float) -> float:
        """Return the party's position among those of its priority. The lowest comes first."""
        if self.again and self.outstanding.room_at() <= now:
            position = self.next()._position
            assert position is not None
            return min(position, self.outstanding.none_at)
        return self.outstanding.none_at


class HandshakeQueue:
    """Decides which connections may begin a handshake.

    Args:
        strangers: the limit for all peers from whose address no peer has authenticated recently.
        known: the limit for all other peers.
        each: the limit for one address.
        proved: the limit for all peers that have proved that they have a key.
        each_key: the limit for one key.
        remembered: how many addresses are remembered because a peer has authenticated from there.
    """

    def __init__(
        self,
        strangers: RateLimit,
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
            _Priority.STRANGERS: _Outstanding(strangers),
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
        """How many handshakes are waiting."""
        return self._waiting

    def add(self, handshake: Handshake, now: float) -> None:
        """Queue a handshake whose complete ClientHello has arrived."""
        for party in handshake.parties:
            queue = self._queues.get(party)
            if queue is None:
                each = self._each if isinstance(party, str) else self._each_key
                queue = self._queues[party] = _PartyQueue(_Outstanding(each))
            queue.add(handshake)
            self._update_entry(party, now)
        self._waiting += 1

    def leave(self, handshake: Handshake, now: float) -> None:
        """Remove a handshake whose connection has authenticated or ended. May be called at any time.

        If the peer has not authenticated, its handshakes stay outstanding.
        """
        self._stop_waiting(handshake)
        for party in handshake.parties:
            self._update_entry(party, now)
        self._forget(now)

    def begin(self, now: float) -> Handshake | None:
        """Take the next handshake out of the queue, if one may begin now."""
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
        """Return when `begin` will return a handshake; None if none is waiting."""
        times = [
            max(self._totals[priority].room_at(), self._queues[party].outstanding.room_at())
            for priority in _Priority
            if (party := self._first(priority)) is not None
        ]
        return min(times, default=None)

    def authenticated(self, handshake: Handshake, now: float) -> None:
        """Stop counting the handshakes of a peer that has presented a token or a ticket, and remember its address.

        Each of them also makes up for one that is outstanding, of its party and its priority."""
        for outstanding in handshake._counted_in:
            # Subtract two for each handshake, to make up for connections that do not authenticate, such as probes.
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
        """Remove a handshake from the queues of all its parties."""
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
        """Make sure that a party with waiting handshakes has an up-to-date entry in a heap."""
        queue = self._queues.get(party)
        if queue is None or not queue.is_waiting:
            return
        priority, position = queued = self._priority_of(party), queue.position(now)
        if queue.queued != queued:
            queue.queued, queue.entry = queued, next(self._numbers)
            heapq.heappush(self._heaps[priority], (position, queue.entry, party))

    def _first(self, priority: _Priority) -> Party | None:
        """Return the party of this priority that is served next."""
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
        """Check a few parties, and forget those that have neither waiting nor outstanding handshakes."""
        for _ in range(min(2, len(self._queues))):
            party, queue = next(iter(self._queues.items()))
            del self._queues[party]
            if queue.is_waiting or queue.outstanding.none_at > now:
                self._queues[party] = queue  # checked again after all others
