"""A limited number of places for additional sockets."""

from __future__ import annotations

import attrs


@attrs.define
class Limited:
    """Implements `hybridrelay.streams.connecting.Spare`, and notes how many places were taken at the same time."""

    places: int
    taken: int = 0
    most: int = 0

    def take(self) -> bool:
        if self.taken >= self.places:
            return False
        self.taken += 1
        self.most = max(self.most, self.taken)
        return True

    def give_back(self) -> None:
        self.taken -= 1
        assert self.taken >= 0
