"""Which listener makes room for another one when all places of a hybrid connection are taken. Pure.

A Listen key in the wrong hands must not fill up a hybrid connection and so keep connectors out. The rules, in order:

1. The newest listener of the holder that has the most gives way to a holder that has fewer. Holders are compared
   by their key alone; then by key and network (IPv4 /24, IPv6 /48); then by key and address.
2. An instance that comes back displaces the newest listener of a holder that has more, or of its own holder, if that
   listener is newer than it. An instance that gave way before is as new as any other.
3. Otherwise nothing tells the listeners apart. Then one of a holder that has the most, chosen at random, gives way
   to the first that asks `ROTATION_SECONDS` after one was refused. So a connector gets in after a while, and one that
   gave way comes back.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

from .listener import Listener

__all__ = ["ROTATION_SECONDS", "choose_displaced"]

#: How often a listener gives way although nothing tells it from the others (seconds). Its sessions go on, and it asks
#: for its place again within seconds. Rare, because an honest connector may be hit.
ROTATION_SECONDS = 10.0

ListenerT = TypeVar("ListenerT", bound=Listener[Any])


def _network(address: str) -> str:
    """The network of an address, as far as it counts as one (`address_group`)."""
    try:
        network = ipaddress.ip_network(address)
    except ValueError:
        return address
    length = 24 if network.version == 4 else 48
    return str(network.supernet(new_prefix=min(length, network.prefixlen)))


#: From coarse to fine: what counts as one holder.
_HOLDERS: Sequence[Callable[[Listener[Any]], Hashable]] = (
    lambda one: one.key,
    lambda one: (one.key, _network(one.address)),
    lambda one: (one.key, one.address),
)


def choose_displaced(
    listeners: Sequence[ListenerT],
    since: Mapping[str, float],
    newcomer: ListenerT,
    newcomer_since: float,
    *,
    may_rotate: bool,
    randbelow: Callable[[int], int],
) -> ListenerT | None:
    """Decide which listener makes room for a newcomer; None refuses the newcomer.

    Args:
        listeners: those of a hybrid connection whose places are all taken.
        since: when the instance of each registered first, on any clock.
        newcomer: is not among them.
        newcomer_since: when its instance registered first.
        may_rotate: whether another one was refused `ROTATION_SECONDS` ago.
        randbelow: a random number from 0 up to its argument, exclusively.
    """

    def newest(among: Sequence[ListenerT]) -> ListenerT:
        return max(among, key=lambda one: since[one.instance])

    for holder in _HOLDERS:
        held = Counter(map(holder, listeners))
        most = max(held.values())
        # Two holders that have about the same must not displace each other without end.
        if held[holder(newcomer)] < most - 1:
            return newest([one for one in listeners if held[holder(one)] == most])
    # By the finest of them.
    own = holder(newcomer)
    junior = [
        one
        for one in listeners
        if since[one.instance] > newcomer_since and (holder(one) == own or held[holder(one)] > held[own])
    ]
    if junior:
        return newest(junior)
    if not may_rotate:
        return None
    alike = [one for one in listeners if held[holder(one)] == most]
    return alike[randbelow(len(alike))]
