"""Shared access rules: which keys give the rights to listen, send and manage."""

from __future__ import annotations

import base64
import enum
import hashlib
import re
import secrets
from collections.abc import Iterable

import attrs

from .._value import Value
from ..errors import ConfigurationError
from .secret import Secret

#: The most rules of a hybrid connection, as in Azure Relay. Limits the cost of verifying a token.
MAX_RULES_PER_LEVEL = 12
MAX_RULE_NAME = 256
MAX_KEY = 256
_RULE_NAME = re.compile(r"[A-Za-z0-9._-]{1,256}")


class Right(enum.StrEnum):
    """A right that a rule gives."""

    #: Register as a listener.
    LISTEN = "Listen"
    #: Join as a sender.
    SEND = "Send"
    #: Administer; implies the other two.
    MANAGE = "Manage"


class KeySlot(enum.StrEnum):
    """One of the two slots for a rule's keys."""

    PRIMARY = "primary"
    SECONDARY = "secondary"

    @property
    def other(self) -> KeySlot:
        """The other slot."""
        return KeySlot.SECONDARY if self is KeySlot.PRIMARY else KeySlot.PRIMARY


def generate_key() -> Secret:
    """Generate a key: 256 random bits in Base64. The key is this text, not the bytes that it decodes to."""
    return Secret(base64.b64encode(secrets.token_bytes(32)).decode("ascii"))


def key_fingerprint(key: Secret) -> str:
    """Return 16 hexadecimal digits that identify a key. They are a part of its hash, and do not reveal it."""
    return hashlib.sha256(b"hybridrelay key " + key.reveal().encode()).hexdigest()[:16]


def check_rule_name(name: str) -> str:
    """Return `name` if it is valid as the name of a rule.

    Raises:
        ValueError: it is not.
    """
    if not _RULE_NAME.fullmatch(name):
        raise ValueError(f"a rule's name consists of 1 to {MAX_RULE_NAME} of the characters A-Z a-z 0-9 . _ -")
    return name


def check_key(key: Secret) -> Secret:
    """Return `key` if it is a valid key.

    Raises:
        ValueError: it is not; the message does not repeat the key.
    """
    text = key.reveal()
    if not (
        1 <= len(text) <= MAX_KEY and text.isascii() and text.isprintable() and ";" not in text and " " not in text
    ):
        raise ValueError(f"a key consists of 1 to {MAX_KEY} printable ASCII characters without spaces and semicolons")
    return key


def _check_optional_key(instance: object, attribute: object, value: Secret | None) -> None:
    if value is not None:
        check_key(value)


def _frozen_rights(value: Iterable[Right]) -> frozenset[Right]:
    return frozenset(value)


@attrs.frozen
class Rule(Value):
    """A named set of rights with two keys, each of which gives these rights. A revoked key is None."""

    name: str = attrs.field(validator=lambda _instance, _attribute, value: check_rule_name(value))
    rights: frozenset[Right] = attrs.field(converter=_frozen_rights)
    primary: Secret | None = attrs.field(default=None, validator=_check_optional_key)
    secondary: Secret | None = attrs.field(default=None, validator=_check_optional_key)

    @rights.validator
    def _check_rights(self, attribute: object, value: frozenset[Right]) -> None:
        if not value:
            raise ValueError("a rule needs at least one right")

    @classmethod
    def generate(cls, name: str, rights: Iterable[Right]) -> Rule:
        """Make a rule with two new keys."""
        return cls(name, rights, generate_key(), generate_key())

    def allows(self, right: Right) -> bool:
        """Return whether the rule gives `right`, which Manage implies."""
        return right in self.rights or Right.MANAGE in self.rights

    def key(self, slot: KeySlot) -> Secret | None:
        """Return the key in `slot`, or None if it is revoked."""
        return self.primary if slot is KeySlot.PRIMARY else self.secondary

    def with_key(self, slot: KeySlot, key: Secret | None) -> Rule:
        """Return a copy of the rule with another key in `slot`; None revokes it."""
        if slot is KeySlot.PRIMARY:
            return attrs.evolve(self, primary=key)
        return attrs.evolve(self, secondary=key)


def check_rules(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """Return the rules if they are valid together as those of a hybrid connection.

    Raises:
        ConfigurationError: there are too many, or two of them have the same name.
    """
    checked = tuple(rules)
    if len(checked) > MAX_RULES_PER_LEVEL:
        raise ConfigurationError(f"there are {len(checked)} rules; at most {MAX_RULES_PER_LEVEL} are allowed")
    if len({rule.name for rule in checked}) != len(checked):
        raise ConfigurationError("two rules have the same name")
    return checked
