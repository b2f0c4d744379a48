"""What the relay needs of a store of hybrid connections, and what every store answers alike.

`SQLiteStore` is a file that a relay and the commands share. `MemoryStore` is for tests and for programs that embed a
relay. tests/relay/store/test_conformance.py holds for both, and is what another store has to pass.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Protocol

from ...errors import ConfigurationError
from ...security import KeySlot, Rule, Secret, check_hosts
from ..model import HybridConnection, RelayRecord

__all__ = ["Store", "check_new_key", "name_is_taken", "no_connection", "no_rule", "valid_hosts", "valid_record"]


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
            ConfigurationError: there is none with this name; says which there are.
        """

    def rule(self, name: str, rule: str) -> Rule:
        """One rule of a hybrid connection.

        Raises:
            ConfigurationError: there is no such hybrid connection or rule; says which there are.
        """

    # --- changing: each call changes everything that it says, or nothing

    def create(self, name: str, hosts: Iterable[str], rules: Iterable[Rule]) -> HybridConnection:
        """Add a hybrid connection.

        Raises:
            ConfigurationError: the name is taken or not valid, a host is not valid, or the rules are not.
        """

    def import_(self, record: RelayRecord) -> HybridConnection:
        """Add a hybrid connection that was made on another machine.

        Raises:
            ConfigurationError: the name is taken.
        """

    def change_hosts(self, name: str, hosts: Iterable[str]) -> HybridConnection:
        """Change which relays serve a hybrid connection. Its keys, and everything that uses it, stay.

        Raises:
            ConfigurationError: there is none with this name, or a host is not valid.
        """

    def delete(self, name: str) -> None:
        """Remove a hybrid connection and everything that was known about it.

        Raises:
            ConfigurationError: there is none with this name; says which there are.
        """

    def regenerate_key(
        self, name: str, rule: str, slot: KeySlot, key: Secret | None = None, *, known: Rule | None = None
    ) -> Secret:
        """Put a new key into a slot, revoked or not, and return it. The old key ends at once.

        Args:
            name: the hybrid connection.
            rule: one of its rules.
            slot: which of the rule's keys.
            key: the one that another relay has made; None makes one.
            known: the rule as the caller has read it; None accepts any.

        Raises:
            ConfigurationError: no such hybrid connection or rule; says which there are. Or the rule has that key
                already: in the other slot, where it would outlive its own revocation. Or the rule has changed since
                the caller read it as `known`.
        """

    def revoke_key(self, name: str, rule: str, slot: KeySlot) -> None:
        """Take the key out of a slot. What it authorized ends at once. No error when it is revoked already.

        Raises:
            ConfigurationError: no such hybrid connection or rule; says which there are.
        """


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


def name_is_taken(name: str) -> ConfigurationError:
    """The error of `Store.create` and `Store.import_`."""
    return ConfigurationError(
        f"there is a hybrid connection {name!r} already",
        remedy="choose another name; to change the relays or the target of the existing one, see "
        "'hybridrelay connections endpoints --help' and 'connections target --help'",
    )


def no_connection(name: str, known: Iterable[str]) -> ConfigurationError:
    """The error where there is no hybrid connection with this name."""
    names = ", ".join(known)
    return ConfigurationError(
        f"there is no hybrid connection {name!r}",
        remedy=f"the hybrid connections of this relay are: {names}" if names else "this relay has none yet",
    )


def no_rule(connection: HybridConnection, rule: str) -> ConfigurationError:
    """The error where a hybrid connection has no such rule."""
    names = ", ".join(one.name for one in connection.rules)
    return ConfigurationError(
        f"the hybrid connection {connection.name!r} has no rule {rule!r}", remedy=f"its rules are: {names or 'none'}"
    )


def check_new_key(name: str, rule: Rule, key: Secret | None, known: Rule | None) -> None:
    """Check whether a key may be put into a slot of a rule. Raises ConfigurationError.

    Args:
        name: the hybrid connection.
        rule: as the store has it now.
        key: the new key; None revokes the one that is there.
        known: see `Store.regenerate_key`.
    """
    if known is not None and rule != known:
        raise ConfigurationError(
            f"another command has changed the keys of rule {rule.name} of {name}; nothing was changed",
            remedy="look at them with 'keys list', and run the command again if it is still needed",
        )
    for taken in KeySlot:
        if key is not None and rule.key(taken) == key:
            raise ConfigurationError(
                f"this is the {taken} key of rule {rule.name} of {name} already; nothing was changed",
                remedy="compare the fingerprints of the relays with: keys list",
            )
