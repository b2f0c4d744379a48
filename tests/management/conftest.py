"""A managed relay in memory, and a client for its API."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from hybridrelay.events import Event, EventStream
from hybridrelay.http import ClientGone, Service, serve_connection
from hybridrelay.management.callers import Caller
from hybridrelay.management.managed import Managed
from hybridrelay.management.peers import Peer
from hybridrelay.management.problems import render_problem
from hybridrelay.management.service import make_router
from hybridrelay.relay import MemoryStore, RelayInfo
from hybridrelay.security import ManagementRole

from ..http.serving import Answer, Client
from .live import FakeRelay

CONNECTIONS = "/v1/hybridConnections"
JSON = "application/json"
_PARAMETERS = {
    "rule": "application",
    "edition": "standard",
    "instance": "1" * 32,
    "sender": "3" * 16,
    "session": "4" * 32,
    "claim": "5" * 32,
    "token": "a" * 8,
    "log": "6" * 16,
}


def path_of(pattern: str, name: str = "orders") -> str:
    """The path of an operation, for a hybrid connection."""
    return re.sub(r"\{(\w+)\}", lambda match: {"name": name, **_PARAMETERS}[match[1]], pattern)


@attrs.define
class Api:
    """The API, called as somebody."""

    client: Client
    store: MemoryStore
    relay: FakeRelay
    events: list[Event]
    managed: Managed

    async def call(self, method: str, path: str, body: object = None, **headers: str) -> tuple[Answer, Any]:
        """The response, and what its JSON is, or its text."""
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        if body is not None:
            headers.setdefault("Content_Type", JSON)
        answer = await self.client.request(method, path, data, **headers)
        if not answer.body:
            return answer, None
        return answer, json.loads(answer.body) if "json" in answer.headers["content-type"] else answer.body.decode()


async def _serve(
    store: MemoryStore, relay: FakeRelay, events: list[Event], managed: Managed, caller: Caller, nursery: trio.Nursery
) -> Api:
    """Serve the API of a relay in `nursery`, for one caller, on one connection."""
    service = Service(router=make_router(managed), render_failure=render_problem)
    ours, theirs = trio.testing.memory_stream_pair()

    async def serve() -> None:
        with contextlib.suppress(ClientGone):
            await serve_connection(theirs, service, peer=Peer(caller=caller))

    nursery.start_soon(serve)
    return Api(Client(ours), store, relay, events, managed)


async def serve_api(api: Api, caller: Caller, nursery: trio.Nursery) -> Api:
    """The same relay, called by somebody else."""
    return await _serve(api.store, api.relay, api.events, api.managed, caller, nursery)


@pytest.fixture
async def api(nursery: trio.Nursery) -> AsyncIterator[Api]:
    """Called by an administrator."""
    caller = Caller("test", "admin", ManagementRole.ADMIN)
    store, relay, events = MemoryStore(lambda: 1234.5), FakeRelay.with_one_of_each(), list[Event]()
    stream = EventStream(events.append)
    managed = Managed(store, store, lambda: RelayInfo({}, "sha256:pin"), relay, stream)
    stream.subscribe(managed.feed)
    yield await _serve(store, relay, events, managed, caller, nursery)
    nursery.cancel_scope.cancel()


@pytest.fixture
async def viewer(api: Api, nursery: trio.Nursery) -> Api:
    """The same relay, called by somebody who may only look."""
    return await serve_api(api, Caller("test", "viewer", ManagementRole.VIEWER), nursery)


@pytest.fixture
async def operator(api: Api, nursery: trio.Nursery) -> Api:
    """The same relay, called by somebody who may end what runs."""
    return await serve_api(api, Caller("test", "operator", ManagementRole.OPERATOR), nursery)
