"""The operations of the management API on the checkpoints of audit logs that a relay keeps."""

from __future__ import annotations

from typing import Annotated

import msgspec

from ..protocol.limits import MAX_CONNECTION_NAME
from ..relay.checkpoints import CheckpointQuery, KeptCheckpoint
from ..security import ManagementRole
from .calls import Call
from .operations import Operation
from .problem_kinds import Problem
from .problems import problem
from .values import Body, Value

__all__ = ["CHECKPOINT_OPERATIONS", "CheckpointPage", "CheckpointValue"]


class CheckpointPageQuery(Body, frozen=True):
    """The query for checkpoints."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100
    #: ``nextCursor`` of the previous page.
    cursor: Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,18}$")] | None = None
    #: Only the audit log with this id.
    log: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{16}$")] | None = None
    #: Only those under the name of this hybrid connection.
    connection: Annotated[str, msgspec.Meta(max_length=MAX_CONNECTION_NAME)] = ""


class CheckpointValue(Value, frozen=True):
    """A checkpoint of the audit log of a connector or client, as that program has sent it.

    The relay has verified that it is signed with the key that it names, but not that this is a key of the log:
    ``hybridrelay audit verify`` does that.
    """

    #: The hybrid connection with whose key it was sent.
    connection: str
    #: The id of the audit log.
    log: str
    #: The number of the last record that is signed, and its hash (SHA-256, in hexadecimal).
    last: int
    head: str
    #: When it was signed, as the audit log states it.
    signed_at: str
    #: The public key of the audit file, and the signature.
    key: str
    signature: str
    #: The instance and the address of the program that has sent it.
    instance: str
    address: str
    #: When the relay stored it (seconds since 1970).
    received_at: float

    @classmethod
    def of(cls, one: KeptCheckpoint) -> CheckpointValue:
        """Make the value."""
        return cls(
            connection=one.connection,
            log=one.log_id,
            last=one.seq,
            head=one.head,
            signed_at=one.at,
            key=one.key,
            signature=one.signature,
            instance=one.instance,
            address=one.address,
            received_at=one.received_at,
        )


class CheckpointPage(Value, frozen=True):
    """Checkpoints in the order in which the relay stored them."""

    value: tuple[CheckpointValue, ...]
    #: The cursor of the next page; null on the last page.
    next_cursor: str | None


async def _list_checkpoints(call: Call) -> CheckpointPage:
    query, scope = call.query_as(CheckpointPageQuery), call.caller.scope
    if scope.only is not None and query.connection not in ("", scope.only):
        return CheckpointPage(value=(), next_cursor=None)
    found = await call.managed.relay.checkpoints(
        CheckpointQuery(
            limit=query.limit + 1,
            after=0 if query.cursor is None else int(query.cursor),
            log_id=query.log or "",
            connection=query.connection if scope.only is None else scope.only,
            prefix=scope.prefix,
        )
    )
    page, more = found[: query.limit], len(found) > query.limit
    return CheckpointPage(value=tuple(map(CheckpointValue.of, page)), next_cursor=str(page[-1].id) if more else None)


async def _delete_checkpoints(call: Call) -> None:
    if call.caller.scope.only is not None:
        raise problem(
            Problem.FORBIDDEN,
            "checkpoints are evidence: a key of a hybrid connection does not permit deleting them",
            remedy="use a token of an administrator of the relay",
        )
    call.effect.is_unchanged = not await call.managed.relay.delete_checkpoints(call.name, call.params["log"])


#: The operations of this module, a part of the table of all operations.
CHECKPOINT_OPERATIONS: tuple[Operation[Call], ...] = (
    Operation(
        id="listAuditCheckpoints",
        method="GET",
        path="/v1/auditCheckpoints",
        summary="List the checkpoints of audit logs of connectors and clients that this relay keeps as a witness.",
        role=ManagementRole.VIEWER,
        handler=_list_checkpoints,
        query=CheckpointPageQuery,
        answer=CheckpointPage,
        filters=True,
    ),
    Operation(
        id="deleteAuditCheckpoints",
        method="DELETE",
        path="/v1/hybridConnections/{name}/auditCheckpoints/{log}",
        summary="Delete the checkpoints of one audit log that are kept under the name of a hybrid connection.",
        role=ManagementRole.ADMIN,
        handler=_delete_checkpoints,
    ),
)
