"""The event about a call of the management API, for the audit log."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from ..events.management import ManagementCalled, ManagementCallRefused
from ..http import Request
from .callers import Caller
from .peers import Peer

__all__ = ["Effect", "audit_event"]


@attrs.define
class Effect:
    """The effect of a call, which the audit log records in addition to the request and the status."""

    #: Whether it has changed nothing, because everything was already as the call asks.
    is_unchanged: bool = False
    #: The id of the token that it has created.
    token: str = ""
    #: The id of the claim that it has created.
    claim: str = ""


def audit_event(
    operation_id: str,
    params: Mapping[str, str],
    request: Request,
    caller: Caller | None,
    status: int,
    request_id: str,
    effect: Effect,
) -> ManagementCalled | ManagementCallRefused:
    """Make the event about a call. `caller` is None if the call was refused before the caller was identified."""
    assert isinstance(request.peer, Peer)
    peer = request.peer.address or "local"
    connection, rule, token, claim = (params.get(name, "") for name in ("name", "rule", "token", "claim"))
    if caller is None:
        return ManagementCallRefused(
            operation_id=operation_id,
            peer=peer,
            request_id=request_id,
            connection=connection,
            rule=rule,
            token=token,
            claim=claim,
            status=status,
        )
    return ManagementCalled(
        operation_id=operation_id,
        peer=peer,
        request_id=request_id,
        connection=connection,
        rule=rule,
        token=token or effect.token,
        claim=claim or effect.claim,
        status=status,
        caller=f"{caller.kind} {caller.id}",
        role=caller.role.name.lower(),
        unchanged=effect.is_unchanged and 200 <= status < 400,
        has_scope=not caller.scope.is_everything,
    )
