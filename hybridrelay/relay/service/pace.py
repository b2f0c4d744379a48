"""Limits on the rate at which the relay moves the bytes of a hybrid connection."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable

import attrs
import trio

from ..._value import Value
from ...streams.nowait import READ_BYTES
from ...streams.turns import PeerTurns, SharedTurns
from ..core.holders import Holder

__all__ = ["Pace", "Paces", "PairPace"]

#: How far ahead of the rate all pairs together may be before they wait (seconds). Shorter waits are not worth their
#: cost.
_AHEAD_SECONDS = 0.02
#: How long a round takes at the rate (seconds), unless there are very many directions. In a round, each direction
#: moves one block, so this is how long a direction waits for the others.
_ROUND_SECONDS = 0.1
#: The smallest block, even with very many directions (bytes). A smaller one would cost as much time.
_MIN_BLOCK = 512
#: How many blocks of all directions together are moved in a second, at most. Each of them costs processor time, and
#: this should not depend on the rate or on the number of sessions.
_MAX_BLOCKS_PER_SECOND = 300


class Pace:
    """A limit that all pairs of data channels of one hybrid connection share, in both directions.

    Every direction moves a block and then waits until everything that was moved is within the rate. Therefore each
    direction moves one block in each round, and an idle direction can move a small message, such as a ping, without
    waiting behind the data of others.

    The size of the blocks is such that a round takes `_ROUND_SECONDS`, or longer if blocks would become too small.
    Each round is divided equally among the holders that have something to move, and then among the directions of each
    holder, so that a holder does not gain by having more sessions.
    """

    def __init__(self) -> None:
        """Begin without a limit."""
        #: Bytes per second; None if there is no limit.
        self.rate: int | None = None
        #: When everything that was moved will be within the rate, on Trio's clock.
        self._free_at = -math.inf
        self._changed = trio.Event()
        #: How many directions of each holder are waiting.
        self._waiting: Counter[Hashable] = Counter()
        #: How many bytes each holder has moved since one of its directions last waited, for the holders that may move
        #: more without waiting.
        self._moved: dict[Hashable, int] = {}

    def change(self, rate: int | None) -> None:
        """Use another rate from now on, even for directions that are already waiting."""
        if rate != self.rate:
            self.rate = rate
            self._free_at = -math.inf
            self._changed.set()
            self._changed = trio.Event()

    def block_of(self, holder: Hashable) -> int:
        """Return how many bytes a direction of this holder reads at a time."""
        rate = self.rate
        if rate is None:
            return READ_BYTES
        return max(_MIN_BLOCK, min(READ_BYTES, int(self._share_of(holder, rate))))

    async def wait(self, size: int, holder: Hashable = None) -> None:
        """Wait after `size` bytes were moved. This is a checkpoint. The bytes count even if it is cancelled."""
        rate = self.rate
        if rate is None:
            await trio.lowlevel.checkpoint()
            return
        self._free_at = max(self._free_at, trio.current_time()) + size / rate
        if self._continues(size, holder, rate):
            await trio.lowlevel.checkpoint()
            return
        self._waiting[holder] += 1
        try:
            with trio.move_on_at(self._free_at - _AHEAD_SECONDS):
                await self._changed.wait()
        finally:
            self._waiting[holder] -= 1
            if not self._waiting[holder]:
                del self._waiting[holder]
            if not self._waiting:
                self._moved.clear()

    def _share_of(self, holder: Hashable, rate: int) -> float:
        """Return how many bytes a direction of this holder may move in a round."""
        directions = self._waiting[holder] + 1
        holders = len(self._waiting) + (directions == 1)
        most = max(directions, *self._waiting.values()) if self._waiting else directions
        least = max(_MIN_BLOCK, rate / _MAX_BLOCKS_PER_SECOND)
        return max(rate * _ROUND_SECONDS / holders, least * most) / directions

    def _continues(self, size: int, holder: Hashable, rate: int) -> bool:
        """Return whether a direction may move another block without waiting, as a part of its share of a round."""
        share = self._share_of(holder, rate)
        moved = self._moved.pop(holder, 0) + size
        if share <= rate * _ROUND_SECONDS or moved + READ_BYTES > share:
            return False
        self._moved[holder] = moved
        return True


@attrs.frozen
class PairPace(Value):
    """The limits for one pair of data channels: its rate, and its turns of the event loop."""

    #: The limit of its hybrid connection.
    pace: Pace = attrs.field(factory=Pace)
    #: Distinguishes the holders that share the limit; see `Pace`.
    holder: Hashable = None
    #: Shared by all pairs of the holder, whatever their hybrid connection.
    turns: SharedTurns = attrs.field(factory=SharedTurns)

    @property
    def rate(self) -> int | None:
        """Bytes per second; None if there is no limit."""
        return self.pace.rate

    @property
    def block(self) -> int:
        """How many bytes to read at a time."""
        return self.pace.block_of(self.holder)

    async def wait(self, size: int) -> None:
        """See `Pace.wait`."""
        await self.pace.wait(size, self.holder)


class Paces:
    """The limits of all hybrid connections that have had a pair. `rate_of` returns the rate that is set for one."""

    def __init__(self, rate_of: Callable[[str], int | None]) -> None:
        self._rate_of = rate_of
        self._paces: dict[str, Pace] = {}
        #: The turns of holders that have pairs.
        self._turns = PeerTurns()

    def of(self, connection: str, holder: Holder) -> PairPace:
        """Return the limits for a pair of a hybrid connection.

        Args:
            connection: the hybrid connection.
            holder: the holder of the sender's key. All holders of one of its groups together have one turn in a pass
                of the event loop.
        """
        pace = self._paces.get(connection)
        if pace is None:
            pace = self._paces[connection] = Pace()
            pace.change(self._rate_of(connection))
        return PairPace(pace, holder, self._turns.of(holder, *holder.groups))

    def update(self, connections: Iterable[str] | None = None) -> bool:
        """Apply rates that may have changed.

        Args:
            connections: the hybrid connections whose rates may have changed; None means all.

        Returns:
            Whether any of them has a rate now that it did not have before.
        """
        has_new = False
        for name in tuple(self._paces) if connections is None else connections:
            if (pace := self._paces.get(name)) is not None:
                before, rate = pace.rate, self._rate_of(name)
                pace.change(rate)
                has_new |= rate is not None and rate != before
        return has_new

    def forget(self, connection: str) -> None:
        """Forget a hybrid connection, which was deleted."""
        self._paces.pop(connection, None)
