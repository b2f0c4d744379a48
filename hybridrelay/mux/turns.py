"""Sharing the event loop among peers: each gets as much as one session, however many sessions it has."""

from __future__ import annotations

import time
from collections.abc import Callable

import trio

from ..streams.nowait import TURN_BYTES, TURN_SECONDS

__all__ = ["MAX_FRAMES", "SharedTurns"]

#: How many frames are processed before other tasks run. Frames are counted because their cost hardly depends on their
#: size: this many take about half a millisecond, or 2.5 ms if all of them are OPEN, the most expensive kind.
MAX_FRAMES = 128
#: A frame counts as much as this many bytes.
_BYTES_PER_FRAME = TURN_BYTES // MAX_FRAMES
#: A second counts as much as this many bytes.
_BYTES_PER_SECOND = TURN_BYTES / TURN_SECONDS


class SharedTurns:
    """The turns of all sessions of one peer, such as an application's identity.

    A turn is `MAX_FRAMES` frames, `TURN_BYTES` bytes, or `TURN_SECONDS`, or parts of these that add up to a turn.
    Time is counted because it depends on more than frames and bytes, such as the number of TLS records. When a turn
    is over, the peer's sessions that have more to process wait for the next one. In each pass of the event loop, only
    the session that has waited longest gets a turn. Without this, a peer with 200 sessions that send expensive frames
    would have 200 turns in every pass.

    Args:
        clock: returns seconds. Not Trio's clock, which stands still in some tests.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """Begin with a whole turn."""
        self._clock = clock
        self._left: float = TURN_BYTES
        self._counted_until = clock()
        self._waiting = trio.Lock()

    @property
    def is_over(self) -> bool:
        """Whether the turn is over, so that `next` has to be called before more is processed."""
        return self._left <= 0

    def resume(self) -> None:
        """Start to count time, because the reader of a session runs again after it has waited."""
        self._counted_until = self._clock()

    def count_time(self) -> None:
        """Count the time since this method or `resume` was called, because the reader of a session may wait now."""
        now = self._clock()
        self._take((now - self._counted_until) * _BYTES_PER_SECOND)
        self._counted_until = now

    def count(self, frames: int, size: int) -> None:
        """Count what was processed.

        Args:
            frames: the number of frames.
            size: their total size (bytes).
        """
        self._take(frames * _BYTES_PER_FRAME + size)

    def _take(self, size: float) -> None:
        # Not more than one turn is taken in advance: it may be the system that has stopped this process for a while.
        self._left = max(self._left - size, -TURN_BYTES)

    async def next(self) -> None:
        """Wait for another turn. Other tasks run meanwhile, and those that have waited longer come first."""
        async with self._waiting:  # acquiring this lock takes at least one pass of the event loop
            # If the last turn was exceeded, this one is shorter by that much.
            self._left = min(TURN_BYTES, self._left + TURN_BYTES)
