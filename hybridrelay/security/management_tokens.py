"""Tokens for the management API: ``hrm_<id>_<secret>``, of which a relay keeps only the SHA-256.

The id names the token in lists and logs. The secret has 43 characters from an alphabet of 62, which is 256 bits, so
it cannot be guessed, and a plain hash is sufficient.

Pure, except for the randomness of `generate_management_token`.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import re
import secrets
import string

import attrs

from .._value import Value
from ..protocol.limits import MAX_CONNECTION_NAME
from .secret import Secret

__all__ = [
    "DEFAULT_TOKEN_SECONDS",
    "MAX_TOKEN_SECONDS",
    "SCOPE_PATTERN",
    "TOKEN_NAME_PATTERN",
    "TOKEN_PREFIX",
    "ManagementRole",
    "ManagementToken",
    "check_scope",
    "check_token_id",
    "check_token_name",
    "generate_management_token",
    "parse_management_token_untrusted",
]

#: The beginning of every token, so that tools that search for leaked secrets can recognize it.
TOKEN_PREFIX = "hrm_"  # noqa: S105
#: How long a token is valid: by default, and at most (seconds).
DEFAULT_TOKEN_SECONDS = 30 * 86_400
MAX_TOKEN_SECONDS = 365 * 86_400

_ALPHABET = string.ascii_letters + string.digits
_ID_LENGTH = 8
_SECRET_LENGTH = 43
_ID = re.compile(rf"[A-Za-z0-9]{{{_ID_LENGTH}}}")
_TOKEN = re.compile(rf"hrm_([A-Za-z0-9]{{{_ID_LENGTH}}})_[A-Za-z0-9]{{{_SECRET_LENGTH}}}")
#: Regular expressions for a full match of a token's name and scope.
TOKEN_NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}"  # noqa: S105
SCOPE_PATTERN = rf"[A-Za-z0-9._/-]{{0,{MAX_CONNECTION_NAME}}}"
_NAME = re.compile(TOKEN_NAME_PATTERN)
_SCOPE = re.compile(SCOPE_PATTERN)


class ManagementRole(enum.IntEnum):
    """What a caller of the management API may do. Each role includes the ones before it."""

    #: See everything except keys and tokens.
    VIEWER = 1
    #: End running things, such as a listener's registration.
    OPERATOR = 2
    #: Change hybrid connections, rules, keys and tokens, and see keys.
    ADMIN = 3


@attrs.frozen
class ManagementToken(Value):
    """The part of a token that a relay keeps."""

    id: str
    #: The name, unique at a relay.
    name: str
    role: ManagementRole
    #: The token is for hybrid connections whose names begin with this; empty for the whole relay.
    scope: str
    #: SHA-256 of the token's text.
    digest: bytes = attrs.field(repr=False)
    #: Seconds since 1970.
    created_at: float
    expires_at: float
    #: When the token was last used, updated about once a minute; None if it was never used.
    last_used_at: float | None = None

    def matches(self, text: str) -> bool:
        """Return whether `text` is this token. The time does not depend on where it differs."""
        return hmac.compare_digest(_digest(text), self.digest)


def generate_management_token(
    name: str, role: ManagementRole, *, scope: str = "", now: float, seconds: float = DEFAULT_TOKEN_SECONDS
) -> tuple[ManagementToken, Secret]:
    """Make a token. Returns the part that the relay keeps, and the text for the user of the token.

    Args:
        name: see `check_token_name`.
        role: what it allows.
        scope: see `check_scope`.
        now: seconds since 1970.
        seconds: how long it is valid.

    Raises:
        ValueError: the name, the scope or the time is not valid. The message says what would be valid.
    """
    check_token_name(name)
    check_scope(scope)
    if not 1 <= seconds <= MAX_TOKEN_SECONDS:
        raise ValueError(f"a token is valid for at least 1 second and at most {MAX_TOKEN_SECONDS // 86_400} days")
    id_ = _random(_ID_LENGTH)
    text = f"{TOKEN_PREFIX}{id_}_{_random(_SECRET_LENGTH)}"
    return ManagementToken(id_, name, role, scope, _digest(text), now, now + seconds), Secret(text)


def parse_management_token_untrusted(text: str) -> str | None:
    """Return the id in the text of a token; None if the text cannot be a token."""
    match = _TOKEN.fullmatch(text)
    return None if match is None else match[1]


def check_token_name(name: str) -> str:
    """Return `name` if it is valid as the name of a token. Raises ValueError, without quoting the name."""
    if not _NAME.fullmatch(name):
        raise ValueError("the name of a token has 1 to 64 characters of A-Z a-z 0-9 . _ @ -, first a letter or digit")
    return name


def check_token_id(id_: str) -> str:
    """Return `id_` if it is valid as the id of a token. Raises ValueError, without quoting the id."""
    if not _ID.fullmatch(id_):
        raise ValueError(f"the id of a token has {_ID_LENGTH} letters and digits")
    return id_


def check_scope(prefix: str) -> str:
    """Return `prefix` if names of hybrid connections can begin with it. Raises ValueError, without quoting it."""
    if not _SCOPE.fullmatch(prefix):
        raise ValueError(
            f"a scope is the beginning of names: at most {MAX_CONNECTION_NAME} characters of A-Z a-z 0-9 . _ - /"
        )
    return prefix


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
