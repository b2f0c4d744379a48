"""Limits on the rate at which the relay moves the bytes of a hybrid connection."""

from __future__ import annotations

import math
from collections.abc import Callable

import trio

from ...streams.nowait import READ_BYTES

__all__ = ["Pace", "Paces"]

#: How far ahead of the rate all pairs together may be before they wait (seconds). Shorter waits would cost more than
#: they are worth.
_AHEAD_SECONDS = 0.02
#: How many bytes are read at once: as many as the rate allows in this time, within bounds.
_BLOCK_SECONDS = 0.05
_MIN_BLOCK = 16 * 1024


class Pace:
    """A limit that all pairs of data channels of one hybrid connection share, in both directions.

    Every direction first moves a block, and then waits until the rate allows the next one. Therefore a direction that
    has been idle moves a small message, such as a ping, without waiting behind the data of others.
    """

    def __init__(self) -> None:
        """Begin without a limit."""
        #: Bytes per second; None if there is no limit.
        self.rate: int | None = None
        #: When everything that was moved is within the rate, on Trio's clock.
        self._free_at = -math.inf
        self._changed = trio.Event()

    def change(self, rate: int | None) -> None:
        """Use another rate from now on, also for directions that are waiting."""
        if rate != self.rate:
            self.rate = rate
            self._free_at = -math.inf
            self._changed.set()
            self._changed = trio.Event()

    @property
    def block(self) -> int:
        """How many bytes to read at once."""
        rate = self.rate
        return READ_BYTES if rate is None else max(_MIN_BLOCK, min(READ_BYTES, int(rate * _BLOCK_SECONDS)))

    async def wait(self, size: int) -> None:
        """Wait after `size` bytes were moved. This is a checkpoint. If cancelled, the bytes count nevertheless."""
        rate = self.rate
        if rate is None:
            await trio.lowlevel.checkpoint()
            return
        self._free_at = max(self._free_at, trio.current_time()) + size / rate
        with trio.move_on_at(self._free_at - _AHEAD_SECONDS):
            await self._changed.wait()


class Paces:
    """The limits of all hybrid connections that have had a pair. `rate_of` returns the rate that is set for one."""

    def __init__(self, rate_of: Callable[[str], int | None]) -> None:
        self._rate_of = rate_of
        self._paces: dict[str, Pace] = {}

    def of(self, connection: str) -> Pace:
        """Return the limit of a hybrid connection."""
        pace = self._paces.get(connection)
        if pace is None:
            pace = self._paces[connection] = Pace()
            pace.change(self._rate_of(connection))
        return pace

    def update(self) -> None:
        """Apply rates that may have changed."""
        for name, pace in self._paces.items():
            pace.change(self._rate_of(name))

    def forget(self, connection: str) -> None:
        """Forget a hybrid connection, which was deleted."""
        self._paces.pop(connection, None)
