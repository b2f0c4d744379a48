"""Slots for connections that have not authenticated: a fixed number, and who gives way when they are full.

The rules:

1. While there is a free slot, everybody gets one: many clients sit behind one address.
2. When all are taken, a newcomer still gets one: somebody gives way. If an address holds more than its share, the
   oldest of the address that holds most; otherwise the oldest of all.
3. Among those it is the oldest of the *fresh*, or of those whose handshake has *advanced*, whichever are more.

4. A peer that has proved to have an access key counts as an address of its own, with others of the same address and
   key.

So a flood from a few addresses displaces itself, and one from many addresses displaces those that dawdle: whoever
authenticates faster than the slots turn over gets through. In a storm of honest peers, newcomers displace newcomers,
and not those on whom most of the work is done already; and neither kind can take all slots from the other.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial

import attrs
import trio

from ..limits import UNAUTHENTICATED_SHARE_OF_ADDRESS, UNAUTHENTICATED_SLOTS

__all__ = ["Held", "Slot", "SlotTable", "Slots", "address_group"]


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


class _Line:
    """Slots in the order in which they give way: dictionaries used as ordered sets, the oldest first."""

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
        """The slot that is given up next; the line must not be empty."""
        return next(iter(self._fresh if len(self._fresh) >= len(self._advanced) else self._advanced))


class SlotTable:
    """Which connections have a slot. Pure: closing a connection is a callback."""

    def __init__(self, total: int, per_address: int) -> None:
        """Make a table of `total` slots, `per_address` of them the share of one address when they are full."""
        if not 1 <= per_address <= total:
            raise ValueError("the share of one address is between 1 and the number of slots")
        self._total = total
        self._per_address = per_address
        self._taken = _Line()
        self._by_group: dict[str, _Line] = {}
        #: Groups by the number of slots that they have, and the greatest such number: nobody is searched for.
        self._by_size: dict[int, dict[str, None]] = {}
        self._largest = 0

    def __len__(self) -> int:
        """Slots taken."""
        return self._taken.size

    def take(self, address: str, evict: Callable[[], None]) -> Slot:
        """Take a slot for a connection from `address`, if need be somebody else's."""
        if self._taken.size >= self._total:
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

    def regroup(self, slot: Slot, group: str) -> None:
        """Count a slot as one of another group from now on. Harmless when it was given up already."""
        if slot not in self._taken:
            return
        self._leave_group(slot)
        slot.group = group
        self._join_group(slot)

    def _join_group(self, slot: Slot) -> None:
        group = self._by_group.setdefault(slot.group, _Line())
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


@attrs.frozen
class Held:
    """A slot that a task holds."""

    #: Around the block. If its `cancelled_caught` is true afterwards, the connection
    #: had to give way, or was too late.
    scope: trio.CancelScope
    #: To be called when the expensive part of the handshake is done.
    advance: Callable[[], None]


class Slots:
    """`SlotTable` for trio: whoever has to give way is cancelled."""

    def __init__(self, total: int = UNAUTHENTICATED_SLOTS, per_address: int | None = None) -> None:
        self.total = total
        share = max(1, int(total * UNAUTHENTICATED_SHARE_OF_ADDRESS))
        self._table = SlotTable(total, share if per_address is None else per_address)

    def __len__(self) -> int:
        """Slots taken."""
        return len(self._table)

    def take(self, address: str, evict: Callable[[], None]) -> Slot:
        """See `SlotTable.take`."""
        return self._table.take(address, evict)

    def release(self, slot: Slot) -> None:
        """See `SlotTable.release`."""
        self._table.release(slot)

    def prove(self, slot: Slot, key_id: bytes) -> None:
        """Its peer has proved to have an access key: it gives way only to peers of its address with the same key."""
        self._table.regroup(slot, f"{slot.group} {key_id.hex()}")

    @contextmanager
    def acquire(self, address: str) -> Iterator[Held]:
        """Take a slot, and hold it as `hold` does. Never waits."""
        scope = trio.CancelScope()
        with self.hold(self._table.take(address, scope.cancel), scope) as held:
            yield held

    @contextmanager
    def hold(self, slot: Slot, scope: trio.CancelScope) -> Iterator[Held]:
        """Hold a slot, which `scope` is cancelled to evict, while the block authenticates a connection.

        The caller may give the scope a deadline, and closes the connection where the scope was cancelled.
        """
        with scope:
            try:
                yield Held(scope, partial(self._table.advance, slot))
            finally:
                self._table.release(slot)
