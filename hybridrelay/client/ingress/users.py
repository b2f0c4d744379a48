"""The users of a front, in a file with a line ``user:password`` for each."""

from __future__ import annotations

import hmac
from pathlib import Path
from typing import Final

from ..._text_files import numbered_lines, read_text
from ...errors import ConfigurationError
from ...security import Secret

__all__ = ["FrontUsers", "load_front_users"]

_MAX_FILE: Final = 64 * 1024
#: As SOCKS5 allows (RFC 1929).
_MAX_BYTES: Final = 255


class FrontUsers:
    """The users with their passwords.

    Args:
        passwords: by user name.
    """

    def __init__(self, passwords: dict[str, Secret]) -> None:
        self._passwords = {name.encode(): password for name, password in passwords.items()}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FrontUsers) and self._passwords == other._passwords

    __hash__ = None  # type: ignore[assignment]

    def check(self, name: bytes, password: bytes) -> bool:
        """Return whether this user has this password. The time that it takes does not reveal how much is right."""
        is_accepted = False
        for known, secret in self._passwords.items():
            is_user = hmac.compare_digest(known, name)
            is_accepted |= is_user & hmac.compare_digest(secret.reveal().encode(), password)
        return is_accepted


def load_front_users(path: Path, *, regular: bool = False) -> FrontUsers:
    """Read a file with users. Empty lines, and lines that begin with #, are ignored.

    Args:
        path: the file.
        regular: whether it has to be a regular file, because it is read again later.

    Raises:
        ConfigurationError: it cannot be read or has no user, a line has another form, or a user occurs twice. The
            message quotes no line.
    """
    text = read_text(path, what="the file with users", limit=_MAX_FILE, secret=True, regular=regular)
    found: dict[str, Secret] = {}
    for number, line in numbered_lines(text):
        if not line or line.startswith("#"):
            continue
        name, colon, password = line.partition(":")
        if not colon or not name or not password or max(len(name.encode()), len(password.encode())) > _MAX_BYTES:
            raise ConfigurationError(
                f"{path}: line {number} is not user:password, each of at most {_MAX_BYTES} bytes",
                remedy="write one user on each line, with a colon and the password",
            )
        if name in found:
            raise ConfigurationError(f"{path}: line {number}: this user occurs twice", remedy="leave one of them out")
        found[name] = Secret(password)
    if not found:
        raise ConfigurationError(f"{path} has no user", remedy="write user:password into it")
    return FrontUsers(found)
