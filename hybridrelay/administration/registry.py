"""The interface through which administrators read and change the registry of a relay.

The use cases of this package call a `Registry`, of which there are two implementations. `StoreRegistry` uses a
relay's store directly. `hybridrelay.management.ApiRegistry` sends requests to a running relay, on this machine or
elsewhere. Values contain no keys, except where a method says so. Instead they contain fingerprints, so that a caller
who may not see keys can read everything else.
"""

# This module is long because every operation is described here.

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol, Self

import attrs

from .._value import Value
from ..relay.claims import Claim, ClaimState
from ..relay.model import HybridConnection, RelayRecord
from ..relay.quotas import NO_QUOTA, Edition, Editions, Limits, Quota
from ..relay.store.checks import no_rule
from ..relay.updates import StoredUpdate
from ..security import (
    ClaimKeys,
    KeySlot,
    ManagementRole,
    ManagementToken,
    Right,
    Rule,
    Secret,
    key_fingerprint,
)

__all__ = [
    "ClaimInfo",
    "ConnectionInfo",
    "KeyInfo",
    "ProgramInfo",
    "RecipientInfo",
    "Registry",
    "RelayDescription",
    "RollInfo",
    "RuleInfo",
    "TokenInfo",
    "UpdateInfo",
]


_NONE: Mapping[tuple[str, KeySlot], int] = {}


@attrs.frozen
class RelayDescription(Value):
    """The data in connection strings about a relay, besides its host."""

    #: The pin; None if no relay has run with this state directory yet.
    pin: str | None
    #: The ports that differ from the defaults, by port name; None for a port that is off.
    ports: Mapping[str, int | None]


@attrs.frozen
class KeyInfo(Value):
    """Information about a slot of a rule, without the key."""

    #: Changes with the key; 0 if the key is revoked.
    generation: int
    #: None if the key is revoked.
    fingerprint: str | None
    #: When the key was last used (seconds since 1970); None if never, or if no relay was asked.
    last_used: float | None = attrs.field(default=None, eq=False)


@attrs.frozen
class RuleInfo(Value):
    """Information about a rule, without its keys."""

    name: str
    rights: frozenset[Right]
    keys: Mapping[KeySlot, KeyInfo]

    @classmethod
    def of(cls, rule: Rule, generations: Mapping[tuple[str, KeySlot], int] = _NONE) -> Self:
        """Make the value for a rule, whose keys have these generations (`HybridConnection.generations`)."""

        def info(slot: KeySlot) -> KeyInfo:
            key = rule.key(slot)
            return KeyInfo(generations.get((rule.name, slot), 0), None if key is None else key_fingerprint(key))

        return cls(rule.name, rule.rights, {slot: info(slot) for slot in KeySlot})

    def fingerprint(self, slot: KeySlot) -> str | None:
        """Return the fingerprint of the key in `slot`, or None if it is revoked."""
        return self.keys[slot].fingerprint

    @property
    def fingerprints(self) -> Mapping[KeySlot, str | None]:
        """The fingerprints of both keys."""
        return {slot: self.fingerprint(slot) for slot in KeySlot}

    @property
    def valid_keys(self) -> tuple[KeySlot, ...]:
        """The slots whose keys are not revoked."""
        return tuple(slot for slot in KeySlot if self.fingerprint(slot) is not None)


