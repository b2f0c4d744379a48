"""Counting items in groups, and finding the largest group. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

__all__ = ["Tally"]

ItemT = TypeVar("ItemT", bound=Hashable)


class Tally(Generic[ItemT]):
    """Items in groups, in the order in which they were added.

    Every method takes constant time unless its docstring says otherwise, because methods are called for each request
    of a peer.
    """

    def __init__(self) -> None:
        # Dictionaries are used as ordered sets.
        self._groups: dict[str, dict[ItemT, None]] = {}
        self._by_size: dict[int, dict[str, None]] = {}
        #: The size of the largest group; 0 if there is none.
        self.most = 0

    def add(self, group: str, item: ItemT) -> None:
        """Add an item that is not there."""
        items = self._groups.setdefault(group, {})
        items[item] = None
        self._resized(group, len(items) - 1, len(items))

    def remove(self, group: str, item: ItemT) -> None:
        """Remove an item that is there."""
        items = self._groups[group]
        del items[item]
        self._resized(group, len(items) + 1, len(items))
        if not items:
            del self._groups[group]

    def count(self, group: str) -> int:
        """Return the size of a group."""
        return len(self._groups.get(group, ()))

    def largest(self) -> str:
        """Return one of the largest groups. There must be one."""
        return next(iter(self._by_size[self.most]))

    def oldest(self, group: str) -> ItemT:
        """Return the item of a group that was added first. There must be one."""
        return next(iter(self._groups[group]))

    def newest(self, group: str) -> ItemT:
        """Return the item of a group that was added last. There must be one."""
        return next(reversed(self._groups[group]))

    def of_largest(self) -> Iterable[ItemT]:
        """Yield the items of all largest groups. Takes time in proportion to their number."""
        for group in self._by_size.get(self.most, ()):
            yield from self._groups[group]

    def _resized(self, group: str, before: int, after: int) -> None:
        if before:
            alike = self._by_size[before]
            del alike[group]
            if not alike:
                del self._by_size[before]
        if after:
            self._by_size.setdefault(after, {})[group] = None
        if after > self.most or (before == self.most and before not in self._by_size):
            self.most = after
