"""Places of which there is a limited number, and how they are shared: by keys, and within a key by holders. Pure.

The rules for keys and hybrid connections:

1. A key holds at most as many places as are free, and a hybrid connection at most twice as many as are free. So a
   key alone gets half of them and a hybrid connection two thirds, the next one two thirds of the rest, and there are
   always some left for later requests. While most places are free, this is no limit.
2. An operator may set lower limits for each key and each hybrid connection.

When a newcomer meets such a limit, a place of the same key gives way to it, or one of the key of that hybrid
connection that has the most. A place is *provisional* until it has shown its use, and then *established*; the owner
of the places says what that means. Holders are compared by network (IPv4 /24, IPv6 /48), and those of one network by
address:

3. The oldest provisional place of the holder that has the most of them gives way at once to a holder that has fewer
   even with the newcomer. Otherwise it gives way when it is `TENURE_SECONDS` old; if the newcomer's own holder has
   the most, it is one of its own. So a holder that asks without end displaces itself.
4. Otherwise, a holder that has fewer places even with the newcomer than another one has established ones gets the
   oldest provisional place however young it is, or if there is none, the newest established one of the holder that
   has the most. Where established places are spared, it does so only if it has no place at all, and only once every
   `ROTATION_SECONDS`.
5. Otherwise the newcomer is refused, and takes part in a draw (`lottery.py`). The winner displaces the oldest
   provisional place; or an established one, chosen at random, unless they are spared.

Two holders that have about the same do not displace each other in turns, because of "even with the newcomer".
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import attrs

from ...errors import RendezvousError
from ...protocol.reasons import Reason
from ..model import KeyId
from .holders import Holder
from .lottery import ROTATION_SECONDS, Lottery
from .tally import Tally

__all__ = ["TENURE_SECONDS", "Place", "Places"]

#: How long a provisional place is kept although its holder, or one that has as many, asks for another (seconds). An
#: honest program shows the use of its place within this time, unless the way to it is very slow.
TENURE_SECONDS = 3.0

OwnerT = TypeVar("OwnerT")


class _Whose(enum.Enum):
    """Whose limit a newcomer meets."""

    KEY = enum.auto()
    CONNECTION = enum.auto()


@attrs.define(eq=False)
class Place(Generic[OwnerT]):
    """One place that is taken. `Places` changes it."""

    holder: Holder
    #: Whose it is.
    owner: OwnerT
    #: Since when it has been provisional, or established.
    since: float
    is_established: bool = False
    #: When an established one becomes provisional again.
    until: float = math.inf


class _Kind(Generic[OwnerT]):
    """The places of one key that are provisional, or that are established."""

    def __init__(self) -> None:
        self.in_order: dict[Place[OwnerT], None] = {}
        self._by_network: Tally[Place[OwnerT]] = Tally()
        #: For each network.
        self._by_address: dict[str, Tally[Place[OwnerT]]] = {}

    def add(self, place: Place[OwnerT]) -> None:
        holder = place.holder
        self.in_order[place] = None
        self._by_network.add(holder.network, place)
        self._by_address.setdefault(holder.network, Tally()).add(holder.address, place)

    def remove(self, place: Place[OwnerT]) -> None:
        network = place.holder.network
        del self.in_order[place]
        self._by_network.remove(network, place)
        self._by_address[network].remove(place.holder.address, place)
        if not self._by_address[network].most:
            del self._by_address[network]

    def count(self, holder: Holder) -> tuple[int, int]:
        """What the holder's network has, and what its address has."""
        addresses = self._by_address.get(holder.network)
        return self._by_network.count(holder.network), 0 if addresses is None else addresses.count(holder.address)

    def greatest(self, newcomer: Holder, own: tuple[int, int]) -> tuple[Tally[Place[OwnerT]], str] | None:
        """The holder that has the most, if the newcomer's has fewer even with the newcomer, or None.

        Args:
            newcomer: who needs a place. Networks are compared first, and then the addresses of the same network.
            own: what the newcomer's network and address have, as `count` returns it.
        """
        network, address = own
        if network < self._by_network.most - 1:
            addresses = self._by_address[self._by_network.largest()]
            return addresses, addresses.largest()
        own_addresses = self._by_address.get(newcomer.network)
        if own_addresses is not None and address < own_addresses.most - 1:
            return own_addresses, own_addresses.largest()
        return None

    def oldest_for(self, newcomer: Holder) -> Place[OwnerT]:
        """The oldest place of the holder that has the most; of the newcomer's own if that is one of them."""
        network, address = newcomer.network, newcomer.address
        if self._by_network.count(network) != self._by_network.most:
            network = self._by_network.largest()
        addresses = self._by_address[network]
        return addresses.oldest(address if addresses.count(address) == addresses.most else addresses.largest())

    def of_largest_networks(self) -> list[Place[OwnerT]]:
        """The places of all networks that have the most."""
        return list(self._by_network.of_largest())


