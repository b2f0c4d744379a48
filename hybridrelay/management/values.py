"""What requests and responses of the management API contain, as classes. Pure.

JSON is validated against them, and ``/openapi.json`` has their schemas. Names are camelCase on the wire, as in the
public service.
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Literal, TypeAlias

import attrs
import msgspec

from ..protocol.control import MAX_CONNECTION_NAME
from ..relay.model import (
    MAX_DESCRIPTION,
    MAX_METADATA,
    MAX_METADATA_NAME,
    MAX_METADATA_VALUE,
    HybridConnection,
)
from ..relay.snapshot import ListenerSnapshot, PlacesSnapshot, RelaySnapshot
from ..security import KeySlot, Right, Rule, key_fingerprint
from ..security.rules import MAX_KEY, MAX_RULE_NAME, MAX_RULES_PER_LEVEL

__all__ = [
    "AccessKeys",
    "AuthorizationRule",
    "ConnectionBody",
    "ConnectionCounts",
    "ConnectionPage",
    "ConnectionValue",
    "KeyBody",
    "KeyValue",
    "ListenerPage",
    "ListenerValue",
    "NewRule",
    "PageQuery",
    "Places",
    "RelayValue",
    "RevokeBody",
    "RuleBody",
    "RulePage",
]

MAX_HOSTS = 16
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


class _Body(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """What a request contains."""


class _Value(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a response contains."""


# --- requests


class NewRule(_Body, frozen=True):
    """An authorization rule of a hybrid connection that is created. Without keys, it gets two new ones."""

    name: RuleName
    rights: Rights
    primary_key: Key | None = None
    secondary_key: Key | None = None


class ConnectionBody(_Body, frozen=True):
    """A hybrid connection as it is to be."""

    endpoints: Hosts
    description: Text = ""
    metadata: Metadata = msgspec.field(default_factory=dict)
    #: Only for one that is created. Without them, it gets the rules ``connector`` and ``application``.
    authorization_rules: Annotated[tuple[NewRule, ...], msgspec.Meta(max_length=MAX_RULES_PER_LEVEL)] | None = None


class RuleBody(_Body, frozen=True):
    """An authorization rule as it is to be. Its keys stay the same; a new rule gets two new ones."""

    rights: Rights


class KeyBody(_Body, frozen=True):
    """Which key is to be replaced, and by what."""

    slot: Slot
    #: Of the key that is in the slot now, 0 if it is empty. A repeated request then changes nothing.
    generation: Generation
    #: The new key; without it, the relay makes one.
    key: Key | None = None


class RevokeBody(_Body, frozen=True):
    """Which key is to be revoked."""

    slot: Slot
    generation: Generation


class PageQuery(_Body, frozen=True):
    """Which part of a list is wanted."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100
    #: ``nextCursor`` of the page before.
    cursor: Annotated[str, msgspec.Meta(min_length=1, max_length=512, pattern=r"^[A-Za-z0-9_-]+$")] | None = None
    #: Only those whose name begins so.
    prefix: Annotated[str, msgspec.Meta(max_length=MAX_CONNECTION_NAME)] = ""


# --- responses


class KeyValue(_Value, frozen=True):
    """One key of a rule, which is not shown."""

    slot: Slot
    #: 0 if it is revoked.
    generation: int
    #: Tells keys apart; null if it is revoked.
    fingerprint: str | None


class AuthorizationRule(_Value, frozen=True):
    """An authorization rule, without its keys."""

    name: str
    rights: tuple[str, ...]
    keys: tuple[KeyValue, ...]

    @classmethod
    def of(cls, connection: HybridConnection, rule: Rule) -> AuthorizationRule:
        """The rule of a hybrid connection."""
        keys = []
        for slot in KeySlot:
            key = rule.key(slot)
            generation = connection.generations.get((rule.name, slot), 0)
            fingerprint = None if key is None else key_fingerprint(key)
            keys.append(KeyValue(slot=slot.value, generation=generation, fingerprint=fingerprint))
        return cls(name=rule.name, rights=tuple(sorted(rule.rights)), keys=tuple(keys))


class AccessKeys(_Value, frozen=True):
    """The keys of a rule. Each of them gives the rights of the rule."""

    key_name: str
    #: null if it is revoked.
    primary_key: str | None
    secondary_key: str | None
    #: 0 if it is revoked.
    primary_generation: int
    secondary_generation: int

    @classmethod
    def of(cls, connection: HybridConnection, rule: Rule) -> AccessKeys:
        """The keys of a rule."""

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


@attrs.frozen
class ConnectionCounts:
    """Listeners and senders by hybrid connection, counted in one pass."""

    listeners: Counter[str]
    senders: Counter[str]

    @classmethod
    def of(cls, snapshot: RelaySnapshot) -> ConnectionCounts:
        """Count those of a snapshot."""
        return cls(
            Counter(one.connection for one in snapshot.listeners),
            Counter(name for one in snapshot.senders for name in one.connections),
        )


class ConnectionValue(_Value, frozen=True):
    """A hybrid connection."""

    name: str
    endpoints: tuple[str, ...]
    description: str
    metadata: dict[str, str]
    #: Seconds since 1970.
    created_at: float
    updated_at: float
    authorization_rules: tuple[AuthorizationRule, ...]
    #: Registered at this relay now.
    listener_count: int
    #: Clients with a control channel that has shown a token for it.
    sender_count: int

    @classmethod
    def of(cls, connection: HybridConnection, counts: ConnectionCounts) -> ConnectionValue:
        """A hybrid connection, with what is known about it at this moment."""
        return cls(
            name=connection.name,
            endpoints=connection.hosts,
            description=connection.description.text,
            metadata=dict(connection.description.metadata),
            created_at=connection.created_at,
            updated_at=connection.updated_at,
            authorization_rules=tuple(AuthorizationRule.of(connection, rule) for rule in connection.rules),
            listener_count=counts.listeners[connection.name],
            sender_count=counts.senders[connection.name],
        )


class ConnectionPage(_Value, frozen=True):
    """Hybrid connections, in order of their names."""

    value: tuple[ConnectionValue, ...]
    #: For the next page; null on the last one.
    next_cursor: str | None


class RulePage(_Value, frozen=True):
    """All authorization rules of a hybrid connection, in order of their names."""

    value: tuple[AuthorizationRule, ...]


class ListenerValue(_Value, frozen=True):
    """One registration of a connector at this relay."""

    instance: str
    #: The address of its control channel: an IPv4 address, or the /64 of an IPv6 address.
    address: str
    rule: str

    @classmethod
    def of(cls, listener: ListenerSnapshot) -> ListenerValue:
        """A registration."""
        return cls(instance=listener.instance, address=listener.peer, rule=listener.rule)


class ListenerPage(_Value, frozen=True):
    """All listeners of a hybrid connection."""

    value: tuple[ListenerValue, ...]


class Places(_Value, frozen=True):
    """How much of something is in use."""

    used: int
    total: int

    @classmethod
    def of(cls, places: PlacesSnapshot) -> Places:
        """The same as a snapshot has."""
        return cls(used=places.taken, total=places.total)


class RelayValue(_Value, frozen=True):
    """This relay."""

    version: str
    #: What connection strings carry, so that nobody else can pose as this relay.
    pin: str
    #: By port name: where it listens.
    ports: dict[str, tuple[str, ...]]
    connection_count: int
    listener_count: int
    sender_count: int
    unauthenticated: Places
    pairs: Places
    control_channels: Places
