"""Deciding who gets an identity. Pure.

A client that requests an identity proves its current one: a claim certificate, or an application's identity.

| client's identity | condition | answer |
|---|---|---|
| any | it has expired since the session began | *identity expired* |
| any | the issuer expires within a day | *issue refused* |
| claim certificate | was signed by an issuer, not by the authority itself | *issue refused* |
| claim certificate | was not used, and there is room to record it | issued; recorded with the key |
| claim certificate | was used for the same key | issued again, for a taker that did not get the answer |
| claim certificate | was used for another key | *claim used*, and an alarm |
| claim certificate | was not used, and its hybrid connection has as many recorded as there is room for | *limit* |
| application | was signed by the authority itself, not by an issuer | *issue refused* |
| application | its label has had `MAX_RENEWALS` renewals in the last `RENEWALS_SECONDS` | *limit* |
| application | otherwise | issued |

A used claim stays recorded until `KEPT_SECONDS` after its certificate has expired, so that a clock that was wrong for
a while does not make it usable again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

import attrs

from ..._value import Value
from ...protocol.reasons import Reason
from ...security import Role

__all__ = [
    "KEPT_SECONDS",
    "MAX_RENEWALS",
    "MAX_USED_CLAIMS",
    "RENEWALS_SECONDS",
    "Decision",
    "Requester",
    "UsedClaim",
    "UsedClaims",
    "decide_issue",
    "key_digest",
]

#: How many used claims are recorded, of all hybrid connections that share the file. The second half of this room is
#: for hybrid connections that have few: each may have as many as the free room divided by `_FEW_PART`, so that only
#: about 150 together use it up. A relay keeps 200 open claims of a hybrid connection, each for up to 7 days.
MAX_USED_CLAIMS = 4096
_FEW_PART = 32
#: How long after its expiry a used claim stays recorded (30 days).
KEPT_SECONDS = 30 * 86_400.0
#: How often the identities of one label may be renewed in an hour, whatever their serials. A program renews its
#: identity once in 60 days, and again if it did not get the answer, or could not store it.
MAX_RENEWALS = 12
RENEWALS_SECONDS = 3600.0
#: An issuer that expires within this time issues nothing any more, because identities end with their issuer.
_ISSUER_SECONDS = 86_400.0


@attrs.frozen
class Requester(Value):
    """The identity that the client has proved."""

    connection: str
    role: Role
    label: str
    serial: str
    #: Seconds since 1970.
    not_after: float
    is_from_issuer: bool


@attrs.frozen
class UsedClaim(Value):
    """A claim certificate that was used. Times are seconds since 1970."""

    connection: str
    serial: str
    label: str
    #: The SHA-256 of the public key for which it was used, in hexadecimal.
    key: str
    used_at: float
    #: When the certificate expires.
    not_after: float


@attrs.frozen
class UsedClaims(Value):
    """All claims that were used."""

    entries: tuple[UsedClaim, ...] = ()

    def find(self, connection: str, serial: str) -> UsedClaim | None:
        """Return the record of a claim's use; None if it was not used."""
        found = (one for one in self.entries if (one.connection, one.serial) == (connection, serial))
        return next(found, None)

    def current(self, now: float) -> UsedClaims:
        """Return those that are to be kept at `now`."""
        return UsedClaims(tuple(one for one in self.entries if now < one.not_after + KEPT_SECONDS))


@attrs.frozen
class Decision(Value):
    """What to answer."""

    #: `Reason.NO_ERROR` if the identity is issued.
    reason: Reason
    detail: str = ""
    #: What has to be stored before anything is signed; None if nothing changes.
    changed: UsedClaims | None = None
    #: The earlier use of the claim, if there was one.
    earlier: UsedClaim | None = None


def key_digest(public_key: bytes) -> str:
    """Return the digest that is recorded for a public key."""
    return hashlib.sha256(public_key).hexdigest()


def decide_issue(
    requester: Requester,
    public_key: bytes,
    *,
    used: UsedClaims,
    renewals: Sequence[float],
    issuer_ends: float,
    now: float,
) -> Decision:
    """Decide about one request whose signature is valid.

    Args:
        requester: the identity that the client has proved.
        public_key: the key for which an identity is requested.
        used: the claims that were used.
        renewals: when identities with this label were renewed, in seconds since 1970.
        issuer_ends: when the issuer expires.
        now: seconds since 1970.
    """
    if now >= requester.not_after:
        return Decision(Reason.IDENTITY_EXPIRED, "the client's certificate has expired")
    if now >= issuer_ends - _ISSUER_SECONDS:
        return Decision(Reason.ISSUE_REFUSED, "the issuer of the connector has expired, or expires within a day")
    return _ROWS[requester.role](requester, key_digest(public_key), used, renewals, now)


def _claim(requester: Requester, key: str, used: UsedClaims, renewals: Sequence[float], now: float) -> Decision:
    if requester.is_from_issuer:
        return Decision(Reason.ISSUE_REFUSED, "the claim was made with an issuer, and not with the authority file")
    earlier = used.find(requester.connection, requester.serial)
    if earlier is not None:
        if earlier.key == key:
            return Decision(Reason.NO_ERROR, earlier=earlier)
        return Decision(Reason.CLAIM_USED, "the claim was used before, for another key", earlier=earlier)
    current = used.current(now)
    own = sum(one.connection == requester.connection for one in current.entries)
    free = MAX_USED_CLAIMS - len(current.entries)
    if free <= 0 or (2 * free <= MAX_USED_CLAIMS and own >= max(1, free // _FEW_PART)):
        detail = f"the connector has recorded {own} used claims of this hybrid connection, and has no room for more"
        return Decision(Reason.LIMIT, detail)
    note = UsedClaim(requester.connection, requester.serial, requester.label, key, now, requester.not_after)
    return Decision(Reason.NO_ERROR, changed=UsedClaims((*current.entries, note)))


def _application(requester: Requester, key: str, used: UsedClaims, renewals: Sequence[float], now: float) -> Decision:
    if not requester.is_from_issuer:
        return Decision(
            Reason.ISSUE_REFUSED,
            "the client's identity was made with the authority file, and can only be replaced with it",
        )
    if sum(1 for at in renewals if abs(now - at) < RENEWALS_SECONDS) >= MAX_RENEWALS:
        return Decision(Reason.LIMIT, f"identities with this label have been renewed {MAX_RENEWALS} times in an hour")
    return Decision(Reason.NO_ERROR)


def _connector(requester: Requester, key: str, used: UsedClaims, renewals: Sequence[float], now: float) -> Decision:
    return Decision(Reason.IDENTITY_WRONG_ROLE)


_ROWS: Mapping[Role, Callable[[Requester, str, UsedClaims, Sequence[float], float], Decision]] = {
    Role.CLAIM: _claim,
    Role.APPLICATION: _application,
    Role.CONNECTOR: _connector,
}
