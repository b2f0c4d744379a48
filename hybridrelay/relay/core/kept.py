"""The places that are kept for their holders after their owners have ended, and which newcomers get them. Pure.

See rules 6 and 7 of `places.py`. (A connection string is *kept* in another sense: see docs/concepts.md.)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeAlias, TypeVar

from ..model import KeyId
from .holders import Holder
from .holdings import Place

__all__ = ["Kept"]

OwnerT = TypeVar("OwnerT")

#: What entitles a newcomer to a kept place: its key and address, or its key and name.
_Entitlement: TypeAlias = Holder | tuple[KeyId, str]


class Kept(Generic[OwnerT]):
    """Places that are kept. Every method takes constant time."""

    def __init__(self) -> None:
        # Dictionaries are used as ordered sets.
        self._places: dict[Place[OwnerT], None] = {}
        self._by_entitlement: dict[_Entitlement, dict[Place[OwnerT], None]] = {}

    def __len__(self) -> int:
        return len(self._places)

    def add(self, place: Place[OwnerT]) -> None:
        """Keep a place that is not kept yet."""
        place.is_kept = True
        self._places[place] = None
        for entitlement in _entitlements(place.holder, place.name):
            self._by_entitlement.setdefault(entitlement, {})[place] = None

    def discard(self, place: Place[OwnerT]) -> None:
        """Stop keeping a place. Does nothing if it is not kept."""
        if not place.is_kept:
            return
        place.is_kept = False
        del self._places[place]
        for entitlement in _entitlements(place.holder, place.name):
            places = self._by_entitlement[entitlement]
            del places[place]
            if not places:
                del self._by_entitlement[entitlement]

    def find(self, newcomer: Holder, name: str) -> Place[OwnerT] | None:
        """Find the place for a newcomer: of those with its key and name, or else of those of its holder, the one that
        was kept first."""
        for entitlement in _entitlements(newcomer, name):
            if places := self._by_entitlement.get(entitlement):
                return next(iter(places))
        return None


def _entitlements(holder: Holder, name: str) -> Iterator[_Entitlement]:
    if name:
        yield holder.key, name
    yield holder
