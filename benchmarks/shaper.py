"""Computes when bytes arrive over a slow line: the arithmetic of `link`, without a clock or sockets."""

from __future__ import annotations

import attrs


@attrs.define
class Shaper:
    """One direction of a line with a rate and a delay.

    Bytes leave one after another at the line's rate, and arrive `delay` later. Idle time does not accumulate as
    credit.
    """

    #: Seconds from the end of sending to the arrival.
    delay: float
    #: Bytes per second.
    rate: float
    #: When the line will have sent everything that has entered it.
    _free_at: float = attrs.field(default=0.0, init=False)

    def arrival(self, now: float, size: int) -> float:
        """Return when the last of `size` bytes that enter the line at `now` arrives."""
        self._free_at = max(now, self._free_at) + size / self.rate
        return self._free_at + self.delay

    @property
    def capacity(self) -> int:
        """How many bytes the line can hold: those in transit at full rate, and a router's buffer of 50 ms."""
        return int(self.rate * (self.delay + 0.05)) + 1
