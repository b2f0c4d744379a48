"""A limited number of places, which are shared among keys, and among the holders of each key. Pure.

The *owner* of a place is the pair, control channel or rendezvous that has it. The rules for keys and hybrid
connections:

1. A key may have at most as many places as are free, and a hybrid connection at most twice as many as are free. So a
   single key gets at most half of all places, and a single hybrid connection two thirds. While most places are free,
   this restricts nothing. When few are free, rules 8 and 9 say what others get.
2. There may also be fixed limits, which are lower, for each key and each hybrid connection.

When a newcomer reaches such a limit, and rules 8 and 9 do not admit it, it may displace the owner of a place of the
same key, or of that key of the same hybrid connection which has the most places. A place is *provisional* at first,
and *established* once it has proved useful; the code that uses `Places` decides when. Holders are compared by network
(IPv4 /24, IPv6 /48), and those in one network by address. Where these rules say that the newcomer's holder has fewer
places, the place that the newcomer would get is already counted:

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

By rule 1 alone, about ten hybrid connections together could take all places, because each takes two thirds of the
rest. So when rule 1 (but not rule 2) would refuse a newcomer, its hybrid connection is compared with the others.
Again, the new place is already counted for it:

8. *Idle places are shared equally.* A place is idle once it has been provisional for `TENURE_SECONDS`. If another
   hybrid connection has more idle places than the newcomer's would have places of both kinds, the newcomer gets a
   free place; or if there is none, the oldest idle place of the hybrid connection that has the most of these.
9. *A few places are guaranteed, even if all others are in use.* If the newcomer's hybrid connection would have at
   most `GUARANTEED` places, and another one has more than it would have, the newcomer gets a free place; or if there
   is none, a place of the hybrid connection that has the most: its oldest provisional one, or if it has none, its
   newest established one. Each hybrid connection loses a place in this way only once every `ROTATION_SECONDS`; if
   newcomers of several hybrid connections wait for that, one of these is drawn at random, so that asking more often
   does not help.

The *share* of a hybrid connection is the number of all places, divided by the number of hybrid connections that have
some. Whatever the others do, one that has fewer than its share, and fewer than `GUARANTEED`, gets a place: the first
immediately, unless others wait, too. If the others have only idle places, it gets its whole share immediately. So
while there are fewer hybrid connections than places, another one always gets in.

Nobody can do much harm with these rules. No hybrid connection is left with fewer places than the one to which it has
lost one, so a single place is never lost, and no two hybrid connections keep displacing each other. Somebody with
keys of many hybrid connections gains, with each of them, at most `GUARANTEED` places that others use. That is why the
guarantee is small, and why places in use are not shared equally. Somebody who keeps taking and returning places
displaces, of each hybrid connection, at most one place in use every `ROTATION_SECONDS`. Beyond that, only idle places
are displaced, which are not needed at the moment.
"""

# This module is long because the rules depend on each other: a change to one has to be checked against the others.

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
from .tally import Tally

__all__ = ["FAR_MORE", "GUARANTEED", "TENURE_SECONDS", "Place", "Places"]

#: How long a provisional place is safe from newcomers of its own holder, from those of holders that have the same
#: number of provisional places, and from those of hybrid connections with at least `GUARANTEED` places (seconds). An
#: honest program proves within this time that its place is useful, unless the path to it is very slow.
TENURE_SECONDS = 3.0

#: With `spares_established`, a holder that already has places gets an established one of another holder only if that
#: holder has more than this many times as many. That place is in use, so a small difference is not reason enough.
#: With a factor of two, the other holder cannot get its place back in the same way, and a holder that had taken all
#: places of a key keeps about two thirds of them.
FAR_MORE = 2

#: How many places a hybrid connection gets even if all places are in use: enough for two connectors and a few
#: programs that use them. Each session has one pair, whatever the number of its streams.
GUARANTEED = 8

OwnerT = TypeVar("OwnerT")


def _make_rotation(randbelow: Callable[[int], int]) -> Lottery:
    return Lottery(randbelow, delay=0.0, kept_seconds=ROTATION_SECONDS)


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
        self.rotation = _make_rotation(randbelow)

    def __len__(self) -> int:
        return len(self.provisional) + len(self.established)

    def holdings(self, place: Place[OwnerT]) -> Holdings[OwnerT]:
        """Return the holdings, of provisional or of established places, to which the place belongs."""
        return self.established if place.is_established else self.provisional


