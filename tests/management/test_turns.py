"""A caller of the management API takes turns with itself, and nobody waits for another caller."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from hybridrelay.management.callers import Caller
from hybridrelay.management.turns import AT_A_TIME, Turns
from hybridrelay.security import ManagementRole

from .conftest import Api, serve_api

VIEWER = Caller("test", "viewer", ManagementRole.VIEWER)


async def test_one_task_of_each_caller_at_a_time_in_order(nursery: trio.Nursery) -> None:
    turns, began, go_on = Turns(), list[str](), {name: trio.Event() for name in ("a1", "a2", "a3", "b1")}

    async def run(name: str) -> None:
        async with turns.take(name[0]):
            began.append(name)
            await go_on[name].wait()

    for name in go_on:
        nursery.start_soon(run, name)
        await trio.testing.wait_all_tasks_blocked()
    assert began == ["a1", "b1"]
    for name in ("a1", "a2"):
        go_on[name].set()
        await trio.testing.wait_all_tasks_blocked()
    assert began == ["a1", "b1", "a2", "a3"]
    assert len(turns) == 2
    go_on["a3"].set()
    go_on["b1"].set()
    await trio.testing.wait_all_tasks_blocked()
    assert len(turns) == 0, "nothing is kept about callers that have gone"


@pytest.mark.parametrize("has_scope", [False, True])
async def test_a_few_callers_of_a_group_have_a_turn_at_a_time(nursery: trio.Nursery, has_scope: bool) -> None:
    turns, began, go_on = Turns(), list[str](), dict[str, trio.Event]()

    async def run(name: str, has_scope: bool) -> None:
        async with turns.take(name, has_scope=has_scope):
            began.append(name)
            go_on[name] = trio.Event()
            await go_on[name].wait()

    for number in range(AT_A_TIME + 2):
        nursery.start_soon(run, f"c{number}", has_scope)
        await trio.testing.wait_all_tasks_blocked()
    assert began == [f"c{number}" for number in range(AT_A_TIME)]
    nursery.start_soon(run, "other", not has_scope)
    await trio.testing.wait_all_tasks_blocked()
    assert began.pop() == "other", "the other group has turns of its own"
    go_on["other"].set()
    for number in range(AT_A_TIME + 2):
        go_on[f"c{number}"].set()
        await trio.testing.wait_all_tasks_blocked()
    assert began == [f"c{number}" for number in range(AT_A_TIME + 2)]
    assert len(turns) == 0


async def test_a_caller_that_gives_up_waiting_leaves_nothing_behind(autojump_clock: trio.testing.MockClock) -> None:
    turns, gave_up = Turns(), trio.Event()

    async def wait() -> None:
        with trio.move_on_after(1):
            async with turns.take("a"):
                pytest.fail("two at a time")
        gave_up.set()

    async with turns.take("a"), trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await gave_up.wait()
        assert len(turns) == 1
    assert len(turns) == 0


@pytest.mark.parametrize("path", ["/v1/hybridConnections", "/v1/usage", "/"])
async def test_requests_of_one_caller_take_turns(api: Api, viewer: Api, nursery: trio.Nursery, path: str) -> None:
    answered = trio.Event()

    async def get() -> None:
        answer, _ = await viewer.call("GET", path)
        assert answer.status == 200
        answered.set()

    async with api.managed.turns.take(VIEWER.limit_group):
        nursery.start_soon(get)
        for _ in range(3):
            assert (await api.call("GET", path))[0].status == 200
        assert not answered.is_set()
    with trio.fail_after(60):
        await answered.wait()


async def test_a_caller_that_waits_for_events_holds_no_turn(api: Api, viewer: Api, nursery: trio.Nursery) -> None:
    other = await serve_api(api, VIEWER, nursery)
    nursery.start_soon(viewer.call, "GET", f"/v1/events?wait=30&since={api.managed.feed.last}")
    with trio.fail_after(60):
        while not api.managed.feed.followers:
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert (await other.call("GET", "/v1/events"))[0].status == 200
        assert (await other.call("GET", "/v1/hybridConnections"))[0].status == 200


async def test_events_are_read_in_turns(api: Api, viewer: Api, nursery: trio.Nursery) -> None:
    answered = trio.Event()

    async def get() -> None:
        await viewer.call("GET", "/v1/events?newest=true")
        answered.set()

    async with api.managed.feed_turns.take(VIEWER.limit_group):
        nursery.start_soon(get)
        for _ in range(3):
            assert (await api.call("GET", "/v1/events"))[0].status == 200
        assert not answered.is_set()
    with trio.fail_after(60):
        await answered.wait()
