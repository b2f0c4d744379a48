"""Measuring how late the event loop is."""

from __future__ import annotations

import trio

from ._histogram import Histogram

__all__ = ["LoopLag"]

#: How often the lag is measured (seconds), followed by the upper bounds of the buckets.
LAG_SECONDS = 1.0
LAG_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)


class LoopLag(Histogram):
    """A histogram of how late the event loop was."""

    def __init__(self) -> None:
        """Begin without measurements."""
        super().__init__(LAG_BUCKETS)

    async def measure(self) -> None:
        """Measure how late the event loop is, once a second, until cancelled."""
        while True:
            due = trio.current_time() + LAG_SECONDS
            await trio.sleep_until(due)
            self.observe(trio.current_time() - due)
