"""Files that contain keys of one rule of a hybrid connection: connection string files and authority files.

A connection string has one of the rule's two keys, and an authority file has both. This module computes the new text
of a file when a key is changed, and writes nothing.
"""

from __future__ import annotations

import abc
from pathlib import Path

import attrs

from .._text_files import read_text, strip_value
from ..errors import ConfigurationError
from ..security import (
    AuthorityFile,
    ConnectionString,
    KeySlot,
    Role,
    Rule,
    Secret,
    check_key,
    key_fingerprint,
    parse_connection_string_untrusted,
)
from ..security.loading import naming
from .authority_content import RIGHTS, rule_of, with_rule
from .registry import RuleInfo

#: An authority file has a few KB, a connection string less.
_MAX_FILE = 256 * 1024


@attrs.frozen
class FileWithKeys(abc.ABC):
    """A file that contains keys of one rule of one hybrid connection."""

    path: Path
    connection: str
    rule: str

    def check_owner(self, connection: str, rule: str) -> None:
        """Check that the file is for this rule of this hybrid connection.

        Raises:
            ConfigurationError: the file is for another one.
        """
        if (self.connection, self.rule) != (connection, rule):
            raise ConfigurationError(
                f"{self.path} is for rule {self.rule} of {self.connection}, not for rule {rule} of {connection}"
            )

    @abc.abstractmethod
    def carries(self, key: Secret) -> bool:
        """Return whether this key is in the file."""

    @property
    @abc.abstractmethod
    def fingerprints(self) -> frozenset[str]:
        """The fingerprints of the keys that are in the file."""

    @abc.abstractmethod
    def regenerated(self, known: RuleInfo, slot: KeySlot, key: Secret) -> str | None:
        """Return the file's new text after the rule's key in `slot` was replaced by `key`.

        Args:
            known: the rule before the change.
            slot: which of its two keys is replaced.
            key: the new key.

        Returns:
            None if the file need not be changed: it uses the other key, or already has the new one.

        Raises:
            ConfigurationError: the file contains neither key of the rule, so it may belong to another relay.
        """

    @abc.abstractmethod
    def using(self, known: Rule, slot: KeySlot) -> str:
        """Return the file's new text, with the rule's key in `slot`, which must not be revoked."""

    def _unknown_key(self, known: RuleInfo) -> ConfigurationError:
        return ConfigurationError(
            f"{self.path} contains neither of the two keys of rule {known.name}",
            remedy="if it belongs to this relay, write a valid key into it first: hybridrelay keys use --help",
        )


@attrs.frozen
class ConnectionStringFile(FileWithKeys):
    """A file with a connection string."""

    _string: ConnectionString = attrs.field(repr=False)

    def carries(self, key: Secret) -> bool:
        """See `FileWithKeys`."""
        return self._string.key == key

    @property
    def fingerprints(self) -> frozenset[str]:
        """See `FileWithKeys`."""
        return frozenset({key_fingerprint(self._string.key)})

    def regenerated(self, known: RuleInfo, slot: KeySlot, key: Secret) -> str | None:
        """See `FileWithKeys`."""
        old, has = known.fingerprint(slot), key_fingerprint(self._string.key)
        if self._string.key == key or (has != old and has == known.fingerprint(slot.other)):
            return None
        if old is not None and has != old:
            raise self._unknown_key(known)
        # If the old key was revoked, it is no longer known: a file with an unknown key is assumed to contain it.
        return self._with(key)

    def using(self, known: Rule, slot: KeySlot) -> str:
        """See `FileWithKeys`."""
        key = known.key(slot)
        assert key is not None
        return self._with(key)

    def _with(self, key: Secret) -> str:
        return attrs.evolve(self._string, key=key).format() + "\n"


@attrs.frozen
class AuthorityFileWithKeys(FileWithKeys):
    """An authority file. It contains both keys of the rule, for `connections issue`."""

    _file: AuthorityFile = attrs.field(repr=False)
    _role: Role
    #: The rule, with the keys that are in the file.
    has: Rule = attrs.field(repr=False)

    def carries(self, key: Secret) -> bool:
        """See `FileWithKeys`."""
        return key in (self.has.primary, self.has.secondary)

    @property
    def fingerprints(self) -> frozenset[str]:
        """See `FileWithKeys`."""
        return frozenset(key_fingerprint(one) for one in (self.has.primary, self.has.secondary) if one is not None)

    def regenerated(self, known: RuleInfo, slot: KeySlot, key: Secret) -> str | None:
        """See `FileWithKeys`."""
        if self.has.key(slot) == key:
            return None
        if known.fingerprint(slot) is not None and not self.fingerprints & {
            known.fingerprint(one) for one in known.valid_keys
        }:
            raise self._unknown_key(known)
        return with_rule(self._file, self._role, self.has.with_key(slot, key)).format()

    def using(self, known: Rule, slot: KeySlot) -> str:
        """See `FileWithKeys`. The new text contains both keys of the rule."""
        rule = attrs.evolve(self.has, primary=known.primary, secondary=known.secondary)
        return with_rule(self._file, self._role, rule).format()


def read_key(path: Path) -> Secret:
    """Read a key from a file that contains nothing else, as ``keys regenerate --out`` writes it.

    Raises:
        ConfigurationError: the file cannot be read, or does not contain a key.
    """
    text = read_text(path, what="the key file", limit=_MAX_FILE)
    try:
        return check_key(Secret(strip_value(text)))
    except ValueError:
        raise ConfigurationError(
            f"{path} does not contain a key",
            remedy="name the file that 'keys regenerate --out' or 'keys use --out' wrote",
        ) from None


def read_file_with_keys(path: Path, rule: str) -> FileWithKeys:
    """Read a connection string file or an authority file.

    Args:
        path: the file.
        rule: selects the rule in an authority file, which has several.

    Raises:
        ConfigurationError: the file is neither, or contains no key of that rule.
    """
    content = read_string_or_authority(path)
    if isinstance(content, ConnectionString):
        return ConnectionStringFile(path, content.entity_path, content.key_name, content)
    with naming(path):
        for role in RIGHTS:
            has = rule_of(content, role)
            if has.name == rule:
                return AuthorityFileWithKeys(path, content.authority.connection_name, rule, content, role, has)
        raise ConfigurationError(f"it contains no key of rule {rule}")


def read_file_of(path: Path, connection: str) -> ConnectionString | AuthorityFile:
    """Read a connection string file or an authority file that has to belong to `connection`.

    Raises:
        ConfigurationError: the file is neither, or belongs to another hybrid connection.
    """
    content = read_string_or_authority(path)
    owner = content.entity_path if isinstance(content, ConnectionString) else content.authority.connection_name
    if owner != connection:
        raise ConfigurationError(f"{path} is for {owner}, not for {connection}")
    return content


def read_string_or_authority(path: Path) -> ConnectionString | AuthorityFile:
    """Read a connection string file or an authority file.

    Raises:
        ConfigurationError: the file is neither. The message names the file and what is wrong, but does not repeat any
            of its content.
    """
    text = strip_value(read_text(path, what="the file", limit=_MAX_FILE, regular=True))
    with naming(path):
        if text.startswith("{"):
            return AuthorityFile.parse_untrusted(text)
        return parse_connection_string_untrusted(text)
