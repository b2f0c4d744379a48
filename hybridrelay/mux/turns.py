"""Shares the event loop among the holders of sessions: each gets as much as one session, however many it has."""

from __future__ import annotations

import trio

from ..streams.nowait import TURN_BYTES

__all__ = ["MAX_FRAMES", "SharedTurns"]

#: How many frames are processed before other tasks run: the cost of a frame hardly depends on its size. This many
#: take about half a millisecond, or 2.5 ms if all of them are OPEN, the most expensive kind.
MAX_FRAMES = 128
#: A frame counts like this many bytes.
_BYTES_PER_FRAME = TURN_BYTES // MAX_FRAMES


class SharedTurns:
    """The turns of all sessions of one holder, such as the identity of an application.

    A turn is `MAX_FRAMES` frames, or `TURN_BYTES` bytes. When one is over, every session of the holder that has more
    to process waits for the next one, and in each pass of the event loop only the first of those that wait gets one.
    Without this, a holder with 200 sessions that send expensive frames would have 200 turns in every pass.
    """

    def __init__(self) -> None:
        """Begin with a whole turn."""
        self._left = TURN_BYTES
        self._waiting = trio.Lock()

    @property
    def is_over(self) -> bool:
        """Whether the turn is over, so that `next` has to be called before more is processed."""
        return self._left <= 0

    def count(self, frames: int, size: int) -> None:
        """Count what was processed.

        Args:
            frames: the number of frames.
            size: their total size (bytes).
        """
        self._left -= frames * _BYTES_PER_FRAME + size

    async def next(self) -> None:
        """Wait for another turn. Other tasks run meanwhile, and those that have waited longer come first."""
        async with self._waiting:  # for which every task waits for at least one pass of the event loop
            # What exceeded the last turn counts for this one, which may thus be over with the next portion.
            self._left = min(TURN_BYTES, self._left + TURN_BYTES)
