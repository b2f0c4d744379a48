"""Browsers that are logged in to the dashboard, and one-time codes for logging in. Pure.

A login belongs to a credential of the relay: a management token, or a key with the right Manage. It ends with that
credential: `gate.Gate` looks the credential up for each request. Logins and codes are identified by the SHA-256 of a
random text that only the browser has, so that nobody can log in with a copy of the relay's memory. Times are seconds
since 1970.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Final

import attrs

from .._value import Value
from ..security import KeySlot

__all__ = [
    "CODE_SECONDS",
    "LOGIN_SECONDS",
    "KeyCredential",
    "Login",
    "Logins",
    "TokenCredential",
    "digest_of",
]

#: How long a login lasts at most (seconds).
LOGIN_SECONDS: Final = 8 * 3600.0
#: How long a one-time code can be used (seconds).
CODE_SECONDS: Final = 300.0
#: How many logins there may be with the same token or with the keys of one hybrid connection, and in total. If there
#: is one more, the oldest login with the same token or keys ends; if the total is exceeded, the oldest login with the
#: token or keys that have the most.
_MAX_LOGINS_EACH, _MAX_LOGINS = 16, 1024
#: How many one-time codes may be unused. If there is one more, the oldest can no longer be used.
_MAX_CODES = 64


@attrs.frozen
class TokenCredential(Value):
    """A management token."""

    id: str

    @property
    def limit_group(self) -> tuple[str, str]:
        """Logins with the same value are counted together."""
        return "token", self.id


@attrs.frozen
class KeyCredential(Value):
    """A key of a hybrid connection's rule, by which a signature was made."""

    connection: str
    rule: str
    slot: KeySlot
    #: The generation of the key, which changes when the key does.
    generation: int

    @property
    def limit_group(self) -> tuple[str, str]:
        """See `TokenCredential.limit_group`. All keys of a hybrid connection are counted together, because a key with
        the right Manage is enough to make more keys."""
        return "sas", self.connection


@attrs.frozen
class Login(Value):
    """A browser that has logged in."""

    credential: TokenCredential | KeyCredential
    began_at: float
    expires_at: float


@attrs.frozen
class _Code(Value):
    credential: TokenCredential
    expires_at: float


def digest_of(text: str) -> bytes:
    """Return the hash by which a login or a code is identified here."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


class Logins:
    """All logins, and the codes that have not been used yet."""

    def __init__(self) -> None:
        #: The logins in the order in which they began.
        self._logins: dict[bytes, Login] = {}
        self._codes: dict[bytes, _Code] = {}

    def __len__(self) -> int:
        """Return the number of logins, including those that have expired but have not been removed yet."""
        return len(self._logins)

    def begin(
        self, digest: bytes, credential: TokenCredential | KeyCredential, *, now: float, valid_until: float
    ) -> Login:
        """Begin a login.

        Args:
            digest: the hash of the text that only the browser has; see `digest_of`.
            credential: the credential, which has been verified.
            now: the time.
            valid_until: when the credential expires, and the login with it.
        """
        self._remove_expired(now)
        held = Counter(login.credential.limit_group for login in self._logins.values())
        if held[credential.limit_group] >= _MAX_LOGINS_EACH:
            self._end_oldest_of(credential.limit_group)
        elif len(self._logins) >= _MAX_LOGINS:
            self._end_oldest_of(held.most_common(1)[0][0])
        login = Login(credential, now, min(valid_until, now + LOGIN_SECONDS))
        self._logins[digest] = login
        return login

    def _end_oldest_of(self, limit_group: tuple[str, str]) -> None:
        self.end(
            next(digest for digest, login in self._logins.items() if login.credential.limit_group == limit_group)
        )

    def find(self, digest: bytes, now: float) -> Login | None:
        """Return the login of a browser; None if there is none, or it has expired."""
        login = self._logins.get(digest)
        if login is not None and now >= login.expires_at:
            self.end(digest)
            return None
        return login

    def end(self, digest: bytes) -> None:
        """End a login, if there is one."""
        self._logins.pop(digest, None)

    def add_code(self, digest: bytes, credential: TokenCredential, now: float) -> None:
        """Let a code be used once within `CODE_SECONDS`. If there are too many, the oldest is dropped."""
        self._codes = {key: code for key, code in self._codes.items() if now < code.expires_at}
        if len(self._codes) >= _MAX_CODES:
            del self._codes[next(iter(self._codes))]
        self._codes[digest] = _Code(credential, now + CODE_SECONDS)

    def use_code(self, digest: bytes, now: float) -> TokenCredential | None:
        """Use a code, which cannot be used again. Return its credential; None if the code is unknown or has
        expired."""
        code = self._codes.pop(digest, None)
        return None if code is None or now >= code.expires_at else code.credential

    def _remove_expired(self, now: float) -> None:
        self._logins = {key: login for key, login in self._logins.items() if now < login.expires_at}
