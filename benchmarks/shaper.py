"""When a byte that enters a slow line comes out of it: the arithmetic of `link`, without clock and sockets."""

from __future__ import annotations

import attrs


@attrs.define
class Shaper:
    """One direction of a line with a rate and a delay.

    Bytes leave one after the other at the line's rate, and arrive `delay` later; a line that was idle has saved
    nothing up.
    """

    #: Seconds from the end of sending to the arrival.
    delay: float
    #: Bytes per second.
    rate: float
    #: When the line will have sent all that was given to it.
    _free_at: float = attrs.field(default=0.0, init=False)

    def arrival(self, now: float, size: int) -> float:
        """When the last of `size` bytes arrives that are given to the line at `now`."""
        self._free_at = max(now, self._free_at) + size / self.rate
        return self._free_at + self.delay

    @property
    def capacity(self) -> int:
        """How many bytes may be inside: what fits on the line at full rate, and a router's buffer of 50 ms."""
        return int(self.rate * (self.delay + 0.05)) + 1
