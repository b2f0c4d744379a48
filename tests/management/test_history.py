"""The history of a relay, over the management API."""

from __future__ import annotations

import time

import pytest
import trio

from hybridrelay.management import Caller
from hybridrelay.management.callers import Scope
from hybridrelay.relay.history import MAX_INTERVALS, HistoryQuery, Row, Subject
from hybridrelay.security import ManagementRole

from .conftest import CONNECTIONS, Api, serve_api

ORDERS = f"{CONNECTIONS}/orders/history"
BODY = {"endpoints": ["relay.example.com"]}
ORDERS_SUBJECT = Subject("orders", 1234.5)


async def test_the_history_of_the_relay_and_of_a_hybrid_connection(viewer: Api, api: Api) -> None:
    await api.call("PUT", f"{CONNECTIONS}/orders", BODY)
    api.relay.rows = [(1200, Row(1, 2, 3, 4, 5, 6, 7, 8))]
    value = {
        "time": 1200, "listenersMax": 1, "sendersMax": 2, "sessionsMax": 3, "bytesToListeners": 4,
        "bytesToSenders": 5, "joins": 6, "joinsFailed": 7, "disconnects": 8,
    }  # fmt: skip
    started_at = api.managed.started_at
    for path in ("/v1/history", ORDERS):
        answer, found = await viewer.call("GET", f"{path}?resolution=300&from=1200&to=1800")
        assert (answer.status, found) == (200, {"resolution": 300, "startedAt": started_at, "value": [value]})
    assert viewer.relay.queries == [
        HistoryQuery(resolution=300, begin=1200, end=1800),
        HistoryQuery(resolution=300, begin=1200, end=1800, subjects=frozenset([ORDERS_SUBJECT])),
    ]


async def test_without_parameters_it_is_as_long_as_an_answer_may_be(api: Api) -> None:
    before = time.time()
    answer, found = await api.call("GET", "/v1/history")
    assert (answer.status, found) == (200, {"resolution": 60, "startedAt": api.managed.started_at, "value": []})
    assert before - 60 <= found["startedAt"] <= time.time()
    (query,) = api.relay.queries
    assert query.end - query.begin == MAX_INTERVALS * 60
    assert before <= query.end <= time.time() + 1
    await api.call("GET", "/v1/history?resolution=3600&to=100")
    assert api.relay.queries[1] == HistoryQuery(resolution=3600, begin=0, end=100)


@pytest.mark.parametrize("resolution", [10, 60, 300, 3600, 86400])
async def test_an_answer_is_bounded(api: Api, resolution: int) -> None:
    end = 200_000_000
    most = f"resolution={resolution}&from={end - MAX_INTERVALS * resolution}"
    assert (await api.call("GET", f"/v1/history?{most}&to={end}"))[0].status == 200
    answer, problem = await api.call("GET", f"/v1/history?{most}&to={end + 1}")
    assert (answer.status, problem["type"]) == (400, "urn:hybridrelay:problem:invalid")
    assert "resolution" in problem["remedy"]


@pytest.mark.parametrize(
    "query",
    [
        "resolution=61",
        "resolution=0",
        "resolution=x",
        "from=-1",
        "to=now",
        "from=5&to=4",
        "to=999999999999999",
        "x=1",
    ],
)
async def test_what_makes_no_sense_is_refused(api: Api, query: str) -> None:
    await api.call("PUT", f"{CONNECTIONS}/orders", BODY)
    for path in ("/v1/history", ORDERS):
        answer, problem = await api.call("GET", f"{path}?{query}")
        assert (answer.status, problem["type"]) == (400, "urn:hybridrelay:problem:invalid")
    assert api.relay.queries == []


async def test_a_caller_sees_what_its_scope_covers(api: Api, nursery: trio.Nursery) -> None:
    for name in ("team%2Fa", "team%2Fb", "other"):
        await api.call("PUT", f"{CONNECTIONS}/{name}", BODY)
    caller = Caller("test", "scoped", ManagementRole.VIEWER, Scope("team/"))
    scoped = await serve_api(api, caller, nursery)
    assert (await scoped.call("GET", "/v1/history"))[0].status == 200
    assert scoped.relay.queries[0].subjects == frozenset([Subject("team/a", 1234.5), Subject("team/b", 1234.5)])
    assert (await scoped.call("GET", f"{CONNECTIONS}/team%2Fa/history"))[0].status == 200
    assert scoped.relay.queries[1].subjects == frozenset([Subject("team/a", 1234.5)])
    assert (await scoped.call("GET", f"{CONNECTIONS}/other/history"))[0].status == 403
    assert len(scoped.relay.queries) == 2


async def test_there_is_none_of_what_does_not_exist(api: Api) -> None:
    answer, problem = await api.call("GET", f"{CONNECTIONS}/nothing/history")
    assert (answer.status, problem["type"]) == (404, "urn:hybridrelay:problem:not-found")
