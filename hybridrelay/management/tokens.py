"""The operations on management tokens."""

from __future__ import annotations

from ..administration import add_token
from ..relay.store.store import NotFound, Store
from ..security import ManagementRole, ManagementToken, Secret
from .calls import Call
from .operations import Operation
from .token_values import DAY_SECONDS, CreatedToken, NewToken, TokenPage, TokenValue

__all__ = ["TOKEN_OPERATIONS"]

_TOKENS = "/v1/tokens"


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
            seconds=round(body.expires_in_days * DAY_SECONDS),
            now=call.managed.clock(),
        )

    token, text = await call.change_store(create)
    call.has_created = True
    call.effect.token = token.id
    return CreatedToken(value=TokenValue.of(token), token=text.reveal())


async def _delete_token(call: Call) -> None:
    def delete(store: Store) -> None:
        try:
            store.delete_token(call.params["token"])
        except NotFound:  # it was already revoked
            call.effect.is_unchanged = True

    await call.change_store(delete)


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
