"""What runs now, over the management API: it is listed in pages, and one of each can be ended."""

from __future__ import annotations

from collections import Counter
from typing import Any

import attrs
import pytest
import trio

from hybridrelay.events import ManagementCalled
from hybridrelay.management import Caller
from hybridrelay.management.callers import Scope
from hybridrelay.management.cursors import encode_cursor
from hybridrelay.relay import ConnectionSnapshot, PlacesSnapshot
from hybridrelay.relay.snapshot import CertificateSnapshot, FileProblem, QuotaSnapshot
from hybridrelay.security import ManagementRole

from .conftest import CONNECTIONS, Api, serve_api
from .live import FakeRelay, listener, sender, session

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


#: What the choice between listeners depends on, and why this one was chosen.
CHOICE = {"target": "healthy", "chosen": {"only": 2, "random": 5}, "lastChosen": "random"}


async def test_listeners_senders_and_sessions_are_listed(viewer: Api, api: Api) -> None:
    await api.call("PUT", ORDERS, BODY)
    expected: dict[str, dict[str, Any]] = {
        "listeners": {**LISTENER_END, **COMMON, "since": 1000.0, "draining": False, **CHOICE},
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


async def test_one_connector_is_drained(api: Api, viewer: Api) -> None:
    await api.call("PUT", ORDERS, BODY)
    at = f"{ORDERS}/listeners/{'1' * 32}/drain"
    assert (await viewer.call("POST", at))[0].status == 403
    for method, draining in (("POST", True), ("DELETE", False)):
        for changed in (True, False):
            answer, found = await api.call(method, at)
            assert (answer.status, found) == (200, {"changed": changed})
        (shown,) = (await viewer.call("GET", f"{ORDERS}/listeners"))[1]["value"]
        assert shown["draining"] is draining
    assert (await api.call("POST", f"{ORDERS}/listeners/{'0' * 32}/drain"))[1] == {"changed": False}
    assert (await api.call("POST", f"{CONNECTIONS}/other/listeners/{'1' * 32}/drain"))[0].status == 404


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


async def _all_states(api: Api, limit: int) -> list[dict[str, Any]]:
    found, cursor = [], ""
    while True:
        answer, page = await api.call("GET", f"/v1/connectionStates?limit={limit}{cursor}")
        assert answer.status == 200
        assert len(page["value"]) <= limit
        found += page["value"]
        if page["nextCursor"] is None:
            return found
        cursor = f"&cursor={page['nextCursor']}"


@pytest.mark.parametrize("limit", [1, 2, 3, 1000])
async def test_the_states_of_hybrid_connections(api: Api, nursery: trio.Nursery, limit: int) -> None:
    names = ["orders", "team/a", "team/b", "team0"]
    for name in names:
        api.store.create(name, ["relay.example.com"], [])
    api.store.change("team/b", disabled=True)
    found = await _all_states(api, limit)
    assert [one["name"] for one in found] == names
    assert found[0] == {
        "name": "orders", "disabled": False, "listenerCount": 1, "senderCount": 1, "sessionCount": 1,
        "bytesToClient": 7, "bytesToConnector": 5,
    }  # fmt: skip
    assert [one["disabled"] for one in found] == [False, False, True, False]
    for scope, seen in (
        (Scope("team/"), ["team/a", "team/b"]),
        (Scope(only="team0"), ["team0"]),
        (Scope("nothing/"), []),
        (Scope(only="nothing"), []),
    ):
        scoped = await serve_api(api, Caller("test", "scoped", ManagementRole.VIEWER, scope), nursery)
        assert [one["name"] for one in await _all_states(scoped, limit)] == seen
        _, page = await scoped.call("GET", f"/v1/connectionStates?cursor={encode_cursor('a')}")
        assert [one["name"] for one in page["value"]] == seen
        _, page = await scoped.call("GET", f"/v1/connectionStates?cursor={encode_cursor('zz')}")
        assert page["value"] == []


async def test_a_caller_with_a_scope_sees_its_part_of_the_relay(api: Api, nursery: trio.Nursery) -> None:
    for name in ("orders", "team/a", "team/b", "team/off"):
        api.store.create(name, ["relay.example.com"], [])
    api.store.change("team/off", disabled=True)
    api.relay.held_listeners += [listener("team/a", f"{number:032x}") for number in range(3)]
    api.relay.numbers = attrs.evolve(
        api.relay.numbers,
        draining_since=2000.0,
        certificates=(CertificateSnapshot("public", "sha256:x", 0.0),),
        unauthenticated=PlacesSnapshot(10, 10),
        file_problems=(FileProblem("history", "it cannot be written", "free space"),),
        quotas=(
            QuotaSnapshot(None, "bytes", 100, 100),
            *(QuotaSnapshot("orders", "senders", 5, 5) for _ in range(200)),
            QuotaSnapshot("team/a", "sessions", 9, 10),
        ),
    )
    team, one = [
        await serve_api(api, Caller("test", "scoped", ManagementRole.VIEWER, scope), nursery)
        for scope in (Scope("team/"), Scope(only="orders"))
    ]
    _, relay = await team.call("GET", "/v1/relay")
    assert {name: relay[name] for name in relay if name.endswith("Count")} == {
        "connectionCount": 3, "listenerCount": 3, "senderCount": 0, "sessionCount": 0,
    }  # fmt: skip
    found = [(problem["code"], problem["connection"]) for problem in relay["problems"]]
    assert found == [("draining", None), ("quota-near", "team/a"), ("no-listener", "team/b")]
    for hidden in ("ports", "certificates", "unauthenticated", "pairs", "controlChannels"):
        assert relay[hidden] is None, hidden
    _, relay = await one.call("GET", "/v1/relay")
    assert (relay["connectionCount"], relay["listenerCount"]) == (1, 1)
    assert {problem["code"] for problem in relay["problems"]} == {"draining", "quota-reached"}
    _, relay = await api.call("GET", "/v1/relay")
    assert (relay["connectionCount"], relay["listenerCount"]) == (4, 4)
    assert {"certificate-expired", "history", "unauthenticated-slots"} <= {one["code"] for one in relay["problems"]}


async def test_the_state_of_very_many_hybrid_connections_is_read_in_slices(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading it does not delay the relay's other work: there is a checkpoint after each hundred."""
    names = [f"n{number:04}" for number in range(2500)]
    for name in names:
        api.store.create(name, ["relay.example.com"], [])
    instrument = _Steps()
    in_step: Counter[int] = Counter()

    def count(relay: FakeRelay, name: str) -> int:
        in_step[instrument.number] += 1
        return 1

    monkeypatch.setattr(FakeRelay, "listener_count", count)
    monkeypatch.setattr(FakeRelay, "connection", lambda relay, name: ConnectionSnapshot(count(relay, name)))
    trio.lowlevel.add_instrument(instrument)
    _, relay = await api.call("GET", "/v1/relay")
    assert relay["connectionCount"] == 2500
    assert (await api.call("GET", "/v1/connectionStates?limit=1000"))[0].status == 200
    trio.lowlevel.remove_instrument(instrument)
    assert in_step.total() == 3500
    assert max(in_step.values()) <= 100


class _Steps(trio.abc.Instrument):
    """Numbers the steps of all tasks."""

    number = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.number += 1


async def test_a_long_page_is_collected_in_slices(api: Api) -> None:
    """Collecting it does not delay the relay's other work."""
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
    found = [
        (event.operation_id, event.connection, event.role, event.status, event.unchanged) for event in called[1:5]
    ]
    assert found == [
        (operation, "orders", "viewer", 403, False),
        (operation, "orders", "operator", 200, False),
        (operation, "orders", "operator", 200, True),
        (operation, "other", "operator", 404, False),
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


async def test_hybrid_connections_without_a_healthy_target_are_problems(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.store.create("orders", ["relay.example.com"], [])
    monkeypatch.setattr(FakeRelay, "has_only_unhealthy_listeners", lambda _relay, name: name == "orders")
    _, relay = await api.call("GET", "/v1/relay")
    assert [(one["code"], one["connection"]) for one in relay["problems"]] == [("target-unhealthy", "orders")]


async def test_a_relay_that_does_not_run_cannot_be_drained(operator: Api) -> None:
    operator.relay.numbers = attrs.evolve(operator.relay.numbers, is_running=False)
    for method in ("POST", "DELETE"):
        answer, problem = await operator.call(method, "/v1/relay/drain")
        assert (answer.status, problem["remedy"]) == (503, "send the request again later")
