"""Files that carry a key of the registry: connection strings, and authority files. A new key can be put into them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import attrs

from .._replace_file import Replacement, prepare_replacement, replace_file
from .._text_files import read_text, strip_value
from ..errors import ConfigurationError
from ..security import AuthorityFile, ConnectionString, Role, Secret, check_key, parse_connection_string_untrusted
from ..security.loading import naming
from .provisioning import rule_of, with_key

#: An authority file has a few KB, a connection string less.
_MAX_FILE = 256 * 1024


@attrs.frozen
class KeyHolder:
    """A file that carries the key of one rule of one hybrid connection."""

    path: Path
    connection: str
    rule: str
    key: Secret
    #: The file's text with another key.
    with_key: Callable[[Secret], str] = attrs.field(repr=False)

    def write(self, key: Secret) -> None:
        """Put another key into the file.

        Raises:
            OSError: it cannot be written; it is as it was.
        """
        replace_file(self.path, self.with_key(key))

    def prepare(self, key: Secret) -> Replacement:
        """Do everything that can fail about putting another key into the file; `Replacement.commit` does it.

        Raises:
            OSError: it cannot be written; it is as it was.
        """
        return prepare_replacement(self.path, self.with_key(key))


def read_key(path: Path) -> Secret:
    """Read a key that stands in a file alone, as ``keys regenerate --out`` writes it.

    Raises:
        ConfigurationError: it cannot be read, or is none.
    """
    text = read_text(path, what="the key file", limit=_MAX_FILE)
    try:
        return check_key(Secret(strip_value(text)))
    except ValueError:
        raise ConfigurationError(
            f"{path} holds no key", remedy="give the file that 'keys regenerate --out' wrote at another relay"
        ) from None


def read_key_holder(path: Path, rule: str) -> KeyHolder:
    """Read a connection string file or an authority file.

    Args:
        path: the file.
        rule: which of the keys in an authority file is meant.

    Raises:
        ConfigurationError: it is neither, or carries no key of that rule.
    """
    content = read_string_or_authority(path)
    if isinstance(content, ConnectionString):
        return _from_string(path, content)
    with naming(path):
        return _from_authority_file(path, content, rule)


def read_string_or_authority(path: Path) -> ConnectionString | AuthorityFile:
    """Read a connection string file or an authority file.

    Raises:
        ConfigurationError: it is neither; names the file and the part, and repeats nothing of it.
    """
    text = strip_value(read_text(path, what="the file", limit=_MAX_FILE))
    with naming(path):
        if text.startswith("{"):
            return AuthorityFile.parse_untrusted(text)
        return parse_connection_string_untrusted(text)


def check_key_holder(holder: KeyHolder, connection: str, rule: str, key: Secret | None) -> None:
    """Make sure that the file carries exactly this key; None, which is a revoked one, fits every key of the rule.

    Raises:
        ConfigurationError: it does not.
    """
    if (holder.connection, holder.rule) != (connection, rule):
        raise ConfigurationError(
            f"{holder.path} is for rule {holder.rule} of {holder.connection}, not for rule {rule} of {connection}"
        )
    if key is not None and holder.key != key:
        raise ConfigurationError(
            f"{holder.path} carries another key than the one to be regenerated",
            remedy="see with 'hybridrelay keys list --show-keys' which one it is: perhaps the rule's other key",
        )


def _from_string(path: Path, string: ConnectionString) -> KeyHolder:
    def with_new_key(key: Secret) -> str:
        return attrs.evolve(string, key=key).format() + "\n"

    return KeyHolder(path, string.entity_path, string.key_name, string.key, with_new_key)


def _from_authority_file(path: Path, file: AuthorityFile, rule: str) -> KeyHolder:
    for role in Role:
        name, key = rule_of(file.extra, role)
        if name == rule:

            def with_new_key(key: Secret, role: Role = role) -> str:
                return with_key(file, role, key).format()

            return KeyHolder(path, file.authority.connection_name, name, key, with_new_key)
    raise ConfigurationError(f"it carries no key of rule {rule}")
