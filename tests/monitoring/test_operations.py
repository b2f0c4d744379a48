"""What is served about a connector or forward, and its description."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from hybridrelay._version import __version__
from hybridrelay.connectivity.snapshot import MAX_LISTED, SessionState, TargetCheck
from hybridrelay.http import ClientGone, Service, serve_connection
from hybridrelay.management.rendering import render_failure
from hybridrelay.monitoring.operations import OPERATIONS, Monitored, make_router

from ..http.serving import Answer, Client
from .snapshots import FakeSource, connection, endpoint, failed, session, stream


@attrs.define
class Api:
    client: Client
    source: FakeSource
    stop: trio.Event
    document: dict[str, Any]

    async def get(self, path: str) -> tuple[Answer, Any]:
        answer = await self.client.request("GET", path)
        return answer, json.loads(answer.body)

    def check(self, name: str, value: object) -> None:
        """Check an answer against its schema in the description."""
        schema = {"$ref": f"#/components/schemas/{name}", "components": self.document["components"]}
        Draft202012Validator(schema).validate(value)


@pytest.fixture
async def api(nursery: trio.Nursery) -> AsyncIterator[Api]:
    source, stop = FakeSource(), trio.Event()
    service = Service(router=make_router(Monitored(source, stop, 1e9)), render_failure=render_failure)
    ours, theirs = trio.testing.memory_stream_pair()

    async def serve() -> None:
        with contextlib.suppress(ClientGone):
            await serve_connection(theirs, service)

    nursery.start_soon(serve)
    client = Client(ours)
    yield Api(client, source, stop, json.loads((await client.request("GET", "/openapi.json")).body))
    nursery.cancel_scope.cancel()


async def test_nothing_is_served_outside_of_the_table(api: Api) -> None:
    router = make_router(Monitored(api.source, api.stop, 0.0))
    served = {(route.method, route.pattern) for route in router.routes}
    assert served == {(row.method, row.path) for row in OPERATIONS} | {("GET", "/openapi.json")}
    assert all(row.method == "GET" for row in OPERATIONS), "nothing can be changed"


async def test_the_description_is_valid(api: Api) -> None:
    OpenAPIV31SpecValidator(api.document).validate()
    assert set(api.document["paths"]) == {row.path for row in OPERATIONS}
    assert "security" not in api.document
    assert api.document["info"]["title"] == "hybridrelay status"


async def test_the_status_is_served(api: Api) -> None:
    api.source.shown = endpoint(
        connection("db", failed()), sessions=(session(1), session(2, state=SessionState.RESUMING))
    )
    answer, status = await api.get("/v1/status")
    assert answer.status == 200
    assert (answer.headers["content-type"], answer.headers["cache-control"]) == ("application/json", "no-store")
    assert len(answer.headers["request-id"]) == 16
    api.check("StatusValue", status)
    assert (status["role"], status["version"], status["startedAt"]) == ("connector", __version__, 1e9)
    assert [one["code"] for one in status["problems"]] == ["not-registered", "session-resuming"]
    (shown,) = status["hybridConnections"]
    assert (shown["name"], shown["relays"][0]["failure"]["reason"]) == ("db", "relay-unreachable")
    assert [one["state"] for one in status["sessions"]] == ["open", "resuming"]
    assert status["streams"][0]["id"].endswith("-1")


async def test_lists_are_cut_and_counted(api: Api) -> None:
    api.source.shown = endpoint(
        sessions=tuple(session(number) for number in range(150)),
        streams=tuple(stream(number) for number in range(200)),
        session_count=5000,
        stream_count=6000,
    )
    for query, expected in (("", 100), ("?limit=3", 3), ("?limit=0", 0), ("?limit=1000", 150)):
        _, status = await api.get(f"/v1/status{query}")
        assert len(status["sessions"]) == expected
        assert (status["sessionCount"], status["streamCount"]) == (5000, 6000)
    asked = [(MAX_LISTED, limit) for limit in (100, 3, 0, 1000)]
    assert api.source.limits == asked, "problems are looked for in all sessions that can be had"


@pytest.mark.parametrize("query", ["limit=-1", "limit=1001", "limit=x", "limit=", "more=1", "limit=1&limit=2"])
async def test_a_query_that_means_nothing_is_refused(api: Api, query: str) -> None:
    answer, problem = await api.get(f"/v1/status?{query}")
    assert answer.status == 400
    assert problem["requestId"] == answer.headers["request-id"]
    assert problem["errors"]


async def test_it_is_alive_and_not_ready_while_a_target_fails_or_it_stops(api: Api) -> None:
    answer, alive = await api.get("/livez")
    assert (answer.status, alive) == (200, {"alive": True})
    answer, ready = await api.get("/readyz")
    assert (answer.status, ready["ready"]) == (200, True)
    api.check("ReadyValue", ready)
    api.source.targets = (TargetCheck("db", "db.internal:1", "target-refused", "connection refused", "start it"),)
    answer, ready = await api.get("/readyz")
    assert (answer.status, ready["ready"]) == (503, False)
    assert [(one["name"], one["remedy"]) for one in ready["checks"] if not one["ok"]] == [("target", "start it")]
    api.source.targets = ()
    api.stop.set()
    answer, ready = await api.get("/readyz")
    assert answer.status == 503
    assert [one["name"] for one in ready["checks"] if not one["ok"]] == ["accepting"]
    assert (await api.get("/v1/status"))[1]["stopping"] is True
    assert (await api.get("/livez"))[0].status == 200


async def test_the_metrics_are_served(api: Api) -> None:
    answer = await api.client.request("GET", "/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert b'hybridrelay_registered{connection="db",relay="a.example"} 1' in answer.body
    assert b"hybridrelay_open_files " in answer.body


async def test_those_who_ask_often_do_not_stop_the_program(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Each snapshot blocks the event loop for half a second here."""
    began: list[float] = []

    def snapshot() -> int:
        began.append(trio.current_time())
        autojump_clock.jump(0.5)
        return len(began)

    monitored = Monitored(FakeSource(), trio.Event(), 0.0)
    start = trio.current_time()
    assert await monitored.paced(snapshot) == 1
    assert trio.current_time() == start + 0.5, "nobody else has asked"
    async with trio.open_nursery() as asking:
        for _ in range(3):
            asking.start_soon(monitored.paced, snapshot)
    assert began == [start, start + 5, start + 10, start + 15]


async def test_other_paths_and_methods(api: Api) -> None:
    assert (await api.client.request("GET", "/v1/relay")).status == 404
    assert (await api.client.request("DELETE", "/v1/status")).status == 405
    assert (await api.client.request("HEAD", "/v1/status")).body == b""