class Places(Generic[OwnerT]):
    """A limited number of places; see the module's docstring.

    Args:
        what: the plural name of the owners of places, for messages.
        total: how many places there are, at least 1.
        clock: returns seconds of a monotonic clock.
        randbelow: returns a random number that is at least 0 and less than its argument, as `secrets.randbelow`.
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
        #: All places, grouped by hybrid connection; and those that are idle (rule 8).
        self._held: Tally[Place[OwnerT]] = Tally()
        self._idle: Tally[Place[OwnerT]] = Tally()
        #: The provisional places that are not idle yet, in the order in which they become idle.
        self._young: dict[Place[OwnerT], None] = {}
        #: Decides which hybrid connection gets a place of another one, by the one that loses it (rule 9).
        self._rotations: dict[str, Lottery] = {}
        self._kept: Kept[OwnerT] = Kept()
        #: Places that end, or become provisional or established, at the time `Place.until`. They are grouped by
        #: `Place.term`, so that each group is in order of time.
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
        return self._held.count(connection)

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
        key, free = newcomer.key, self.total - self._taken
        reached = self._reached_limit(key, free) if self._kept.find(newcomer, name) is None else None
        if reached is None:
            return None
        fixed = self._reached_limit(key, math.inf)
        if fixed is None and (displaced := self._choose_elsewhere(newcomer)) is not None:
            return None if free > 0 else displaced
        pool = self._find_pool(key)
        if fixed is not _Limit.KEY:
            greatest = max(self._connections.get(key.connection, {}).values(), key=len, default=None)
            if greatest is not None and self.held(key) < len(greatest) - 1:
                pool = greatest
        displaced = None if pool is None else self._choose(pool, newcomer, name)
        if displaced is None:
            who = f"the key {key.rule!r}" if reached is _Limit.KEY else "this hybrid connection"
            raise RendezvousError(f"{who} has as many {self._what} as the relay has room for", reason=Reason.LIMIT)
        return displaced

    def _reached_limit(self, key: KeyId, free: float) -> _Limit | None:
        """Return which limit a newcomer has reached if this many places are free; None if none."""
        if self.held(key) >= min(free, self._per_key):
            return _Limit.KEY
        if self.held_by_connection(key.connection) >= min(2 * free, self._per_connection):
            return _Limit.CONNECTION
        return None

    def has_room(self, newcomer: Holder) -> bool:
        """Return whether the fixed limits leave room for a place that `newcomer` had in the previous main process.

        Rule 1 is not applied, because the places are not taken in the order in which they were taken in that process.
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
        self._enter(place)
        self._taken += 1
        self._end_at(place, place.since + self._established_after, self._established_after)
        return place

    def _enter(self, place: Place[OwnerT]) -> None:
        """Count a place for its holder, according to its state."""
        self._make_pool(place.holder.key).holdings(place).add(place)
        self._held.add(place.holder.key.connection, place)
        if not place.is_established:
            self._young[place] = None

    def _remove(self, place: Place[OwnerT]) -> None:
        """Undo `_enter`, before the holder or the state changes."""
        key = place.holder.key
        self._connections[key.connection][key].holdings(place).remove(place)
        self._held.remove(key.connection, place)
        if place.is_idle:
            place.is_idle = False
            self._idle.remove(key.connection, place)
        self._young.pop(place, None)

    def _make_pool(self, key: KeyId) -> _Pool[OwnerT]:
        pools = self._connections.setdefault(key.connection, {})
        if key not in pools:
            pools[key] = _Pool(self._randbelow)
        return pools[key]

    def leave(self, place: Place[OwnerT]) -> None:
        """Give a place back. Idempotent."""
        if not self._has(place):
            return
        self._remove(place)
        self._forget_if_empty(place.holder.key)
        self._end_at(place, math.inf)
        self._kept.discard(place)
        self._taken -= 1

    def _has(self, place: Place[OwnerT]) -> bool:
        """Return whether a place has not been given back."""
        pool = self._find_pool(place.holder.key)
        return pool is not None and place in pool.holdings(place).in_order

    def _forget_if_empty(self, key: KeyId) -> None:
        pools = self._connections[key.connection]
        if not len(pools[key]):
            del pools[key]
            if not pools:
                del self._connections[key.connection]
                self._rotations.pop(key.connection, None)

    def keep(self, place: Place[OwnerT], seconds: float) -> None:
        """Give a place back, and keep it for its holder if it is established; see rules 6 and 7.

        Does nothing if it has already been given back.

        Args:
            place: the place, whose owner has ended.
            seconds: how long to keep it. If it was kept before and was not established again, it still ends at the
                time that was set before.
        """
        self._pass_time()
        if place.is_kept or not self._has(place):
            return
        if not place.is_established or (place.until == math.inf and seconds <= 0):
            self.leave(place)
            return
        if place.until == math.inf:
            self._end_at(place, self._clock() + seconds, seconds)
        self._kept.add(place)
        # Make it the newest, so that it is the first place of this holder to be displaced.
        established = self._connections[place.holder.key.connection][place.holder.key].established
        established.remove(place)
        established.add(place)

    def drop_kept(self, key: KeyId) -> None:
        """End the places that are kept for this key, because the key is no longer valid."""
        for place in self.of(key):
            if place.is_kept:
                self.leave(place)

    def pass_on(self, place: Place[OwnerT], holder: Holder) -> None:
        """Transfer a place to another holder, whatever the limits are. Does nothing if it was given back."""
        if not self._has(place):
            return
        # It stays the same object, so that its position in `_ending` is still in order of time.
        self._remove(place)
        self._forget_if_empty(place.holder.key)
        place.holder = holder
        if not place.is_established:
            place.since = self._clock()  # it is now the newest of the provisional places
            self._end_at(place, place.since + self._established_after, self._established_after)
        self._enter(place)

    def establish(self, place: Place[OwnerT], seconds: float = math.inf) -> None:
        """Make a place established, because it has proved useful. Does nothing if it was given back.

        Args:
            place: the place.
            seconds: after this time it becomes provisional again.
        """
        if self._has(place):
            now = self._clock()
            self._set_state(place, established=True, now=now)
            self._end_at(place, now + seconds, seconds)

    def make_provisional(self, place: Place[OwnerT]) -> None:
        """Make a place provisional, because it is no longer useful. Does nothing if it was given back."""
        if self._has(place):
            self._set_state(place, established=False, now=self._clock())

    def is_provisional(self, place: Place[OwnerT], seconds: float) -> bool:
        """Return whether a place has been provisional for at least this many seconds."""
        self._pass_time()
        return not place.is_established and self._clock() - place.since >= seconds

    def _find_pool(self, key: KeyId) -> _Pool[OwnerT] | None:
        return self._connections.get(key.connection, {}).get(key)

    def _set_state(self, place: Place[OwnerT], *, established: bool, now: float) -> None:
        """Make a place established or provisional. Does nothing if it already is."""
        if place.is_established == established:
            return
        self._remove(place)
        place.is_established, place.since = established, now
        self._enter(place)
        term = math.inf if established else self._established_after
        self._end_at(place, now + term, term)

    def _end_at(self, place: Place[OwnerT], until: float, term: float = math.inf) -> None:
        if (ending := self._ending.get(place.term)) is not None:
            ending.pop(place, None)
            if not ending:
                del self._ending[place.term]
        place.until, place.term = until, term
        if until < math.inf:
            self._ending.setdefault(term, {})[place] = None

    def _pass_time(self) -> None:
        """Make the changes whose time has come."""
        now = self._clock()
        for ending in list(self._ending.values()):
            for place in _while(ending, lambda one: one.until <= now):
                if place.is_kept:
                    self.leave(place)
                else:
                    self._set_state(place, established=not place.is_established, now=place.until)
        for place in _while(self._young, lambda one: one.since + TENURE_SECONDS <= now):
            del self._young[place]
            place.is_idle = True
            self._idle.add(place.holder.key.connection, place)

    def _choose_elsewhere(self, newcomer: Holder) -> Place[OwnerT] | None:
        """Choose among the places of other hybrid connections; see rules 8 and 9.

        Returns None if these rules do not admit the newcomer.
        """
        connection = newcomer.key.connection
        own = self._held.count(connection) + 1
        if self._idle.most > own:
            return self._idle.oldest(self._idle.largest())
        if own > GUARANTEED or self._held.most <= own:
            return None
        loser = self._held.largest()
        if self._taken >= self.total:
            if (rotation := self._rotations.get(loser)) is None:
                rotation = self._rotations[loser] = _make_rotation(self._randbelow)
            if not rotation.ask(connection, "", self._clock()):
                return None
        pools = self._connections[loser].values()
        provisional = max((pool.provisional for pool in pools), key=len)
        if len(provisional):
            return provisional.oldest_for(newcomer)
        return max((pool.established for pool in pools), key=len).newest_of_largest()

    def _choose(self, pool: _Pool[OwnerT], newcomer: Holder, name: str) -> Place[OwnerT] | None:
        """Choose among the places of one key: the newcomer's own key, or another key that has more."""
        now = self._clock()
        if (chosen := self._by_share(pool, newcomer, now)) is not None:
            return chosen
        if not pool.lottery.ask(newcomer.network, f"{newcomer.address}\n{name}", now):
            return None
        return self._by_lot(pool, newcomer)

    def _by_share(self, pool: _Pool[OwnerT], newcomer: Holder, now: float) -> Place[OwnerT] | None:
        """Apply rules 3 and 4."""
        is_own = self._find_pool(newcomer.key) is pool
        provisional, established = pool.provisional, pool.established
        # A holder of another key has none of these places, and the new place will not be one of them either. As
        # `greatest` adds the new place, -1 makes this 0.
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
