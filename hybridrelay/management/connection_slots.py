"""Limits the connections to the management API over TCP, so that nobody can use up all of them. Pure.

Every connection has a slot. There are three kinds of slots:

- for connections whose caller has not been identified; addresses share these;
- for connections of identified callers with a scope, and
- for those of identified callers without a scope; callers share these. All keys of a tenant count as one caller.

A connection first has a slot of the first kind. It gets one of another kind with the first request whose caller is
identified. A reverse proxy may send requests of several callers over one connection; this connection then counts for
the caller of the latest request.

When all slots of a kind are taken, a new connection still gets one, and another connection is closed: see `Slots`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import attrs

from ..relay.edge.slots import Slot, Slots
from .callers import Caller

__all__ = ["SLOTS", "ConnectionSlot", "ConnectionSlots"]

#: Slots for connections without an identified caller; and the share of one address. When all slots are taken, an
#: address that has more than its share loses its own oldest connection (see `Slots`).
_UNIDENTIFIED, _UNIDENTIFIED_OF_ADDRESS = 64, 8
#: Slots for connections of identified callers with a scope, and as many for those of callers without one; and the
#: share of one caller.
_IDENTIFIED, _IDENTIFIED_OF_CALLER = 64, 16
#: The number of all slots.
SLOTS = _UNIDENTIFIED + 2 * _IDENTIFIED


@attrs.define(eq=False)
class ConnectionSlot:
    """The slot of one connection."""

    #: The slots of identified callers, by whether they have a scope.
    _identified: Mapping[bool, Slots]
    #: The kind of slots to which `_slot` belongs.
    _slots: Slots
    _slot: Slot
    _ended: bool = False

    def identify(self, caller: Caller) -> None:
        """Count the connection for this caller from now on. Does nothing if the connection has lost its slot."""
        group, slots = " ".join(caller.tenant_group), self._identified[not caller.scope.is_everything]
        if self._ended or (self._slots is slots and self._slot.group == group):
            return
        self._slots.release(self._slot)
        self._slots, self._slot = slots, slots.take(group, self._slot.evict)

    def move(self, address: str) -> None:
        """Count the connection for another address, the one that it comes from according to a trusted proxy. Does
        nothing once the caller was identified."""
        if self._slots not in self._identified.values():
            self._slots.move(self._slot, address)

    def end(self) -> None:
        """Release the slot, because the connection has ended or is about to end. Idempotent."""
        self._ended = True
        self._slots.release(self._slot)


class ConnectionSlots:
    """The slots of all connections."""

    def __init__(self) -> None:
        """Begin with all slots free."""
        self._unidentified = Slots(_UNIDENTIFIED, _UNIDENTIFIED_OF_ADDRESS)
        self._identified = {has_scope: Slots(_IDENTIFIED, _IDENTIFIED_OF_CALLER) for has_scope in (False, True)}

    @contextmanager
    def hold(self, address: str, evict: Callable[[], None]) -> Iterator[ConnectionSlot]:
        """Give a new connection a slot while the block runs.

        Args:
            address: the network address of the client.
            evict: called once if the connection has to end because it has lost its slot; must not raise.
        """

        def end() -> None:
            held.end()
            evict()

        slot = self._unidentified.take(address, end)
        held = ConnectionSlot(self._identified, self._unidentified, slot)
        try:
            yield held
        finally:
            held.end()
