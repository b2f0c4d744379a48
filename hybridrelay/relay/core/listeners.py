"""The table of registered connectors, by hybrid connection and instance. Pure.

The rules:

1. If an instance registers again with a generation that is not lower, the new registration replaces the earlier one
   at once, because the newer control channel is the one that works.
2. A lower generation is refused, because it comes from an earlier control channel of the instance. This also applies
   to instances that have left, while they are remembered: for at most `DEPARTED_SECONDS`.
3. Another instance is another listener, even with the same key. A name is never "already in use".
4. An instance that is not registered is *absent* (it may come back), unless it is known to be *gone*.
5. An instance that an administrator has dropped may not register again until `DROPPED_SECONDS` have passed.
6. When all places of a hybrid connection are taken, a newcomer may displace a listener: see `displacement.py`. For
   this comparison, an instance that was registered for `SENIORITY_SECONDS` keeps the time of its first registration
   while its control channel is interrupted.

The caller ensures that a peer that registers an instance, or declares it gone, has proved that it has the instance's
secret. Therefore no other peer can exclude an instance by registering it with a higher generation.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from typing import Generic

import attrs

from ...errors import RendezvousError
from ...protocol.control_states import TargetHealth
from ...protocol.reasons import Reason
from ..limits import (
    DEPARTED_PER_CONNECTION,
    DEPARTED_SECONDS,
    DROPPED_SECONDS,
    LISTENERS_PER_CONNECTION,
    SENIORITY_SECONDS,
)
from ..model import KeyId
from .choice import Choice, Chosen, choose_listener
from .displacement import choose_displaced
from .holders import network_of
from .listener import HandleT, Listener
from .lottery import Lottery
from .sorted_index import SortedIndex

__all__ = ["Listener", "ListenerTable"]


def _none(_listener: object) -> int:
    return 0


@attrs.frozen
class _Departed:
    generation: int
    gone: bool
    #: When the instance is forgotten.
    until: float
    #: The instance may not register before this time.
    kept_out_until: float = -math.inf


@attrs.frozen
class _Senior:
    first_registered_at: float
    #: When this entry is forgotten.
    until: float


@attrs.define
class _Connection(Generic[HandleT]):
    """The listeners of one hybrid connection, including those that have left."""

    #: Decides which listener is admitted next if nothing distinguishes them.
    lottery: Lottery
    listeners: dict[str, Listener[HandleT]] = attrs.field(factory=dict)
    #: Instances that are no longer registered, in the order in which they left.
    departed: OrderedDict[str, _Departed] = attrs.field(factory=OrderedDict)
    #: Since when each registered instance has been registered without interruption.
    registered_since: dict[str, float] = attrs.field(factory=dict)
    #: When each registered instance first registered; see rule 6.
    first_registered_at: dict[str, float] = attrs.field(factory=dict)
    #: Instances that are offered no new sessions, because an administrator drains them. An instance that is
    #: registered or remembered stays here until that is undone.
    draining: set[str] = attrs.field(factory=set)
    #: What each registered instance has reported about its target, if it has.
    targets: dict[str, TargetHealth] = attrs.field(factory=dict)
    #: How often each registered instance was chosen.
    chosen: dict[str, Chosen] = attrs.field(factory=dict)
    #: The same as `first_registered_at` for departed instances that were registered for `SENIORITY_SECONDS`.
    seniors: dict[str, _Senior] = attrs.field(factory=dict)


class ListenerTable(Generic[HandleT]):
    """All listeners of a relay. There are two kinds of methods:

    - `register`, `remove`, `drop`, `declare_gone`, `revoke` and `forget` change it, and return what has ended;
      `set_draining`, `report_target` and `count_choice` change it, too.
    - `choose`, `find`, `is_draining`, `target_of`, `unhealthy`, `chosen`, `registered_since`, `is_remembered`,
      `why_not`, `of`, `all` and `count` only read it.
    """

    def __init__(
        self,
        *,
        randbelow: Callable[[int], int],
        clock: Callable[[], float],
        max_per_connection: int = LISTENERS_PER_CONNECTION,
        max_departed_per_connection: int = DEPARTED_PER_CONNECTION,
    ) -> None:
        """Make an empty table.

        Args:
            randbelow: returns a random number that is at least 0 and less than its argument, as `secrets.randbelow`.
            clock: returns the seconds of a monotonic clock.
            max_per_connection: the maximum number of instances that are registered for one hybrid connection.
            max_departed_per_connection: how many departed instances of one hybrid connection are remembered.
        """
        self._randbelow = randbelow
        self._clock = clock
        self._max_per_connection = max_per_connection
        self._max_departed = max_departed_per_connection
        self._connections: dict[str, _Connection[HandleT]] = {}
        #: All listeners, by hybrid connection and instance.
        self.index: SortedIndex[Listener[HandleT]] = SortedIndex()

    def register(self, listener: Listener[HandleT], limit: int | None = None) -> Listener[HandleT] | None:
        """Add an authorized listener, or renew its registration.

        Args:
            listener: the listener.
            limit: how many listeners its hybrid connection may have; None means `max_per_connection`.

        Returns:
            The registration that this has ended, or None: an earlier one of the same instance, or one of another
            instance that was displaced.

        Raises:
            RendezvousError: `reason` is SUPERSEDED if a newer generation of the instance has already registered,
                ADMINISTRATOR_DROPPED if the instance was dropped a moment ago, or LISTENER_QUOTA if the hybrid
                connection has too many listeners. Nothing has changed.
        """
        now = self._clock()
        known = self._connections.get(listener.connection) or _Connection(Lottery(self._randbelow))
        replaced = known.listeners.get(listener.instance)
        departed = self._departed(known, listener.instance)
        if departed is not None and now < departed.kept_out_until:
            raise RendezvousError(Reason.ADMINISTRATOR_DROPPED.describe, reason=Reason.ADMINISTRATOR_DROPPED)
        earlier = replaced or departed
        if earlier is not None and listener.generation < earlier.generation:
            raise RendezvousError("a newer control channel of this instance has registered", reason=Reason.SUPERSEDED)
        senior = known.seniors.get(listener.instance)
        first = known.first_registered_at.get(
            listener.instance, now if senior is None else senior.first_registered_at
        )
        limit = self._max_per_connection if limit is None else limit
        if replaced is None and len(known.listeners) >= limit:
            replaced = self._choose_displaced(known, listener, first)
            if replaced is None:
                text = f"{len(known.listeners)} of {limit} listeners"
                raise RendezvousError(text, reason=Reason.LISTENER_QUOTA)
            # Its seniority ends, so that it cannot take its place back at once.
            self._depart(known, listener.connection, replaced.instance, keeps_seniority=False)
        self._connections[listener.connection] = known
        known.departed.pop(listener.instance, None)
        known.seniors.pop(listener.instance, None)
        known.first_registered_at[listener.instance] = first
        known.registered_since.setdefault(listener.instance, now)
        known.listeners[listener.instance] = listener
        self.index.set(listener.connection, listener.instance, listener)
        return replaced

    def remove(self, listener: Listener[HandleT]) -> bool:
        """Remove a registration that was withdrawn, or whose control channel has ended.

        Returns:
            Whether it was in the table. If it was replaced in the meantime, nothing is removed.
        """
        known = self._connections.get(listener.connection)
        if known is None or known.listeners.get(listener.instance) is not listener:
            return False
        self._depart(known, listener.connection, listener.instance)
        return True

    def drop(self, connection: str, instance: str) -> Listener[HandleT] | None:
        """End a registration for an administrator. The instance may register again after `DROPPED_SECONDS`.

        Returns:
            The registration that this has ended, or None if there was none.
        """
        known = self._connections.get(connection)
        listener = None if known is None else known.listeners.get(instance)
        if known is not None and listener is not None:
            self._depart(known, connection, instance, kept_out_until=self._clock() + DROPPED_SECONDS)
        return listener

    def set_draining(self, connection: str, instance: str, *, on: bool) -> bool:
        """Stop choosing a registered instance for new sessions, or begin again. `find` still returns it, so that its
        sessions can resume.

        A drain stays in force while the instance is not registered, and can be ended then, too.

        Returns:
            Whether this has changed anything. A drain does not begin if the instance is not registered.
        """
        known = self._connections.get(connection)
        if known is None or on is (instance in known.draining):
            return False
        if not on:
            known.draining.discard(instance)
        elif instance in known.listeners:
            known.draining &= known.listeners.keys() | known.departed.keys()  # forget those that are gone
            known.draining.add(instance)
        else:
            return False
        return True

    def is_draining(self, listener: Listener[HandleT]) -> bool:
        """Return whether a listener is offered no new sessions."""
        known = self._connections.get(listener.connection)
        return known is not None and listener.instance in known.draining

    def report_target(self, listener: Listener[HandleT], health: TargetHealth) -> TargetHealth | None:
        """Note what a listener reports about its target. This lasts until its instance is no longer registered.

        Returns:
            What it had reported before, `TargetHealth.UNKNOWN` if nothing; None if it is not in the table.
        """
        known = self._connections.get(listener.connection)
        if known is None or known.listeners.get(listener.instance) is not listener:
            return None
        before = known.targets.get(listener.instance, TargetHealth.UNKNOWN)
        known.targets[listener.instance] = health
        return before

    def target_of(self, listener: Listener[HandleT]) -> TargetHealth:
        """Return what a listener has reported about its target."""
        known = self._connections.get(listener.connection)
        return TargetHealth.UNKNOWN if known is None else known.targets.get(listener.instance, TargetHealth.UNKNOWN)

    def unhealthy(self, connection: str) -> int:
        """Return how many listeners of a hybrid connection report that their target is unhealthy."""
        known = self._connections.get(connection)
        return 0 if known is None else list(known.targets.values()).count(TargetHealth.UNHEALTHY)

    def count_choice(self, choice: Choice[HandleT]) -> None:
        """Count a choice that has led to an offer."""
        known = self._connections[choice.listener.connection]
        known.chosen.setdefault(choice.listener.instance, Chosen()).count(choice.why)

    def chosen(self, listener: Listener[HandleT]) -> Chosen:
        """Return how often a registered listener was chosen since its instance registered, and why."""
        known = self._connections.get(listener.connection)
        return Chosen() if known is None else known.chosen.get(listener.instance, Chosen())

    def declare_gone(self, connection: str, instance: str) -> Listener[HandleT] | None:
        """Note that an instance is dead, according to its successor.

        Returns:
            The registration that this has ended, or None.
        """
        known = self._connections.get(connection) or _Connection(Lottery(self._randbelow))
        self._connections[connection] = known
        listener = known.listeners.get(instance)
        self._depart(known, connection, instance, gone=True)
        return listener

    def revoke(self, keys: Collection[KeyId]) -> list[Listener[HandleT]]:
        """End every registration that one of these keys had authorized, and return them."""
        hit = [one for name in sorted({key.connection for key in keys}) for one in self.of(name) if one.key in keys]
        for listener in hit:
            self.remove(listener)
        return hit

    def forget(self, connection: str) -> list[Listener[HandleT]]:
        """Forget a hybrid connection that was deleted, and return the registrations that have ended."""
        known = self._connections.pop(connection, None)
        listeners = [] if known is None else list(known.listeners.values())
        for listener in listeners:
            self.index.discard(connection, listener.instance)
        return listeners

    def choose(
        self,
        connection: str,
        *,
        passed_over: Collection[str] = (),
        sessions: Callable[[Listener[HandleT]], int] = _none,
    ) -> Choice[HandleT] | None:
        """Choose a listener whose instance was not passed over (`choose_listener`); None if there is none.

        Args:
            connection: the hybrid connection.
            passed_over: instances that are not chosen.
            sessions: returns how many sessions a listener has.
        """
        if (known := self._connections.get(connection)) is None:
            return None
        draining, targets = known.draining, known.targets
        candidates = [
            one for one in self.of(connection) if one.instance not in passed_over and one.instance not in draining
        ]
        return choose_listener(
            candidates,
            sessions=sessions,
            is_unhealthy=lambda one: targets.get(one.instance) is TargetHealth.UNHEALTHY,
            has_passed_over=bool(passed_over),
            randbelow=self._randbelow,
        )

    def find(self, connection: str, instance: str) -> Listener[HandleT] | None:
        """Return the registration of an instance, or None; `why_not` then returns the reason."""
        known = self._connections.get(connection)
        return None if known is None else known.listeners.get(instance)

    def is_remembered(self, connection: str, instance: str) -> bool:
        """Return whether an instance is registered, or was until recently and may come back."""
        if (known := self._connections.get(connection)) is None:
            return False
        departed = self._departed(known, instance)
        return instance in known.listeners or (departed is not None and not departed.gone)

    def why_not(self, connection: str, instance: str | None = None) -> Reason:
        """Return why there is no listener: NO_LISTENER; or, for an instance, LISTENER_GONE or LISTENER_ABSENT."""
        if instance is None:
            return Reason.NO_LISTENER
        known = self._connections.get(connection)
        departed = None if known is None else self._departed(known, instance)
        return Reason.LISTENER_GONE if departed is not None and departed.gone else Reason.LISTENER_ABSENT

    def registered_since(self, listener: Listener[HandleT]) -> float:
        """Return since when the instance of a registered listener has been registered without interruption, on the
        clock of this table."""
        return self._connections[listener.connection].registered_since[listener.instance]

    def of(self, connection: str) -> tuple[Listener[HandleT], ...]:
        """Return the listeners of a hybrid connection."""
        known = self._connections.get(connection)
        return () if known is None else tuple(known.listeners.values())

    def all(self) -> Iterator[Listener[HandleT]]:
        """Yield all listeners."""
        for known in self._connections.values():
            yield from known.listeners.values()

    def count(self) -> int:
        """Return the number of registrations."""
        return len(self.index)

    def _choose_displaced(
        self, known: _Connection[HandleT], newcomer: Listener[HandleT], first_registered_at: float
    ) -> Listener[HandleT] | None:
        def choose(*, is_drawn: bool) -> Listener[HandleT] | None:
            return choose_displaced(
                tuple(known.listeners.values()),
                known.first_registered_at,
                newcomer,
                first_registered_at,
                is_drawn=is_drawn,
                randbelow=self._randbelow,
            )

        if (displaced := choose(is_drawn=False)) is not None:
            return displaced
        group = f"{newcomer.key}\n{network_of(newcomer.address)}"
        return choose(is_drawn=True) if known.lottery.ask(group, newcomer.instance, self._clock()) else None

    def _departed(self, known: _Connection[HandleT], instance: str) -> _Departed | None:
        departed = known.departed.get(instance)
        return None if departed is None or self._clock() >= departed.until else departed

    def _depart(
        self,
        known: _Connection[HandleT],
        connection: str,
        instance: str,
        *,
        gone: bool = False,
        kept_out_until: float = -math.inf,
        keeps_seniority: bool = True,
    ) -> None:
        now = self._clock()
        known.registered_since.pop(instance, None)
        known.targets.pop(instance, None)
        known.chosen.pop(instance, None)
        first = known.first_registered_at.pop(instance, math.inf)
        if keeps_seniority and now - first >= SENIORITY_SECONDS:
            known.seniors = {name: one for name, one in known.seniors.items() if one.until > now}
            known.seniors[instance] = _Senior(first, now + DEPARTED_SECONDS)
            if len(known.seniors) > max(len(known.listeners), self._max_per_connection):
                # Forget the newest one, so that an attacker with a key cannot push out the others.
                del known.seniors[max(known.seniors, key=lambda name: known.seniors[name].first_registered_at)]
        self.index.discard(connection, instance)
        before = known.listeners.pop(instance, None) or self._departed(known, instance)
        known.departed.pop(instance, None)
        generation = 0 if before is None else before.generation
        known.departed[instance] = _Departed(generation, gone, now + DEPARTED_SECONDS, kept_out_until)
        while len(known.departed) > self._max_departed:
            known.departed.popitem(last=False)
