"""Limits and editions in the management API."""

from __future__ import annotations

import pytest
import trio

from hybridrelay.management.callers import Caller, Scope
from hybridrelay.relay.quotas import Limits, Quota
from hybridrelay.security import ManagementRole

from .conftest import CONNECTIONS, Api, serve_api

ORDERS = f"{CONNECTIONS}/orders"
BODY = {"endpoints": ["relay.example.com"]}
NONE = dict.fromkeys(("listeners", "senders", "sessions", "bytesPerMonth", "bytesPerSecond", "endAtLimit"))


async def test_limits_of_a_hybrid_connection(api: Api) -> None:
    _, created = await api.call("PUT", ORDERS, BODY)
    assert (created["edition"], created["limits"]) == (None, NONE)
    limits = {"sessions": 5, "bytesPerSecond": 100_000}
    answer, changed = await api.call("PUT", ORDERS, {**BODY, "edition": "basic", "limits": limits})
    assert (answer.status, changed["edition"], changed["limits"]) == (200, "basic", {**NONE, **limits})
    assert api.store.get("orders").quota == Quota("basic", Limits(sessions=5, bytes_per_second=100_000))
    answer, again = await api.call(
        "PUT", ORDERS, {**BODY, "edition": changed["edition"], "limits": changed["limits"]}
    )
    assert (answer.status, again["limits"]) == (200, changed["limits"]), "what was read can be written"


@pytest.mark.parametrize(
    ("change", "status", "pointer"),
    [
        ({"limits": {"sessions": 0}}, 400, "/limits/sessions"),
        ({"limits": {"bytesPerSecond": 10}}, 400, "/limits/bytesPerSecond"),
        ({"limits": {"sessions": 1.5}}, 400, "/limits/sessions"),
        ({"limits": {"others": 1}}, 400, "/limits"),
        ({"edition": "gold"}, 404, None),
    ],
)
async def test_limits_that_cannot_be(api: Api, change: dict[str, object], status: int, pointer: str | None) -> None:
    await api.call("PUT", ORDERS, BODY)
    answer, problem = await api.call("PUT", ORDERS, {**BODY, **change})
    assert answer.status == status
    if pointer is not None:
        assert problem["errors"][0]["pointer"] == pointer


async def test_a_key_does_not_raise_the_limits_that_an_administrator_has_set(api: Api, nursery: trio.Nursery) -> None:
    limited = {**BODY, "limits": {"sessions": 5}, "disabled": True}
    await api.call("PUT", ORDERS, limited)
    caller = Caller("sas", "orders manager primary", ManagementRole.ADMIN, Scope(only="orders"))
    holder = await serve_api(api, caller, nursery)
    for wrong in (BODY, {**limited, "limits": {}}, {**limited, "disabled": False}, {**limited, "edition": "premium"}):
        answer, problem = await holder.call("PUT", ORDERS, wrong)
        assert answer.status == 403
        assert problem["remedy"]
    answer, _ = await holder.call("PUT", ORDERS, {**limited, "description": "mine"})
    assert answer.status == 200
    for method, path in (("PUT", "/v1/editions/free"), ("PUT", "/v1/relay/edition")):
        answer, _ = await holder.call(method, path, {"edition": "premium"} if "relay" in path else {})
        assert answer.status == 403


async def test_editions_are_listed_and_changed(api: Api, viewer: Api) -> None:
    _, found = await viewer.call("GET", "/v1/editions")
    assert [(one["name"], one["connections"], one["inUse"]) for one in found["value"]] == [
        ("developer", 5, False), ("free", 5, False), ("basic", 10, False), ("standard", 50, False),
        ("premium", 100, False),
    ]  # fmt: skip
    answer, before = await viewer.call("GET", "/v1/editions/basic")
    assert before["limits"] == {**NONE, "bytesPerMonth": 50 * 10**9}
    body = {"connections": 1, "limits": {"bytesPerMonth": 10**9, "endAtLimit": True}}
    assert (await viewer.call("PUT", "/v1/editions/basic", body))[0].status == 403
    changed, after = await api.call("PUT", "/v1/editions/basic", body, If_Match=answer.headers["etag"])
    assert (changed.status, after["connections"]) == (200, 1)
    late, _ = await api.call("PUT", "/v1/editions/basic", {}, If_Match=answer.headers["etag"])
    assert late.status == 412, "another administrator was first"
    for path in ("gold", "%2F"):
        answer, _ = await api.call("GET", f"/v1/editions/{path}")
        assert answer.status == 404
    answer, _ = await api.call("PUT", "/v1/editions/gold", {})
    assert answer.status == 404


async def test_the_edition_of_the_relay(api: Api, viewer: Api) -> None:
    assert await _edition(viewer) is None
    await api.call("PUT", "/v1/editions/free", {"connections": 1})
    answer, used = await api.call("PUT", "/v1/relay/edition", {"edition": "free"})
    assert (answer.status, used, await _edition(viewer)) == (200, {"edition": "free"}, "free")
    assert (await api.call("PUT", ORDERS, BODY))[0].status == 201
    answer, problem = await api.call("PUT", f"{CONNECTIONS}/other", BODY)
    assert (answer.status, problem["type"]) == (409, "urn:hybridrelay:problem:quota")
    assert "editions" in problem["remedy"]
    assert (await api.call("PUT", ORDERS, BODY))[0].status == 200, "it is there already"
    assert (await api.call("PUT", "/v1/relay/edition", {"edition": "gold"}))[0].status == 404
    await api.call("PUT", "/v1/relay/edition", {"edition": None})
    assert await _edition(viewer) is None
    assert (await api.call("PUT", f"{CONNECTIONS}/other", BODY))[0].status == 201


async def _edition(api: Api) -> object:
    _, found = await api.call("GET", "/v1/relay/edition")
    return found["edition"]


async def test_a_caller_with_a_scope_is_not_told_how_many_hybrid_connections_there_are(
    api: Api, nursery: trio.Nursery
) -> None:
    await api.call("PUT", "/v1/relay/edition", {"edition": "free"})
    allowed = next(one for one in (await api.call("GET", "/v1/editions"))[1]["value"] if one["name"] == "free")
    for number in range(allowed["connections"]):
        assert (await api.call("PUT", f"{CONNECTIONS}/n{number}", BODY))[0].status == 201
    scoped = await serve_api(api, Caller("test", "scoped", ManagementRole.ADMIN, Scope("team/")), nursery)
    answer, refused = await scoped.call("PUT", f"{CONNECTIONS}/team%2Fa", BODY)
    assert (answer.status, refused["type"]) == (409, "urn:hybridrelay:problem:quota")
    assert not any(character.isdigit() for character in refused["detail"] + refused["remedy"])
    assert "ask an administrator" in refused["remedy"]
    _, refused = await api.call("PUT", f"{CONNECTIONS}/team%2Fa", BODY)
    assert f"allows {allowed['connections']} hybrid connections" in refused["detail"]
