"""The status of a program, at a place that is changed while it runs."""

from __future__ import annotations

import json
import time

import trio

from hybridrelay.cli.status_served import StatusServer
from hybridrelay.events import Event, EventStream, StatusListening

from ..http.serving import Client
from ..monitoring.snapshots import FakeSource


async def test_it_says_since_when_the_program_is_running_also_at_a_place_that_is_new() -> None:
    events: list[Event] = []
    before = time.time()
    server = StatusServer(FakeSource, stop=trio.Event(), events=EventStream(events.append))
    made = time.time()
    async with server.serving(None):
        started = []
        for number in (0, 0):
            await server.change(("127.0.0.1", number))
            (listening,) = (one for one in events if isinstance(one, StatusListening))
            events.clear()
            host, _, port = listening.address.rpartition(":")
            async with await trio.open_tcp_stream(host, int(port)) as stream:
                answer = await Client(stream, host="localhost").request("GET", "/v1/status")
            started.append(json.loads(answer.body)["startedAt"])
            await server.change(None)
    assert started[0] == started[1]
    assert before <= started[0] <= made
