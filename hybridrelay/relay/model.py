"""The relay's data: hybrid connections, and the keys that give rights on them, as immutable values.

Only the keys in the rules are secret, and their type cannot be printed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import attrs

from .._value import Value
from ..security import KeySlot, Rule, check_connection_name, check_hosts, check_rules
from .quotas import NO_QUOTA, Editions, Quota

__all__ = [
    "NO_DESCRIPTION",
    "Description",
    "HybridConnection",
    "KeyId",
    "KeyRoll",
    "RelayRecord",
    "StoreChange",
    "diff",
]

#: The maximum length of a hybrid connection's description (characters).
MAX_DESCRIPTION = 1024
#: The maximum number of its entries of metadata, and the maximum length of a name and a value (characters).
MAX_METADATA = 32
MAX_METADATA_NAME = 64
MAX_METADATA_VALUE = 256


@attrs.frozen
class KeyId(Value):
    """Identifies a valid key. Everything that the key has authorized refers to it, and ends with it."""

    connection: str
    rule: str
    slot: KeySlot
    #: Unique among all keys that a store has ever had, and increasing: a key that was regenerated, or whose hybrid
    #: connection was deleted and created again, is a different key.
    generation: int


def _check_name(instance: object, attribute: object, value: str) -> None:
    check_connection_name(value)


def _as_tuple(value: Iterable[str]) -> tuple[str, ...]:
    return tuple(value)


def _check_hosts(instance: object, attribute: object, value: tuple[str, ...]) -> None:
    check_hosts(value)


@attrs.frozen
class RelayRecord(Value):
    """Everything that a relay needs to serve one hybrid connection. It does not contain the authority.

    Raises:
        ValueError: the name or a host is not valid.
        ConfigurationError: there are too many rules, or two of them have the same name.
    """

    name: str = attrs.field(validator=_check_name)
    #: The host names or addresses of all relays that serve it, as in connection strings. A relay accepts tokens for
    #: any of them, because it does not know which name is its own.
    hosts: tuple[str, ...] = attrs.field(converter=_as_tuple, validator=_check_hosts)
    rules: tuple[Rule, ...] = attrs.field(converter=check_rules)


def _check_text(text: str, what: str, limit: int, *, lines: bool = False) -> None:
    if len(text) > limit:
        raise ValueError(f"{what} has more than {limit} characters")
    # Surrogates cannot be encoded; control characters would affect the terminal that shows the text.
    if any(not (character.isprintable() or (lines and character == "\n")) for character in text):
        raise ValueError(f"{what} contains characters that cannot be printed")


def _frozen_text(value: Mapping[str, str]) -> Mapping[str, str]:
    return MappingProxyType(dict(sorted(value.items())))


@attrs.frozen
class Description(Value):
    """A description of a hybrid connection, for administrators. The relay does not interpret it.

    Raises:
        ValueError: a text is too long or contains characters that cannot be printed, a name is empty, or there are
        too many
            entries of metadata.
    """

    text: str = ""
    #: Names and values, sorted by name, for example an owner or an environment.
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
class KeyRoll(Value):
    """The rolling of a rule's key: programs that use the old key get the new one, and then the old one is revoked."""

    rule: str
    #: The slot of the new key. The old one is in the other slot.
    slot: KeySlot
    #: The generations of both keys. If one of them changes for another reason, the roll is over.
    old_generation: int
    new_generation: int
    #: Seconds since 1970. At `ends_at`, the old key is revoked even if not all programs have the new one.
    started_at: float
    ends_at: float
    #: Whether the old key stays valid until `ends_at` even if all programs that are connected have the new one.
    waits: bool = False

    def old_key(self, connection: str) -> KeyId:
        """Return the id of the old key."""
        return KeyId(connection, self.rule, self.slot.other, self.old_generation)

    def new_key(self, connection: str) -> KeyId:
        """Return the id of the new key."""
        return KeyId(connection, self.rule, self.slot, self.new_generation)


