"""How many programs a relay remembers for one purpose, and how this room is shared among hybrid connections. Pure.

The rules:

1. A hybrid connection may have a part of what is free in the first half of the room (`FREE_PART`).
2. The second half is for those that have few programs: each may have `FEW`, but no more than a small part of what is
   still free (`FEW_PART`).
3. Whatever others have used up, each may have `LEAST`. So the number of programs is limited by the room, and by
   `LEAST` for each hybrid connection.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

__all__ = ["FEW", "FEW_PART", "FREE_PART", "LEAST", "Room"]

FREE_PART: Final = 0.4
FEW: Final = 100
FEW_PART: Final = 1 / 128
LEAST: Final = 8


class Room:
    """The room of a relay for programs that it remembers; see the module's docstring.

    Args:
        total: for how many programs there is room.
        most: how many of them one hybrid connection may have.
    """

    def __init__(self, total: int, most: int) -> None:
        self._total = total
        self._most = most
        self._used: Counter[str] = Counter()
        #: How many there are in all.
        self.used = 0

    def take(self, connection: str) -> bool:
        """Take room for one program of a hybrid connection. Returns whether there is any."""
        own, free = self._used[connection], max(0, self._total - self.used)
        unreserved = max(0.0, free + own - self._total / 2) * FREE_PART
        if own >= int(min(self._most, max(unreserved, min(FEW, free * FEW_PART), LEAST))):
            return False
        self.used += 1
        self._used[connection] += 1
        return True

    def release(self, connection: str, count: int = 1) -> None:
        """Give back room of a hybrid connection."""
        self._used[connection] -= count
        self.used -= count
        if not self._used[connection]:
            del self._used[connection]
