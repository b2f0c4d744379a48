"""The enumerations in control messages (`control`). Pure."""

from __future__ import annotations

import enum

__all__ = ["KeptState", "PeerRole", "TargetHealth", "UpdateState"]


class PeerRole(enum.StrEnum):
    """The kind of program that dials a control channel."""

    CONNECTOR = "connector"
    CLIENT = "client"
    #: Takes a claim, and needs no right.
    TAKER = "taker"


class KeptState(enum.StrEnum):
    """What a peer has done with a new key."""

    #: It uses the key, and has written it where its connection string is kept.
    KEPT = "kept"
    #: It uses the key, but after a restart it would not.
    MEMORY = "memory"
    #: It does not use the key yet, because another of its relays does not accept it.
    WAITING = "waiting"


class UpdateState(enum.StrEnum):
    """What a peer has done with an update."""

    #: It uses the update, or a later one, and has written it where its connection string is kept.
    KEPT = "kept"
    #: It uses the update, but after a restart it would have to get it again.
    MEMORY = "memory"
    #: It does not use the update yet, because none of the relays in it accepts the peer, or it is not to be used yet.
    WAITING = "waiting"
    #: It does not use the update, which is not authentic, has expired, or is not allowed by a policy.
    REFUSED = "refused"
    #: The update is for others.
    OTHER = "other"


class TargetHealth(enum.StrEnum):
    """What a connector reports about the target of a hybrid connection."""

    #: It has not tried to connect to this target, or only once or twice, without success.
    UNKNOWN = "unknown"
    #: Connecting to it succeeds.
    HEALTHY = "healthy"
    #: Connecting to it has failed several times in a row.
    UNHEALTHY = "unhealthy"

    @classmethod
    def _missing_(cls, value: object) -> TargetHealth:
        """Read what a newer connector may report as UNKNOWN."""
        return cls.UNKNOWN
