"""Slots for connections that have not authenticated: a fixed number, and who gives way when they are full.

The rules:

1. While there is a free slot, everybody gets one: many clients sit behind one address.
2. When all are taken, a newcomer still gets one: somebody gives way. If an address holds more than its share, the
   oldest of the address that holds most; otherwise the oldest of all.

So a flood from a few addresses displaces itself, and one from many addresses displaces those that dawdle: whoever
authenticates faster than the slots turn over gets through.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs
import trio

from .limits import UNAUTHENTICATED_SLOTS, UNAUTHENTICATED_SLOTS_PER_ADDRESS

__all__ = ["Slot", "SlotTable", "Slots", "address_group"]


def address_group(address: str) -> str:
    """What counts as one address: an IPv4 address, or the /64 of an IPv6 one, which is the least a host is given.

    What is no IP address (a Unix socket, a memory transport) is a group of its own.
    """
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is None:
            return str(ipaddress.IPv6Network((ip, 64), strict=False))
        ip = ip.ipv4_mapped
    return str(ip)


@attrs.frozen(eq=False)
class Slot:
    """One slot, taken."""

    group: str
    #: Called once if the slot has to be given up; must not raise.
    evict: Callable[[], None] = attrs.field(repr=False)


class SlotTable:
    """Who has a slot. Pure: giving way is a callback."""

    def __init__(
        self, total: int = UNAUTHENTICATED_SLOTS, per_address: int = UNAUTHENTICATED_SLOTS_PER_ADDRESS
    ) -> None:
        """Make a table of `total` slots, `per_address` of them the share of one address when they are full."""
        if not 1 <= per_address <= total:
            raise ValueError("the share of one address is between 1 and the number of slots")
        self._total = total
        self._per_address = per_address
        # Dictionaries used as ordered sets, the oldest first.
        self._taken: dict[Slot, None] = {}
        self._by_group: dict[str, dict[Slot, None]] = {}

    def __len__(self) -> int:
        """Slots taken."""
        return len(self._taken)

    def take(self, address: str, evict: Callable[[], None]) -> Slot:
        """Take a slot for a connection from `address`, if need be somebody else's."""
        if len(self._taken) >= self._total:
            victim = self._victim()
            self.release(victim)
            victim.evict()
        slot = Slot(address_group(address), evict)
        self._taken[slot] = None
        self._by_group.setdefault(slot.group, {})[slot] = None
        return slot

    def release(self, slot: Slot) -> None:
        """Give a slot back: authenticated, refused, or hung up. Harmless when it was given up already."""
        if slot not in self._taken:
            return
        del self._taken[slot]
        group = self._by_group[slot.group]
        del group[slot]
        if not group:
            del self._by_group[slot.group]

    def _victim(self) -> Slot:
        largest = max(self._by_group.values(), key=len)
        return next(iter(largest if len(largest) > self._per_address else self._taken))


class Slots:
    """`SlotTable` for trio: whoever has to give way is cancelled."""

    def __init__(
        self, total: int = UNAUTHENTICATED_SLOTS, per_address: int = UNAUTHENTICATED_SLOTS_PER_ADDRESS
    ) -> None:
        self._table = SlotTable(total, per_address)

    def __len__(self) -> int:
        """Slots taken."""
        return len(self._table)

    @contextmanager
    def acquire(self, address: str) -> Iterator[trio.CancelScope]:
        """Hold a slot while the block authenticates a connection from `address`. Never waits.

        Yields:
            The scope around the block, to which the caller may give a deadline. If its `cancelled_caught` is true
            afterwards, the connection had to give way (or was too late) and is to be closed.
        """
        with trio.CancelScope() as scope:
            slot = self._table.take(address, scope.cancel)
            try:
                yield scope
            finally:
                self._table.release(slot)
