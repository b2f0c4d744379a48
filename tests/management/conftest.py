"""A managed relay in memory, and a client for its API."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from hybridrelay.events import Event, EventStream
from hybridrelay.http import Service, problem_json, serve_connection
from hybridrelay.management.callers import Caller, Role
from hybridrelay.management.calls import Managed
from hybridrelay.management.service import make_router
from hybridrelay.relay import MemoryStore, RelayInfo

from ..http.serving import Answer, Client
from .live import FakeRelay

CONNECTIONS = "/v1/hybridConnections"
JSON = "application/json"


@attrs.define
class Api:
    """The API, called as somebody."""

    client: Client
    store: MemoryStore
    relay: FakeRelay
    events: list[Event]

    async def call(self, method: str, path: str, body: object = None, **headers: str) -> tuple[Answer, Any]:
        """The response, and what its JSON is."""
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        if body is not None:
            headers.setdefault("Content_Type", JSON)
        answer = await self.client.request(method, path, data, **headers)
        return answer, json.loads(answer.body) if answer.body else None


async def serve_api(
    store: MemoryStore, relay: FakeRelay, events: list[Event], role: Role, nursery: trio.Nursery
) -> Api:
    """Serve the API of a relay in `nursery`, for one caller."""
    stream = EventStream()
    stream.subscribe(events.append)
    managed = Managed(store, RelayInfo({}, "sha256:pin"), relay, stream)
    service = Service(router=make_router(managed), render_failure=problem_json)
    ours, theirs = trio.testing.memory_stream_pair()

    async def serve() -> None:
        await serve_connection(theirs, service, peer=Caller("test", role.name.lower(), role))

    nursery.start_soon(serve)
    return Api(Client(ours), store, relay, events)


@pytest.fixture
async def api(nursery: trio.Nursery) -> AsyncIterator[Api]:
    """Called by an administrator."""
    yield await serve_api(MemoryStore(lambda: 1234.5), FakeRelay.with_one_of_each(), [], Role.ADMIN, nursery)
    nursery.cancel_scope.cancel()


@pytest.fixture
async def viewer(api: Api, nursery: trio.Nursery) -> Api:
    """The same relay, called by somebody who may only look."""
    return await serve_api(api.store, api.relay, api.events, Role.VIEWER, nursery)


@pytest.fixture
async def operator(api: Api, nursery: trio.Nursery) -> Api:
    """The same relay, called by somebody who may end what runs."""
    return await serve_api(api.store, api.relay, api.events, Role.OPERATOR, nursery)
