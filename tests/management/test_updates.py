"""Updates over the management API: by whom they can be seen and pushed, and what the audit log has of them."""

from __future__ import annotations

import base64
import time
from typing import Any

import attrs
import pytest
import trio

from hybridrelay.management.callers import Caller
from hybridrelay.relay.snapshot import RecipientSnapshot, UpdateSnapshot
from hybridrelay.security import MAX_UPDATE, ManagementRole

from .conftest import CONNECTIONS, Api, serve_api

UPDATES = f"{CONNECTIONS}/orders/updates"
BODY: dict[str, Any] = {
    "role": "connector",
    "sequence": 7,
    "document": base64.b64encode(b"sealed").decode(),
    "expiresAt": 9999.0,
    "note": "target",
}


HAS_NOT = RecipientSnapshot(
    instance="ab" * 16, address="192.0.2.1", role="connector", state="waiting", detail="no", departed_at=None
)
LIVE = UpdateSnapshot(role="connector", serial="", sequence=7, recipients=2, kept=1, missing=(HAS_NOT,))


async def test_updates_are_pushed_and_listed(api: Api) -> None:
    api.relay.pushed["orders"] = (LIVE,)
    assert (await api.call("GET", UPDATES))[0].status == 404
    assert (await api.call("POST", UPDATES, BODY))[0].status == 404
    await api.call("PUT", f"{CONNECTIONS}/orders", {"endpoints": ["relay.example.com"]})
    answer, pushed = await api.call("POST", UPDATES, BODY)
    assert (answer.status, pushed["sequence"], pushed["serial"]) == (200, 7, "")
    for sequence in (7, 6):
        assert (await api.call("POST", UPDATES, {**BODY, "sequence": sequence}))[0].status == 409
    answer, listed = await api.call("GET", UPDATES)
    (one,) = listed["value"]
    assert (one["recipients"], one["kept"], one["missing"][0]["state"]) == (2, 1, "waiting")
    assert one["isCrowded"] is False
    api.relay.pushed["orders"] = (attrs.evolve(LIVE, is_crowded=True),)
    assert (await api.call("GET", UPDATES))[1]["value"][0]["isCrowded"] is True
    assert str(BODY["document"]) not in str(listed)
    await api.call("POST", UPDATES, {**BODY, "sequence": 8})  # what is known is about the earlier one
    assert (await api.call("GET", UPDATES))[1]["value"][0]["missing"] == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"role": "relay"},
        {"sequence": 0},
        {"sequence": 2**53},
        {"document": "x"},
        {"document": base64.b64encode(bytes(MAX_UPDATE + 3)).decode()},
        {"serial": "xyz"},
        {"note": "a" * 129},
        {"note": "a\nb"},
        {"expiresAt": -1},
        {"more": 1},
    ],
)
async def test_bodies_that_are_refused(api: Api, wrong: dict[str, Any]) -> None:
    await api.call("PUT", f"{CONNECTIONS}/orders", {"endpoints": ["relay.example.com"]})
    assert (await api.call("POST", UPDATES, {**BODY, **wrong}))[0].status == 400
    assert (await api.call("GET", UPDATES))[1]["value"] == []


async def test_nobody_can_keep_later_updates_away_for_more_than_a_day(api: Api, nursery: trio.Nursery) -> None:
    """The sequence of an update is the time at which it was pushed."""
    now = time.time()
    api.managed = attrs.evolve(api.managed, clock=lambda: now)
    api = await serve_api(api, Caller("test", "admin", ManagementRole.ADMIN), nursery)
    await api.call("PUT", f"{CONNECTIONS}/orders", {"endpoints": ["relay.example.com"]})
    day, latest = 86_400, int(now) + 86_400
    for wrong in ({"sequence": latest + 1}, {"sequence": 2**53 - 1}, {"expiresAt": now + 402 * day}):
        assert (await api.call("POST", UPDATES, {**BODY, **wrong}))[0].status == 400
    for sequence in (latest, int(now)):  # the second is the honest one
        answer, _ = await api.call("POST", UPDATES, {**BODY, "sequence": sequence, "expiresAt": now + 400 * day})
        assert answer.status == (200 if sequence == latest else 409)
    now += day + 1
    answer, _ = await api.call("POST", UPDATES, {**BODY, "sequence": int(now), "expiresAt": now + 400 * day})
    assert answer.status == 200


async def test_who_may_push(api: Api, nursery: trio.Nursery) -> None:
    await api.call("PUT", f"{CONNECTIONS}/orders", {"endpoints": ["relay.example.com"]})
    for role in (ManagementRole.VIEWER, ManagementRole.OPERATOR):
        caller = await serve_api(api, Caller("test", role.name, role), nursery)
        assert (await caller.call("POST", UPDATES, BODY))[0].status == 403
        assert (await caller.call("GET", UPDATES))[0].status == 200


async def test_since_when_the_relay_knows(api: Api, nursery: trio.Nursery) -> None:
    """Since the update was pushed; or, if it was started later, since then."""
    await api.call("PUT", f"{CONNECTIONS}/orders", {"endpoints": ["relay.example.com"]})
    _, pushed = await api.call("POST", UPDATES, BODY)
    assert pushed["seenSince"] == pushed["createdAt"]
    api.managed = attrs.evolve(api.managed, started_at=pushed["createdAt"] + 5)
    later = await serve_api(api, Caller("token", "x", ManagementRole.VIEWER), nursery)
    (listed,) = (await later.call("GET", UPDATES))[1]["value"]
    assert listed["seenSince"] == pushed["createdAt"] + 5
