"""The operations on claims. The relay cannot open what it keeps: the caller has sealed it."""

from __future__ import annotations

import base64
import binascii

from ..relay.claims import Claim
from ..relay.store.store import Store
from ..security import ManagementRole
from .calls import Call
from .claim_values import ClaimPage, ClaimValue, NewClaim
from .operations import Operation
from .problem_kinds import Problem
from .problems import problem

__all__ = ["CLAIM_OPERATIONS"]

_CLAIMS = "/v1/hybridConnections/{name}/claims"


async def _list_claims(call: Call) -> ClaimPage:
    claims = await call.managed.read_store(lambda store: store.claims(call.name))
    now = call.managed.clock()
    return ClaimPage(value=tuple(ClaimValue.of(claim, now) for claim in claims))


async def _create_claim(call: Call) -> ClaimValue:
    body = call.body_as(NewClaim)
    now = call.managed.clock()
    try:
        claim = Claim(
            body.id,
            call.name,
            body.proof_digest,
            base64.b64decode(body.sealed, validate=True),
            now,
            now + body.expires_in_seconds,
            body.note,
        )
    except (binascii.Error, ValueError) as exc:
        raise problem(Problem.INVALID, str(exc)) from exc
    call.effect.claim = claim.id

    def add(store: Store) -> None:
        store.add_claim(claim)

    await call.change_store(add)
    call.has_created = True
    return ClaimValue.of(claim, now)


async def _revoke_claim(call: Call) -> None:
    was_open = await call.change_store(lambda store: store.revoke_claim(call.name, call.params["claim"]))
    call.effect.is_unchanged = not was_open


#: The operations of this module, a part of the table of all operations.
CLAIM_OPERATIONS: tuple[Operation[Call], ...] = (
    Operation(
        id="listClaims",
        method="GET",
        path=_CLAIMS,
        summary="List the claims of a hybrid connection, including those that were taken, the latest first.",
        role=ManagementRole.VIEWER,
        handler=_list_claims,
        answer=ClaimPage,
    ),
    Operation(
        id="createClaim",
        method="POST",
        path=_CLAIMS,
        summary="Add a claim: a sealed connection string, delivered once, to a caller that has its code.",
        role=ManagementRole.ADMIN,
        handler=_create_claim,
        body=NewClaim,
        answer=ClaimValue,
        creates=True,
        leads_to={"revokeClaim": {"name": "$request.path.name", "claim": "$response.body#/id"}},
    ),
    Operation(
        id="revokeClaim",
        method="DELETE",
        path=f"{_CLAIMS}/{{claim}}",
        summary="Revoke a claim that was not taken, and delete its content.",
        role=ManagementRole.ADMIN,
        handler=_revoke_claim,
    ),
)
