"""The instance of a process: the id by which relays and clients know it, and the secret that proves the id."""

from __future__ import annotations

import math
import secrets

import attrs

from .._value import Value
from ..protocol import control

__all__ = ["LONGEST_PAUSE_SECONDS", "RENEWAL_SECONDS", "OwnInstance", "RenewalPace", "new_instance"]

#: The shortest time between two renewals of an instance at one relay (seconds). Each further renewal doubles it.
RENEWAL_SECONDS = 10.0
#: The longest such time (seconds). After as much time without a need for a renewal, the shortest applies again.
LONGEST_PAUSE_SECONDS = 3600.0


@attrs.frozen
class OwnInstance(Value):
    """An instance whose secret this process knows. Only connectors send the secret, and only to relays.

    Raises:
        ValueError: the secret does not have the form that `new_instance` gives it.
    """

    secret: control.InstanceSecret = attrs.field(repr=False)
    #: The public id.
    id: control.Instance = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "id", control.instance_of(self.secret))


def new_instance() -> OwnInstance:
    """Return a new instance. Each process has its own, and does not reuse it after a restart."""
    return OwnInstance(secrets.token_hex(control.INSTANCE_SECRET_SIZE))


@attrs.define
class RenewalPace:
    """Decides how often a process takes a new instance at one relay.

    Once is enough if another process uses the instance. A relay that says so again and again lies, or is misled by
    somebody who has the secret, and each renewal is written into a file and into the audit log.
    """

    _pause: float = RENEWAL_SECONDS
    _next_at: float = -math.inf

    def admits(self, now: float) -> bool:
        """Return whether the instance may be renewed, and count this. `now` is on any monotonic clock (seconds)."""
        if now < self._next_at:
            return False
        is_calm = now - self._next_at >= LONGEST_PAUSE_SECONDS
        self._pause = RENEWAL_SECONDS if is_calm else min(2 * self._pause, LONGEST_PAUSE_SECONDS)
        self._next_at = now + self._pause
        return True
