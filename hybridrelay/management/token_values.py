"""The JSON values of the operations on management tokens. Pure."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from ..security import ManagementToken
from ..security.management_tokens import (
    DEFAULT_TOKEN_SECONDS,
    MAX_TOKEN_SECONDS,
    SCOPE_PATTERN,
    TOKEN_NAME_PATTERN,
)

__all__ = ["DAY_SECONDS", "CreatedToken", "NewToken", "TokenPage", "TokenValue"]

DAY_SECONDS = 86_400


class NewToken(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """The body of a request that creates a token."""

    name: Annotated[str, msgspec.Meta(pattern=f"^{TOKEN_NAME_PATTERN}$")]
    role: Literal["viewer", "operator", "admin"]
    #: The token is for hybrid connections whose names begin with this. If this is empty, it is for the whole relay.
    scope: Annotated[str, msgspec.Meta(pattern=f"^{SCOPE_PATTERN}$")] = ""
    #: A fraction is allowed: 0.5 means twelve hours.
    expires_in_days: Annotated[float, msgspec.Meta(ge=0.01, le=MAX_TOKEN_SECONDS // DAY_SECONDS)] = (
        DEFAULT_TOKEN_SECONDS // DAY_SECONDS
    )


class TokenValue(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A token, without its secret text. Times are seconds since 1970."""

    id: str
    name: str
    role: str
    scope: str
    created_at: float
    expires_at: float
    #: The time of the last use, updated once a minute; null if the token has never been used.
    last_used_at: float | None

    @classmethod
    def of(cls, token: ManagementToken) -> TokenValue:
        """Make the value of a token in the store."""
        return cls(
            id=token.id,
            name=token.name,
            role=token.role.name.lower(),
            scope=token.scope,
            created_at=token.created_at,
            expires_at=token.expires_at,
            last_used_at=token.last_used_at,
        )


class CreatedToken(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A new token with its text, which is not shown again."""

    value: TokenValue
    token: str


class TokenPage(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """All tokens."""

    value: tuple[TokenValue, ...]
