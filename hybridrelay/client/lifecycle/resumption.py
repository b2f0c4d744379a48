"""When a session that has lost its data channel tries to resume, and when it gives up. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable

from ...connectivity.backoff import Backoff
from ...connectivity.refusals import is_final
from ...errors import HybridRelayError, PeerIdentityError, RendezvousError
from ...protocol.reasons import Reason
from .states import Outcome

__all__ = ["HELD_SECONDS", "RESUME_BACKOFF", "RESUME_JITTER", "Pauses", "is_absence", "outcome_of_failure"]

#: A data channel that is lost within this time (seconds) counts as a failed attempt: after the second one in a row,
#: there is a pause before the next attempt.
HELD_SECONDS = 1.0
#: The upper bound of the pause between two attempts to resume (seconds).
RESUME_BACKOFF = 2.0
#: An attempt begins at a random moment within this time (seconds): when a relay fails, all its sessions lose their
#: data channels at the same moment, and must not all try to resume at the same moment.
RESUME_JITTER = 0.25


class Pauses:
    """The pauses before attempts to resume.

    Args:
        random: returns a number in [0, 1).
    """

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._backoff = Backoff(first_seconds=0.5, max_seconds=RESUME_BACKOFF, random=random)
        #: When the session was given its current data channel.
        self._given_at = -math.inf
        #: How many data channels in a row were lost within `HELD_SECONDS`.
        self._lost_early = 0

    def given(self, now: float) -> None:
        """Note that the session was given a data channel."""
        self._given_at = now

    def after_loss(self, now: float) -> float:
        """Return when the first attempt after the loss of a data channel begins."""
        if now - self._given_at >= HELD_SECONDS:
            self._backoff.reset()
            self._lost_early = 0
            return self.spread(now)
        self._lost_early += 1
        return self.spread(now + (self._backoff.next_wait() if self._lost_early > 1 else 0.0))

    def after_failure(self, now: float) -> float:
        """Return when the next attempt begins, after one has failed."""
        return self.spread(now + self._backoff.next_wait())

    def spread(self, moment: float) -> float:
        """Return a random moment soon after this one."""
        return moment + RESUME_JITTER * self._random()


def outcome_of_failure(error: HybridRelayError, *, tried_every_relay: bool) -> Outcome | None:
    """Return the outcome of a session whose attempt to resume failed with this error; None means to try again.

    A session ends if its relay, or every relay, has said over the control channel that the connector will never come
    back (`Relays.open_data_channel` gives that reason in no other case); if every relay has refused the key; or if a
    connector with another valid certificate of the same authority has taken the place of the session's connector. No
    other failure of a data channel is authenticated: anything in the path can send a status, a TLS alert, or a
    certificate of its own.
    """
    if isinstance(error, RendezvousError) and error.reason is Reason.LISTENER_GONE:
        return Outcome.CONNECTOR_GONE
    if not tried_every_relay:
        return None
    if error.reason is Reason.IDENTITY_CHANGED:
        return Outcome.IDENTITY_CHANGED
    return Outcome.KEY_REFUSED if is_final(error) else None


def is_absence(error: HybridRelayError) -> bool:
    """Return whether the relay was reached but the session's connector was not."""
    return isinstance(error, (RendezvousError, PeerIdentityError))
