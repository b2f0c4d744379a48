"""The places of one key, counted by network and by address: which holder has the most of them. Pure."""

from __future__ import annotations

import math
from typing import Generic, TypeVar

import attrs

from .holders import Holder
from .tally import Tally

__all__ = ["Holdings", "Place"]

OwnerT = TypeVar("OwnerT")


@attrs.define(eq=False)
class Place(Generic[OwnerT]):
    """One place that is taken. Only `Places` changes it."""

    holder: Holder
    #: What has the place, for instance a pair. If the place is kept, this is its last owner.
    owner: OwnerT
    #: Since when it has been provisional, or established.
    since: float
    #: Distinguishes the owner from others of the same holder; see `Places.choose_displaced`.
    name: str = ""
    is_established: bool = False
    #: Whether it counts as idle; see rule 8 of `Places`.
    is_idle: bool = False
    #: Whether the owner has ended, and the place is kept for its holder.
    is_kept: bool = False
    #: When an established place becomes provisional again, a provisional one becomes established, or a kept one ends.
    until: float = math.inf
    #: How far `until` was ahead when it was set (seconds).
    term: float = math.inf


class Holdings(Generic[OwnerT]):
    """The places of one key that are provisional, or those that are established."""

    def __init__(self) -> None:
        #: A dictionary that is used as an ordered set.
        self.in_order: dict[Place[OwnerT], None] = {}
        self._by_network: Tally[Place[OwnerT]] = Tally()
        #: For each network.
        self._by_address: dict[str, Tally[Place[OwnerT]]] = {}

    def __len__(self) -> int:
        return len(self.in_order)

    def add(self, place: Place[OwnerT]) -> None:
        """Add a place that is not there."""
        holder = place.holder
        self.in_order[place] = None
        self._by_network.add(holder.network, place)
        self._by_address.setdefault(holder.network, Tally()).add(holder.address, place)

    def remove(self, place: Place[OwnerT]) -> None:
        """Remove a place that is there."""
        network = place.holder.network
        del self.in_order[place]
        self._by_network.remove(network, place)
        self._by_address[network].remove(place.holder.address, place)
        if not self._by_address[network].most:
            del self._by_address[network]

    def count(self, holder: Holder) -> tuple[int, int]:
        """Return how many places the holder's network has, and how many its address has."""
        addresses = self._by_address.get(holder.network)
        return self._by_network.count(holder.network), 0 if addresses is None else addresses.count(holder.address)

    def greatest(
        self, newcomer: Holder, own: tuple[int, int], *, times: int = 1
    ) -> tuple[Tally[Place[OwnerT]], str] | None:
        """Find the holder that has the most places, if it has more than `times` times as many as the newcomer's
        holder would have.

        Networks are compared first, and then the addresses of the newcomer's network.

        Args:
            newcomer: the holder that needs a place.
            own: the result of `count` for the newcomer's holder, without the newcomer.
            times: the factor for the comparison.

        Returns:
            A tally, and the name of the group in it that has this holder's places; or None.
        """
        network, address = own
        if self._by_network.most > times * (network + 1):
            addresses = self._by_address[self._by_network.largest()]
            return addresses, addresses.largest()
        own_addresses = self._by_address.get(newcomer.network)
        if own_addresses is not None and own_addresses.most > times * (address + 1):
            return own_addresses, own_addresses.largest()
        return None

    def oldest_for(self, newcomer: Holder) -> Place[OwnerT]:
        """Return the oldest place of the holder that has the most. If none has more than the newcomer's own holder,
        return that of the newcomer's own holder."""
        network, address = newcomer.network, newcomer.address
        if self._by_network.count(network) != self._by_network.most:
            network = self._by_network.largest()
        addresses = self._by_address[network]
        return addresses.oldest(address if addresses.count(address) == addresses.most else addresses.largest())

    def newest_of_largest(self) -> Place[OwnerT]:
        """Return the newest place of the holder that has the most. There must be one."""
        addresses = self._by_address[self._by_network.largest()]
        return addresses.newest(addresses.largest())

    def of_largest_networks(self) -> list[Place[OwnerT]]:
        """Return the places of all networks that have the most."""
        return list(self._by_network.of_largest())
