"""The operations on updates of connection strings. The relay can neither read nor make them."""

from __future__ import annotations

import base64
import binascii
from typing import Final

from ..relay.store.store import Store
from ..relay.updates import StoredUpdate
from ..security import ManagementRole, Role
from .calls import Call
from .operations import Operation
from .problem_kinds import Problem
from .problems import problem
from .update_values import NewUpdate, UpdatePage, UpdateValue

__all__ = ["UPDATE_OPERATIONS"]

_UPDATES = "/v1/hybridConnections/{name}/updates"
#: How far the sequence of an update may be ahead of the clock (seconds). The sequence of each `updates push` is the
#: time, or one more than the last one. So nobody who may push here can keep later updates away for longer than this.
_MAX_AHEAD: Final = 86_400.0
#: How long an update may be delivered (seconds): 400 days, which is what `updates push` allows, and a day in which
#: the clocks may differ.
_MAX_LIFETIME: Final = 401 * 86_400.0


async def _list_updates(call: Call) -> UpdatePage:
    updates = await call.managed.read_store(lambda store: store.updates(call.name))
    live = {(one.role, one.serial, one.sequence): one for one in call.managed.relay.updates(call.name)}
    return UpdatePage(
        value=tuple(
            UpdateValue.of(one, live.get((one.role.value, one.serial, one.sequence)), call.managed.started_at)
            for one in updates
        )
    )


async def _push_update(call: Call) -> UpdateValue:
    body = call.body_as(NewUpdate)
    now = call.managed.clock()
    if body.sequence > now + _MAX_AHEAD:
        text = "the sequence is more than a day ahead of the relay's clock: check both clocks"
        raise problem(Problem.INVALID, f"{text}, or push the update on the relay's machine")
    if body.expires_at > now + _MAX_LIFETIME:
        raise problem(Problem.INVALID, "an update is delivered for at most 400 days")
    try:
        update = StoredUpdate(
            call.name,
            Role(body.role),
            body.serial,
            body.sequence,
            base64.b64decode(body.document, validate=True),
            now,
            body.expires_at,
            body.note,
        )
    except (binascii.Error, ValueError) as exc:
        raise problem(Problem.INVALID, str(exc)) from exc

    def put(store: Store) -> None:
        store.put_update(update)

    await call.change_store(put)
    return UpdateValue.of(update, None, call.managed.started_at)


#: The operations of this module, a part of the table of all operations.
UPDATE_OPERATIONS: tuple[Operation[Call], ...] = (
    Operation(
        id="listUpdates",
        method="GET",
        path=_UPDATES,
        summary="List the updates of connection strings, with the programs that do not have them yet.",
        role=ManagementRole.VIEWER,
        handler=_list_updates,
        answer=UpdatePage,
    ),
    Operation(
        id="pushUpdate",
        method="POST",
        path=_UPDATES,
        summary="Give the programs of one side an update, which the authority has signed, in place of the last one.",
        role=ManagementRole.ADMIN,
        handler=_push_update,
        body=NewUpdate,
        answer=UpdateValue,
    ),
)
