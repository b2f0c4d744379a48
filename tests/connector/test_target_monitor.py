"""Watching the health of targets: checks, events, and what a relay is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any, cast

import attrs
import pytest
import trio
import trio.testing

from hybridrelay.connectivity.control import ControlChannel
from hybridrelay.connector.target_health import CONFIRM_SECONDS, FALL, RECHECK_SECONDS
from hybridrelay.connector.target_monitor import TargetMonitor
from hybridrelay.connector.target_reports import PACE_SECONDS, TargetReporter
from hybridrelay.connector.targets import TargetError
from hybridrelay.errors import RelayUnreachable
from hybridrelay.events import Event, EventStream, InternalError, TargetHealthy, TargetUnhealthy
from hybridrelay.protocol.control import Health, TargetHealth
from hybridrelay.protocol.reasons import Reason
from hybridrelay.security import HostPort, StreamTarget
from hybridrelay.testing import tcp_pair

A, B = HostPort("a.internal", 1), HostPort("b.internal", 2)
UNKNOWN, HEALTHY, UNHEALTHY = TargetHealth.UNKNOWN, TargetHealth.HEALTHY, TargetHealth.UNHEALTHY
REFUSED = TargetError("it refused", Reason.TARGET_REFUSED)


class Scene:
    """Targets, some of which refuse."""

    def __init__(self, interval: float | None) -> None:
        self.targets: list[tuple[str, StreamTarget]] = [("one", A), ("two", B), ("three", A)]
        self.refusing: dict[StreamTarget, Exception] = {}
        self.dialed: list[tuple[StreamTarget, float]] = []
        self.peers: list[trio.SocketStream] = []
        self.events: list[Event] = []
        self.monitor = TargetMonitor(
            lambda: self.targets, self.dial, EventStream(self.events.append), interval=interval
        )

    async def dial(self, target: StreamTarget) -> trio.SocketStream:
        self.dialed.append((target, trio.current_time()))
        await trio.lowlevel.checkpoint()
        if target in self.refusing:
            raise self.refusing[target]
        ours, theirs = await tcp_pair()
        self.peers.append(theirs)
        return ours

    def fail(self, target: StreamTarget, times: int = 1) -> None:
        for _ in range(times):
            self.monitor.attempt_ended(target, trio.current_time(), REFUSED)

    def healths(self) -> list[TargetHealth]:
        return [self.monitor.health(target) for target in (A, B)]


@pytest.fixture
def interval() -> float | None:
    return None


@pytest.fixture
async def scene(interval: float | None, nursery: trio.Nursery) -> AsyncIterator[Scene]:
    scene = Scene(interval)
    nursery.start_soon(scene.monitor.run)
    await trio.testing.wait_all_tasks_blocked()
    yield scene
    nursery.cancel_scope.cancel()
    for peer in scene.peers:
        peer.socket.close()


async def test_by_default_a_target_that_works_is_not_touched(
    scene: Scene, autojump_clock: trio.testing.MockClock
) -> None:
    scene.monitor.attempt_ended(A, trio.current_time(), None)
    assert scene.healths() == [HEALTHY, UNKNOWN]
    await trio.sleep(1000)
    assert scene.dialed == []
    assert scene.events == []


async def test_after_one_failed_stream_it_is_checked_until_its_health_is_certain(
    scene: Scene, autojump_clock: trio.testing.MockClock
) -> None:
    scene.refusing[A] = REFUSED
    scene.fail(A)
    await trio.sleep((FALL - 1) * CONFIRM_SECONDS * 1.2)
    assert scene.healths() == [UNHEALTHY, UNKNOWN]
    assert [target for target, _ in scene.dialed] == [A] * (FALL - 1)
    facts: dict[str, Any] = {"target": "a.internal:1", "reason": Reason.TARGET_REFUSED, "detail": "it refused"}
    remedy = "check that a.internal:1 listens, and that this machine can reach it"
    assert scene.events == [TargetUnhealthy(connection=name, **facts, remedy=remedy) for name in ("one", "three")]
    failure = scene.monitor.failure(A)
    assert failure is not None
    assert (failure.reason, failure.detail, failure.remedy) == ("target-refused", "it refused", remedy)
    scene.events.clear()
    await trio.sleep(10 * RECHECK_SECONDS)
    assert 8 <= len(scene.dialed) - (FALL - 1) <= 12
    del scene.refusing[A]
    await trio.sleep(3 * RECHECK_SECONDS)
    assert scene.healths() == [HEALTHY, UNKNOWN]
    assert scene.monitor.failure(A) is None
    assert scene.events == [TargetHealthy(connection=name, target="a.internal:1") for name in ("one", "three")]
    dialed = len(scene.dialed)
    await trio.sleep(1000)
    assert len(scene.dialed) == dialed, "there is no interval"


async def test_another_target_begins_without_a_past(scene: Scene, autojump_clock: trio.testing.MockClock) -> None:
    scene.refusing[A] = REFUSED
    scene.fail(A, FALL)
    assert scene.healths() == [UNHEALTHY, UNKNOWN]
    scene.targets = [("one", B)]
    scene.monitor.targets_changed()
    scene.fail(A, FALL)
    await trio.sleep(100)
    assert scene.dialed == []
    assert scene.healths() == [UNKNOWN, UNKNOWN]


async def test_a_bug_in_a_check_is_reported_and_ends_nothing(
    scene: Scene, autojump_clock: trio.testing.MockClock
) -> None:
    scene.refusing[A] = RuntimeError("a bug")
    scene.fail(A)
    await trio.sleep(10)
    assert [type(one) for one in scene.events[:1]] == [InternalError]
    assert scene.healths() == [UNHEALTHY, UNKNOWN]
    del scene.refusing[A]
    await trio.sleep(20)
    assert scene.healths() == [HEALTHY, UNKNOWN]


@pytest.mark.parametrize("interval", [30.0])
async def test_with_an_interval_each_target_is_checked_from_the_start(
    scene: Scene, autojump_clock: trio.testing.MockClock
) -> None:
    await trio.sleep(2)
    assert scene.healths() == [HEALTHY, HEALTHY]
    assert sorted(str(target) for target, _ in scene.dialed) == ["a.internal:1", "b.internal:2"], "once, not for each"
    scene.refusing[B] = REFUSED
    await trio.sleep(40)
    assert scene.healths() == [HEALTHY, UNHEALTHY]
    # The results are also those of /readyz, which dials nothing now.
    dialed = len(scene.dialed)
    assert [one.ok for one in await scene.monitor.checks.results()] == [True, False, True]
    assert len(scene.dialed) == dialed


async def test_what_readyz_finds_out_counts_too(scene: Scene, autojump_clock: trio.testing.MockClock) -> None:
    scene.refusing[B] = REFUSED
    await scene.monitor.checks.results()
    assert scene.healths() == [HEALTHY, UNKNOWN]
    await trio.sleep(10)
    assert scene.healths() == [HEALTHY, UNHEALTHY]


@attrs.define
class FakeChannel:
    """The part of a control channel that a reporter uses."""

    told: list[tuple[str, TargetHealth, float]] = attrs.field(factory=list)
    is_lost: bool = False

    async def send(self, message: Health) -> None:
        await trio.lowlevel.checkpoint()
        if self.is_lost:
            raise RelayUnreachable("lost")
        self.told.append((message.connection, message.target, trio.current_time()))

    def take(self) -> list[tuple[str, TargetHealth]]:
        taken, self.told = [(name, health) for name, health, _ in self.told], []
        return taken


async def test_a_relay_is_told_what_has_changed(
    scene: Scene, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    channel = FakeChannel()
    registered: list[tuple[str, StreamTarget]] = [("one", A), ("two", B)]
    reporter = TargetReporter(scene.monitor, lambda: registered)
    nursery.start_soon(reporter.run, cast("ControlChannel", channel))
    await trio.testing.wait_all_tasks_blocked()
    assert channel.take() == [("one", UNKNOWN), ("two", UNKNOWN)]
    await trio.sleep(PACE_SECONDS)
    scene.refusing[A] = REFUSED
    scene.fail(A, FALL)
    await trio.testing.wait_all_tasks_blocked()
    assert channel.take() == [("one", UNHEALTHY)], (
        "a hybrid connection that is registered elsewhere is not its affair"
    )
    reporter.registered("one")
    await trio.testing.wait_all_tasks_blocked()
    assert channel.take() == [("one", UNHEALTHY)], "again, after it was registered again"
    registered.append(("three", A))
    reporter.registered("three")
    await trio.testing.wait_all_tasks_blocked()
    assert channel.take() == [("three", UNHEALTHY)]
    await trio.sleep(100)
    assert channel.take() == []
    channel.is_lost = True
    scene.fail(B, FALL)
    await trio.testing.wait_all_tasks_blocked()
    assert channel.take() == []


async def test_a_relay_is_not_told_too_often(
    scene: Scene, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    channel = FakeChannel()
    reporter = TargetReporter(scene.monitor, lambda: [("one", A)])
    nursery.start_soon(reporter.run, cast("ControlChannel", channel))
    for _ in range(100):
        scene.fail(A, FALL)
        await trio.sleep(0.2)
        for _ in range(2):
            scene.monitor.attempt_ended(A, trio.current_time(), None)
        await trio.sleep(0.2)
    await trio.sleep(2 * PACE_SECONDS)
    times = [at for _, _, at in channel.told]
    assert len(times) > 3
    assert all(after - before > PACE_SECONDS - 0.001 for before, after in pairwise(times))
    assert channel.told[-1][1] is scene.monitor.health(A), "the last state is reported in any case"
