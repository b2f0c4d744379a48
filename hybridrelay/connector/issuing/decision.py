"""Deciding who gets an identity. Pure.

| who asks | condition | answer |
|---|---|---|
| anybody | its own certificate has expired since the session began | *identity expired* |
| anybody | the issuer ends within a day | *issue refused* |
| claim | was not used, and there is room to note it | issued; noted with the key |
| claim | was used for the same key | issued again, for a taker that did not get the answer |
| claim | was used for another key | *claim used*, and an alarm |
| claim | was not used, and too many are noted | *limit* |
| application | the authority has made its identity, and no issuer | *issue refused* |
| application | its label has had `MAX_RENEWALS` renewals in the last `RENEWALS_SECONDS` | *limit* |
| application | otherwise | issued |

A used claim is noted until `KEPT_SECONDS` after its certificate has expired, so that a clock that was wrong for a
while does not make it usable again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

import attrs

from ...protocol.reasons import Reason
from ...security import Role

__all__ = [
    "KEPT_SECONDS",
    "MAX_RENEWALS",
    "MAX_USED_CLAIMS",
    "RENEWALS_SECONDS",
    "Asker",
    "Decision",
    "UsedClaim",
    "UsedClaims",
    "decide_issue",
    "key_digest",
]

#: How many used claims are noted. A relay keeps 200 open claims of a hybrid connection, each for up to 7 days.
MAX_USED_CLAIMS = 4096
#: How long after its expiry a used claim stays noted (30 days).
KEPT_SECONDS = 30 * 86_400.0
#: How often the identities of one label may be renewed in an hour, whatever their serials. A program renews its
#: identity once in 60 days, and again if it did not get the answer, or could not store it.
MAX_RENEWALS = 12
RENEWALS_SECONDS = 3600.0
#: An issuer that ends within this time issues nothing any more, because what it signs ends with it.
_ISSUER_SECONDS = 86_400.0


@attrs.frozen
class Asker:
    """Who asks: the identity that the client has proved."""

    connection: str
    role: Role
    label: str
    serial: str
    #: Seconds since 1970.
    not_after: float
    is_from_issuer: bool


@attrs.frozen
class UsedClaim:
    """A claim certificate that was used. Times are seconds since 1970."""

    connection: str
    serial: str
    label: str
    #: The SHA-256 of the public key for which it was used, in hexadecimal.
    key: str
    used_at: float
    #: When the certificate ends.
    not_after: float


@attrs.frozen
class UsedClaims:
    """All claims that were used."""

    entries: tuple[UsedClaim, ...] = ()

    def find(self, connection: str, serial: str) -> UsedClaim | None:
        """Return the note about a claim; None if it was not used."""
        found = (one for one in self.entries if (one.connection, one.serial) == (connection, serial))
        return next(found, None)

    def current(self, now: float) -> UsedClaims:
        """Return those that are still noted at `now`."""
        return UsedClaims(tuple(one for one in self.entries if now < one.not_after + KEPT_SECONDS))


@attrs.frozen
class Decision:
    """What to answer."""

    #: `Reason.NO_ERROR` if the identity is issued.
    reason: Reason
    detail: str = ""
    #: What has to be stored before anything is signed; None if nothing changes.
    changed: UsedClaims | None = None
    #: The earlier use of the claim, if there was one.
    earlier: UsedClaim | None = None


def key_digest(public_key: bytes) -> str:
    """Return the digest that is noted for a public key."""
    return hashlib.sha256(public_key).hexdigest()


def decide_issue(
    asker: Asker,
    public_key: bytes,
    *,
    used: UsedClaims,
    renewals: Sequence[float],
    issuer_ends: float,
    now: float,
) -> Decision:
    """Decide about one request whose signature is valid.

    Args:
        asker: who asks.
        public_key: the key for which an identity is requested.
        used: the claims that were used.
        renewals: when identities with this label have been renewed, in seconds since 1970.
        issuer_ends: when the issuer ends.
        now: seconds since 1970.
    """
    if now >= asker.not_after:
        return Decision(Reason.IDENTITY_EXPIRED, "the certificate of the one who asks has expired")
    if now >= issuer_ends - _ISSUER_SECONDS:
        return Decision(Reason.ISSUE_REFUSED, "the issuer of the connector has expired, or expires within a day")
    return _ROWS[asker.role](asker, key_digest(public_key), used, renewals, now)


def _claim(asker: Asker, key: str, used: UsedClaims, renewals: Sequence[float], now: float) -> Decision:
    earlier = used.find(asker.connection, asker.serial)
    if earlier is not None:
        if earlier.key == key:
            return Decision(Reason.NO_ERROR, earlier=earlier)
        return Decision(Reason.CLAIM_USED, "it was used before, for another key", earlier=earlier)
    current = used.current(now)
    if len(current.entries) >= MAX_USED_CLAIMS:
        return Decision(Reason.LIMIT, f"the connector notes no more than {MAX_USED_CLAIMS} used claims")
    note = UsedClaim(asker.connection, asker.serial, asker.label, key, now, asker.not_after)
    return Decision(Reason.NO_ERROR, changed=UsedClaims((*current.entries, note)))


def _application(asker: Asker, key: str, used: UsedClaims, renewals: Sequence[float], now: float) -> Decision:
    if not asker.is_from_issuer:
        return Decision(
            Reason.ISSUE_REFUSED, "its identity was made with the authority file, with which it is replaced, too"
        )
    if sum(1 for at in renewals if abs(now - at) < RENEWALS_SECONDS) >= MAX_RENEWALS:
        return Decision(
            Reason.LIMIT, f"the identities of its label have been renewed {MAX_RENEWALS} times in an hour"
        )
    return Decision(Reason.NO_ERROR)


def _connector(asker: Asker, key: str, used: UsedClaims, renewals: Sequence[float], now: float) -> Decision:
    return Decision(Reason.IDENTITY_WRONG_ROLE)


_ROWS: Mapping[Role, Callable[[Asker, str, UsedClaims, Sequence[float], float], Decision]] = {
    Role.CLAIM: _claim,
    Role.APPLICATION: _application,
    Role.CONNECTOR: _connector,
}
