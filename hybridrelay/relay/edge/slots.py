"""Slots for unauthenticated connections, and which of these is closed when all slots are taken. Pure.

The rules:

1. While a slot is free, every connection gets one, even if many come from the same address.
2. When all are taken, a new connection displaces another one: if an address has more than its share, the oldest
   connection of the address that has the most; otherwise the oldest of all.
3. Connections are *fresh*, or their handshake has *advanced*. In rule 2, "oldest" means the oldest of the kind that
   is more frequent.
4. Peers that have proved that they have an access key are counted separately: each combination of address and key
   counts as another address.

Thus a flood from a few addresses displaces itself. A flood from many addresses displaces slow connections, but a peer
gets through if it authenticates before every slot has been taken over once. When many honest peers connect at the
same time, new connections displace new ones, and not those for which most of the work is already done. Neither kind
can take all slots from the other.
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
    """Return the address group: an IPv4 address, or the /64 of an IPv6 address, which is the least that a host is
    assigned.

    Anything that is not an IP address (a Unix socket, a memory transport) is a group of its own.
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
    """A slot that is taken."""

    group: str
    #: Called once if the connection is displaced; must not raise.
    evict: Callable[[], None] = attrs.field(repr=False)


class _Order:
    """Slots in the order in which they are displaced: dictionaries used as ordered sets, the oldest first."""

    __slots__ = ("_advanced", "_fresh", "size")

    def __init__(self) -> None:
        self._fresh: dict[Slot, None] = {}
        self._advanced: dict[Slot, None] = {}
        #: How many slots it contains.
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
        """Return the slot that is displaced next. There must be one."""
        return next(iter(self._fresh if len(self._fresh) >= len(self._advanced) else self._advanced))


class Slots:
    """Decides which connections have a slot. A displaced connection is closed by its callback.

    Args:
        total: the number of slots.
        per_address: the share of one address when all are taken; None: `UNAUTHENTICATED_SHARE_OF_ADDRESS` of `total`.

    Raises:
        ValueError: the share is not between 1 and the number of slots.
    """

    def __init__(self, total: int = UNAUTHENTICATED_SLOTS, per_address: int | None = None) -> None:
        share = max(1, int(total * UNAUTHENTICATED_SHARE_OF_ADDRESS)) if per_address is None else per_address
        if not 1 <= share <= total:
            raise ValueError("the share of one address must be between 1 and the number of slots")
        self.total = total
        self._per_address = share
        self._taken = _Order()
        self._by_group: dict[str, _Order] = {}
        #: Groups by the number of slots that they have, and the greatest such number, so that no search is needed.
        self._by_size: dict[int, dict[str, None]] = {}
        self._largest = 0

    def __len__(self) -> int:
        """Return the number of slots that are taken."""
        return self._taken.size

    def take(self, address: str, evict: Callable[[], None]) -> Slot:
        """Take a slot for a connection from `address`; if all are taken, displace another connection."""
        if self._taken.size >= self.total:
            victim = self._victim()
            self.release(victim)
            victim.evict()
        slot = Slot(address_group(address), evict)
        self._taken.add(slot)
        self._join_group(slot)
        return slot

    def advance(self, slot: Slot) -> None:
        """Note that the expensive part of the handshake is done. Does nothing if this was already noted, or the slot
        released."""
        if slot in self._taken:
            self._taken.advance(slot)
            self._by_group[slot.group].advance(slot)

    def release(self, slot: Slot) -> None:
        """Release a slot, because its connection has authenticated or ended. Idempotent."""
        if slot not in self._taken:
            return
        self._taken.remove(slot)
        self._leave_group(slot)

    @contextmanager
    def held(self, slot: Slot) -> Iterator[None]:
        """Release a slot at the end of the block."""
        try:
            yield
        finally:
            self.release(slot)

    def prove(self, slot: Slot, key_id: bytes) -> None:
        """Count a peer separately, by its address and key, because it has proved that it has an access key.

        Does nothing if the slot was already released.
        """
        if slot not in self._taken:
            return
        self._leave_group(slot)
        slot.group = f"{slot.group} {key_id.hex()}"
        self._join_group(slot)

    def move(self, slot: Slot, address: str) -> None:
        """Count a connection for `address`, from which it comes according to a trusted proxy.

        Does nothing if the slot was already released.
        """
        if slot not in self._taken:
            return
        self._leave_group(slot)
        slot.group = address_group(address)
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
