"""Rolls over the management API."""

from __future__ import annotations

import pytest

from hybridrelay.events import ManagementCalled
from hybridrelay.relay.model import KeyId, KeyRoll
from hybridrelay.relay.snapshot import EndedRollSnapshot, ProgramSnapshot, RollSnapshot
from hybridrelay.security import KeySlot

from .conftest import CONNECTIONS, Api

RULE = f"{CONNECTIONS}/orders/authorizationRules/application"
MISSING = ProgramSnapshot(
    instance="1" * 32, address="192.0.2.1", role="client", state="memory", detail="read-only", is_connected=True
)


async def create(api: Api) -> None:
    assert (await api.call("PUT", f"{CONNECTIONS}/orders", {"endpoints": ["relay.example.com"]}))[0].status == 201


def body(api: Api, **more: object) -> dict[str, object]:
    generation = api.store.get("orders").generations.get(("application", KeySlot.SECONDARY), 0)
    return {"slot": "secondary", "generation": generation, "graceSeconds": 60, **more}


async def test_a_roll_begins_and_is_shown(api: Api, viewer: Api) -> None:
    await create(api)
    assert (await api.call("GET", f"{RULE}/roll"))[0].status == 404
    before = api.store.rule("orders", "application")
    answer, keys = await api.call("POST", f"{RULE}/rollKeys", body(api, waitForGrace=True))
    assert answer.status == 200
    after = api.store.rule("orders", "application")
    assert after.primary == before.primary
    assert after.secondary is not None
    assert keys["secondaryKey"] == after.secondary.reveal()
    answer, shown = await viewer.call("GET", f"{RULE}/roll")
    assert answer.status == 200
    assert (shown["slot"], shown["waitForGrace"], shown["programs"]) == ("secondary", True, 0)
    assert shown["endsAt"] - shown["startedAt"] == 60
    assert shown["seenSince"] == shown["startedAt"]
    api.relay.rolls["orders", "application"] = RollSnapshot(2, 1, (MISSING,))
    _, shown = await viewer.call("GET", f"{RULE}/roll")
    assert (shown["programs"], shown["kept"]) == (2, 1)
    assert shown["missing"] == [
        {
            "instance": "1" * 32,
            "address": "192.0.2.1",
            "role": "client",
            "state": "memory",
            "detail": "read-only",
            "isConnected": True,
        }
    ]
    api.relay.rolls["orders", "application"] = RollSnapshot(2, 1, (MISSING,), has_forgotten=True)
    _, shown = await viewer.call("GET", f"{RULE}/roll")
    assert shown["seenSince"] == max(shown["startedAt"], api.managed.started_at)
    assert shown["isCrowded"] is False
    api.relay.rolls["orders", "application"] = RollSnapshot(2, 1, (MISSING,), is_crowded=True)
    assert (await viewer.call("GET", f"{RULE}/roll"))[1]["isCrowded"] is True
    assert (await api.call("POST", f"{RULE}/rollKeys", body(api)))[0].status == 400
    assert (await viewer.call("POST", f"{RULE}/rollKeys", body(api)))[0].status == 403
    audited = [event for event in api.events if isinstance(event, ManagementCalled) and event.rule]
    assert [(event.operation_id, event.status) for event in audited] == [
        ("rollKeys", 200),
        ("rollKeys", 400),
        ("rollKeys", 403),
    ]
    assert str(keys["secondaryKey"]) not in repr(api.events)


async def test_a_roll_that_is_over_shows_who_has_not_stored_the_key(api: Api, viewer: Api) -> None:
    await create(api)
    roll = KeyRoll("application", KeySlot.SECONDARY, 1, 2, 1000.0, 2000.0)
    api.relay.ended_rolls["orders", "application"] = EndedRollSnapshot(
        roll, 1500.0, 3, 2, (MISSING,), seen_since=1200.0, is_crowded=True
    )
    answer, shown = await viewer.call("GET", f"{RULE}/roll")
    assert answer.status == 200
    assert (shown["slot"], shown["endedAt"], shown["programs"], shown["kept"]) == ("secondary", 1500.0, 3, 2)
    assert (shown["seenSince"], shown["isCrowded"]) == (1200.0, True)
    assert [one["state"] for one in shown["missing"]] == ["memory"]


async def test_during_a_roll_the_answer_says_so(api: Api) -> None:
    """Even if programs use the key that would be replaced, which is the one that they were just given."""
    await create(api)
    assert (await api.call("POST", f"{RULE}/rollKeys", body(api)))[0].status == 200
    used = api.store.get("orders").key_id("application", KeySlot.SECONDARY)
    assert used is not None
    api.relay.presented.add(used)
    answer, problem = await api.call("POST", f"{RULE}/rollKeys", body(api))
    assert answer.status == 400
    assert "already being rolled" in problem["detail"]
    assert "keys list orders" in problem["remedy"]


async def test_a_key_that_programs_use_is_not_replaced(api: Api) -> None:
    await create(api)
    known = api.store.get("orders")
    used = known.key_id("application", KeySlot.SECONDARY)
    assert isinstance(used, KeyId)
    api.relay.presented.add(used)
    answer, problem = await api.call("POST", f"{RULE}/rollKeys", body(api))
    assert (answer.status, "the secondary key, which would be replaced, is in use" in problem["detail"]) == (
        400,
        True,
    )
    assert api.store.get("orders") == known


@pytest.mark.parametrize(
    "wrong",
    [{"slot": "third"}, {"graceSeconds": 9}, {"graceSeconds": 31 * 86_400}, {"generation": -1}, {"key": "a b"}],
)
async def test_rolls_that_cannot_be(api: Api, wrong: dict[str, object]) -> None:
    await create(api)
    assert (await api.call("POST", f"{RULE}/rollKeys", body(api, **wrong)))[0].status == 400
    assert api.store.get("orders").rolls == ()


async def test_a_request_that_is_sent_twice_changes_nothing_again(api: Api) -> None:
    await create(api)
    first = body(api, generation=body(api)["generation"])
    assert (await api.call("POST", f"{RULE}/rollKeys", first))[0].status == 200
    known = api.store.get("orders")
    assert (await api.call("POST", f"{RULE}/rollKeys", first))[0].status in (400, 409)
    assert api.store.get("orders") == known
    assert (await api.call("POST", f"{CONNECTIONS}/orders/authorizationRules/x/rollKeys", first))[0].status == 404
