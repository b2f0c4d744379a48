"""Deciding when a data channel that has failed is a reason to check the routes to the relay thoroughly. Pure."""

from __future__ import annotations

import math

import attrs

__all__ = ["Doubts"]

#: After a thorough check, the first time without another one (seconds). It doubles with each check that follows.
FIRST_SECONDS = 10.0
#: The longest time without another check (seconds). Without a check for as long again, it begins anew.
MAX_SECONDS = 600.0


@attrs.define
class Doubts:
    """Limits thorough checks, because the peer may be the reason why a data channel has failed.

    A thorough check costs this side and the relay four connections and two TLS handshakes, and the channels that are
    opened at this moment wait for it. So whoever makes data channels fail causes few of them.
    """

    #: Before this time, a failure is no reason for another check.
    _until: float = -math.inf
    _wait: float = FIRST_SECONDS

    def failed(self, now: float) -> bool:
        """Note that a data channel has failed although its route had passed the probe.

        Args:
            now: the time (seconds, on any clock).

        Returns:
            Whether to check the routes thoroughly.
        """
        if now < self._until:
            return False
        if now >= self._until + MAX_SECONDS:
            self._wait = FIRST_SECONDS
        self._until = now + self._wait
        self._wait = min(2 * self._wait, MAX_SECONDS)
        return True
