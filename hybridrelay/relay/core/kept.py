"""The places that are kept for their holders, and which newcomers may use them. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeAlias, TypeVar

from ..model import KeyId
from .holders import Holder
from .holdings import Place

__all__ = ["Kept"]

OwnerT = TypeVar("OwnerT")

#: What entitles a newcomer to a kept place: its key and address, or its key and name.
_Claim: TypeAlias = Holder | tuple[KeyId, str]


class Kept(Generic[OwnerT]):
    """Places that are kept. Every method takes constant time."""

    def __init__(self) -> None:
        # Dictionaries are used as ordered sets.
        self._places: dict[Place[OwnerT], None] = {}
        self._by_claim: dict[_Claim, dict[Place[OwnerT], None]] = {}

    def __len__(self) -> int:
        return len(self._places)

    def add(self, place: Place[OwnerT]) -> None:
        """Keep a place. It must not be kept already."""
        place.is_kept = True
        self._places[place] = None
        for claim in _claims(place.holder, place.name):
            self._by_claim.setdefault(claim, {})[place] = None

    def discard(self, place: Place[OwnerT]) -> None:
        """Stop keeping a place. Does nothing if it is not kept."""
        if not place.is_kept:
            return
        place.is_kept = False
        del self._places[place]
        for claim in _claims(place.holder, place.name):
            of_claim = self._by_claim[claim]
            del of_claim[place]
            if not of_claim:
                del self._by_claim[claim]

    def find(self, newcomer: Holder, name: str) -> Place[OwnerT] | None:
        """Find the place for a newcomer: the oldest with the same key and name, or else the oldest of its holder."""
        for claim in _claims(newcomer, name):
            if places := self._by_claim.get(claim):
                return next(iter(places))
        return None


def _claims(holder: Holder, name: str) -> Iterator[_Claim]:
    if name:
        yield holder.key, name
    yield holder
