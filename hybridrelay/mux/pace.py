"""A limit for how fast messages are read from a peer that usually sends few. Pure: time is an argument.

A control channel carries a few messages a minute, and sometimes a burst: a connector renews a thousand registrations,
or a relay offers a thousand rendezvous after its restart. If a peer sends more, of whatever kind, reading pauses, so
that the peer takes little processor time from others. The same holds for the standard error of a command that leads
to a relay. This is a token bucket: a frame, or a line, costs one token, plus one for each KiB.
"""

from __future__ import annotations

__all__ = ["BURST", "PER_SECOND", "Pace"]

#: How many tokens may be used in a burst: enough for more than a thousand registrations, or offers, with their
#: overhead.
BURST = 4096.0
#: How many tokens are added per second.
PER_SECOND = 200.0
_BYTES_PER_TOKEN = 1024


class Pace:
    """The token bucket of one channel, or of one command."""

    __slots__ = ("_tokens", "_updated")

    def __init__(self, now: float) -> None:
        self._tokens = BURST
        self._updated = now

    def take(self, frames: int, size: int, now: float) -> float:
        """Count frames or lines that were read.

        Args:
            frames: the number of frames or lines.
            size: their total size (bytes).
            now: seconds, on any monotonic clock.

        Returns:
            How long to wait before reading more (seconds): 0 while there are tokens left.
        """
        self._tokens = min(BURST, self._tokens + (now - self._updated) * PER_SECOND)
        self._updated = now
        self._tokens -= frames + size / _BYTES_PER_TOKEN
        return max(0.0, -self._tokens / PER_SECOND)
