"""Events about identities that a connector issues, and that applications renew."""

from __future__ import annotations

from typing import ClassVar

import attrs

from ..protocol.reasons import Reason
from .base import Event, Level

__all__ = [
    "ClaimUsedAgain",
    "IdentityIssued",
    "IdentityNotIssued",
    "IdentityNotRenewed",
    "IdentityRenewed",
]


@attrs.frozen(kw_only=True)
class IdentityIssued(Event):
    """The connector's issuer has signed an identity: for a claim, or to renew an earlier one."""

    name: ClassVar = "identity.issued"
    level: ClassVar = Level.INFO
    is_limited: ClassVar = False
    summary: ClassVar = "An identity was issued"

    connection: str
    label: str
    #: The serial of the new identity, and until when it is valid (seconds since 1970).
    serial: str
    not_after: float
    #: The serial of the claim certificate, or of the earlier identity, with which it was requested.
    claim: str = ""
    earlier: str = ""
    #: Whether the claim was used before for the same key, because its taker did not get the answer.
    again: bool = False
    #: The relay and the route of the session, and the address of the client, as the relay knows it.
    route: str = ""
    client_address: str = ""


@attrs.frozen(kw_only=True)
class IdentityNotIssued(Event):
    """The connector has refused a request for an identity."""

    name: ClassVar = "identity.not-issued"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A request for an identity was refused"

    connection: str
    label: str
    #: The serial of the certificate with which it was requested, and its role.
    serial: str
    role: str
    reason: Reason
    detail: str
    remedy: str = ""
    client_address: str = ""


@attrs.frozen(kw_only=True)
class ClaimUsedAgain(Event):
    """Somebody has used the certificate of a claim that was used before, with another key: two parties have had the
    code of the claim."""

    name: ClassVar = "identity.claim-used-again"
    level: ClassVar = Level.ERROR
    summary: ClassVar = "A claim that was used before was used again: somebody else may have the identity"

    connection: str
    label: str
    #: The serial of the claim certificate.
    claim: str
    #: When it was used first (seconds since 1970).
    used_at: float
    client_address: str = ""


@attrs.frozen(kw_only=True)
class IdentityRenewed(Event):
    """This program has a new identity, and uses it for new sessions."""

    name: ClassVar = "identity.renewed"
    level: ClassVar = Level.INFO
    summary: ClassVar = "The identity was renewed"

    connection: str
    label: str
    serial: str
    #: Until when it is valid (seconds since 1970).
    not_after: float
    #: Whether it is stored where the program reads its connection string at its next start.
    kept: bool
    #: Why not.
    detail: str = ""


@attrs.frozen(kw_only=True)
class IdentityNotRenewed(Event):
    """An attempt to renew the identity has failed. The program tries again."""

    name: ClassVar = "identity.not-renewed"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "The identity was not renewed"

    connection: str
    label: str
    #: Until when the current identity is valid (seconds since 1970).
    not_after: float
    reason: Reason
    detail: str
    remedy: str = ""
    #: How long until the next attempt.
    retry_seconds: float
