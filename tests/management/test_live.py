"""What runs now, over the management API: it is listed in pages, and one of each can be ended."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import trio

from hybridrelay.events import ManagementCalled
from hybridrelay.management import Caller
from hybridrelay.management.callers import Scope
from hybridrelay.management.cursors import encode_cursor
from hybridrelay.security import ManagementRole

from .conftest import CONNECTIONS, Api, serve_api
from .live import listener, sender, session

ORDERS = f"{CONNECTIONS}/orders"
BODY = {"endpoints": ["relay.example.com"]}
COMMON = {"connection": "orders", "software": "test/1", "sessions": 1, "bytesToClient": 7, "bytesToConnector": 5}
LISTENER_END = {
    "instance": "1" * 32, "address": "192.0.2.1", "transport": "tcp", "rule": "connector", "slot": "primary",
}  # fmt: skip
SENDER_END = {
    "instance": "2" * 32, "address": "192.0.2.2", "transport": "websocket",
    "rule": "application", "slot": "secondary",
}  # fmt: skip
OPERATIONS = {"listeners": "dropListener", "senders": "dropSender", "sessions": "dropSession"}
KEYS = {"listeners": "1" * 32, "senders": "3" * 16, "sessions": "4" * 32}


async def test_listeners_senders_and_sessions_are_listed(viewer: Api, api: Api) -> None:
    await api.call("PUT", ORDERS, BODY)
    expected: dict[str, dict[str, Any]] = {
        "listeners": {**LISTENER_END, **COMMON, "since": 1000.0},
        "senders": {**SENDER_END, **COMMON, "id": "3" * 16, "since": 1001.0},
        "sessions": {
            "id": "4" * 32, "connection": "orders", "listener": LISTENER_END, "sender": SENDER_END, "since": 1002.0,
            "bytesToClient": 7, "bytesToConnector": 5,
        },
    }  # fmt: skip
    for what, value in expected.items():
        for path in (f"{ORDERS}/{what}", f"/v1/{what}"):
            answer, found = await viewer.call("GET", path)
            assert (answer.status, found) == (200, {"value": [value], "nextCursor": None})
        assert (await viewer.call("GET", f"{CONNECTIONS}/other/{what}"))[0].status == 404


@pytest.mark.parametrize("what", KEYS)
@pytest.mark.parametrize("limit", [1, 2, 99, 100, 101, 250, 1000])
async def test_lists_have_pages(api: Api, what: str, limit: int) -> None:
    await api.call("PUT", ORDERS, BODY)
    for connection in ("orders", "other", "aaa"):
        api.relay.held_listeners += [listener(connection, f"{number:032x}") for number in range(125)]
        api.relay.held_senders += [sender(connection, f"{number:016x}") for number in range(125)]
        api.relay.held_sessions += [session(connection, f"{number:032x}") for number in range(125)]
    for path, expected in ((f"/v1/{what}", 376), (f"{ORDERS}/{what}", 126)):
        found, cursor = [], ""
        while True:
            answer, page = await api.call("GET", f"{path}?limit={limit}{cursor}")
            assert answer.status == 200
            assert 0 < len(page["value"]) <= limit
            found += [(one["connection"], one.get("id", one.get("instance"))) for one in page["value"]]
            if page["nextCursor"] is None:
                break
            cursor = f"&cursor={page['nextCursor']}"
        assert found == sorted(set(found))
        assert len(found) == expected


@pytest.mark.parametrize("what", KEYS)
@pytest.mark.parametrize("limit", [1, 2, 3, 100])
async def test_lists_of_all_contain_what_the_callers_scope_covers(
    api: Api, nursery: trio.Nursery, what: str, limit: int
) -> None:
    for connection in ("a", "team", "team/a", "team/b", "team0", "z"):
        api.relay.held_listeners += [listener(connection, f"{number:032x}") for number in range(2)]
        api.relay.held_senders += [sender(connection, f"{number:016x}") for number in range(2)]
        api.relay.held_sessions += [session(connection, f"{number:032x}") for number in range(2)]
    for scope, seen in (
        (Scope("team/"), ["team/a", "team/a", "team/b", "team/b"]),
        (Scope(only="team"), ["team", "team"]),
        (Scope("nothing/"), []),
        (Scope(only="nothing"), []),
    ):
        scoped = await serve_api(api, Caller("test", "scoped", ManagementRole.VIEWER, scope), nursery)
        found, cursor = [], ""
        while True:
            answer, page = await scoped.call("GET", f"/v1/{what}?limit={limit}{cursor}")
            assert answer.status == 200
            found += [one["connection"] for one in page["value"]]
            if page["nextCursor"] is None:
                break
            cursor = f"&cursor={page['nextCursor']}"
        assert found == seen
        for position in (("a", ""), ("team0", ""), ("zzz", "")):  # cursors that this caller was not given
            _, page = await scoped.call("GET", f"/v1/{what}?cursor={encode_cursor(*position)}")
            assert {one["connection"] for one in page["value"]} <= set(seen)


async def test_a_long_page_is_collected_in_slices(api: Api) -> None:
    """So that it does not delay the relay's other work."""
    api.relay.held_listeners = [listener("orders", f"{number:032x}") for number in range(1001)]
    answer, page = await api.call("GET", "/v1/listeners?limit=1000")
    assert (answer.status, len(page["value"])) == (200, 1000)
    assert page["nextCursor"] is not None
    assert max(api.relay.limits) <= 100
    assert sum(api.relay.limits) == 1001, "nothing is looked at twice"


