"""Values sorted by hybrid connection and key, so that a page of them takes time in proportion to its length. Pure.

A relay may have tens of thousands of listeners, senders and sessions. They are listed in pages, and sorting or
counting all of them for each page would take too long.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from typing import Generic, TypeAlias, TypeVar

__all__ = ["Position", "SortedIndex"]

ValueT = TypeVar("ValueT")
#: The name of a hybrid connection, and a key that is unique within it.
Position: TypeAlias = tuple[str, str]


class SortedIndex(Generic[ValueT]):
    """A sorted index; see the module's docstring. A change takes a binary search, and moves at most 8 bytes for each
    value (`list.insert`)."""

    def __init__(self) -> None:
        """Make an empty index."""
        self._positions: list[Position] = []
        self._values: dict[Position, ValueT] = {}
        self._counts: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._positions)

    def count(self, connection: str) -> int:
        """Return how many values a hybrid connection has."""
        return self._counts[connection]

    def get(self, connection: str, key: str) -> ValueT | None:
        """Return the value, or None."""
        return self._values.get((connection, key))

    def set(self, connection: str, key: str, value: ValueT) -> None:
        """Add a value, or replace the one that is there."""
        position = (connection, key)
        if position not in self._values:
            self._positions.insert(bisect_left(self._positions, position), position)
            self._counts[connection] += 1
        self._values[position] = value

    def discard(self, connection: str, key: str) -> None:
        """Remove a value, if it is there."""
        position = (connection, key)
        if self._values.pop(position, None) is None:
            return
        del self._positions[bisect_left(self._positions, position)]
        self._counts[connection] -= 1
        if not self._counts[connection]:
            del self._counts[connection]

    def page(
        self, limit: int, *, after: Position | None = None, connection: str | None = None
    ) -> list[tuple[Position, ValueT]]:
        """Return at most `limit` values, in order.

        Args:
            limit: at least 1.
            after: the position at which the previous page ended, even if that value no longer exists; None means the
                beginning.
            connection: if given, only the values of this hybrid connection.
        """
        begin = 0 if after is None else bisect_right(self._positions, after)
        end = len(self._positions)
        if connection is not None:
            begin = max(begin, bisect_left(self._positions, (connection, "")))
            end = bisect_left(self._positions, (connection + "\0", ""))  # the next possible string
        return [(position, self._values[position]) for position in self._positions[begin : min(end, begin + limit)]]
