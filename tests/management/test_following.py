"""Events over the API: pages, waiting for the next one, and a stream of server-sent events."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
import trio
import trio.testing

from hybridrelay.events import ListenerLeft, StoreDiskFull
from hybridrelay.management.callers import Caller, Scope
from hybridrelay.management.following import MAX_FOLLOWERS, MAX_FOLLOWERS_OF_CALLER
from hybridrelay.protocol.reasons import Reason
from hybridrelay.security import ManagementRole

from .conftest import Api, serve_api

EVENTS = "/v1/events"


def left(connection: str = "orders") -> ListenerLeft:
    return ListenerLeft(connection=connection, instance="1" * 32, reason=Reason.NO_ERROR)


async def receive_until(api: Api, marker: bytes, received: bytes = b"") -> bytes:
    """What arrives on the connection, up to this marker at least."""
    with trio.fail_after(60):
        while marker not in received:
            received += bytes(await api.client.stream.receive_some())
    return received


def events_of(received: bytes) -> list[tuple[int, dict[str, Any]]]:
    """The numbers and values of server-sent events. The body is chunked, and each event is in a line of its own."""
    lines = received.split(b"\n")
    found = []
    for number, data in itertools.pairwise(lines):
        if number.startswith(b"id: ") and data.startswith(b"data: "):
            found.append((int(number[4:]), json.loads(data[6:])))
    return found


async def follow(api: Api, path: str = EVENTS, **headers: str) -> None:
    fields = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    request = f"GET {path} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n{fields}\r\n"
    await api.client.stream.send_all(request.encode())


async def test_events_come_in_pages_and_each_of_them_once(viewer: Api) -> None:
    for name in ("a", "b", "c"):
        viewer.managed.events.publish(left(name))
    _, first = await viewer.call("GET", f"{EVENTS}?limit=2")
    assert [one["fields"]["connection"] for one in first["value"]] == ["a", "b"]
    assert first["hasAll"] is True
    _, rest = await viewer.call("GET", f"{EVENTS}?since={first['last']}")
    assert [one["fields"]["connection"] for one in rest["value"]] == ["c"]
    event = rest["value"][0]
    assert (event["name"], event["operation"], event["level"]) == ("listener.left", "ListenerUnregistered", "info")
    assert event["time"].endswith("Z")
    _, end = await viewer.call("GET", f"{EVENTS}?since={rest['last']}")
    assert (end["value"], end["last"]) == ([], rest["last"])
    _, unknown = await viewer.call("GET", f"{EVENTS}?since=1")
    assert (len(unknown["value"]), unknown["hasAll"]) == (3, False)


@pytest.mark.parametrize(
    "query", ["since=-1", "since=x", "limit=0", "limit=1001", "wait=31", "wait=-1", "wait=nan", "since=null"]
)
async def test_what_cannot_be_asked_for(viewer: Api, query: str) -> None:
    answer, problem = await viewer.call("GET", f"{EVENTS}?{query}")
    assert (answer.status, problem["type"]) == (400, "urn:hybridrelay:problem:invalid")


async def test_the_latest_events_and_only_some_of_them(viewer: Api) -> None:
    for number in range(250):
        viewer.managed.events.publish(left(f"n{number % 5}"))
    viewer.managed.events.publish(StoreDiskFull(file="registry.db", detail="full"))

    async def found(query: str) -> list[str]:
        _, document = await viewer.call("GET", f"{EVENTS}?{query}")
        assert document["last"] <= viewer.managed.feed.last
        return [one["fields"].get("connection", one["name"]) for one in document["value"]]

    assert await found("newest=true&limit=3") == ["n3", "n4", StoreDiskFull.name]
    assert await found("newest=true&limit=2&connection=n1") == ["n1"] * 2
    assert await found("newest=true&limit=1&name=listener.") == ["n4"]
    assert await found("limit=2&connection=n1") == ["n1"] * 2
    assert await found("limit=1000&name=listener.&connection=n2") == ["n2"] * 50
    assert await found("newest=true&name=nothing") == []


async def test_a_stream_of_only_some_events(viewer: Api) -> None:
    for name in ("a", "b", "a"):
        viewer.managed.events.publish(left(name))
    await follow(viewer, f"{EVENTS}?connection=a")
    viewer.managed.events.publish(left("b"))
    viewer.managed.events.publish(left("a"))
    found: list[tuple[int, dict[str, Any]]] = []
    received = b""
    with trio.fail_after(60):
        while len(found) < 3:
            received += bytes(await viewer.client.stream.receive_some())
            found = events_of(received)
    assert [one["fields"]["connection"] for _, one in found] == ["a", "a", "a"]


async def test_a_long_poll_ends_with_the_next_event(
    autojump_clock: trio.testing.MockClock, viewer: Api, nursery: trio.Nursery
) -> None:
    since = viewer.managed.feed.last

    async def publish() -> None:
        await trio.sleep(7)
        viewer.managed.events.publish(left())

    nursery.start_soon(publish)
    began = trio.current_time()
    _, page = await viewer.call("GET", f"{EVENTS}?since={since}&wait=30")
    assert [one["name"] for one in page["value"]] == ["listener.left"]
    assert 7 <= trio.current_time() - began < 8
    _, page = await viewer.call("GET", f"{EVENTS}?since={page['last']}&wait=5")
    assert page["value"] == []
    assert 12 <= trio.current_time() - began < 13


async def test_a_scope_hides_the_events_of_others(api: Api, nursery: trio.Nursery) -> None:
    scoped = await serve_api(api, Caller("test", "team", ManagementRole.VIEWER, Scope("team/")), nursery)
    api.managed.events.publish(left("orders"))
    api.managed.events.publish(StoreDiskFull(file="registry.db", detail="full"))
    api.managed.events.publish(left("team/orders"))
    _, page = await scoped.call("GET", EVENTS)
    assert [one["fields"]["connection"] for one in page["value"]] == ["team/orders"]
    _, everything = await api.call("GET", EVENTS)
    assert len(everything["value"]) == 3


async def test_a_wait_does_not_hide_that_events_are_missing(
    autojump_clock: trio.testing.MockClock, viewer: Api, nursery: trio.Nursery
) -> None:
    async def publish() -> None:
        await trio.sleep(1)
        viewer.managed.events.publish(left())

    nursery.start_soon(publish)
    _, page = await viewer.call("GET", f"{EVENTS}?since=1&wait=20")
    assert (len(page["value"]), page["hasAll"]) == (1, False)


async def test_events_that_a_scope_hides_do_not_count_as_missing(
    autojump_clock: trio.testing.MockClock, api: Api, nursery: trio.Nursery
) -> None:
    scoped = await serve_api(api, Caller("test", "team", ManagementRole.VIEWER, Scope("team/")), nursery)
    await follow(scoped)
    received = await receive_until(scoped, b": connected")
    for _ in range(160):  # more events than are kept, before the client hears that there is nothing new for it
        await trio.sleep(0.1)
        for _ in range(100):
            api.managed.events.publish(left("orders"))
    api.managed.events.publish(left("team/orders"))
    received = await receive_until(scoped, b'"team/orders"', received)
    assert b": nothing new" in received
    assert b"event: reset" not in received


async def test_a_stream_begins_with_kept_events_and_continues_with_new_ones(viewer: Api) -> None:
    viewer.managed.events.publish(left("a"))
    await follow(viewer)
    received = await receive_until(viewer, b'"a"')
    assert b"content-type: text/event-stream" in received.lower()
    viewer.managed.events.publish(left("b"))
    received = await receive_until(viewer, b'"b"', received)
    numbers = [number for number, _ in events_of(received)]
    assert [value["fields"]["connection"] for _, value in events_of(received)] == ["a", "b"]
    assert numbers == [value["number"] for _, value in events_of(received)]


async def test_a_browser_that_reconnects_misses_nothing(viewer: Api) -> None:
    for name in ("a", "b"):
        viewer.managed.events.publish(left(name))
    _, page = await viewer.call("GET", f"{EVENTS}?limit=1")
    await follow(viewer, Last_Event_ID=str(page["last"]))
    received = await receive_until(viewer, b'"b"')
    assert [value["fields"]["connection"] for _, value in events_of(received)] == ["b"]
    assert b"event: reset" not in received


async def test_a_stream_says_that_something_is_missing(viewer: Api) -> None:
    viewer.managed.events.publish(left("a"))
    await follow(viewer, f"{EVENTS}?since=1")
    received = await receive_until(viewer, b'"a"')
    assert b"event: reset" in received


async def test_a_stream_is_kept_alive_and_ends_after_a_while(
    autojump_clock: trio.testing.MockClock, viewer: Api
) -> None:
    began = trio.current_time()
    await follow(viewer)
    received = b""
    while data := await viewer.client.stream.receive_some():
        received += bytes(data)
    assert received.count(b": nothing new") > 10
    assert received.endswith(b"0\r\n\r\n")
    assert trio.current_time() - began == pytest.approx(300, abs=16)
    assert not viewer.managed.feed.followers


@pytest.mark.parametrize("is_one_caller", [True, False])
async def test_there_is_a_limit_of_followers(api: Api, nursery: trio.Nursery, is_one_caller: bool) -> None:
    callers = [Caller("test", f"viewer {number}", ManagementRole.VIEWER) for number in range(MAX_FOLLOWERS + 1)]
    if is_one_caller:
        callers = [callers[0]] * (MAX_FOLLOWERS_OF_CALLER + 1)
    *others, last = callers
    followers = []
    for caller in others:
        follower = await serve_api(api, caller, nursery)
        await follow(follower)
        await receive_until(follower, b": connected")
        followers.append(follower)
    refused = await serve_api(api, last, nursery)
    answer, problem = await refused.call("GET", EVENTS, Accept="text/event-stream")
    assert (answer.status, problem["type"]) == (503, "urn:hybridrelay:problem:unavailable")
    since = api.managed.feed.last
    assert (await refused.call("GET", f"{EVENTS}?since={since}&wait=30"))[0].status == 503
    assert (await refused.call("GET", f"{EVENTS}?since={since}"))[0].status == 200, "without waiting"
    await followers[0].client.stream.aclose()
    await trio.testing.wait_all_tasks_blocked()
    assert api.managed.feed.followers.total() == len(others) - 1
    await follow(refused)
    await receive_until(refused, b": connected")


async def test_a_flood_of_events_arrives_in_few_pieces(autojump_clock: trio.testing.MockClock, viewer: Api) -> None:
    await follow(viewer)
    received = await receive_until(viewer, b": connected")
    reads = viewer.managed.feed.reads

    async def flood() -> None:
        for number in range(1_000):
            viewer.managed.events.publish(left(f"db{number}"))
            await trio.sleep(0.001)

    async with trio.open_nursery() as flooding:
        flooding.start_soon(flood)
        received = await receive_until(viewer, b'"db999"', received)
    assert len(events_of(received)) == 1_000
    assert viewer.managed.feed.reads - reads < 20