@pytest.mark.parametrize("cursor", ["x", "b3JkZXJz", "YQpiCmM", "_w"])
async def test_a_cursor_that_was_not_given_out(api: Api, cursor: str) -> None:
    answer, problem = await api.call("GET", f"/v1/listeners?cursor={cursor}")
    assert (answer.status, problem["errors"][0]["pointer"]) == (400, "?/cursor")


@pytest.mark.parametrize(("what", "operation"), OPERATIONS.items())
async def test_an_operator_ends_one(what: str, operation: str, operator: Api, viewer: Api, api: Api) -> None:
    await api.call("PUT", ORDERS, BODY)
    path = f"{ORDERS}/{what}/{KEYS[what]}"
    answer, _ = await viewer.call("DELETE", path)
    assert answer.status == 403
    assert len((await viewer.call("GET", f"/v1/{what}"))[1]["value"]) == 1
    for ended in (True, False):
        answer, dropped = await operator.call("DELETE", path)
        assert (answer.status, dropped) == (200, {"ended": ended})
        assert (await viewer.call("GET", f"/v1/{what}"))[1]["value"] == []
    assert (await operator.call("DELETE", f"{CONNECTIONS}/other/{what}/{KEYS[what]}"))[0].status == 404
    for wrong in ("x", "A" * 32, "1" * 33, "%2F", "0"):
        assert (await operator.call("DELETE", f"{ORDERS}/{what}/{wrong}"))[0].status == 404
    called = [event for event in api.events if isinstance(event, ManagementCalled)]
    found = [(event.operation_id, event.connection, event.role, event.status) for event in called[1:5]]
    assert found == [
        (operation, "orders", "viewer", 403),
        (operation, "orders", "operator", 200),
        (operation, "orders", "operator", 200),
        (operation, "other", "operator", 404),
    ]


async def test_a_drain_is_shown_and_undone(operator: Api, viewer: Api) -> None:
    for method in ("POST", "DELETE"):
        assert (await viewer.call(method, "/v1/relay/drain"))[0].status == 403
    for _ in range(2):
        answer, relay = await operator.call("POST", "/v1/relay/drain")
        assert (answer.status, relay["drainingSince"]) == (200, 2000.0)
    _, relay = await viewer.call("GET", "/v1/relay")
    assert [one["code"] for one in relay["problems"]] == ["draining"]
    for _ in range(2):
        answer, relay = await operator.call("DELETE", "/v1/relay/drain")
        assert (answer.status, relay["drainingSince"], relay["problems"]) == (200, None, [])


async def test_hybrid_connections_without_a_listener_are_problems(api: Api) -> None:
    for number in range(103):
        api.store.create(f"db{number}", ["relay.example.com"], [])
    api.store.create("orders", ["relay.example.com"], [])
    _, relay = await api.call("GET", "/v1/relay")
    assert {one["code"] for one in relay["problems"]} == {"no-listener"}
    assert len(relay["problems"]) == 101
    assert relay["problems"][-1]["detail"] == "no connector listens for 3 more hybrid connections"
    assert "orders" not in {one["connection"] for one in relay["problems"]}


async def test_a_relay_that_does_not_run_cannot_be_drained(operator: Api) -> None:
    operator.relay.numbers = attrs.evolve(operator.relay.numbers, is_running=False)
    for method in ("POST", "DELETE"):
        answer, problem = await operator.call(method, "/v1/relay/drain")
        assert (answer.status, problem["remedy"]) == (503, "send the request again later")
