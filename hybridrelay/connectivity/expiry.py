"""Reporting that an identity or an issuer is about to expire, once for each threshold. Only `watch_expiry` does I/O.

| what | thresholds: days before its end |
|---|---|
| an identity that the authority has made, and an issuer | 60, 30, 14, 7, 3, 1, 0 |
| an identity that an issuer has signed, which is renewed 30 days before its end | 21, 14, 7, 3, 1, 0 |
| a claim certificate | none: it is used at once |
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Sequence

import attrs
import trio

from .._value import Value
from ..events.endpoint import IdentityExpiresSoon
from ..events.stream import EventStream
from ..security import ConnectionString, Role
from .snapshot import CredentialSnapshot, FailureSnapshot

__all__ = ["Credential", "CredentialKind", "ExpiryNotices", "credentials_of", "watch_expiry"]

_DAY = 86_400.0
#: How often to look at the clock (seconds).
_CHECK_SECONDS = 3600.0
_PLAIN = (60, 30, 14, 7, 3, 1, 0)
_RENEWABLE = (21, 14, 7, 3, 1, 0)


class CredentialKind(enum.StrEnum):
    """What may expire."""

    IDENTITY = "identity"
    #: An identity that an issuer has signed.
    RENEWABLE = "renewable-identity"
    ISSUER = "issuer"


_THRESHOLDS = {
    CredentialKind.IDENTITY: _PLAIN,
    CredentialKind.RENEWABLE: _RENEWABLE,
    CredentialKind.ISSUER: _PLAIN,
}
_ISSUE = "issue another connection string: hybridrelay connections issue --help"
_REMEDIES = {
    CredentialKind.IDENTITY: _ISSUE,
    CredentialKind.RENEWABLE: "identity.not-renewed in this program's log says why it is not renewed; "
    "when it has expired, it needs another claim: hybridrelay claims create --help",
    CredentialKind.ISSUER: "make another issuer with the authority file: hybridrelay connections issuer --help",
}


@attrs.frozen
class Credential(Value):
    """Something in a connection string that expires."""

    connection: str
    kind: CredentialKind
    #: The label of an identity; empty for an issuer.
    label: str
    serial: str
    #: Seconds since 1970.
    expires_at: float

    @property
    def remedy(self) -> str:
        """What to do about it."""
        return _REMEDIES[self.kind]

    def threshold(self, now: float) -> int | None:
        """Return the last threshold (days) that has been reached at `now`, or None."""
        remaining = self.expires_at - now
        reached = [days for days in _THRESHOLDS[self.kind] if remaining <= days * _DAY]
        return min(reached, default=None)

    def snapshot(self, now: float, failure: FailureSnapshot | None = None) -> CredentialSnapshot:
        """Return the credential for status and metrics.

        Args:
            now: seconds since 1970.
            failure: why the last attempt to renew it has failed.
        """
        return CredentialSnapshot(
            kind=self.kind.value,
            label=self.label,
            serial=self.serial,
            expires_at=self.expires_at,
            is_problem=failure is not None or self.threshold(now) is not None,
            remedy=(failure.remedy if failure is not None else "") or self.remedy,
            failure=failure,
        )


def credentials_of(string: ConnectionString) -> tuple[Credential, ...]:
    """Return what expires in a connection string.

    Raises:
        ConfigurationError: the identity or the issuer is damaged.
    """
    found: list[Credential] = []
    if string.identity is not None and string.identity.role is not Role.CLAIM:
        kind = CredentialKind.IDENTITY if string.identity.issuer is None else CredentialKind.RENEWABLE
        details = string.identity.details
        found.append(Credential(string.entity_path, kind, details.name.label, details.serial, details.not_after))
    if string.issuer is not None:
        issuer = string.issuer
        found.append(Credential(string.entity_path, CredentialKind.ISSUER, "", issuer.serial, issuer.not_after))
    return tuple(found)


class ExpiryNotices:
    """Remembers which thresholds were reported for each credential. Pure: the time is an argument."""

    def __init__(self) -> None:
        self._said: dict[tuple[str, CredentialKind, str], int] = {}

    def due(self, credentials: Iterable[Credential], now: float) -> list[IdentityExpiresSoon]:
        """Return the events to be published now. Credentials that are no longer listed are forgotten."""
        events, said = [], dict[tuple[str, CredentialKind, str], int]()
        for one in credentials:
            key, threshold = (one.connection, one.kind, one.serial), one.threshold(now)
            before = self._said.get(key)
            # If the clock goes back, nothing is reported again.
            reached = [days for days in (before, threshold) if days is not None]
            if reached:
                said[key] = min(reached)
            if threshold is not None and (before is None or threshold < before):
                events.append(
                    IdentityExpiresSoon(
                        connection=one.connection,
                        what=one.kind.value,
                        label=one.label,
                        serial=one.serial,
                        not_after=one.expires_at,
                        days=max(0, int((one.expires_at - now) // _DAY)),
                        remedy=one.remedy,
                    )
                )
        self._said = said
        return events


async def watch_expiry(
    credentials: Callable[[], Sequence[Credential]],
    notices: ExpiryNotices,
    events: EventStream,
    clock: Callable[[], float],
) -> None:
    """Publish an event for each threshold that is reached, until cancelled.

    Args:
        credentials: returns the credentials that are in use at the moment.
        notices: remembers what was reported.
        events: the stream to which events are published.
        clock: returns seconds since 1970.
    """
    while True:
        for event in notices.due(credentials(), clock()):
            events.publish(event)
        await trio.sleep(_CHECK_SECONDS)