@attrs.frozen
class ConnectionInfo(Value):
    """Information about a hybrid connection, without its keys."""

    name: str
    hosts: tuple[str, ...]
    #: Sorted by name.
    rules: tuple[RuleInfo, ...]
    #: Seconds since 1970.
    created_at: float
    #: See `HybridConnection.version`.
    version: int
    #: Whether it is disabled: the relay refuses all requests for it.
    disabled: bool = False
    #: Its own limits, and the edition that has further ones.
    quota: Quota = NO_QUOTA

    @classmethod
    def of(cls, connection: HybridConnection) -> Self:
        """Make the value for a hybrid connection of a store."""
        rules = tuple(RuleInfo.of(rule, connection.generations) for rule in connection.rules)
        return cls(
            connection.name,
            connection.hosts,
            rules,
            connection.created_at,
            connection.version,
            connection.disabled,
            connection.quota,
        )

    @classmethod
    def missing(cls, name: str) -> Self:
        """Make the value for a hybrid connection that does not exist. No hybrid connection ever has its version."""
        return cls(name, (), (), 0.0, version=0)

    def find_rule(self, name: str) -> RuleInfo | None:
        """Return the rule with this name, or None."""
        return next((rule for rule in self.rules if rule.name == name), None)

    def rule(self, name: str) -> RuleInfo:
        """Return the rule with this name.

        Raises:
            NotFound: there is none.
        """
        found = self.find_rule(name)
        if found is None:
            raise no_rule(self.name, name, [rule.name for rule in self.rules])
        return found

    def differences(self, record: RelayRecord) -> tuple[str, ...]:
        """Return what is different in a record with the same name: ``endpoint``, and ``rules`` or else ``keys``."""
        ours = {rule.name: rule for rule in self.rules}
        theirs = {rule.name: RuleInfo.of(rule) for rule in record.rules}
        if {name: rule.rights for name, rule in ours.items()} != {name: rule.rights for name, rule in theirs.items()}:
            found = ["rules"]
        elif any(ours[name].fingerprints != rule.fingerprints for name, rule in theirs.items()):
            found = ["keys"]
        else:
            found = []
        return (*(["endpoint"] if self.hosts != record.hosts else []), *found)


@attrs.frozen
class TokenInfo(Value):
    """Information about a token of the management API, without its text. Times are seconds since 1970."""

    id: str
    name: str
    role: ManagementRole
    #: See `ManagementToken.scope`.
    scope: str
    created_at: float
    expires_at: float
    #: The time of the last use, updated once a minute; None if the token has never been used.
    last_used_at: float | None

    @classmethod
    def of(cls, token: ManagementToken) -> Self:
        """Make the value for a token of a store."""
        return cls(
            token.id, token.name, token.role, token.scope, token.created_at, token.expires_at, token.last_used_at
        )


@attrs.frozen
class ClaimInfo(Value):
    """Information about a claim, without its content. Times are seconds since 1970."""

    id: str
    state: ClaimState
    note: str
    created_at: float
    expires_at: float
    #: When it was taken, and from which address.
    taken_at: float | None
    taken_by: str
    revoked_at: float | None
    #: How often it was asked for with the right code after it had been taken; when, and from where, last.
    taken_again: int
    taken_again_at: float | None
    taken_again_by: str

    @classmethod
    def of(cls, claim: Claim, now: float) -> Self:
        """Make the value for a claim of a store, as it is at `now`."""
        return cls(
            claim.id,
            claim.state(now),
            claim.note,
            claim.created_at,
            claim.expires_at,
            claim.taken_at,
            claim.taken_by,
            claim.revoked_at,
            claim.taken_again,
            claim.taken_again_at,
            claim.taken_again_by,
        )


@attrs.frozen
class ProgramInfo(Value):
    """A program that does not have the new key of a rule; see `ProgramSnapshot`."""

    instance: str
    address: str
    role: str
    state: str
    detail: str
    is_connected: bool


@attrs.frozen
class RecipientInfo(Value):
    """A program that does not have an update; see `RecipientSnapshot`."""

    instance: str
    address: str
    role: str
    state: str
    detail: str
    departed_at: float | None


@attrs.frozen
class UpdateInfo(Value):
    """Information about an update, without its document. Times are seconds since 1970."""

    #: The side for which it is (``connector`` or ``application``), and the serial of the one identity for which it
    #: is; the serial is empty if the update is for all programs of the side.
    role: str
    serial: str
    sequence: int
    note: str
    created_at: float
    expires_at: float
    #: How many of its recipients the relay has seen, and how many of these have it.
    recipients: int = 0
    kept: int = 0
    #: Some of those that do not have it.
    missing: tuple[RecipientInfo, ...] = ()
    #: Since when the relay has noted this. Programs that have not connected since then are not counted. None if no
    #: relay runs, so that nothing is known of programs.
    seen_since: float | None = None
    #: Whether there was no room for other programs, which are not counted.
    is_crowded: bool = False


