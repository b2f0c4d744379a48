"""Dialing targets for health checks: not more often than once a minute."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from hybridrelay.connector.target_checks import CHECK_SECONDS, TargetChecks
from hybridrelay.connector.targets import TargetError
from hybridrelay.protocol.reasons import Reason
from hybridrelay.security import HostPort, Target
from hybridrelay.testing import tcp_pair

A, B = HostPort("a.internal", 1), HostPort("b.internal", 2)


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    scene = Scene()
    yield scene
    for peer in scene.peers:
        await peer.aclose()


class Scene:
    """Targets, some of which refuse."""

    def __init__(self) -> None:
        self.targets = [("one", A), ("two", B), ("three", A)]
        self.dialed: list[Target] = []
        self.refusing: set[Target] = set()
        self.peers: list[trio.SocketStream] = []
        self.go_on = trio.Event()
        self.go_on.set()
        self.checks = TargetChecks(lambda: self.targets, self.dial)

    async def dial(self, target: Target) -> trio.SocketStream:
        self.dialed.append(target)
        await self.go_on.wait()
        if target in self.refusing:
            raise TargetError("it refused", Reason.TARGET_REFUSED)
        ours, theirs = await tcp_pair()
        self.peers.append(theirs)
        return ours


async def test_each_target_is_dialed_at_most_once_a_minute(
    scene: Scene, autojump_clock: trio.testing.MockClock
) -> None:
    scene.refusing.add(B)
    for _ in range(3):
        results = await scene.checks.results()
        assert [(one.connection, one.target, one.ok) for one in results] == [
            ("one", "a.internal:1", True),
            ("two", "b.internal:2", False),
            ("three", "a.internal:1", True),
        ]
        assert (results[1].reason, results[1].detail) == ("target-refused", "it refused")
        assert results[1].remedy
    assert sorted(scene.dialed, key=str) == [A, B]
    scene.refusing = {A}
    await trio.sleep(CHECK_SECONDS)
    assert [one.ok for one in await scene.checks.results()] == [False, True, False]
    assert len(scene.dialed) == 4


async def test_a_target_that_was_reached_sees_an_ordinary_end(scene: Scene) -> None:
    await scene.checks.results()
    for peer in scene.peers:
        assert await peer.receive_some() == b""


async def test_another_target_is_dialed_at_once(scene: Scene) -> None:
    await scene.checks.results()
    scene.targets = [("one", HostPort("c.internal", 3))]
    assert [one.target for one in await scene.checks.results()] == ["c.internal:3"]
    assert len(scene.dialed) == 3


async def test_those_who_ask_at_the_same_time_share_the_result(scene: Scene) -> None:
    answers = []
    scene.go_on = trio.Event()

    async def ask() -> None:
        answers.append(await scene.checks.results())

    async with trio.open_nursery() as asking:
        for _ in range(5):
            asking.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        scene.go_on.set()
    assert len(scene.dialed) == 2
    assert [[one.ok for one in answer] for answer in answers] == [[True] * 3] * 5


@pytest.mark.parametrize("seconds", [0, CHECK_SECONDS])
async def test_a_check_that_was_cancelled_counts(
    scene: Scene, autojump_clock: trio.testing.MockClock, seconds: float
) -> None:
    scene.go_on = trio.Event()
    with trio.move_on_after(1):
        await scene.checks.results()
    scene.go_on.set()
    await trio.sleep(seconds)
    assert [one.ok for one in await scene.checks.results()] == [seconds > 0] * 3
    assert len(scene.dialed) == (4 if seconds else 2)
