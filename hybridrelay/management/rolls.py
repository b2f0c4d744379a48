"""The operations that roll keys: programs get the new key by themselves, and then the old one is revoked."""

from __future__ import annotations

from ..relay import HybridConnection, Store
from ..relay.snapshot import RollSnapshot
from ..relay.store.store import ChangedMeanwhile, NotFound
from ..security import KeySlot, ManagementRole, Secret
from .calls import Call
from .operations import Operation
from .problem_kinds import Problem
from .problems import problem
from .roll_values import RollBody, RollValue
from .values import AccessKeys

__all__ = ["ROLL_OPERATIONS"]

_RULE = "/v1/hybridConnections/{name}/authorizationRules/{rule}"


async def _roll_key(call: Call) -> AccessKeys:
    body = call.body_as(RollBody)
    slot = KeySlot(body.slot)
    if (await call.managed.read_store(lambda store: store.get(call.name))).roll(call.rule) is not None:
        raise problem(
            Problem.INVALID,
            f"a key of rule {call.rule} is already being rolled; nothing was changed",
            remedy=f"wait until this roll is over: hybridrelay keys list {call.name} shows when",
        )

    # The event loop changes what says whether a key is in use. So it is asked there, between two uses of the store.
    replaced = await call.managed.read_store(lambda store: store.get(call.name).key_id(call.rule, slot))
    if replaced is not None and call.managed.relay.is_key_in_use(replaced):
        raise problem(
            Problem.INVALID,
            f"the {slot} key, which would be replaced, is in use by sessions, or by programs that are connected or "
            f"were connected shortly before the relay was started; nothing was changed",
            remedy="roll this key instead, or let those programs use the other one first (hybridrelay keys use); "
            "if the relay has just been started, try again half a minute later",
        )

    def roll(store: Store) -> HybridConnection:
        if store.get(call.name).key_id(call.rule, slot) != replaced:
            raise ChangedMeanwhile(
                f"the {slot} key of rule {call.rule} was changed in the meantime", remedy="try again"
            )
        store.roll_key(
            call.name,
            call.rule,
            slot,
            None if body.key is None else Secret(body.key),
            seconds=body.grace_seconds,
            waits=body.wait_for_grace,
            generation=body.generation,
        )
        return store.get(call.name)

    connection = await call.change_store(roll)
    rule = connection.rule(call.rule)
    if rule is None:  # deleted a moment ago
        raise problem(Problem.NOT_FOUND, "the rule was deleted in the meantime")
    return AccessKeys.of(connection, rule)


async def _get_roll(call: Call) -> RollValue:
    _, connection = await call.managed.read_store(
        lambda store: (store.rule(call.name, call.rule), store.get(call.name))
    )
    roll = connection.roll(call.rule)
    if roll is None:
        ended = call.managed.relay.ended_roll(call.name, call.rule)
        if ended is not None:
            return RollValue.of_ended(ended)
        raise NotFound(f"no key of rule {call.rule} is being rolled")
    live = call.managed.relay.roll(call.name, call.rule) or RollSnapshot()
    return RollValue.of(roll, live, call.managed.started_at)


#: The operations of this module, a part of the table of all operations.
ROLL_OPERATIONS: tuple[Operation[Call], ...] = (
    Operation(
        id="rollKeys",
        method="POST",
        path=f"{_RULE}/rollKeys",
        summary="Roll a key: give a new one to the programs that use the old one, and then revoke the old one.",
        role=ManagementRole.ADMIN,
        handler=_roll_key,
        body=RollBody,
        answer=AccessKeys,
    ),
    Operation(
        id="getRoll",
        method="GET",
        path=f"{_RULE}/roll",
        summary="Show which programs do not have the new key of a rule that is being rolled.",
        role=ManagementRole.VIEWER,
        handler=_get_roll,
        answer=RollValue,
    ),
)
