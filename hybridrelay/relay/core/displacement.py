"""Deciding which listener a newcomer displaces when all places of a hybrid connection are taken. Pure.

An attacker with a Listen key must not be able to exclude connectors by taking all places. The rules, in order:

1. A holder that has fewer listeners displaces the newest listener of the holder that has the most. Holders are first
   compared by key; then, within a key, by network (IPv4 /24, IPv6 /48); then, within a network, by address.
2. An instance that returns displaces the newest listener of its own holder or of one that has more, if that listener
   is newer than the instance. An instance that was displaced counts as new.
3. Otherwise nothing distinguishes the listeners, and the newcomer is refused. From time to time, one of those that
   were refused is drawn by lot (`lottery.py`), and displaces a random listener of a holder that has the most.
   Therefore a connector gets a place after a while, no matter how often others ask, and a displaced one can return.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

from .holders import network_of
from .listener import Listener

__all__ = ["choose_displaced"]

ListenerT = TypeVar("ListenerT", bound=Listener[Any])


#: The properties by which holders are compared, from coarse to fine. Listeners that agree in one have the same
#: holder.
_HOLDERS: Sequence[Callable[[Listener[Any]], Hashable]] = (
    lambda one: one.key,
    lambda one: (one.key, network_of(one.address)),
    lambda one: (one.key, one.address),
)


def choose_displaced(
    listeners: Sequence[ListenerT],
    since: Mapping[str, float],
    newcomer: ListenerT,
    newcomer_since: float,
    *,
    is_drawn: bool,
    randbelow: Callable[[int], int],
) -> ListenerT | None:
    """Decide which listener is displaced by a newcomer; None refuses the newcomer.

    Args:
        listeners: the listeners of a hybrid connection whose places are all taken.
        since: by instance: when it registered first, on any clock.
        newcomer: the listener that wants a place; not one of `listeners`.
        newcomer_since: when the newcomer's instance registered first.
        is_drawn: whether the newcomer was drawn by lot.
        randbelow: returns a random number that is at least 0 and less than its argument.
    """

    def newest(among: Sequence[ListenerT]) -> ListenerT:
        return max(among, key=lambda one: since[one.instance])

    alike: Sequence[ListenerT] = listeners
    for holder in _HOLDERS:
        held = Counter(map(holder, alike))
        most = max(held.values(), default=0)
        # Two holders with about the same number must not displace each other endlessly.
        if held[holder(newcomer)] < most - 1:
            return newest([one for one in alike if held[holder(one)] == most])
        alike = [one for one in alike if holder(one) == holder(newcomer)]
    # Nothing was found, so compare holders by the finest property.
    held = Counter(map(holder, listeners))
    most = max(held.values())
    own = holder(newcomer)
    junior = [
        one
        for one in listeners
        if since[one.instance] > newcomer_since and (holder(one) == own or held[holder(one)] > held[own])
    ]
    if junior:
        return newest(junior)
    if not is_drawn:
        return None
    alike = [one for one in listeners if held[holder(one)] == most]
    return alike[randbelow(len(alike))]
