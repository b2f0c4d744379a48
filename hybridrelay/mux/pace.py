"""How fast something is read that is rarely much. Pure: time comes in as an argument.

A control channel carries a few messages a minute, and sometimes a burst: a connector renews a thousand registrations,
or a relay offers a thousand rendezvous after its restart. A peer that sends more, whatever it sends, is read with
pauses, so that it takes little of the processor from everybody else. The same holds for what a command that leads to
a relay prints to its standard error. It is a token bucket; a frame, or a line, costs one token, and one more for each
KiB.
"""

from __future__ import annotations

__all__ = ["BURST", "PER_SECOND", "Pace"]

#: Tokens that may be used at once: more than a thousand registrations, or offers, with all that belongs to them.
BURST = 4096.0
#: Tokens that come back in a second.
PER_SECOND = 200.0
_BYTES_PER_TOKEN = 1024


class Pace:
    """The token bucket of one channel, or of one command."""

    __slots__ = ("_tokens", "_updated")

    def __init__(self, now: float) -> None:
        self._tokens = BURST
        self._updated = now

    def take(self, frames: int, size: int, now: float) -> float:
        """Count what was taken in: so many frames or lines, of `size` bytes together.

        Returns:
            How long to wait before more is read (seconds): 0 while there are tokens left.
        """
        self._tokens = min(BURST, self._tokens + (now - self._updated) * PER_SECOND)
        self._updated = now
        self._tokens -= frames + size / _BYTES_PER_TOKEN
        return max(0.0, -self._tokens / PER_SECOND)
