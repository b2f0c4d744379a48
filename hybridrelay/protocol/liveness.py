"""Liveness of the peer, and the round trip time. SPEC.md 3.11.

A PING is requested every `interval`. Any received byte is a sign of life, so a peer that acknowledges a long upload
need not answer one in time. The peer is silent if nothing has arrived for the interval and the timeout together, and
for the timeout since a PING was requested. A process that was suspended thus sends a PING before it declares its peer
dead. It counts when the PING was requested, and not when it is sent, so a blocked writer does not delay the decision.
The timeout grows with the round trip time, so that a slow path is not mistaken for a dead one. `check` does not wait
for the interval.
"""

from __future__ import annotations

import struct

import attrs

#: Round trips older than this do not count towards the lowest one (seconds).
ROUND_TRIP_MEMORY = 60.0
#: The timeout in round trips. It is generous because a queue that builds up on the path multiplies their time.
_TIMEOUT_ROUND_TRIPS = 8


@attrs.define
class Liveness:
    """The liveness timers of the current channel. `restart` starts them again for another channel."""

    #: `SessionConfig.ping_interval` and `ping_timeout` (seconds).
    interval: float
    timeout: float
    #: The smoothed round trip time (seconds); None before the first PONG.
    smoothed: float | None = attrs.field(default=None, init=False)
    _heard_at: float = attrs.field(default=0.0, init=False)
    #: When a PING was last requested. The writer sends it later.
    _asked_at: float = attrs.field(default=0.0, init=False)
    _count: int = attrs.field(default=0, init=False)
    #: The token of the PING that waits for its PONG, and when it was sent.
    _waiting: tuple[bytes, float] | None = attrs.field(default=None, init=False)
    #: Round trips of the last minute, at most one for each PING; see `lowest`.
    _samples: list[tuple[float, float]] = attrs.field(factory=list, init=False)

    def restart(self, now: float) -> None:
        """Begin again for a new channel. Answers that were expected on the old one no longer matter."""
        self._heard_at = now
        self._asked_at = now
        self._waiting = None
        self._samples.clear()
        self.smoothed = None

    def heard(self, now: float) -> None:
        """Note that bytes arrived."""
        self._heard_at = now

    def ask(self, now: float) -> None:
        """Note that a PING is requested."""
        self._asked_at = now

    def check(self, now: float) -> None:
        """Request a PING now, even if bytes arrived a moment ago. It counts as unanswered until something arrives."""
        # A check while another one is unanswered does not extend the deadline.
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
        """When the next PING is due, or while one is unanswered, when the peer counts as silent."""
        if self.is_unanswered:
            return max(self._heard_at + self.interval, self._asked_at) + self.effective_timeout
        return self._asked_at + self.interval

    def ping(self, now: float) -> bytes:
        """Return the token for a PING that is sent now."""
        self._count += 1
        token = struct.pack(">Q", self._count)
        self._waiting = (token, now)
        return token

    def pong(self, token: bytes, now: float) -> None:
        """Handle a PONG. It is ignored unless it answers our last PING."""
        if self._waiting is None or self._waiting[0] != token:
            return
        sample = now - self._waiting[1]
        self._waiting = None
        self.smoothed = sample if self.smoothed is None else 0.875 * self.smoothed + 0.125 * sample
        while self._samples and (self._samples[-1][1] >= sample):
            self._samples.pop()
        self._samples.append((now, sample))

    def lowest(self, now: float) -> float | None:
        """Return the lowest round trip of the last minute (seconds); the last one if it is older; None if none was
        measured."""
        # Samples are sorted by both time and length, so the first one that is recent enough is the lowest.
        while len(self._samples) > 1 and self._samples[0][0] < now - ROUND_TRIP_MEMORY:
            self._samples.pop(0)
        return self._samples[0][1] if self._samples else None
