"""Liveness of the peer, and the round trip to it. SPEC.md 3.11.

Any received byte is a sign of life: a peer that acknowledges a long upload needs no PING. A PING is requested every
`interval`. If nothing arrives for that long, and nothing within the timeout after the PING was requested, the peer is
silent. Therefore a process that was suspended sends a PING before it declares its peer dead, and a blocked writer
does not delay the decision. The timeout grows with the round trip time, so that a slow path is not mistaken for a
dead one.
"""

from __future__ import annotations

import struct

import attrs

#: Round trips older than this do not count towards the lowest.
ROUND_TRIP_MEMORY = 60.0
#: Timeout in round trips: a queue that builds up on the path may multiply them.
_TIMEOUT_ROUND_TRIPS = 8


@attrs.define
class Liveness:
    """Timers of one channel; a new channel gets a new one (`restart`)."""

    interval: float
    timeout: float
    #: Smoothed round trip in seconds, or None before the first PONG.
    smoothed: float | None = attrs.field(default=None, init=False)
    _heard_at: float = attrs.field(default=0.0, init=False)
    #: When a PING was last requested; the writer sends it later.
    _asked_at: float = attrs.field(default=0.0, init=False)
    _count: int = attrs.field(default=0, init=False)
    #: The PING that awaits its PONG, and when it left.
    _waiting: tuple[bytes, float] | None = attrs.field(default=None, init=False)
    #: A few: one for each PING of the last minute at most.
    _samples: list[tuple[float, float]] = attrs.field(factory=list, init=False)

    def restart(self, now: float) -> None:
        """A new channel: answers that were expected on the old one no longer matter."""
        self._heard_at = now
        self._asked_at = now
        self._waiting = None
        self._samples.clear()
        self.smoothed = None

    def heard(self, now: float) -> None:
        """Bytes arrived."""
        self._heard_at = now

    def ask(self, now: float) -> None:
        """A PING is requested."""
        self._asked_at = now

    def check(self, now: float) -> None:
        """Request a PING now, however recently the peer was heard: it counts as unanswered until something
        arrives."""
        # A check during another one does not extend its deadline.
        if not self.is_unanswered or now >= self.deadline:
            self._asked_at = now
        self._heard_at = min(self._heard_at, now - self.interval)

    @property
    def effective_timeout(self) -> float:
        return max(self.timeout, _TIMEOUT_ROUND_TRIPS * (self.smoothed or 0.0))

    @property
    def is_unanswered(self) -> bool:
        """Whether nothing has arrived since a PING was requested. Only one such PING is outstanding at a time."""
        return self._asked_at > self._heard_at

    @property
    def deadline(self) -> float:
        """When the next PING is due; or, while one is unanswered, when the peer counts as silent."""
        if self.is_unanswered:
            return max(self._heard_at + self.interval, self._asked_at) + self.effective_timeout
        return self._asked_at + self.interval

    def ping(self, now: float) -> bytes:
        """The token of a PING that leaves now."""
        self._count += 1
        token = struct.pack(">Q", self._count)
        self._waiting = (token, now)
        return token

    def pong(self, token: bytes, now: float) -> None:
        """A PONG arrived; anything but the answer to our last PING is ignored."""
        if self._waiting is None or self._waiting[0] != token:
            return
        sample = now - self._waiting[1]
        self._waiting = None
        self.smoothed = sample if self.smoothed is None else 0.875 * self.smoothed + 0.125 * sample
        while self._samples and (self._samples[-1][1] >= sample):
            self._samples.pop()
        self._samples.append((now, sample))

    def lowest(self, now: float) -> float | None:
        """The lowest round trip of the last minute in seconds, or None if none was measured."""
        # Samples ascend in both time and length, so the first that is young enough is the lowest.
        while len(self._samples) > 1 and self._samples[0][0] < now - ROUND_TRIP_MEMORY:
            self._samples.pop(0)
        return self._samples[0][1] if self._samples else None
