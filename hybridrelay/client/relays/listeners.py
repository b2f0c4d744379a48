"""Which listeners a client avoids. Pure: no I/O.

A relay may choose any registered listener for a client, and anyone with a Listen key can register one. A listener
that has no acceptable identity, or never opens its data channel, therefore says nothing about the other listeners:
the client asks the relay for another one, and avoids the failed one for a while. When no other listener is left, none
is avoided.
"""

from __future__ import annotations

from collections import deque

import attrs

from ...errors import HybridRelayError
from ...protocol.control import MAX_AVOID

#: How long a listener that failed is avoided (seconds). This is longer than it takes to try all listeners of a hybrid
#: connection, so that a failed one is not tried again before the others.
AVOID_SECONDS = 600.0
#: How many listeners one attempt to open a session may try. By default, a hybrid connection has at most 25.
MAX_TRIED = 64
#: If `MAX_TRIED` listeners have failed within this time (seconds), then either the relay invents them, or all of them
#: keep failing. From then on there is a pause before each further one.
MANY_FAILED_SECONDS = 60.0
#: The length of that pause (seconds). At this rate, it takes 16 s to try `MAX_TRIED` listeners that fail immediately.
PAUSE_SECONDS = 0.25


def _recent() -> deque[float]:
    return deque(maxlen=MAX_TRIED)


@attrs.define
class AvoidedListeners:
    """The instances that failed within the last `seconds`, at most `MAX_AVOID`. Successive attempts to open a session
    share them."""

    _seconds: float = attrs.field(default=AVOID_SECONDS, kw_only=True)
    _until: dict[str, float] = attrs.field(factory=dict, init=False)
    #: When the latest failures were.
    _failed_at: deque[float] = attrs.field(factory=_recent, init=False)

    def add(self, instance: str, now: float) -> None:
        """Note that an instance failed."""
        self._until.pop(instance, None)
        self._until[instance] = now + self._seconds
        while len(self._until) > MAX_AVOID:
            self._until.pop(next(iter(self._until)))

    def count_failure(self, now: float) -> None:
        """Count a failure of a listener, whether it is already avoided or not."""
        self._failed_at.append(now)

    def pause(self, now: float) -> float:
        """Return how long to wait before the relay is asked for another listener, after one has failed (seconds)."""
        many = len(self._failed_at) == MAX_TRIED and now - self._failed_at[0] < MANY_FAILED_SECONDS
        return PAUSE_SECONDS if many else 0.0

    def at(self, now: float) -> tuple[str, ...]:
        """Return the instances to avoid now."""
        self._until = {instance: until for instance, until in self._until.items() if until > now}
        return tuple(self._until)

    def clear(self) -> None:
        """Avoid none from now on."""
        self._until.clear()


@attrs.define
class ListenerSearch:
    """One attempt to find an acceptable listener. It is shared by all relays that are tried in the attempt."""

    _avoided: AvoidedListeners
    #: Instances that are not acceptable, even if there is no other one.
    other_than: tuple[str, ...] = ()
    #: How the listener that was tried last failed.
    failure: HybridRelayError | None = attrs.field(default=None, init=False)
    _tried: int = attrs.field(default=0, init=False)

    def avoid(self, now: float) -> tuple[str, ...]:
        """Return the instances to which the relay must not send this client."""
        return (*self._avoided.at(now), *self.other_than)

    def failed(self, instance: str, error: HybridRelayError, now: float) -> bool:
        """Note that a listener failed or was not acceptable. Returns whether to ask the relay for another one."""
        self._avoided.add(instance, now)
        self._avoided.count_failure(now)
        self.failure = error
        self._tried += 1
        return self._tried < MAX_TRIED

    def pause(self, now: float) -> float:
        """Return how long to wait before the relay is asked for another listener, after one has failed (seconds)."""
        return self._avoided.pause(now)

    def stalled(self, instance: str, now: float) -> None:
        """Note that a listener has not proved its identity in time, and that another one is used or tried instead."""
        self._avoided.add(instance, now)

    def none_left(self, error: HybridRelayError, now: float) -> HybridRelayError | None:
        """Handle the answer of a relay that has no listener, except perhaps those to avoid.

        Args:
            error: the relay's answer.
            now: seconds on the clock of the other methods.

        Returns:
            The error with which this attempt ends; None means to ask again, since no listener is avoided any more.
        """
        if self.other_than:  # the caller has a session with one of these
            return self.failure or error
        were_avoided = bool(self._avoided.at(now))
        self._avoided.clear()
        if self.failure is not None:
            return self.failure
        return None if were_avoided else error
