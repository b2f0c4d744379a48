"""The bodies of requests and responses of the management API. Pure.

JSON is validated against these classes, and ``/openapi.json`` contains their schemas. Names are camelCase in JSON, as
in Azure's APIs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import attrs
import msgspec

from ..protocol.limits import MAX_CONNECTION_NAME
from ..relay.model import (
    MAX_DESCRIPTION,
    MAX_METADATA,
    MAX_METADATA_NAME,
    MAX_METADATA_VALUE,
    HybridConnection,
    KeyId,
)
from ..relay.quotas import MAX_BYTES, MAX_COUNT, MAX_LISTENERS, MIN_BYTES_PER_SECOND, Limits
from ..security import KeySlot, Right, Rule, key_fingerprint
from ..security.endpoints import MAX_ENDPOINTS
from ..security.rules import MAX_KEY, MAX_RULE_NAME, MAX_RULES_PER_LEVEL

if TYPE_CHECKING:  # commands read these values, and only the relay makes them
    from ..relay.snapshot import ConnectionSnapshot

__all__ = [
    "AccessKeys",
    "AuthorizationRule",
    "Body",
    "ConnectionBody",
    "ConnectionPage",
    "ConnectionPatch",
    "ConnectionValue",
    "EditionName",
    "KeyBody",
    "KeyValue",
    "LimitsBody",
    "NewRule",
    "PageQuery",
    "RevokeBody",
    "RuleBody",
    "RulePage",
    "Value",
]

MAX_HOSTS = MAX_ENDPOINTS
_KEY = r"^[!-:<-~]+$"

Text: TypeAlias = Annotated[str, msgspec.Meta(max_length=MAX_DESCRIPTION)]
MetadataName: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_METADATA_NAME)]
MetadataValue: TypeAlias = Annotated[str, msgspec.Meta(max_length=MAX_METADATA_VALUE)]
Metadata: TypeAlias = Annotated[dict[MetadataName, MetadataValue], msgspec.Meta(max_length=MAX_METADATA)]
Host: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
Hosts: TypeAlias = Annotated[tuple[Host, ...], msgspec.Meta(min_length=1, max_length=MAX_HOSTS)]
RuleName: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._-]+$", max_length=MAX_RULE_NAME)]
Rights: TypeAlias = Annotated[
    tuple[Literal["Listen", "Send", "Manage"], ...], msgspec.Meta(min_length=1, max_length=len(Right))
]
Slot: TypeAlias = Literal["primary", "secondary"]
Key: TypeAlias = Annotated[str, msgspec.Meta(pattern=_KEY, max_length=MAX_KEY)]
Generation: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]


_Count: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=MAX_COUNT)]
EditionName: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]

#: Returns when a key was last used; None if never.
LastUse: TypeAlias = Callable[[KeyId], float | None]


class Body(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """The body or the query of a request."""


class Value(msgspec.Struct, frozen=True, kw_only=True, rename="camel", gc=False):
    """The body of a response, or a part of it.

    Values are trees, so the garbage collector need not track them. Otherwise, making a long list would start a full
    collection, which takes 0.1 s in a relay with 10,000 listeners.
    """


# --- requests


class LimitsBody(Body, frozen=True):
    """The limits of a hybrid connection at this relay, or those of an edition. Where a hybrid connection has null,
    the limit of its edition applies, if it has one."""

    #: Connectors that are registered. The default is 25 if neither this nor the edition sets a limit.
    listeners: Annotated[int, msgspec.Meta(ge=1, le=MAX_LISTENERS)] | None = None
    #: Control channels of clients.
    senders: _Count | None = None
    #: Pairs of data channels that are joined, or about to be.
    sessions: _Count | None = None
    #: Bytes in both directions together, in a calendar month (UTC).
    bytes_per_month: Annotated[int, msgspec.Meta(ge=1, le=MAX_BYTES)] | None = None
    #: Bytes per second in both directions together. Sessions are slowed down.
    bytes_per_second: Annotated[int, msgspec.Meta(ge=MIN_BYTES_PER_SECOND, le=MAX_BYTES)] | None = None
    #: Whether sessions end when the bytes of a month are used up. Otherwise only new ones are refused.
    end_at_limit: bool | None = None

    @classmethod
    def of(cls, limits: Limits) -> LimitsBody:
        """Make the value for limits."""
        return cls(**attrs.asdict(limits))

    def parse_untrusted(self) -> Limits:
        """Return the limits. Their ranges have been checked with the body."""
        return Limits(**msgspec.structs.asdict(self))


class NewRule(Body, frozen=True):
    """An authorization rule of a new hybrid connection. If neither key is given, two keys are generated. If only one
    is given, the other slot is empty."""

    name: RuleName
    rights: Rights
    #: null means that the slot is empty, as if its key had been revoked.
    primary_key: Key | msgspec.UnsetType | None = msgspec.UNSET
    secondary_key: Key | msgspec.UnsetType | None = msgspec.UNSET


class ConnectionBody(Body, frozen=True):
    """The desired state of a hybrid connection."""

    endpoints: Hosts
    description: Text = ""
    metadata: Metadata = msgspec.field(default_factory=dict)
    #: Whether the relay refuses all requests for the hybrid connection. Disabling ends its registrations and
    #: sessions.
    disabled: bool = False
    #: The name of an edition, whose limits apply where `limits` sets none; null means no edition.
    edition: EditionName | None = None
    limits: LimitsBody = LimitsBody()
    #: The rules of a new hybrid connection. By default, it gets the rules ``connector`` and ``application``.
    authorization_rules: Annotated[tuple[NewRule, ...], msgspec.Meta(max_length=MAX_RULES_PER_LEVEL)] | None = None


class ConnectionPatch(Body, frozen=True):
    """The changes to a hybrid connection. Properties that are omitted stay as they are."""

    endpoints: Hosts | msgspec.UnsetType = msgspec.UNSET
    description: Text | msgspec.UnsetType = msgspec.UNSET
    metadata: Metadata | msgspec.UnsetType = msgspec.UNSET
    #: See `ConnectionBody.disabled`.
    disabled: bool | msgspec.UnsetType = msgspec.UNSET
    #: null means no edition.
    edition: EditionName | msgspec.UnsetType | None = msgspec.UNSET
    #: Replaces all limits of the hybrid connection.
    limits: LimitsBody | msgspec.UnsetType = msgspec.UNSET


class RuleBody(Body, frozen=True):
    """The desired state of an authorization rule. Its keys stay the same; a new rule gets two new keys."""

    rights: Rights


class KeyBody(Body, frozen=True):
    """The key to replace, and the new key."""

    slot: Slot
    #: The generation of the key that is in the slot now; 0 if the slot is empty. Because of this, a repeated request
    #: does not change the key again.
    generation: Generation
    #: The new key. By default, the relay generates one.
    key: Key | None = None


class RevokeBody(Body, frozen=True):
    """The key to revoke."""

    slot: Slot
    #: The generation of the key to revoke. Because of this, a key that has replaced it is not revoked.
    generation: Generation


class PageQuery(Body, frozen=True):
    """The query for a page of a list."""

    #: How many entries the page has at most.
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100
    #: ``nextCursor`` of the previous page.
    cursor: Annotated[str, msgspec.Meta(min_length=1, max_length=512, pattern=r"^[A-Za-z0-9_-]+$")] | None = None
    #: Only names that begin with this text.
    prefix: Annotated[str, msgspec.Meta(max_length=MAX_CONNECTION_NAME)] = ""


# --- responses


class KeyValue(Value, frozen=True):
    """A key of a rule, without the key itself."""

    slot: Slot
    #: The generation, which changes when the key does; 0 if the key is revoked.
    generation: int
    #: When a token made with this key was last accepted (seconds since 1970); null if never.
    last_used: float | None
    #: The fingerprint, by which people can distinguish keys; null if the key is revoked.
    fingerprint: str | None


class AuthorizationRule(Value, frozen=True):
    """An authorization rule, without its keys."""

    name: str
    rights: tuple[str, ...]
    keys: tuple[KeyValue, ...]

    @classmethod
    def of(cls, connection: HybridConnection, rule: Rule, last_use: LastUse) -> AuthorizationRule:
        """Make the value for a rule of a hybrid connection; `last_use` says when a key was last used."""
        keys = []
        for slot in KeySlot:
            key = rule.key(slot)
            generation = connection.generations.get((rule.name, slot), 0)
            fingerprint = None if key is None else key_fingerprint(key)
            id_ = connection.key_id(rule.name, slot)
            used = None if id_ is None else last_use(id_)
            keys.append(KeyValue(slot=slot.value, generation=generation, fingerprint=fingerprint, last_used=used))
        return cls(name=rule.name, rights=tuple(sorted(rule.rights)), keys=tuple(keys))


class AccessKeys(Value, frozen=True):
    """The keys of a rule, each of which gives the rule's rights."""

    #: The name of the rule.
    key_name: str
    #: null if the key is revoked.
    primary_key: str | None
    secondary_key: str | None
    #: 0 if the key is revoked.
    primary_generation: int
    secondary_generation: int

    @classmethod
    def of(cls, connection: HybridConnection, rule: Rule) -> AccessKeys:
        """Make the value for a rule of a hybrid connection."""

        def reveal(slot: KeySlot) -> str | None:
            key = rule.key(slot)
            return None if key is None else key.reveal()

        return cls(
            key_name=rule.name,
            primary_key=reveal(KeySlot.PRIMARY),
            secondary_key=reveal(KeySlot.SECONDARY),
            primary_generation=connection.generations.get((rule.name, KeySlot.PRIMARY), 0),
            secondary_generation=connection.generations.get((rule.name, KeySlot.SECONDARY), 0),
        )


