"""The event about a call of the management API, for the audit log."""

from __future__ import annotations

from collections.abc import Mapping

from ..events.management import ManagementCalled, ManagementCallRefused
from ..http import Request
from .callers import Caller
from .peers import Peer

__all__ = ["audit_event"]


def audit_event(
    operation_id: str,
    params: Mapping[str, str],
    request: Request,
    caller: Caller | None,
    status: int,
    request_id: str,
) -> ManagementCalled | ManagementCallRefused:
    """Make the event about a call. `caller` is None if the call was refused before the caller was identified."""
    assert isinstance(request.peer, Peer)
    peer = request.peer.address or "local"
    connection, rule, token = (params.get(name, "") for name in ("name", "rule", "token"))
    if caller is None:
        return ManagementCallRefused(
            operation_id=operation_id,
            peer=peer,
            request_id=request_id,
            connection=connection,
            rule=rule,
            token=token,
            status=status,
        )
    return ManagementCalled(
        operation_id=operation_id,
        peer=peer,
        request_id=request_id,
        connection=connection,
        rule=rule,
        token=token,
        status=status,
        caller=f"{caller.kind} {caller.id}",
        role=caller.role.name.lower(),
    )
