"""The operation of the management API that shows its audit log."""

from __future__ import annotations

from typing import Annotated

import msgspec

from ..protocol.limits import MAX_CONNECTION_NAME
from ..security import ManagementRole
from .audit_entries import AuditEntry, AuditFilter
from .calls import Call
from .operations import Operation
from .problem_kinds import Problem
from .problems import problem
from .values import Body, Value

__all__ = ["AUDIT_ROWS", "AuditValue"]


class AuditQuery(Body, frozen=True):
    """The query for entries of the audit log."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100
    #: ``nextCursor`` of the previous page.
    cursor: Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,18}$")] | None = None
    #: Only callers whose names begin with this, such as ``token`` or ``token ci``.
    caller: Annotated[str, msgspec.Meta(max_length=512)] = ""
    #: Only the operation with this id, such as ``regenerateKeys``.
    operation: Annotated[str, msgspec.Meta(max_length=64)] = ""
    #: Only calls about this hybrid connection.
    connection: Annotated[str, msgspec.Meta(max_length=MAX_CONNECTION_NAME)] = ""
    #: Only calls at or after this time (seconds since 1970).
    since: Annotated[float, msgspec.Meta(ge=0, le=253402300799)] | None = None


class AuditValue(Value, frozen=True):
    """Calls that change something or show keys, the latest first."""

    value: tuple[AuditEntry, ...]
    #: The cursor of the next page, which may be empty; null on the last page.
    next_cursor: str | None


async def _list_audit(call: Call) -> AuditValue:
    query = call.query_as(AuditQuery)
    wanted = AuditFilter(
        caller=query.caller,
        operation=query.operation,
        connection=query.connection,
        since=query.since,
        may_see=call.caller.sees,
    )
    if call.managed.audit is None:
        return AuditValue(value=(), next_cursor=None)
    try:
        page = await call.managed.audit.read(wanted, query.limit, None if query.cursor is None else int(query.cursor))
    except OSError as exc:
        raise problem(
            Problem.UNAVAILABLE,
            f"the audit log of the management API cannot be read: {exc.strerror or exc}",
            remedy="see the log of the relay, which has the same entries",
        ) from exc
    return AuditValue(value=page.entries, next_cursor=None if page.next_before is None else str(page.next_before))


#: The operations of this module, a part of the table of all operations.
AUDIT_ROWS: tuple[Operation[Call], ...] = (
    Operation(
        id="listAudit",
        method="GET",
        path="/v1/audit",
        summary="List calls of this API that change something or show keys, the latest first.",
        role=ManagementRole.VIEWER,
        handler=_list_audit,
        query=AuditQuery,
        answer=AuditValue,
        filters=True,
    ),
)
