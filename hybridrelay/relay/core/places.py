"""A limited number of places, which are shared among keys, and among the holders of each key. Pure.

What has a place, such as a pair, is the *owner* of the place. The rules for keys and hybrid connections:

1. A key may have at most as many places as are free, and a hybrid connection at most twice as many as are free. So a
   single key gets at most half of all places, and a single hybrid connection two thirds, the next one two thirds of
   the rest, and so on: about ten hybrid connections together can take all. While most places are free, this restricts
   nothing.
2. An operator may set lower limits for each key and each hybrid connection.

When a newcomer reaches such a limit, it may displace the owner of a place of the same key, or of the key that has the
most places of that hybrid connection. A place is *provisional* at first, and *established* once it has proved useful;
the code that uses `Places` decides when. Holders are compared by network (IPv4 /24, IPv6 /48), and those in one
network by address. Where these rules say that the newcomer's holder has fewer places, the place that the newcomer
would get is already counted:

3. The newcomer gets the oldest provisional place of the holder that has the most of them: at once if the newcomer's
   holder has fewer, otherwise when the place is `TENURE_SECONDS` old. If the newcomer's own holder has the most, it
   gets one of its own. So a holder that keeps asking displaces itself.
4. Otherwise, the places that the newcomer's holder has, of both kinds, are compared with the established places of
   the holder that has the most of those. If the newcomer's holder has fewer, the newcomer gets the oldest provisional
   place, whatever its age; or, if there is none, the newest established place of the other holder. With
   `spares_established`, either happens only once every `ROTATION_SECONDS`, and only if the newcomer's address has no
   place at all, or the other holder has more than `FAR_MORE` times as many. If several holders meet this condition,
   one is drawn at random, so that asking more often does not help.
5. Otherwise the newcomer is refused, and takes part in a draw (`lottery.py`). The winner gets the oldest provisional
   place; or if there is none, a random established one, except with `spares_established`.

Because the new place is counted, two holders with about the same number do not keep displacing each other.

The owner of an established place may end although its holder still needs the place: if a data channel breaks, its
session asks for another one. Such a place is *kept* for its holder (`Places.keep`):

6. A kept place still counts as an established place of its holder, so the rules above apply to it, and no holder gets
   more places by keeping some. The next newcomer with the same key gets it, regardless of the limits, if it has the
   same name (a program whose address has changed) or the same address. Then the place counts for the newcomer's
   holder.
7. A kept place ends at a fixed time. A newcomer that gets it must establish it before that time. If the newcomer ends
   first, the place is kept again, until the same time.

This module is long because the rules depend on each other: a change to one has to be checked against the others.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from ...errors import RendezvousError
from ...protocol.reasons import Reason
from ..model import KeyId
from .holders import Holder
from .holdings import Holdings, Place
from .kept import Kept
from .lottery import ROTATION_SECONDS, Lottery

__all__ = ["FAR_MORE", "TENURE_SECONDS", "Place", "Places"]

#: How long a provisional place is safe from newcomers of its own holder, and from those of holders that have the same
#: number of provisional places (seconds). An honest program proves within this time that its place is useful, unless
#: the path to it is very slow.
TENURE_SECONDS = 3.0

#: With `spares_established`, a holder that already has places gets an established one of another holder only if that
#: holder has more than this many times as many. That place is in use, so a small difference is not reason enough.
#: With a factor of two, the other holder cannot get its place back in the same way, and a holder that had taken all
#: places of a key keeps about two thirds of them.
FAR_MORE = 2

OwnerT = TypeVar("OwnerT")


class _Limit(enum.Enum):
    """Which limit a newcomer has reached: that of its key, or that of its hybrid connection."""

    KEY = enum.auto()
    CONNECTION = enum.auto()


class _Pool(Generic[OwnerT]):
    """The places of one key."""

    def __init__(self, randbelow: Callable[[int], int]) -> None:
        self.provisional: Holdings[OwnerT] = Holdings()
        self.established: Holdings[OwnerT] = Holdings()
        self.lottery = Lottery(randbelow)
        #: Decides who gets an established place, once every `ROTATION_SECONDS`, if `spares_established` is set.
        self.rotation = Lottery(randbelow, delay=0.0, kept_seconds=ROTATION_SECONDS)

    def __len__(self) -> int:
        return len(self.provisional.in_order) + len(self.established.in_order)

    def holdings(self, place: Place[OwnerT]) -> Holdings[OwnerT]:
        """Return the holdings, of provisional or of established places, to which the place belongs."""
        return self.established if place.is_established else self.provisional


class Places(Generic[OwnerT]):
    """A limited number of places; see the module's docstring.

    Args:
        what: the plural name of the owners of places, for messages.
        total: how many places there are, at least 1.
        clock: returns seconds of a monotonic clock.
        randbelow: a random number from 0 up to its argument, exclusively: `secrets.randbelow`.
        per_connection: how many places one hybrid connection may have at most; None: only rule 1 applies.
        per_key: how many places one key may have at most; None: only rule 1 applies.
        spares_established: whether to avoid displacing established places, because that does harm; see rules 4 and 5.
        established_after: the age at which a provisional place becomes established (seconds).

    Raises:
        ValueError: a limit below 1.
    """

    def __init__(
        self,
        what: str,
        total: int,
        *,
        clock: Callable[[], float],
        randbelow: Callable[[int], int],
        per_connection: int | None = None,
        per_key: int | None = None,
        spares_established: bool = False,
        established_after: float = math.inf,
    ) -> None:
        if min(total, per_connection or total, per_key or total) < 1 or 0 in (per_connection, per_key):
            raise ValueError("a limit is at least 1")
        self.total = total
        self._what = what
        self._clock = clock
        self._randbelow = randbelow
        self._per_connection = total if per_connection is None else per_connection
        self._per_key = total if per_key is None else per_key
        self._spares_established = spares_established
        self._established_after = established_after
        self._connections: dict[str, dict[KeyId, _Pool[OwnerT]]] = {}
        self._taken = 0
        self._kept: Kept[OwnerT] = Kept()
        #: Places that end or become provisional at the time `Place.until`. They are grouped by `Place.term`, so that
        #: each group is in order of time.
        self._ending: dict[float, dict[Place[OwnerT], None]] = {}

    def __len__(self) -> int:
        """Return how many places are taken, including those that are kept."""
        self._pass_time()
        return self._taken

    @property
    def kept(self) -> int:
        """How many places are kept."""
        self._pass_time()
        return len(self._kept)

    def held(self, key: KeyId) -> int:
        """Return how many places a key has."""
        pool = self._find_pool(key)
        return 0 if pool is None else len(pool)

    def of(self, key: KeyId) -> tuple[Place[OwnerT], ...]:
        """Return the places of a key. Takes time in proportion to their number."""
        pool = self._find_pool(key)
        return () if pool is None else (*pool.provisional.in_order, *pool.established.in_order)

    def held_by_connection(self, connection: str) -> int:
        """Return how many places a hybrid connection has."""
        return sum(map(len, self._connections.get(connection, {}).values()))

    def choose_displaced(self, newcomer: Holder, name: str = "") -> Place[OwnerT] | None:
        """Choose the place that a newcomer displaces. Returns None if there is a free place, or one that is kept for
        it.

        The caller then ends the owner of that place, unless the place `is_kept`, and calls `leave` with the place,
        and `take`.

        Args:
            newcomer: the holder that needs a place.
            name: distinguishes the newcomer from others of the same holder: its instance.

        Raises:
            RendezvousError: with `Reason.LIMIT`: the newcomer is refused. Nothing has changed, except that it takes
                part in the next draw.
        """
        self._pass_time()
        reached = self._reached_limit(newcomer.key) if self._kept.find(newcomer, name) is None else None
        if reached is None:
            return None
        pool = self._find_pool(newcomer.key)
        if reached is _Limit.CONNECTION:
            greatest = max(self._connections.get(newcomer.key.connection, {}).values(), key=len, default=None)
            if greatest is not None and self.held(newcomer.key) < len(greatest) - 1:
                pool = greatest
        displaced = None if pool is None else self._choose(pool, newcomer, name)
        if displaced is None:
            who = f"the key {newcomer.key.rule!r}" if reached is _Limit.KEY else "this hybrid connection"
            raise RendezvousError(f"{who} has as many {self._what} as the relay has room for", reason=Reason.LIMIT)
        return displaced

    def _reached_limit(self, key: KeyId) -> _Limit | None:
        free = self.total - self._taken
        if self.held(key) >= min(free, self._per_key):
            return _Limit.KEY
        if self.held_by_connection(key.connection) >= min(2 * free, self._per_connection):
            return _Limit.CONNECTION
        return None

    def has_room(self, newcomer: Holder) -> bool:
        """Return whether the fixed limits leave room for a place that its holder had at a previous relay.

        Rule 1 is not applied, because the places are not taken in the order in which they were taken there.
        """
        self._pass_time()
        key = newcomer.key
        return (
            self._taken < self.total
            and self.held(key) < self._per_key
            and self.held_by_connection(key.connection) < self._per_connection
        )

    def take(self, holder: Holder, owner: OwnerT, name: str = "") -> Place[OwnerT]:
        """Take a place, until `leave` or `keep`. Call `choose_displaced` first, which ensures that there is one.

        If a place is kept for the newcomer, it gets that one. The place stays established until the time at which it
        would have ended.
        """
        self._pass_time()
        if (place := self._kept.find(holder, name)) is None:
            place = self._add(holder, owner)
            place.name = name
            return place
        self._kept.discard(place)
        place.owner, place.name = owner, name
        if place.holder != holder and (pool := self._find_pool(holder.key)) is not None:
            pool.established.remove(place)
            place.holder = holder
            pool.established.add(place)
        return place

    def _add(self, holder: Holder, owner: OwnerT) -> Place[OwnerT]:
        place = Place(holder, owner, self._clock())
        self._make_pool(holder.key).provisional.add(place)
        self._taken += 1
        return place

    def _make_pool(self, key: KeyId) -> _Pool[OwnerT]:
        pools = self._connections.setdefault(key.connection, {})
        if key not in pools:
            pools[key] = _Pool(self._randbelow)
        return pools[key]

    def leave(self, place: Place[OwnerT]) -> None:
        """Give a place back. Idempotent."""
        key = place.holder.key
        pool = self._find_pool(key)
        if pool is None or place not in pool.holdings(place).in_order:
            return
        pool.holdings(place).remove(place)
        self._end_at(place, math.inf)
        self._kept.discard(place)
        self._taken -= 1
        self._forget_if_empty(key, pool)

    def _forget_if_empty(self, key: KeyId, pool: _Pool[OwnerT]) -> None:
        if not len(pool):
            pools = self._connections[key.connection]
            del pools[key]
            if not pools:
                del self._connections[key.connection]

    def keep(self, place: Place[OwnerT], seconds: float) -> None:
        """Give a place back, and keep it for its holder if it is established; see rules 6 and 7.

        Does nothing if it has already been given back.

        Args:
            place: the place, whose owner has ended.
            seconds: how long to keep it. If it was kept before and was not established again, the time that was set
                then applies.
        """
        self._pass_time()
        pool = self._find_pool(place.holder.key)
        if pool is None or place.is_kept or place not in pool.holdings(place).in_order:
            return
        self._establish_old(pool)
        if not place.is_established or (place.until == math.inf and seconds <= 0):
            self.leave(place)
            return
        if place.until == math.inf:
            self._end_at(place, self._clock() + seconds, seconds)
        self._kept.add(place)
        # Make it the newest, so that it is the first place of this holder to be displaced.
        pool.established.remove(place)
        pool.established.add(place)

    def drop_kept(self, key: KeyId) -> None:
        """End the places that are kept for this key, because the key is no longer valid."""
        for place in self.of(key):
            if place.is_kept:
                self.leave(place)

    def pass_on(self, place: Place[OwnerT], holder: Holder) -> None:
        """Transfer a place to another holder, whatever the limits are. Does nothing if it was given back."""
        key = place.holder.key
        pool = self._find_pool(key)
        if pool is None or place not in pool.holdings(place).in_order:
            return
        # It stays the same object, so that its position in `_ending` is still in order of time.
        pool.holdings(place).remove(place)
        self._forget_if_empty(key, pool)
        place.holder = holder
        if not place.is_established:
            place.since = self._clock()  # it is now the newest of the provisional places
        self._make_pool(holder.key).holdings(place).add(place)

    def establish(self, place: Place[OwnerT], seconds: float = math.inf) -> None:
        """Make a place established, because it has proved useful. Does nothing if it was given back.

        Args:
            place: the place.
            seconds: after this time it becomes provisional again.
        """
        now = self._clock()
        if self._set_state(place, established=True, now=now):
            self._end_at(place, now + seconds, seconds)

    def make_provisional(self, place: Place[OwnerT]) -> None:
        """Make a place provisional, because it is no longer useful. Does nothing if it was given back."""
        if place.is_established and self._set_state(place, established=False, now=self._clock()):
            self._end_at(place, math.inf)

    def is_provisional(self, place: Place[OwnerT], seconds: float) -> bool:
        """Return whether a place has been provisional for at least this many seconds."""
        self._pass_time()
        if (pool := self._find_pool(place.holder.key)) is not None:
            self._establish_old(pool)
        return not place.is_established and self._clock() - place.since >= seconds

    def _find_pool(self, key: KeyId) -> _Pool[OwnerT] | None:
        return self._connections.get(key.connection, {}).get(key)

    def _set_state(self, place: Place[OwnerT], *, established: bool, now: float) -> bool:
        """Make a place established or provisional. Returns False if it was given back."""
        pool = self._find_pool(place.holder.key)
        if pool is None or place not in pool.holdings(place).in_order:
            return False
        if place.is_established != established:
            pool.holdings(place).remove(place)
            place.is_established, place.since = established, now
            pool.holdings(place).add(place)
        return True

    def _end_at(self, place: Place[OwnerT], until: float, term: float = math.inf) -> None:
        if (ending := self._ending.get(place.term)) is not None:
            ending.pop(place, None)
            if not ending:
                del self._ending[place.term]
        place.until, place.term = until, term
        if until < math.inf:
            self._ending.setdefault(term, {})[place] = None

    def _pass_time(self) -> None:
        """Make the changes whose time has come, except those that `_establish_old` makes."""
        now = self._clock()
        for ending in list(self._ending.values()):
            for place in _while(ending, lambda one: one.until <= now):
                if place.is_kept:
                    self.leave(place)
                else:
                    self._set_state(place, established=False, now=place.until)
                    self._end_at(place, math.inf)

    def _establish_old(self, pool: _Pool[OwnerT]) -> None:
        """Establish the places that have been provisional for `established_after` seconds."""
        if self._established_after < math.inf:
            now = self._clock()
            for place in _while(pool.provisional.in_order, lambda one: one.since + self._established_after <= now):
                self._set_state(place, established=True, now=now)

    def _choose(self, pool: _Pool[OwnerT], newcomer: Holder, name: str) -> Place[OwnerT] | None:
        """Choose among the places of one key: the newcomer's own key, or another key that has more."""
        now = self._clock()
        self._establish_old(pool)
        if (chosen := self._by_share(pool, newcomer, now)) is not None:
            return chosen
        if not pool.lottery.ask(newcomer.network, f"{newcomer.address}\n{name}", now):
            return None
        return self._by_lot(pool, newcomer)

    def _by_share(self, pool: _Pool[OwnerT], newcomer: Holder, now: float) -> Place[OwnerT] | None:
        """Apply rules 3 and 4."""
        is_own = self._find_pool(newcomer.key) is pool
        provisional, established = pool.provisional, pool.established
        # A holder of another key has none of these places, and the new place is not one of them either: -1 + 1 is 0.
        own = provisional.count(newcomer) if is_own else (-1, -1)
        if (found := provisional.greatest(newcomer, own)) is not None:
            tally, group = found
            return tally.oldest(group)
        if provisional.in_order:
            oldest = provisional.oldest_for(newcomer)
            if now - oldest.since >= TENURE_SECONDS:
                return oldest
        if is_own:
            in_network, at_address = established.count(newcomer)
            own = own[0] + in_network, own[1] + at_address
        times = FAR_MORE if self._spares_established and own[1] > 0 else 1
        if (found := established.greatest(newcomer, own, times=times)) is None:
            return None
        if self._spares_established and not pool.rotation.ask(newcomer.network, newcomer.address, now):
            return None
        if provisional.in_order:
            return provisional.oldest_for(newcomer)
        tally, group = found
        return tally.newest(group)

    def _by_lot(self, pool: _Pool[OwnerT], newcomer: Holder) -> Place[OwnerT] | None:
        """Apply rule 5, for the winner of a draw."""
        if pool.provisional.in_order:
            return pool.provisional.oldest_for(newcomer)
        if self._spares_established:
            return None
        alike = pool.established.of_largest_networks()
        return alike[self._randbelow(len(alike))] if alike else None


def _while(places: dict[Place[OwnerT], None], holds: Callable[[Place[OwnerT]], bool]) -> Iterator[Place[OwnerT]]:
    """Yield places from the front while `holds` returns True. The caller removes each from `places`."""
    while places and holds(place := next(iter(places))):
        yield place