class ConnectionValue(Value, frozen=True):
    """A hybrid connection."""

    name: str
    endpoints: tuple[str, ...]
    description: str
    metadata: dict[str, str]
    disabled: bool
    #: null if none.
    edition: str | None
    #: The limits that are set for the hybrid connection. ``/usage`` has the limits in force.
    limits: LimitsBody
    #: Seconds since 1970.
    created_at: float
    updated_at: float
    #: The number in the ETag.
    version: int
    authorization_rules: tuple[AuthorizationRule, ...]
    #: The number of connectors that are registered at this relay now.
    listener_count: int
    #: The number of control channels of clients that have presented a token for it.
    sender_count: int
    #: The number of pairs of data channels that are joined now.
    session_count: int
    #: Bytes that were moved since the relay started.
    bytes_to_client: int
    bytes_to_connector: int

    @classmethod
    def of(cls, connection: HybridConnection, live: ConnectionSnapshot, last_use: LastUse) -> ConnectionValue:
        """Make the value for a hybrid connection, with the numbers that `live` has."""
        return cls(
            name=connection.name,
            endpoints=connection.hosts,
            description=connection.description.text,
            metadata=dict(connection.description.metadata),
            disabled=connection.disabled,
            edition=connection.quota.edition or None,
            limits=LimitsBody.of(connection.quota.limits),
            created_at=connection.created_at,
            updated_at=connection.updated_at,
            version=connection.version,
            authorization_rules=tuple(AuthorizationRule.of(connection, rule, last_use) for rule in connection.rules),
            listener_count=live.listeners,
            sender_count=live.senders,
            session_count=live.sessions,
            bytes_to_client=live.bytes_to_client,
            bytes_to_connector=live.bytes_to_connector,
        )


class ConnectionPage(Value, frozen=True):
    """Hybrid connections, in order of their names."""

    value: tuple[ConnectionValue, ...]
    #: The cursor of the next page; null on the last page.
    next_cursor: str | None


class RulePage(Value, frozen=True):
    """All authorization rules of a hybrid connection, in order of their names."""

    value: tuple[AuthorizationRule, ...]
