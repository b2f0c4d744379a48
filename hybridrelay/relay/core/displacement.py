"""Which listener makes room for another one when all places of a hybrid connection are taken. Pure.

A Listen key in the wrong hands must not fill up a hybrid connection and so keep connectors out. The rules, in order:

1. The newest listener of the holder that has the most gives way to a holder that has fewer. Holders are compared
   by their key alone; then, those with the same key, by network (IPv4 /24, IPv6 /48); then, those of the same
   network, by address.
2. An instance that comes back displaces the newest listener of a holder that has more, or of its own holder, if that
   listener is newer than it. An instance that gave way before is as new as any other.
3. Otherwise nothing tells the listeners apart. Then one of a holder that has the most, chosen at random, gives way
   to one of those that were refused, which is drawn by lot (`lottery.py`). So a connector gets in after a while
   however often others ask, and one that gave way comes back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

from .holders import network_of
from .listener import Listener

__all__ = ["choose_displaced"]

ListenerT = TypeVar("ListenerT", bound=Listener[Any])


#: From coarse to fine: what counts as one holder.
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
    """Decide which listener makes room for a newcomer; None refuses the newcomer.

    Args:
        listeners: those of a hybrid connection whose places are all taken.
        since: when the instance of each registered first, on any clock.
        newcomer: is not among them.
        newcomer_since: when its instance registered first.
        is_drawn: whether the newcomer was drawn by lot.
        randbelow: a random number from 0 up to its argument, exclusively.
    """

    def newest(among: Sequence[ListenerT]) -> ListenerT:
        return max(among, key=lambda one: since[one.instance])

    alike: Sequence[ListenerT] = listeners
    for holder in _HOLDERS:
        held = Counter(map(holder, alike))
        most = max(held.values(), default=0)
        # Two holders that have about the same must not displace each other without end.
        if held[holder(newcomer)] < most - 1:
            return newest([one for one in alike if held[holder(one)] == most])
        alike = [one for one in alike if holder(one) == holder(newcomer)]
    # By the finest of them.
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
