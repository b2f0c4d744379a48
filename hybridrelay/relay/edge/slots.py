"""Slots for connections that have not authenticated: how many, and which one gives way when all are taken. Pure.

The rules:

1. While there is a free slot, every connection gets one: many clients are behind one address.
2. When all are taken, a new connection still gets one, and another one gives way. If an address holds more than its
   share, it is the oldest connection of the address that holds most; otherwise the oldest of all.
3. Among those it is the oldest of the *fresh* ones, or of those whose handshake has *advanced*, whichever are more.
4. A peer that has proved that it has an access key counts as an address of its own, together with others of the same
   address and key.

So a flood from a few addresses displaces itself, and a flood from many addresses displaces slow connections: a peer
that authenticates before all slots have changed hands gets through. When many honest peers come at once, new
connections displace new ones, and not those for which most of the work is done already; and neither kind can take all
slots from the other.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache

import attrs

from ..limits import UNAUTHENTICATED_SHARE_OF_ADDRESS, UNAUTHENTICATED_SLOTS

__all__ = ["Slot", "Slots", "address_group"]


@lru_cache(maxsize=4096)
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


@attrs.define(eq=False)
class Slot:
    """One slot, taken."""

    group: str
    #: Called once if the slot has to be given up; must not raise.
    evict: Callable[[], None] = attrs.field(repr=False)


class _Order:
    """Slots in the order in which they give way: dictionaries used as ordered sets, the oldest first."""

    __slots__ = ("_advanced", "_fresh", "size")

    def __init__(self) -> None:
        self._fresh: dict[Slot, None] = {}
        self._advanced: dict[Slot, None] = {}
        #: How many there are.
        self.size = 0

    def __contains__(self, slot: Slot) -> bool:
        return slot in self._fresh or slot in self._advanced

    def add(self, slot: Slot) -> None:
        self._fresh[slot] = None
        self.size += 1

    def advance(self, slot: Slot) -> None:
        if slot in self._fresh:
            del self._fresh[slot]
            self._advanced[slot] = None

    def has_advanced(self, slot: Slot) -> bool:
        return slot in self._advanced

    def remove(self, slot: Slot) -> None:
        del (self._fresh if slot in self._fresh else self._advanced)[slot]
        self.size -= 1

    def first(self) -> Slot:
        """The slot that is given up next; there must be one."""
        return next(iter(self._fresh if len(self._fresh) >= len(self._advanced) else self._advanced))


class Slots:
    """Which connections have a slot. Closing a connection is a callback.

    Args:
        total: how many slots there are.
        per_address: the share of one address when all are taken; None: `UNAUTHENTICATED_SHARE_OF_ADDRESS`.

    Raises:
        ValueError: the share is not between 1 and the number of slots.
    """

    def __init__(self, total: int = UNAUTHENTICATED_SLOTS, per_address: int | None = None) -> None:
        share = max(1, int(total * UNAUTHENTICATED_SHARE_OF_ADDRESS)) if per_address is None else per_address
        if not 1 <= share <= total:
            raise ValueError("the share of one address is between 1 and the number of slots")
        self.total = total
        self._per_address = share
        self._taken = _Order()
        self._by_group: dict[str, _Order] = {}
        #: Groups by the number of slots that they have, and the greatest such number, so that no search is needed.
        self._by_size: dict[int, dict[str, None]] = {}
        self._largest = 0

    def __len__(self) -> int:
        """Slots taken."""
        return self._taken.size

    def take(self, address: str, evict: Callable[[], None]) -> Slot:
        """Take a slot for a connection from `address`, if necessary from another one, which is evicted."""
        if self._taken.size >= self.total:
            victim = self._victim()
            self.release(victim)
            victim.evict()
        slot = Slot(address_group(address), evict)
        self._taken.add(slot)
        self._join_group(slot)
        return slot

    def advance(self, slot: Slot) -> None:
        """The expensive part of its handshake is done. Harmless when it was given up already, and a second time."""
        if slot in self._taken:
            self._taken.advance(slot)
            self._by_group[slot.group].advance(slot)

    def release(self, slot: Slot) -> None:
        """Give a slot back: authenticated, refused, or hung up. Harmless when it was given up already."""
        if slot not in self._taken:
            return
        self._taken.remove(slot)
        self._leave_group(slot)

    @contextmanager
    def held(self, slot: Slot) -> Iterator[None]:
        """Give a slot back at the end of the block."""
        try:
            yield
        finally:
            self.release(slot)

    def prove(self, slot: Slot, key_id: bytes) -> None:
        """Its peer has proved that it has an access key: only its address with the same key counts as its address.

        Harmless when the slot was given up already.
        """
        if slot not in self._taken:
            return
        self._leave_group(slot)
        slot.group = f"{slot.group} {key_id.hex()}"
        self._join_group(slot)

    def _join_group(self, slot: Slot) -> None:
        group = self._by_group.setdefault(slot.group, _Order())
        group.add(slot)
        if self._taken.has_advanced(slot):
            group.advance(slot)
        self._resized(slot.group, group.size - 1, group.size)

    def _leave_group(self, slot: Slot) -> None:
        group = self._by_group[slot.group]
        group.remove(slot)
        self._resized(slot.group, group.size + 1, group.size)
        if not group.size:
            del self._by_group[slot.group]

    def _resized(self, group: str, before: int, after: int) -> None:
        if before:
            others = self._by_size[before]
            del others[group]
            if not others:
                del self._by_size[before]
        if after:
            self._by_size.setdefault(after, {})[group] = None
        if after > self._largest or (before == self._largest and before not in self._by_size):
            self._largest = after

    def _victim(self) -> Slot:
        largest = self._by_group[next(iter(self._by_size[self._largest]))]
        return (largest if largest.size > self._per_address else self._taken).first()
