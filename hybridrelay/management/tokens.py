"""The operations on management tokens, and the JSON values of these operations."""

from __future__ import annotations

import contextlib
from typing import Annotated, Literal

import msgspec

from ..administration import add_token
from ..relay.store.store import NotFound, Store
from ..security import ManagementRole, ManagementToken, Secret
from ..security.management_tokens import (
    DEFAULT_TOKEN_SECONDS,
    MAX_TOKEN_SECONDS,
    SCOPE_PATTERN,
    TOKEN_NAME_PATTERN,
)
from .calls import Call
from .operations import Operation

__all__ = ["TOKEN_OPERATIONS"]

_DAY_SECONDS = 86_400
_TOKENS = "/v1/tokens"


class NewToken(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """The body of a request that creates a token."""

    name: Annotated[str, msgspec.Meta(pattern=f"^{TOKEN_NAME_PATTERN}$")]
    role: Literal["viewer", "operator", "admin"]
    #: A prefix: the token is for the hybrid connections whose names begin with it. If empty, it is for the whole
    #: relay.
    scope: Annotated[str, msgspec.Meta(pattern=f"^{SCOPE_PATTERN}$")] = ""
    #: A fraction is possible: 0.5 is twelve hours.
    expires_in_days: Annotated[float, msgspec.Meta(ge=0.01, le=MAX_TOKEN_SECONDS // _DAY_SECONDS)] = (
        DEFAULT_TOKEN_SECONDS // _DAY_SECONDS
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
    """A token that was just created, with its text, which is not shown again."""

    value: TokenValue
    token: str


class TokenPage(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """All tokens."""

    value: tuple[TokenValue, ...]


async def _list_tokens(call: Call) -> TokenPage:
    tokens = await call.managed.read_store(lambda store: store.tokens())
    return TokenPage(value=tuple(map(TokenValue.of, tokens)))


async def _create_token(call: Call) -> CreatedToken:
    body = call.body_as(NewToken)

    def create(store: Store) -> tuple[ManagementToken, Secret]:
        return add_token(
            store,
            body.name,
            ManagementRole[body.role.upper()],
            scope=body.scope,
            seconds=round(body.expires_in_days * _DAY_SECONDS),
            now=call.managed.clock(),
        )

    token, text = await call.managed.change_store(create)
    call.has_created = True
    return CreatedToken(value=TokenValue.of(token), token=text.reveal())


async def _delete_token(call: Call) -> None:
    def delete(store: Store) -> None:
        with contextlib.suppress(NotFound):  # it was revoked already
            store.delete_token(call.params["token"])

    await call.managed.change_store(delete)


TOKEN_OPERATIONS: tuple[Operation[Call], ...] = (
    Operation(
        id="listTokens",
        method="GET",
        path=_TOKENS,
        summary="List the management tokens, sorted by name.",
        role=ManagementRole.ADMIN,
        handler=_list_tokens,
        answer=TokenPage,
    ),
    Operation(
        id="createToken",
        method="POST",
        path=_TOKENS,
        summary="Create a token. The response contains its text, which is not shown again.",
        role=ManagementRole.ADMIN,
        handler=_create_token,
        body=NewToken,
        answer=CreatedToken,
        creates=True,
        shows_secrets=True,
        leads_to={"deleteToken": {"token": "$response.body#/value/id"}},
    ),
    Operation(
        id="deleteToken",
        method="DELETE",
        path=f"{_TOKENS}/{{token}}",
        summary="Revoke a token.",
        role=ManagementRole.ADMIN,
        handler=_delete_token,
    ),
)
