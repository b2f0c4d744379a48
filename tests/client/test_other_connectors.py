"""Another connector for a client whose connector does not reach the target: when one is searched, and what then."""

from __future__ import annotations

from collections.abc import Collection
from types import SimpleNamespace
from typing import cast

import pytest
import trio
import trio.testing

from hybridrelay.client.opening import SessionOpener
from hybridrelay.client.other_connectors import (
    EXCLUDED_SECONDS,
    MAX_RETRY_SECONDS,
    RETRY_SECONDS,
    WAIT_SECONDS,
    OtherConnectors,
)
from hybridrelay.client.session import ClientSession
from hybridrelay.errors import RendezvousError
from hybridrelay.events import ConnectorReplaced, Event, EventStream, InternalError
from hybridrelay.mux import MuxStream
from hybridrelay.protocol.reasons import NOT_CONNECTED, Reason

NO_OTHER = RendezvousError("no connector is listening", reason=Reason.NO_LISTENER)
REFUSED = Reason.TARGET_REFUSED


def session(instance: str) -> ClientSession:
    """An open session with this connector."""
    fake = SimpleNamespace(session_id=instance.encode(), is_open=True, outcome=None, ended=[])
    fake.close = fake.ended.append
    channel = SimpleNamespace(peer=SimpleNamespace(instance=instance))
    return cast("ClientSession", SimpleNamespace(session=fake, channel=channel))


class Scene:
    """A client with a session with `a`."""

    def __init__(self, nursery: trio.Nursery) -> None:
        #: The connectors that are registered, in the order in which the relay offers them; and the searches.
        self.registered = ["a", "b", "c"]
        self.searches: list[tuple[float, set[str]]] = []
        self.takes = 0.1
        self.error: Exception | None = None
        self.events: list[Event] = []
        self.replaced: list[str] = []
        self.opener = SessionOpener(
            nursery, self._first, replaced=lambda one: self.replaced.append(one.channel.peer.instance)
        )
        self.others = OtherConnectors(
            self.opener, nursery, self._open, connection=lambda: "db", events=EventStream(self.events.append)
        )
        self.opener.replace(session("a"))

    async def _first(self) -> ClientSession:
        raise AssertionError("there is a session")

    async def _open(self, other_than: Collection[str]) -> ClientSession:
        self.searches.append((trio.current_time(), set(other_than)))
        await trio.sleep(self.takes)
        if self.error is not None:
            raise self.error
        for one in self.registered:
            if one not in other_than:
                return session(one)
        raise NO_OTHER

    @property
    def current(self) -> str:
        assert self.opener.latest is not None
        return self.opener.latest.channel.peer.instance

    async def find(self, reason: Reason = REFUSED, *, of: str | None = None) -> bool:
        return await self.others.find(stream(of or self.current), reason)


def stream(instance: str) -> MuxStream:
    """A stream of the session with this connector."""
    return cast("MuxStream", SimpleNamespace(session_id=instance.encode()))


@pytest.fixture
def scene(nursery: trio.Nursery) -> Scene:
    return Scene(nursery)


async def test_another_connector_takes_the_place_of_the_one_that_failed(
    scene: Scene, autojump_clock: trio.testing.MockClock
) -> None:
    assert await scene.find()
    assert (scene.current, scene.replaced) == ("b", ["a"])
    assert scene.searches == [(0.0, {"a"})]
    assert scene.events == [ConnectorReplaced(connection="db", instance="a", successor="b", reason=REFUSED)]
    assert await scene.find(of="a"), "another session is there already"
    assert len(scene.searches) == 1


@pytest.mark.parametrize("reason", sorted(set(Reason) - NOT_CONNECTED))
async def test_only_a_target_that_is_not_reached_is_a_reason(
    scene: Scene, reason: Reason, autojump_clock: trio.testing.MockClock
) -> None:
    assert not await scene.find(reason)
    scene.others.refused(stream("a"), reason)
    assert scene.searches == []


async def test_those_that_failed_a_moment_ago_are_excluded(
    scene: Scene, autojump_clock: trio.testing.MockClock
) -> None:
    for other_than, found in (({"a"}, "b"), ({"a", "b"}, "c")):
        assert await scene.find()
        assert (scene.searches[-1][1], scene.current) == (other_than, found)
    assert not await scene.find()
    assert scene.searches[-1][1] == {"a", "b", "c"}
    assert scene.current == "c", "it is kept"
    await trio.sleep(EXCLUDED_SECONDS)
    assert await scene.find()
    assert scene.current == "a", "its target may be back"


async def test_the_only_connector_is_kept_and_others_are_searched_more_and_more_seldom(
    scene: Scene, autojump_clock: trio.testing.MockClock
) -> None:
    scene.registered = ["a"]
    until = 10 * MAX_RETRY_SECONDS
    while trio.current_time() < until:
        assert not await scene.find()
        await trio.sleep(0.5)
    pauses = [after - before for (before, _), (after, _) in zip(scene.searches, scene.searches[1:], strict=False)]
    for pause, expected in zip(pauses, [RETRY_SECONDS, 10.0, 20.0, 40.0, *[MAX_RETRY_SECONDS] * 9], strict=False):
        assert expected <= pause < expected + 2
    assert len(pauses) > 8
    assert (scene.current, scene.replaced, scene.events) == ("a", [], [])
    await trio.sleep(3 * MAX_RETRY_SECONDS)
    began = trio.current_time()
    assert not await scene.find()
    await trio.sleep(RETRY_SECONDS)
    scene.registered.append("b")
    assert await scene.find(), "after a long time without failures, the pause is short again"
    assert trio.current_time() < began + 2 * RETRY_SECONDS


async def test_all_that_are_refused_wait_for_one_search(scene: Scene, autojump_clock: trio.testing.MockClock) -> None:
    results: list[bool] = []

    async def find() -> None:
        results.append(await scene.find(of="a"))

    async with trio.open_nursery() as inner:
        for _ in range(50):
            inner.start_soon(find)
    assert results == [True] * 50
    assert len(scene.searches) == 1


async def test_a_long_search_goes_on_without_those_who_wait(
    scene: Scene, autojump_clock: trio.testing.MockClock
) -> None:
    scene.takes = 3 * WAIT_SECONDS
    with trio.move_on_after(1):
        await scene.find()
    began = trio.current_time()
    assert not await scene.find()
    assert trio.current_time() == pytest.approx(began + WAIT_SECONDS)
    await trio.sleep(3 * WAIT_SECONDS)
    assert (scene.current, len(scene.searches)) == ("b", 1)


async def test_a_stream_that_is_refused_later_begins_a_search_for_the_next(
    scene: Scene, autojump_clock: trio.testing.MockClock
) -> None:
    scene.others.refused(stream("a"), REFUSED)
    await trio.sleep(1)
    assert scene.current == "b"


async def test_a_bug_ends_only_the_search(scene: Scene, autojump_clock: trio.testing.MockClock) -> None:
    scene.error = RuntimeError("in a dialer")
    assert not await scene.find()
    assert [type(one) for one in scene.events] == [InternalError]
    scene.error = None
    await trio.sleep(RETRY_SECONDS)
    assert await scene.find()


async def test_a_session_that_is_found_too_late_is_closed(
    scene: Scene, autojump_clock: trio.testing.MockClock
) -> None:
    scene.others.refused(stream("a"), REFUSED)
    await trio.sleep(scene.takes / 2)
    scene.opener.close()
    await trio.sleep(1)
    assert scene.current == "a"
