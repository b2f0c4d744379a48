"""A bound on how often peers can make the relay log something: whoever reaches a port can be refused. Pure."""

from __future__ import annotations

__all__ = ["LogLimit"]


class LogLimit:
    """Lets so many lines through per period, and counts those that it holds back.

    Times are seconds of any clock that does not run backwards.
    """

    def __init__(self, *, lines: int, seconds: float) -> None:
        """Make a limit of `lines` in any period of `seconds` that begins with a line."""
        self._lines = lines
        self._seconds = seconds
        self._until = 0.0
        self._left = 0
        self._held_back = 0

    def admit(self, now: float) -> int | None:
        """Whether a line may be logged: None if not; otherwise how many were held back since the last one."""
        if now >= self._until:
            self._until = now + self._seconds
            self._left = self._lines
        if self._left == 0:
            self._held_back += 1
            return None
        self._left -= 1
        held_back, self._held_back = self._held_back, 0
        return held_back