@attrs.frozen
class RollInfo(Value):
    """The roll of a rule's key. Times are seconds since 1970."""

    #: The slot of the new key.
    slot: KeySlot
    started_at: float
    ends_at: float
    #: See `KeyRoll.waits`.
    waits: bool
    #: How many programs the relay has seen during the roll, and how many of them have the new key.
    programs: int = 0
    kept: int = 0
    #: Some of those that do not have it.
    missing: tuple[ProgramInfo, ...] = ()
    #: See `UpdateInfo.seen_since`.
    seen_since: float | None = None
    #: When the old key was revoked; None while the roll is in progress. Programs in `missing` fail after a restart.
    ended_at: float | None = None
    #: See `UpdateInfo.is_crowded`. The old key is then revoked at `ends_at`.
    is_crowded: bool = False


class Registry(Protocol):
    """Hybrid connections, their rules and keys, and the tokens of one relay.

    All methods block until they are done. They raise `StateError` if a store cannot be used, and `ManagementError` if
    a relay cannot be reached. If a relay does not answer a request for a change, or its answer cannot be read, they
    raise `OutcomeUnknown`. Every other exception means that nothing was changed. `known` is a hybrid connection as it
    was read before: if it has been changed since, `ChangedMeanwhile` is raised, and `NotFound` if it was deleted.
    """

    # --- reading

    def relay(self) -> RelayDescription:
        """Return what connection strings contain about the relay.

        Raises:
            ConfigurationError: a file of the relay is damaged.
        """

    def connections(self) -> tuple[ConnectionInfo, ...]:
        """Return all hybrid connections, sorted by name."""

    def find(self, name: str) -> ConnectionInfo | None:
        """Return a hybrid connection, or None if there is none with this name."""

    def connection(self, name: str) -> ConnectionInfo:
        """Return a hybrid connection.

        Raises:
            NotFound: there is none with this name.
        """

    def rule_with_keys(self, name: str, rule: str) -> Rule:
        """Return a rule of a hybrid connection, with its keys.

        Raises:
            NotFound: there is no such hybrid connection or rule.
        """

    def roll(self, name: str, rule: str) -> RollInfo | None:
        """Return the progress of the roll of a rule's key; None if there is no roll. A roll that is over is returned
        as long as the relay knows of programs that have not stored the new key.

        Raises:
            NotFound: there is no such hybrid connection.
        """

    def tokens(self) -> tuple[TokenInfo, ...]:
        """Return all tokens, including expired ones, sorted by name."""

    def editions(self) -> Editions:
        """Return all editions, and which one the relay uses."""

    def limits_in_force(self, name: str) -> Limits:
        """Return the limits in force for a hybrid connection. A limit that is not set directly is that of its
        edition, or else the default."""

    def claims(self, name: str) -> tuple[ClaimInfo, ...]:
        """Return the claims of a hybrid connection, including ended ones, the latest first.

        Raises:
            NotFound: there is no such hybrid connection.
        """

    def updates(self, name: str) -> tuple[UpdateInfo, ...]:
        """Return the updates of a hybrid connection, the latest for each group of recipients.

        Raises:
            NotFound: there is no such hybrid connection.
        """

    # --- changing

    def prepare(self, *, now: float) -> RelayDescription:
        """Do the same as `relay`, but if the relay has no certificate yet, create it, so that the pin is known.

        Args:
            now: seconds since 1970.
        """

    def import_(self, record: RelayRecord) -> None:
        """Add a hybrid connection.

        Raises:
            NameTaken: there is one with this name.
        """

    def refuse_import(self, known: ConnectionInfo) -> None:
        """Refuse to add a hybrid connection, because there is one with its name: `known`. Changes nothing, even if
        that one has been deleted in the meantime. This is for the audit log of the relay.

        Raises:
            NameTaken: always, if the relay can be reached.
        """

    def change(
        self,
        known: ConnectionInfo,
        *,
        hosts: Iterable[str] | None = None,
        disabled: bool | None = None,
        quota: Quota | None = None,
    ) -> None:
        """Change properties of a hybrid connection. A property that is None stays as it is.

        Args:
            known: the hybrid connection.
            hosts: the hosts of the relays that serve it.
            disabled: whether it is disabled.
            quota: its limits.

        Raises:
            NotFound: there is no such edition.
        """

    def change_edition(self, known: Edition, *, connections: int | None, limits: Limits) -> Edition:
        """Replace the limits of an edition that was read before, and return the result.

        Raises:
            ChangedMeanwhile: it was changed since then.
            ConfigurationError: a limit is not valid.
        """

    def use_edition(self, name: str) -> None:
        """Set which edition the relay uses; empty: none.

        Raises:
            NotFound: there is none with this name.
        """

    def put_rule(self, known: ConnectionInfo, rule: str, rights: Iterable[Right]) -> RuleInfo:
        """Add a rule with two new keys, or change the rights of the one that has this name; return the result.

        Raises:
            ConfigurationError: the name or the rights are not valid, or there are too many rules.
        """

    def delete_rule(self, known: ConnectionInfo, rule: str) -> None:
        """Delete a rule and its keys."""

    def delete(self, known: ConnectionInfo) -> None:
        """Delete a hybrid connection with its rules and keys."""

    def regenerate_key(self, name: str, rule: str, slot: KeySlot, key: Secret, *, generation: int) -> None:
        """Replace the key in a slot.

        Args:
            name: the hybrid connection.
            rule: the rule.
            slot: the slot.
            key: the new key.
            generation: the generation of the key that is in the slot; 0 if the slot is empty.

        Raises:
            NotFound: there is no such hybrid connection or rule.
            ChangedMeanwhile: the key in the slot has another generation.
            ConfigurationError: the rule already has this key.
        """

    def roll_key(
        self, name: str, rule: str, slot: KeySlot, key: Secret, *, generation: int, seconds: float, waits: bool
    ) -> None:
        """Put a new key into a slot, and begin to roll the rule's other key to it.

        Args:
            name, rule, slot, key, generation: as for `regenerate_key`.
            seconds: after which time the other key is revoked at the latest.
            waits: see `KeyRoll.waits`.

        Raises:
            NotFound, ChangedMeanwhile: as for `regenerate_key`.
            ConfigurationError: the rule has no other key, already has this key, or a roll is in progress; or programs
                that are connected use the key in the slot.
        """

    def revoke_key(self, name: str, rule: str, slot: KeySlot, *, generation: int) -> None:
        """Revoke the key with this generation. Raises the same as `regenerate_key`."""

    def create_token(
        self, name: str, role: ManagementRole, *, scope: str, seconds: float, now: float
    ) -> tuple[TokenInfo, Secret]:
        """Create a token. Its text is returned, and stored nowhere.

        Args:
            name: the name of the token, which has to be unique.
            role: what it allows.
            scope: a prefix: the token is for the hybrid connections whose names begin with it. If empty, it is for
                the whole relay.
            seconds: how long it is valid.
            now: seconds since 1970. A relay uses its own clock.

        Raises:
            ConfigurationError: the name is taken, or an argument is not valid.
        """

    def delete_token(self, id_: str) -> None:
        """Delete the token with this id. The next request that uses it is refused."""

    def add_claim(
        self, name: str, keys: ClaimKeys, sealed: bytes, *, seconds: float, note: str, now: float
    ) -> ClaimInfo:
        """Add a claim to a hybrid connection. The relay gets the id, the digest of the proof and the sealed content.

        Args:
            name: the hybrid connection.
            keys: what is derived from the secret of the claim's code.
            sealed: the content.
            seconds: for how long the claim can be taken.
            note: a text by which people recognize it.
            now: seconds since 1970. A relay uses its own clock.

        Raises:
            NotFound: there is no such hybrid connection.
            ConfigurationError: an argument is not valid, or too many claims are open.
        """

    def revoke_claim(self, name: str, id_: str) -> None:
        """Revoke a claim. Does nothing if it is no longer open.

        Raises:
            NotFound: the hybrid connection has no claim with this id.
        """

    def push_update(self, update: StoredUpdate) -> None:
        """Store an update in place of an earlier one for the same recipients. The relay gives it to them.

        Raises:
            NotFound: there is no such hybrid connection.
            ChangedMeanwhile: there is a later one for these recipients.
            ConfigurationError: there are too many.
        """
