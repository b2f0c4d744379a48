"""Creating and revoking claims, which bring connection strings to the machines that are to have them.

The content is sealed here. The relay gets the id of the claim, a digest of the proof and the sealed content, and
never the code. If the hybrid connection has an issuer, the content that `prepare_claim` makes for an application has
by default no private key: the taker makes it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import attrs

from .._value import Value
from ..errors import ConfigurationError
from ..relay.store.checks import no_claim
from ..relay.store.store import NotFound
from ..security import (
    Authority,
    ClaimBundle,
    ClaimCode,
    ClaimContent,
    ClaimKeys,
    ConnectionString,
    Endpoint,
    LocalNameChoice,
    Role,
    Secret,
    certify_claim,
    seal_claim,
)
from ..security.loading import naming
from .authority_content import issuer_of
from .changes import attempted, nothing
from .connections import make_connection_string, read_authority_file
from .registry import ClaimInfo, Registry

__all__ = ["CreatedClaim", "IdentityOnRequest", "create_claim", "prepare_claim", "revoke_claim"]

#: The fewest characters of an id that `revoke_claim` accepts.
MIN_ID_PREFIX = 6


@attrs.frozen
class CreatedClaim(Value):
    """What `create_claim` has done."""

    info: ClaimInfo
    #: The text of the code, which is stored nowhere.
    code: Secret
    #: The relay that keeps the claim.
    endpoint: Endpoint


@attrs.frozen
class IdentityOnRequest(Value):
    """The content of a claim for an application whose identity the issuer of a connector signs when the claim is
    taken."""

    #: The connection string without an identity.
    string: ConnectionString
    authority: Authority
    #: The label that the identity will have.
    label: str

    def bundle(self, keys: ClaimKeys, *, now: float, expires_at: float) -> ClaimBundle:
        """Return what is sealed.

        Args:
            keys: those of the claim.
            now: seconds since 1970.
            expires_at: when the claim expires (seconds since 1970).
        """
        key = keys.private_key()
        certificate = certify_claim(self.authority, self.label, key, now=now, expires_at=expires_at)
        return ClaimBundle(self.string, self.authority.certificate, certificate)


def prepare_claim(
    name: str,
    role: Role,
    label: str,
    *,
    authority_path: Path,
    registry: Registry,
    rule: str | None = None,
    local_name: LocalNameChoice = None,
    valid_years: float,
    with_private_key: bool = False,
    now: float,
) -> ConnectionString | IdentityOnRequest:
    """Make what a claim brings to its machine. For an application of a hybrid connection with an issuer, this is an
    `IdentityOnRequest`, unless `with_private_key` is True; otherwise a connection string with a new identity.

    Arguments and errors are those of `make_connection_string`.
    """
    authority_file = read_authority_file(authority_path, name)
    with naming(authority_path):
        on_request = role is Role.APPLICATION and not with_private_key and issuer_of(authority_file) is not None
    string = make_connection_string(
        name,
        role,
        label,
        authority_path=authority_path,
        rule=rule,
        slot=None,
        registry=registry,
        local_name=local_name,
        valid_years=valid_years,
        has_identity=not on_request,
        now=now,
    )
    return IdentityOnRequest(string, authority_file.authority, label) if on_request else string


def create_claim(
    registry: Registry,
    name: str,
    content: ConnectionString | IdentityOnRequest,
    *,
    host: str | None = None,
    seconds: float,
    note: str = "",
    now: float,
    before_change: Callable[[], None] = nothing,
) -> CreatedClaim:
    """Seal the content of a claim, and leave it at a relay for the machine that is to have it.

    Args:
        registry: the registry of the relay.
        name: the hybrid connection.
        content: what `prepare_claim` returns, or another connection string of the hybrid connection.
        host: the relay's host name, which must be one of those in the connection string; None means the only one.
        seconds: for how long the claim can be taken; at most 7 days.
        note: a text by which people recognize the claim; at most 128 characters. The relay sees it.
        now: seconds since 1970.
        before_change: called before the claim is added; see `change_with_files`.

    Raises:
        ConfigurationError: the connection string is of another hybrid connection; `host` is not one of its relays, or
            is None and it names several; the pin of the relay is not known here yet; or the relay refuses the claim.
        OutcomeUnknown: the relay gave no usable answer. Revoke the claim, if it is listed, and create another one.
    """
    string = content if isinstance(content, ConnectionString) else content.string
    if string.entity_path != name:
        raise ConfigurationError(f"the connection string is for {string.entity_path}, not for {name}")
    endpoint = _endpoint(string, host)
    relay = registry.relay()
    if relay.pin is None and string.relay_pins:
        raise ConfigurationError(
            "the key of the relay is not known here yet",
            remedy="start the relay once with this state directory, and try again",
        )
    code = ClaimCode.generate(endpoint, relay.pin if string.relay_pins else None)
    keys = ClaimKeys.of(code)
    sealed: ClaimContent
    if isinstance(content, ConnectionString):
        sealed = content
    else:
        sealed = content.bundle(keys, now=now, expires_at=now + seconds)
    data = seal_claim(keys, sealed)
    before_change()
    info = registry.add_claim(name, keys, data, seconds=seconds, note=note, now=now)
    return CreatedClaim(info, code.format(), endpoint)


def _endpoint(string: ConnectionString, host: str | None) -> Endpoint:
    found = [one for one in string.endpoints if host in (None, one.host)]
    if len(found) == 1:
        return found[0]
    hosts = ", ".join(one.host for one in string.endpoints)
    if found:
        raise ConfigurationError(
            f"the connection string names several relays: {hosts}",
            remedy="name the one to which --state or --management leads: --endpoint HOST",
        )
    raise ConfigurationError(f"the connection string does not name the relay {host}", remedy=f"it names {hosts}")


def revoke_claim(
    registry: Registry, name: str, which: str, *, before_change: Callable[[], None] = nothing
) -> ClaimInfo:
    """Revoke a claim. If it is no longer open (taken, expired or revoked), nothing changes.

    Args:
        registry: the registry of the relay.
        name: the hybrid connection.
        which: the id of the claim, or at least its first six characters.
        before_change: see `create_claim`.

    Returns:
        The claim as it was before: its `state` says whether it was open.

    Raises:
        ConfigurationError: there is no such claim, or several have ids that begin with `which`.
    """
    with attempted(lambda: registry.revoke_claim(name, which)):
        found = [one for one in registry.claims(name) if one.id.startswith(which)]
        if not found or len(which) < MIN_ID_PREFIX:
            raise no_claim(name)
        if len(found) > 1:
            raise NotFound(f"{len(found)} claims have ids that begin with {which}", remedy="give the whole id")
    before_change()
    registry.revoke_claim(name, found[0].id)
    return found[0]
