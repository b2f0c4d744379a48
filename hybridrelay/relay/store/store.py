"""What the relay needs of a store of hybrid connections, and what every store answers alike.

`SQLiteStore` is a file that a relay and the commands share. `MemoryStore` is for tests and for programs that embed a
relay. tests/relay/store/test_conformance.py holds for both, and is what another store has to pass.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Protocol

from ...errors import ConfigurationError, StateError
from ...security import KeySlot, ManagementToken, Right, Rule, Secret, check_hosts, check_rules
from ..model import NO_DESCRIPTION, Description, HybridConnection, RelayRecord

__all__ = [
    "MAX_TOKENS",
    "ChangedMeanwhile",
    "NameTaken",
    "NotFound",
    "Store",
    "StoreBusy",
    "check_generation",
    "check_new_key",
    "check_new_token",
    "check_version",
    "name_is_taken",
    "no_connection",
    "no_rule",
    "no_token",
    "valid_hosts",
    "valid_record",
    "with_rule",
    "without_rule",
]


#: The most tokens of the management API that a store holds.
MAX_TOKENS = 1000


class NotFound(ConfigurationError):
    """The store has no such hybrid connection, rule or token. Says which there are."""


class NameTaken(ConfigurationError):
    """A hybrid connection, or a token, of that name exists already."""


class ChangedMeanwhile(ConfigurationError):
    """What the caller wants to change is not what it has read. Nothing was changed."""


class StoreBusy(StateError):
    """Another process is changing the store, or keeps it locked. Nothing was changed; trying again may help."""


class Store(Protocol):
    """Hybrid connections, their rules and keys, and a generation for each key.

    A generation is a number that the store never gives to another key: a key that was replaced, or deleted and made
    again, can be told from its successor (`KeyId.generation`).

    All methods are synchronous, may block for as long as a local file takes, and are called by one thread at a time.
    Each raises `StateError` where the store cannot be read or written.
    """

    def close(self) -> None:
        """Release what the store holds. Idempotent."""

    # --- reading

    def data_version(self) -> Hashable:
        """A value that is different after every change, of this process or another. Cheap: it is read often."""

    def snapshot(self) -> Mapping[str, HybridConnection]:
        """All hybrid connections at one moment, by name; immutable."""

    def list(self) -> tuple[HybridConnection, ...]:
        """All hybrid connections, in order of their names."""

    def get(self, name: str) -> HybridConnection:
        """One hybrid connection.

        Raises:
            NotFound: there is none with this name.
        """

    def rule(self, name: str, rule: str) -> Rule:
        """One rule of a hybrid connection.

        Raises:
            NotFound: there is no such hybrid connection or rule.
        """

    def tokens(self) -> tuple[ManagementToken, ...]:
        """All tokens of the management API, expired ones too, in order of their names."""

    def token(self, id_: str) -> ManagementToken | None:
        """The token with this id, or None."""

    # --- changing: each call changes everything that it says, or nothing. `version` is the one that the caller has
    # read (`HybridConnection.version`); if it is given and is not the current one, `ChangedMeanwhile` is raised.

    def create(
        self, name: str, hosts: Iterable[str], rules: Iterable[Rule], description: Description = NO_DESCRIPTION
    ) -> HybridConnection:
        """Add a hybrid connection.

        Raises:
            NameTaken: there is one with this name.
            ConfigurationError: the name, a host, or the rules are not valid.
        """

    def import_(self, record: RelayRecord, description: Description = NO_DESCRIPTION) -> HybridConnection:
        """Add a hybrid connection that was made on another machine.

        Raises:
            NameTaken: there is one with this name.
        """

    def change_hosts(self, name: str, hosts: Iterable[str], *, version: int | None = None) -> HybridConnection:
        """Change which relays serve a hybrid connection. Its keys, and everything that uses it, stay.

        Raises:
            NotFound: there is none with this name.
            ConfigurationError: a host is not valid.
        """

    def describe(
        self,
        name: str,
        description: Description,
        *,
        hosts: Iterable[str] | None = None,
        version: int | None = None,
    ) -> HybridConnection:
        """Replace the description of a hybrid connection and, if they are given, its hosts.

        Raises:
            NotFound: there is none with this name.
            ConfigurationError: a host is not valid.
        """

    def put_rule(
        self, name: str, rule: str, rights: Iterable[Right], *, version: int | None = None
    ) -> HybridConnection:
        """Add a rule with two new keys, or change the rights of the one that has this name.

        What a key has authorized ends if its rule loses a right.

        Raises:
            NotFound: there is no hybrid connection with this name.
            ConfigurationError: the name or the rights are not valid, or there are 12 rules already.
        """

    def delete_rule(self, name: str, rule: str, *, version: int | None = None) -> HybridConnection:
        """Remove a rule and its keys. What they have authorized ends.

        Raises:
            NotFound: there is no such hybrid connection or rule.
        """

    def delete(self, name: str, *, version: int | None = None) -> None:
        """Remove a hybrid connection and everything that was known about it.

        Raises:
            NotFound: there is none with this name.
        """

    def regenerate_key(
        self,
        name: str,
        rule: str,
        slot: KeySlot,
        key: Secret | None = None,
        *,
        known: Rule | None = None,
        generation: int | None = None,
    ) -> Secret:
        """Put a new key into a slot, revoked or not, and return it. The old key ends at once.

        Args:
            name: the hybrid connection.
            rule: one of its rules.
            slot: which of the rule's keys.
            key: the one that another relay has made; None makes one.
            known: the rule as the caller has read it; None accepts any.
            generation: of the key that the caller knows to be in the slot, 0 if it is empty; None accepts any.

        Raises:
            NotFound: there is no such hybrid connection or rule.
            ChangedMeanwhile: the rule is not `known`, or another key is in the slot than that of `generation`.
            ConfigurationError: the rule has that key already: in the other slot, where it would outlive its own
                revocation.
        """

    def revoke_key(self, name: str, rule: str, slot: KeySlot, *, generation: int | None = None) -> None:
        """Take the key out of a slot. What it authorized ends at once. No error when it is revoked already.

        Args:
            name: the hybrid connection.
            rule: one of its rules.
            slot: which of the rule's keys.
            generation: as for `regenerate_key`.

        Raises:
            NotFound: there is no such hybrid connection or rule.
            ChangedMeanwhile: another key is in the slot.
        """

    def add_token(self, token: ManagementToken) -> None:
        """Add a token of the management API.

        Raises:
            NameTaken: there is one with this name.
            ConfigurationError: there are `MAX_TOKENS` already.
        """

    def delete_token(self, id_: str) -> None:
        """Remove a token. The next request that uses it is refused.

        Raises:
            NotFound: there is none with this id.
        """

    def set_last_use_of_tokens(self, uses: Mapping[str, float]) -> None:
        """Note when tokens were last used: seconds since 1970 by id. Ids that are not there are ignored."""


# --- for implementations: the answers that all of them give


def valid_record(name: str, hosts: Iterable[str], rules: Iterable[Rule]) -> RelayRecord:
    """What `Store.create` adds. Raises ConfigurationError."""
    try:
        return RelayRecord(name, hosts, rules)
    except ValueError as exc:
        raise ConfigurationError(str(exc)) from None


def valid_hosts(hosts: Iterable[str]) -> tuple[str, ...]:
    """What `Store.change_hosts` sets. Raises ConfigurationError."""
    try:
        return check_hosts(tuple(hosts))
    except ValueError as exc:
        raise ConfigurationError(str(exc)) from None


def name_is_taken(name: str) -> NameTaken:
    """The error of `Store.create` and `Store.import_`."""
    return NameTaken(
        f"there is a hybrid connection {name!r} already",
        remedy="choose another name; to change the relays or the target of the existing one, see "
        "'hybridrelay connections endpoints --help' and 'connections target --help'",
    )


def no_connection(name: str, known: Iterable[str]) -> NotFound:
    """The error where there is no hybrid connection with this name."""
    names = ", ".join(known)
    return NotFound(
        f"there is no hybrid connection {name!r}",
        remedy=f"the hybrid connections of this relay are: {names}" if names else "this relay has none yet",
    )


def no_rule(connection: HybridConnection, rule: str) -> NotFound:
    """The error where a hybrid connection has no such rule."""
    names = ", ".join(one.name for one in connection.rules)
    return NotFound(
        f"the hybrid connection {connection.name!r} has no rule {rule!r}", remedy=f"its rules are: {names or 'none'}"
    )


def no_token(id_: str) -> NotFound:
    """The error where there is no token with this id."""
    return NotFound(f"there is no token {id_}", remedy="list them: hybridrelay tokens list, or GET /v1/tokens")


def check_new_token(token: ManagementToken, known: Iterable[ManagementToken]) -> None:
    """Check whether a token may be added to those that are there. Raises NameTaken, ConfigurationError."""
    names = [one.name for one in known]
    if token.name in names:
        raise NameTaken(
            f"there is a token {token.name!r} already",
            remedy="choose another name, or revoke that token first, also if it has expired",
        )
    if len(names) >= MAX_TOKENS:
        raise ConfigurationError(f"there are {MAX_TOKENS} tokens already", remedy="revoke those that have expired")


def check_new_key(name: str, rule: Rule, key: Secret | None, known: Rule | None) -> None:
    """Check whether a key may be put into a slot of a rule. Raises ConfigurationError.

    Args:
        name: the hybrid connection.
        rule: as the store has it now.
        key: the new key; None revokes the one that is there.
        known: see `Store.regenerate_key`.
    """
    if known is not None and rule != known:
        raise ChangedMeanwhile(
            f"another command has changed the keys of rule {rule.name} of {name}; nothing was changed",
            remedy="look at them with 'keys list', and run the command again if it is still needed",
        )
    for taken in KeySlot:
        if key is not None and rule.key(taken) == key:
            raise ConfigurationError(
                f"this is the {taken} key of rule {rule.name} of {name} already; nothing was changed",
                remedy="compare the fingerprints of the relays with: keys list",
            )


def check_version(known: HybridConnection, version: int | None) -> None:
    """Check that a hybrid connection is the one that the caller has read. Raises ChangedMeanwhile."""
    if version is not None and version != known.version:
        raise ChangedMeanwhile(
            f"the hybrid connection {known.name} was changed meanwhile; nothing was changed",
            remedy="read it again, and repeat the change if it is still needed",
        )


def check_generation(known: HybridConnection, rule: str, slot: KeySlot, generation: int | None) -> None:
    """Check that a slot has the key that the caller knows; see `Store.regenerate_key`. Raises ChangedMeanwhile."""
    current = known.generations.get((rule, slot), 0)
    if generation is not None and generation != current:
        has = f"has generation {current}" if current else "is revoked"
        raise ChangedMeanwhile(
            f"the {slot} key of rule {rule} of {known.name} {has}; nothing was changed",
            remedy="look at the keys again, and repeat the change if it is still needed",
        )


def with_rule(known: HybridConnection, name: str, rights: Iterable[Right]) -> tuple[Rule, ...]:
    """The rules after `Store.put_rule`, in order of their names. Raises ConfigurationError."""
    before = known.rule(name)
    try:
        if before is None:
            rule = Rule.generate(name, rights)
        else:
            rule = Rule(name, frozenset(rights), before.primary, before.secondary)
    except ValueError as exc:
        raise ConfigurationError(str(exc)) from None
    rules = {one.name: one for one in known.rules} | {name: rule}
    return check_rules(rules[key] for key in sorted(rules))


def without_rule(known: HybridConnection, name: str) -> tuple[Rule, ...]:
    """The rules after `Store.delete_rule`. Raises NotFound."""
    if known.rule(name) is None:
        raise no_rule(known, name)
    return tuple(rule for rule in known.rules if rule.name != name)
