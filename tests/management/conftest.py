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
from hybridrelay.relay import ListenerSnapshot, MemoryStore, RelayInfo, RelaySnapshot, SenderSnapshot

from ..http.serving import Answer, Client

CONNECTIONS = "/v1/hybridConnections"
LISTENER = ListenerSnapshot(connection="orders", instance="1" * 32, peer="192.0.2.1", rule="connector")
SNAPSHOT = RelaySnapshot(
    listeners=(LISTENER,), senders=(SenderSnapshot(instance="2" * 32, peer="192.0.2.2", connections=("orders",)),)
)
JSON = "application/json"


@attrs.define
class Api:
    """The API, called as somebody."""

    client: Client
    store: MemoryStore
    events: list[Event]

    async def call(self, method: str, path: str, body: object = None, **headers: str) -> tuple[Answer, Any]:
        """The response, and what its JSON is."""
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        if body is not None:
            headers.setdefault("Content_Type", JSON)
        answer = await self.client.request(method, path, data, **headers)
        return answer, json.loads(answer.body) if answer.body else None


async def _serve(store: MemoryStore, events: list[Event], role: Role, nursery: trio.Nursery) -> Api:
    stream = EventStream()
    stream.subscribe(events.append)
    managed = Managed(store, RelayInfo({}, "sha256:pin"), lambda: SNAPSHOT, stream)
    service = Service(router=make_router(managed), render_failure=problem_json)
    ours, theirs = trio.testing.memory_stream_pair()

    async def serve() -> None:
        await serve_connection(theirs, service, peer=Caller("test", role.name.lower(), role))

    nursery.start_soon(serve)
    return Api(Client(ours), store, events)


@pytest.fixture
async def api(nursery: trio.Nursery) -> AsyncIterator[Api]:
    """Called by an administrator."""
    yield await _serve(MemoryStore(lambda: 1234.5), [], Role.ADMIN, nursery)
    nursery.cancel_scope.cancel()


@pytest.fixture
async def viewer(api: Api, nursery: trio.Nursery) -> Api:
    """The same relay, called by somebody who may only look."""
    return await _serve(api.store, api.events, Role.VIEWER, nursery)