class _Pool(Generic[OwnerT]):
    """The places of one key."""

    def __init__(self, lottery: Lottery) -> None:
        self.provisional: _Kind[OwnerT] = _Kind()
        self.established: _Kind[OwnerT] = _Kind()
        #: Established places that become provisional again, in the order of that time.
        self.ending: dict[Place[OwnerT], None] = {}
        self.lottery = lottery
        #: When an established place may give way although they are spared.
        self.spared_until = -math.inf

    def __len__(self) -> int:
        return len(self.provisional.in_order) + len(self.established.in_order)

    def kind(self, place: Place[OwnerT]) -> _Kind[OwnerT]:
        return self.established if place.is_established else self.provisional


class Places(Generic[OwnerT]):
    """See the module.

    Args:
        what: the name of what has a place, in the plural, for people.
        total: how many places there are, at least 1.
        clock: seconds of any clock that does not run backwards.
        randbelow: a random number from 0 up to its argument, exclusively: `secrets.randbelow`.
        per_connection: the most that one hybrid connection may hold; None: only rule 1 counts.
        per_key: the most that one key may hold; None: only rule 1 counts.
        spares_established: whether to displace what is established does harm; see rule 4.
        settles_after: a provisional place of this age is established (seconds).

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
        settles_after: float = math.inf,
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
        self._settles_after = settles_after
        self._connections: dict[str, dict[KeyId, _Pool[OwnerT]]] = {}
        self._taken = 0

    def __len__(self) -> int:
        """Places taken."""
        return self._taken

    def held(self, key: KeyId) -> int:
        """Places that a key has."""
        pool = self._find_pool(key)
        return 0 if pool is None else len(pool)

    def of(self, key: KeyId) -> tuple[Place[OwnerT], ...]:
        """The places that a key has; takes time in proportion to their number."""
        pool = self._find_pool(key)
        return () if pool is None else (*pool.provisional.in_order, *pool.established.in_order)

    def held_by_connection(self, connection: str) -> int:
        """Places that a hybrid connection has."""
        return sum(map(len, self._connections.get(connection, {}).values()))

    def choose_displaced(self, newcomer: Holder, name: str = "") -> Place[OwnerT] | None:
        """Which place makes room for a newcomer; None: there is a free one.

        The caller ends what has that place, and calls `leave` with it and `take`, in this order.

        Args:
            newcomer: who needs a place.
            name: tells the newcomer from others of the same holder, in draws: its instance.

        Raises:
            RendezvousError: with `Reason.LIMIT`: there is none. Nothing has changed, except that it takes part in the
                next draw.
        """
        whose = self._met_limit(newcomer.key)
        if whose is None:
            return None
        pool = self._find_pool(newcomer.key)
        if whose is _Whose.CONNECTION:
            greatest = max(self._connections.get(newcomer.key.connection, {}).values(), key=len, default=None)
            if greatest is not None and self.held(newcomer.key) < len(greatest) - 1:
                pool = greatest
        displaced = None if pool is None else self._choose(pool, newcomer, name)
        if displaced is None:
            who = f"the key {newcomer.key.rule!r}" if whose is _Whose.KEY else "this hybrid connection"
            raise RendezvousError(f"{who} has as many {self._what} as the relay has room for", reason=Reason.LIMIT)
        return displaced

    def _met_limit(self, key: KeyId) -> _Whose | None:
        free = self.total - self._taken
        if self.held(key) >= min(free, self._per_key):
            return _Whose.KEY
        if self.held_by_connection(key.connection) >= min(2 * free, self._per_connection):
            return _Whose.CONNECTION
        return None

    def take(self, holder: Holder, owner: OwnerT) -> Place[OwnerT]:
        """Take a place, until `leave`. There must be one: see `choose_displaced`."""
        place = Place(holder, owner, self._clock())
        pools = self._connections.setdefault(holder.key.connection, {})
        if holder.key not in pools:
            pools[holder.key] = _Pool(Lottery(self._randbelow))
        pools[holder.key].provisional.add(place)
        self._taken += 1
        return place

    def leave(self, place: Place[OwnerT]) -> None:
        """Give a place back. Idempotent."""
        key = place.holder.key
        pool = self._find_pool(key)
        if pool is None or place not in pool.kind(place).in_order:
            return
        pool.kind(place).remove(place)
        pool.ending.pop(place, None)
        self._taken -= 1
        if not len(pool):
            pools = self._connections[key.connection]
            del pools[key]
            if not pools:
                del self._connections[key.connection]

    def pass_on(self, place: Place[OwnerT], holder: Holder) -> Place[OwnerT]:
        """Let a place belong to another holder, whatever its limits are. Returns the place that it is then."""
        self.leave(place)
        another = self.take(holder, place.owner)
        self._turn(another, established=place.is_established, now=place.since, until=place.until)
        return another

    def establish(self, place: Place[OwnerT], seconds: float = math.inf) -> None:
        """It has shown its use. Does nothing where it has been given back.

        Args:
            place: whose owner has shown that.
            seconds: after this time it is provisional again. The same at every call, or infinite.
        """
        self._turn(place, established=True, now=self._clock(), until=self._clock() + seconds)

    def make_provisional(self, place: Place[OwnerT]) -> None:
        """It has no use any longer. Does nothing where it has been given back."""
        if place.is_established:
            self._turn(place, established=False, now=self._clock())

    def is_provisional(self, place: Place[OwnerT], seconds: float) -> bool:
        """Whether it has been provisional for this time."""
        if (pool := self._find_pool(place.holder.key)) is not None:
            self._pass_time(pool)
        return not place.is_established and self._clock() - place.since >= seconds

    def _find_pool(self, key: KeyId) -> _Pool[OwnerT] | None:
        return self._connections.get(key.connection, {}).get(key)

    def _turn(self, place: Place[OwnerT], *, established: bool, now: float, until: float = math.inf) -> None:
        pool = self._find_pool(place.holder.key)
        if pool is None or place not in pool.kind(place).in_order:
            return
        if place.is_established != established:
            pool.kind(place).remove(place)
            place.is_established, place.since = established, now
            pool.kind(place).add(place)
        pool.ending.pop(place, None)
        place.until = until
        if until < math.inf:
            pool.ending[place] = None

    def _pass_time(self, pool: _Pool[OwnerT]) -> None:
        """Turn what has to be turned at a time that has passed."""
        now = self._clock()
        for place in _while(pool.ending, lambda one: one.until <= now):
            self._turn(place, established=False, now=place.until)
        if self._settles_after < math.inf:
            for place in _while(pool.provisional.in_order, lambda one: one.since + self._settles_after <= now):
                self._turn(place, established=True, now=now)

    def _choose(self, pool: _Pool[OwnerT], newcomer: Holder, name: str) -> Place[OwnerT] | None:
        """Choose among the places of one key: the newcomer's, or another one that has more."""
        now = self._clock()
        self._pass_time(pool)
        if (chosen := self._by_share(pool, newcomer, now)) is not None:
            return chosen
        if not pool.lottery.ask(newcomer.network, f"{newcomer.address}\n{name}", now):
            return None
        return self._by_lot(pool, newcomer)

    def _by_share(self, pool: _Pool[OwnerT], newcomer: Holder, now: float) -> Place[OwnerT] | None:
        """Rules 3 and 4."""
        is_own = self._find_pool(newcomer.key) is pool
        provisional, established = pool.provisional, pool.established
        # A holder of another key has none of these places.
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
        if (found := established.greatest(newcomer, own)) is None:
            return None
        if self._spares_established:
            if own[1] > 0 or now < pool.spared_until:
                return None
            pool.spared_until = now + ROTATION_SECONDS
        if provisional.in_order:
            return provisional.oldest_for(newcomer)
        tally, group = found
        return tally.newest(group)

    def _by_lot(self, pool: _Pool[OwnerT], newcomer: Holder) -> Place[OwnerT] | None:
        """Rule 5, for the winner."""
        if pool.provisional.in_order:
            return pool.provisional.oldest_for(newcomer)
        if self._spares_established:
            return None
        alike = pool.established.of_largest_networks()
        return alike[self._randbelow(len(alike))] if alike else None


def _while(places: dict[Place[OwnerT], None], holds: Callable[[Place[OwnerT]], bool]) -> Iterator[Place[OwnerT]]:
    """The first places for which it holds, each of which the caller removes from `places`."""
    while places and holds(place := next(iter(places))):
        yield place
