"""What the relay knows: hybrid connections, and the keys that give rights on them. Immutable values.

Nothing here is secret but the keys in the rules, whose type does not print.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import attrs

from ..security import KeySlot, Rule, check_connection_name, check_hosts, check_rules

__all__ = ["NO_DESCRIPTION", "Description", "HybridConnection", "KeyId", "RelayRecord", "StoreChange", "diff"]

#: Limits of what administrators write about a hybrid connection (characters).
MAX_DESCRIPTION = 1024
MAX_METADATA = 32
MAX_METADATA_NAME = 64
MAX_METADATA_VALUE = 256


@attrs.frozen
class KeyId:
    """One key of one rule, as long as it is valid. Whatever it authorized carries it, and ends with it."""

    connection: str
    rule: str
    slot: KeySlot
    #: Unique among all keys that one store has ever held, and growing: a key that was regenerated, or whose hybrid
    #: connection was deleted and created again, is another key.
    generation: int


def _check_name(instance: object, attribute: object, value: str) -> None:
    check_connection_name(value)


def _as_tuple(value: Iterable[str]) -> tuple[str, ...]:
    return tuple(value)


def _check_hosts(instance: object, attribute: object, value: tuple[str, ...]) -> None:
    check_hosts(value)


@attrs.frozen
class RelayRecord:
    """All that a relay needs in order to serve one hybrid connection. No authority is part of it.

    Raises:
        ValueError: the name or a host cannot be one.
        ConfigurationError: the rules cannot stand together.
    """

    name: str = attrs.field(validator=_check_name)
    #: The host names or addresses of all relays that serve it, as they stand in connection strings. Each relay takes
    #: tokens that were made for any of them: it does not know which of the names is its own.
    hosts: tuple[str, ...] = attrs.field(converter=_as_tuple, validator=_check_hosts)
    rules: tuple[Rule, ...] = attrs.field(converter=check_rules)


def _check_text(text: str, what: str, limit: int, *, lines: bool = False) -> None:
    if len(text) > limit:
        raise ValueError(f"{what} has more than {limit} characters")
    # Surrogates cannot be encoded; control characters would affect the terminal that shows it.
    if any(not (character.isprintable() or (lines and character == "\n")) for character in text):
        raise ValueError(f"{what} contains characters that cannot be printed")


def _frozen_text(value: Mapping[str, str]) -> Mapping[str, str]:
    return MappingProxyType(dict(sorted(value.items())))


@attrs.frozen
class Description:
    """What administrators write about a hybrid connection. It means nothing to the relay.

    Raises:
        ValueError: a text is too long or contains control characters, or there are too many of them.
    """

    text: str = ""
    #: By name, in order of the names: an owner, a ticket, an environment.
    metadata: Mapping[str, str] = attrs.field(factory=dict, converter=_frozen_text)

    def __attrs_post_init__(self) -> None:
        _check_text(self.text, "the description", MAX_DESCRIPTION, lines=True)
        if len(self.metadata) > MAX_METADATA:
            raise ValueError(f"a hybrid connection has at most {MAX_METADATA} entries of metadata")
        for name, value in self.metadata.items():
            if not name:
                raise ValueError("the name of an entry of metadata is empty")
            _check_text(name, "the name of an entry of metadata", MAX_METADATA_NAME)
            _check_text(value, "the value of an entry of metadata", MAX_METADATA_VALUE)


NO_DESCRIPTION = Description()


def _frozen_generations(value: Mapping[tuple[str, KeySlot], int]) -> Mapping[tuple[str, KeySlot], int]:
    return MappingProxyType(dict(value))


@attrs.frozen
class HybridConnection:
    """One hybrid connection as the store has it."""

    name: str
    #: As in `RelayRecord`.
    hosts: tuple[str, ...]
    #: By name, each once.
    rules: tuple[Rule, ...]
    #: Seconds since 1970.
    created_at: float
    #: Of every key that is not revoked, by rule and slot: `KeyId.generation`.
    generations: Mapping[tuple[str, KeySlot], int] = attrs.field(converter=_frozen_generations)
    description: Description = NO_DESCRIPTION
    #: Seconds since 1970: when it was created or last changed.
    updated_at: float = 0.0
    #: Grows with every change of this hybrid connection, and is never that of another one or of an earlier one of the
    #: same name.
    version: int = 0

    def rule(self, name: str) -> Rule | None:
        """The rule called `name`, or None."""
        return next((rule for rule in self.rules if rule.name == name), None)

    def differences(self, record: RelayRecord) -> tuple[str, ...]:
        """In what a record of the same name is not the same: ``endpoint``, ``rules``, ``keys``. Empty: in nothing."""
        ours, theirs = ({rule.name: rule for rule in rules} for rules in (self.rules, record.rules))
        if {name: rule.rights for name, rule in ours.items()} != {name: rule.rights for name, rule in theirs.items()}:
            found = ["rules"]
        else:
            found = ["keys"] if ours != theirs else []
        return (*(["endpoint"] if self.hosts != record.hosts else []), *found)

    def key_id(self, rule: str, slot: KeySlot) -> KeyId | None:
        """The key in that slot, or None where there is no such rule or the key is revoked."""
        generation = self.generations.get((rule, slot))
        return None if generation is None else KeyId(self.name, rule, slot, generation)


@attrs.frozen
class StoreChange:
    """What is different between two moments of a store."""

    #: Keys whose rights ended: what they had authorized is to be ended at once; see `diff`.
    ended: frozenset[KeyId]
    #: Names of hybrid connections that are new.
    created: frozenset[str]
    #: Names of hybrid connections that are not there any longer.
    deleted: frozenset[str]
    #: All hybrid connections after the change, by name.
    snapshot: Mapping[str, HybridConnection]

    @classmethod
    def between(cls, old: Mapping[str, HybridConnection], new: Mapping[str, HybridConnection]) -> StoreChange:
        """Compute the change from `old` to `new`."""
        return cls(diff(old, new), frozenset(new.keys() - old.keys()), frozenset(old.keys() - new.keys()), new)


def diff(old: Mapping[str, HybridConnection], new: Mapping[str, HybridConnection]) -> frozenset[KeyId]:
    """The keys that gave a right in `old` and give it no longer in `new`.

    That is every key that was revoked or regenerated, whose rule lost a right, or whose hybrid connection was deleted
    (created again meanwhile or not).
    """
    ended = set()
    for connection in old.values():
        now = new.get(connection.name)
        for rule, slot in connection.generations:
            key = connection.key_id(rule, slot)
            assert key is not None
            if now is None or now.key_id(rule, slot) != key or _lost_a_right(connection, now, rule):
                ended.add(key)
    return frozenset(ended)


def _lost_a_right(old: HybridConnection, new: HybridConnection, name: str) -> bool:
    before, after = old.rule(name), new.rule(name)
    return before is not None and (after is None or not before.rights <= after.rights)
