"""Events about claims, at the relay and at the program that takes one."""

from __future__ import annotations

from typing import ClassVar

import attrs

from ..protocol.reasons import Reason
from .base import Event, Level

__all__ = [
    "ClaimExpiresSoon",
    "ClaimKept",
    "ClaimRefused",
    "ClaimTaken",
    "ClaimTakenAgain",
    "ClaimUnknown",
    "ClaimWaiting",
]


@attrs.frozen(kw_only=True)
class ClaimTaken(Event):
    """The relay has delivered the content of a claim, and has deleted it."""

    name: ClassVar = "claim.taken"
    level: ClassVar = Level.INFO
    is_limited: ClassVar = False
    summary: ClassVar = "A claim was taken"

    connection: str
    #: The id of the claim.
    claim: str
    #: The network address of the taker.
    peer: str


@attrs.frozen(kw_only=True)
class ClaimTakenAgain(Event):
    """Somebody has the code of a claim that was taken before. One of the two takers should not have it.

    Published once for each claim: otherwise, somebody with a used code could fill the logs. Further attempts
    are `ClaimRefused`."""

    name: ClassVar = "claim.taken-again"
    level: ClassVar = Level.ERROR
    is_limited: ClassVar = False
    summary: ClassVar = "A claim that was taken before was asked for again: somebody else may have its content"

    connection: str
    claim: str
    peer: str
    #: When the content was delivered (seconds since 1970), and from which address it had been asked for.
    taken_at: float
    taken_by: str


@attrs.frozen(kw_only=True)
class ClaimRefused(Event):
    """Somebody with the code of a claim did not get its content: the claim has expired, was revoked, was taken and
    has been asked for again since, is of a hybrid connection that is disabled, or was sent to the same taker before
    and was lost."""

    name: ClassVar = "claim.refused"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A claim was asked for, and refused"

    connection: str
    claim: str
    peer: str
    reason: Reason


@attrs.frozen(kw_only=True)
class ClaimExpiresSoon(Event):
    """A claim has not been taken, and three quarters of its time have passed. Published once for each claim by each
    run of the relay, usually within a minute of that time."""

    name: ClassVar = "claim.expires-soon"
    level: ClassVar = Level.WARNING
    is_limited: ClassVar = False
    summary: ClassVar = "A claim that was not taken expires soon"

    connection: str
    claim: str
    #: The note that it was created with.
    note: str
    #: Until when it can be taken (seconds since 1970).
    expires_at: float


@attrs.frozen(kw_only=True)
class ClaimUnknown(Event):
    """Somebody asked for a claim that the relay does not have, or showed a wrong proof."""

    name: ClassVar = "claim.unknown"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "An unknown claim was asked for"

    peer: str


@attrs.frozen(kw_only=True)
class ClaimKept(Event):
    """This program has taken a claim, and has written its connection string to a file."""

    name: ClassVar = "claim.kept"
    level: ClassVar = Level.INFO
    summary: ClassVar = "A claim was taken, and its connection string was written"

    connection: str
    file: str


@attrs.frozen(kw_only=True)
class ClaimWaiting(Event):
    """The relay of a claim cannot be reached. The program tries again until it can."""

    name: ClassVar = "claim.waiting"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A claim cannot be taken yet: its relay cannot be reached"

    host: str
    detail: str
    remedy: str
