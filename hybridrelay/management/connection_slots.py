"""Which connections to the management API over TCP have a slot, so that nobody can use up all of them. Pure.

A connection first has a slot among those of unidentified callers, which are shared between addresses. With the first
request whose caller is identified, it moves to the slots of identified callers, which are shared between callers. A
reverse proxy may send the requests of several callers over one connection; it counts for the latest of them.

When all slots of a kind are taken, a new connection still gets one, and another connection is ended: see `Slots`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs

from ..relay.edge.slots import Slot, Slots
from .callers import Caller

__all__ = ["SLOTS", "ConnectionSlot", "ConnectionSlots"]

#: Connections without an identified caller, and how many of one address keep their slots when all are taken.
_UNIDENTIFIED, _UNIDENTIFIED_OF_ADDRESS = 64, 8
#: Connections of identified callers, and how many of one caller keep their slots when all are taken.
_IDENTIFIED, _IDENTIFIED_OF_CALLER = 128, 16
#: All slots.
SLOTS = _UNIDENTIFIED + _IDENTIFIED


@attrs.define(eq=False)
class ConnectionSlot:
    """The slot of one connection."""

    _identified: Slots
    #: The slots that `_slot` belongs to.
    _slots: Slots
    _slot: Slot
    _ended: bool = False

    def identify(self, caller: Caller) -> None:
        """Count the connection for this caller from now on. Does nothing once the connection has lost its slot."""
        group = f"{caller.kind} {caller.id}"
        if self._ended or (self._slots is self._identified and self._slot.group == group):
            return
        self._slots.release(self._slot)
        self._slots, self._slot = self._identified, self._identified.take(group, self._slot.evict)

    def move(self, address: str) -> None:
        """Count the connection for another address, from which it comes according to a proxy that is trusted."""
        if self._slots is not self._identified:
            self._slots.move(self._slot, address)

    def end(self) -> None:
        """Give up the slot: the connection has ended, or is about to. May be called more than once."""
        self._ended = True
        self._slots.release(self._slot)


class ConnectionSlots:
    """The slots of all connections."""

    def __init__(self) -> None:
        """Begin with all slots free."""
        self._unidentified = Slots(_UNIDENTIFIED, _UNIDENTIFIED_OF_ADDRESS)
        self._identified = Slots(_IDENTIFIED, _IDENTIFIED_OF_CALLER)

    @contextmanager
    def hold(self, address: str, evict: Callable[[], None]) -> Iterator[ConnectionSlot]:
        """Give a new connection a slot until the end of the block.

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