@attrs.frozen
class HybridConnection(Value):
    """A hybrid connection in a store."""

    name: str
    #: As in `RelayRecord`.
    hosts: tuple[str, ...]
    #: Sorted by name, which is unique.
    rules: tuple[Rule, ...]
    #: Seconds since 1970.
    created_at: float
    #: The generation (`KeyId.generation`) of each key that is not revoked, by rule and slot.
    generations: Mapping[tuple[str, KeySlot], int] = attrs.field(converter=_frozen_generations)
    description: Description = NO_DESCRIPTION
    #: Seconds since 1970: when it was created or last changed.
    updated_at: float = 0.0
    #: Increases with every change to this hybrid connection. No other hybrid connection ever has the same version,
    #: not even an earlier one of the same name.
    version: int = 0
    #: Whether the relay refuses everything for it, as if all of its keys were revoked, until it is enabled again.
    disabled: bool = False
    #: Its own limits, and the edition that has further ones.
    quota: Quota = NO_QUOTA
    #: The rolls that are in progress, in order of their rules.
    rolls: tuple[KeyRoll, ...] = ()

    def roll(self, rule: str) -> KeyRoll | None:
        """Return the roll of this rule's key that is in progress, or None."""
        return next((roll for roll in self.rolls if roll.rule == rule), None)

    def rule(self, name: str) -> Rule | None:
        """Return the rule with this name, or None."""
        return next((rule for rule in self.rules if rule.name == name), None)

    def key_id(self, rule: str, slot: KeySlot) -> KeyId | None:
        """Return the id of the key in that slot, or None if there is no such rule or the key is revoked."""
        generation = self.generations.get((rule, slot))
        return None if generation is None else KeyId(self.name, rule, slot, generation)


@attrs.frozen
class StoreChange(Value):
    """The difference between two states of a store."""

    #: Keys that have lost a right (see `diff`). Everything that they had authorized has to be ended immediately.
    ended: frozenset[KeyId]
    #: The names of hybrid connections that were created.
    created: frozenset[str]
    #: The names of hybrid connections that were deleted.
    deleted: frozenset[str]
    #: The names of hybrid connections that were disabled. Everything that belongs to them has to be ended
    #: immediately.
    disabled: frozenset[str]
    #: The names of hybrid connections that were enabled again.
    enabled: frozenset[str]
    #: All hybrid connections that were created or changed, as they are after the change, by name.
    changed: Mapping[str, HybridConnection]
    #: All editions after the change; None if they have not changed.
    editions: Editions | None = None

    @classmethod
    def between(
        cls,
        old: Mapping[str, HybridConnection],
        new: Mapping[str, HybridConnection],
        editions: Editions | None = None,
    ) -> StoreChange:
        """Compute the change from `old` to `new`, which takes time in proportion to both.

        Args:
            old, new: all hybrid connections before and after the change, or only those that it concerns.
            editions: the editions after the change; None if they have not changed.
        """
        changed = {name: one for name, one in new.items() if old.get(name) != one}
        before = {name: old[name] for name in changed if name in old}
        return cls(
            ended=diff(old, new),
            created=frozenset(changed.keys() - before.keys()),
            deleted=frozenset(old.keys() - new.keys()),
            disabled=frozenset(name for name, one in before.items() if changed[name].disabled and not one.disabled),
            enabled=frozenset(name for name, one in before.items() if one.disabled and not changed[name].disabled),
            changed=changed,
            editions=editions,
        )


def diff(old: Mapping[str, HybridConnection], new: Mapping[str, HybridConnection]) -> frozenset[KeyId]:
    """Return the keys that gave a right in `old` and no longer give it in `new`.

    These are all keys that were revoked or regenerated, whose rule has lost a right, or whose hybrid connection was
    deleted (even if it was created again in the meantime).
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
