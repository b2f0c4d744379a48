"""What a connector does at one relay (a fake): refusals, lost channels, and when it asks again."""

from __future__ import annotations

import itertools
import weakref

import attrs
import pytest
import trio
import trio.testing

from hybridrelay.connector.instance_file import UnrecordedInstances
from hybridrelay.connector.registrar import Registrar
from hybridrelay.connector.registration.channel import MAX_NOTICES
from hybridrelay.connector.registration.entry import ASK_AGAIN_SECONDS
from hybridrelay.connector.unproven import FAILURES_PER_SECOND
from hybridrelay.errors import RelayIdentityError, RelayUnreachable
from hybridrelay.events import ControlChannelLost, Event, Level, RelayUnavailable, logged_events
from hybridrelay.protocol import control
from hybridrelay.protocol.preamble import TICKET_SIZE
from hybridrelay.protocol.reasons import Reason
from hybridrelay.security import generate_key

from ..leaks import no_garbage_collector
from .fakes import (
    GRANT,
    FakeControl,
    FakeDataChannels,
    FakeRelay,
    FakeSessions,
    Scene,
    start,
    state,
    unwatched_targets,
    without_jitter,
)


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    without_jitter(monkeypatch)
    return Scene()


async def test_everything_is_registered_and_renewed_in_time(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, scene: Scene
) -> None:
    start(nursery, scene)
    await trio.sleep(1)
    assert state(scene.one) == state(scene.two) == (True, False)
    await trio.sleep(GRANT - 2)
    assert len(scene.relay.asked_for("one")) == len(scene.relay.asked_for("two")) == 2
    assert len(scene.relay.opened) == 1
    nursery.cancel_scope.cancel()


async def test_a_registration_is_renewed_within_the_hour_whatever_the_relay_grants(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, scene: Scene
) -> None:
    scene.relay.grant = 1e12
    start(nursery, scene)
    await trio.sleep(3600)
    assert len(scene.relay.asked_for("one")) == 2
    nursery.cancel_scope.cancel()


async def test_control_channels_are_opened_with_the_first_key_that_is_not_refused(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, scene: Scene
) -> None:
    one, two = scene.one.published, scene.two.published
    assert scene.relay.key == one.string.key
    start(nursery, scene)
    await trio.sleep(1)
    assert scene.relay.key == one.string.key
    one.use(attrs.evolve(one.string, key=generate_key()))
    scene.registrar.update(scene.one.published)
    assert scene.relay.key == one.string.key
    scene.relay.answers["one"] = Reason.KEY_REVOKED
    await trio.sleep(10)
    assert scene.one.state.is_refused
    assert scene.relay.key == two.string.key
    del scene.relay.answers["one"]
    scene.registrar.update(scene.one.published)
    await trio.sleep(70)
    assert scene.relay.key == one.string.key
    scene.registrar.unpublish(scene.one)
    assert scene.relay.key == two.string.key
    nursery.cancel_scope.cancel()


def test_the_key_of_a_registration_is_the_one_that_the_relay_accepts(scene: Scene) -> None:
    registration, before = scene.one.state, scene.one.published.string
    registration.accepted = before
    registration.string = attrs.evolve(before, key=generate_key())
    assert registration.key_in_use == registration.string.key
    registration.rejected = registration.string  # the relay has refused it, and accepted the earlier one
    assert registration.key_in_use == before.key


async def test_what_is_refused_for_now_is_asked_again_and_disturbs_nothing(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, scene: Scene
) -> None:
    scene.relay.answers["one"] = Reason.LIMIT
    start(nursery, scene)
    await trio.sleep(20)
    assert state(scene.one) == (False, False)
    failures = [scene.one.state.failure]
    assert state(scene.two) == (True, False)
    assert 2 <= len(scene.relay.asked_for("one")) < 10
    assert len(scene.relay.opened) == 1
    del scene.relay.answers["one"]
    await trio.sleep(60)
    assert state(scene.one) == (True, False)
    failures.append(scene.one.state.failure)
    assert [failure is None for failure in failures] == [False, True]
    nursery.cancel_scope.cancel()


async def test_what_is_refused_for_good_is_asked_again_much_later(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, scene: Scene
) -> None:
    scene.relay.answers["one"] = Reason.UNKNOWN_CONNECTION
    start(nursery, scene)
    await trio.sleep(ASK_AGAIN_SECONDS - 10)
    assert state(scene.one) == (False, True)
    assert state(scene.two) == (True, False)
    assert len(scene.relay.asked_for("one")) == 1
    del scene.relay.answers["one"]
    await trio.sleep(20)
    assert state(scene.one) == (True, False)
    assert len(scene.relay.opened) == 1
    nursery.cancel_scope.cancel()


async def test_a_refusal_that_is_no_longer_for_good_is_none(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, scene: Scene
) -> None:
    scene.relay.answers["one"] = Reason.UNKNOWN_CONNECTION
    start(nursery, scene)
    await trio.sleep(ASK_AGAIN_SECONDS / 2)
    scene.relay.answers["one"] = Reason.LIMIT
    await trio.sleep(ASK_AGAIN_SECONDS)
    assert state(scene.one) == (False, False)
    assert 5 < len(scene.relay.asked_for("one")) < 50
    nursery.cancel_scope.cancel()


async def test_a_relay_that_refuses_everything_is_left_alone(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, scene: Scene
) -> None:
    scene.relay.answers = {"one": Reason.WRONG_KEY, "two": Reason.KEY_REVOKED}
    start(nursery, scene)
    await trio.sleep(ASK_AGAIN_SECONDS - 10)
    assert state(scene.one) == state(scene.two) == (False, True)
    assert len(scene.relay.opened) == 1
    assert scene.relay.control.closed.is_set()
    assert scene.changes >= 1
    # It is asked again; out of reach at that moment, it is not called without a pause.
    scene.relay.error = RelayUnreachable("down")
    await trio.sleep(120)
    assert state(scene.one) == (False, True)
    assert 2 <= len(scene.relay.opened) < 30
    scene.relay.error, scene.relay.answers = None, {}
    await trio.sleep(60)
    assert state(scene.one) == state(scene.two) == (True, False)
    nursery.cancel_scope.cancel()


async def test_another_relay_in_its_place_is_final_only_before_it_has_worked(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, scene: Scene
) -> None:
    scene.relay.error = RelayIdentityError("somebody else")
    start(nursery, scene)
    await trio.sleep(1)
    assert state(scene.one) == (False, True)
    scene.relay.error = None
    await trio.sleep(ASK_AGAIN_SECONDS + 60)
    assert state(scene.one) == (True, False)
    scene.relay.error = RelayIdentityError("somebody else")
    scene.relay.control.close()
    await trio.sleep(60)
    assert state(scene.one) == (False, False)
    scene.relay.error = None
    await trio.sleep(60)
    assert state(scene.one) == (True, False)
    nursery.cancel_scope.cancel()


async def test_a_lost_control_channel_is_opened_again(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, scene: Scene
) -> None:
    start(nursery, scene)
    await trio.sleep(1)
    scene.relay.control.close()
    await trio.testing.wait_all_tasks_blocked()
    assert state(scene.one) == (False, False)
    await trio.sleep(5)
    assert state(scene.one) == (True, False)
    nursery.cancel_scope.cancel()


async def test_the_errors_of_failed_attempts_are_freed(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The garbage collector is not needed. Their tracebacks refer to what the attempts have used."""
    freed: list[weakref.ref[RelayUnreachable]] = []

    def down(_: FakeRelay) -> RelayUnreachable:
        error = RelayUnreachable("down")
        freed.append(weakref.ref(error))
        return error

    with no_garbage_collector():
        with monkeypatch.context() as patch:
            patch.setattr(FakeRelay, "error", property(down), raising=False)
            start(nursery, scene)
            await trio.sleep(60)
        await trio.sleep(60)
        assert state(scene.one) == (True, False)
        assert len(freed) > 3
        assert sum(error() is not None for error in freed) <= 1  # the last one, for the status
    nursery.cancel_scope.cancel()


async def test_a_relay_that_stays_away_is_reported_in_full_once(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, scene: Scene
) -> None:
    """It is reported in full once more when the failure has changed."""

    def warnings() -> list[Event]:
        found = [one for one in scene.events if one.level is Level.WARNING]
        scene.events.clear()
        return found

    def details() -> list[str]:
        return [one.detail for one in warnings() if isinstance(one, RelayUnavailable)]

    scene.relay.error = RelayUnreachable("a long story", remedy="with an end", brief="no relay")
    start(nursery, scene)
    await trio.sleep(120)
    first, *others = details()
    assert first == "a long story; with an end"
    assert others
    assert set(others) == {"no relay, as before"}
    scene.relay.error = RelayUnreachable("another story")
    await trio.sleep(120)
    assert details()[0] == "another story"
    scene.relay.error = None
    await trio.sleep(60)
    assert warnings() == []
    scene.relay.error = RelayUnreachable("another story")
    scene.relay.control.close()
    await trio.sleep(60)
    lost, unavailable, *_ = warnings()
    assert isinstance(lost, ControlChannelLost)
    assert isinstance(unavailable, RelayUnavailable)
    assert unavailable.detail == "another story"
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("sessions", [0, 1])
async def test_with_sessions_it_comes_back_within_two_seconds_however_often_it_was_lost(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, scene: Scene, sessions: int
) -> None:
    """This also holds if the session has not yet noticed that its own channel is lost."""
    for _ in range(sessions):
        scene.sessions.add(is_open=True)
    start(nursery, scene)
    lost: list[float] = []
    while len(lost) < 8:
        await trio.testing.wait_all_tasks_blocked()
        if state(scene.one) == (True, False):
            scene.relay.control.close()
            lost.append(trio.current_time())
        await trio.sleep(0.1)
    waits = [after - before for before, after in itertools.pairwise(lost)]
    assert (max(waits) <= 2.2) is bool(sessions), waits
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("is_open", [True, False])
async def test_a_relay_that_is_full_is_not_pressed_for_sessions_that_are_well(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, scene: Scene, is_open: bool
) -> None:
    scene.sessions.add(is_open=is_open)
    scene.relay.answers = {"one": Reason.LIMIT, "two": Reason.LIMIT}
    start(nursery, scene)
    await trio.sleep(120)
    assert (len(scene.relay.opened) > 40) is not is_open
    nursery.cancel_scope.cancel()


async def test_tries_that_take_long_to_fail_grow_rarer_too(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, scene: Scene
) -> None:
    scene.relay.takes, scene.relay.error = 12.0, RelayUnreachable("overloaded")
    start(nursery, scene)
    await trio.sleep(3600)
    assert len(scene.relay.opened) < 110
    nursery.cancel_scope.cancel()


async def test_what_the_relay_ends_for_now_is_registered_again_at_once(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, scene: Scene
) -> None:
    start(nursery, scene)
    await trio.sleep(1)
    scene.relay.control.said.send_nowait(control.Ended("one", Reason.TOKEN_EXPIRED))
    await trio.sleep(1)
    assert state(scene.one) == (True, False)
    scene.relay.control.said.send_nowait(control.Ended("one", Reason.KEY_REVOKED))
    await trio.sleep(60)
    assert state(scene.one) == (False, True)
    assert state(scene.two) == (True, False)
    scene.relay.control.said.send_nowait(control.Ended("two", Reason.KEY_REVOKED))
    await trio.sleep(60)
    assert state(scene.two) == (False, True)
    assert len(scene.relay.opened) == 1
    nursery.cancel_scope.cancel()


async def test_a_relay_that_registers_and_ends_without_end_is_asked_ever_more_slowly(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    start(nursery, scene)
    await trio.sleep(1)
    until = trio.current_time() + 600
    while trio.current_time() < until:
        if scene.one.state.is_registered and not scene.relay.control.closed.is_set():
            scene.relay.control.said.send_nowait(control.Ended("one", Reason.TOKEN_EXPIRED))
        await trio.sleep(0.01)
    assert len(scene.relay.asked_for("one")) < 200
    assert len(caplog.records) < 500
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("message", [control.Ended("one", Reason.TOKEN_EXPIRED), control.Draining(0)], ids=repr)
async def test_a_flood_of_notices_ends_the_control_channel(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, scene: Scene, message: control.Message
) -> None:
    start(nursery, scene)
    await trio.sleep(1)
    first = scene.relay.control
    count = 0
    while not first.closed.is_set() and count <= 2 * MAX_NOTICES:
        count += 1
        await first.said.send(message)
        await trio.testing.wait_all_tasks_blocked()
    assert MAX_NOTICES <= count <= 2 * MAX_NOTICES
    assert len(scene.relay.asked_for("one")) < 5
    await trio.sleep(10)
    assert state(scene.one) == (True, False)
    assert len(scene.relay.opened) == 2
    nursery.cancel_scope.cancel()


async def test_notices_that_come_now_and_then_are_not_a_flood(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, scene: Scene
) -> None:
    start(nursery, scene)
    await trio.sleep(1)
    for _ in range(4 * MAX_NOTICES):
        scene.relay.control.said.send_nowait(control.Ended("three", Reason.TOKEN_EXPIRED))
        await trio.sleep(2)
    assert len(scene.relay.opened) == 1
    nursery.cancel_scope.cancel()


async def test_draining_keeps_a_connector_away_for_a_minute_at_most(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, scene: Scene
) -> None:
    start(nursery, scene)
    await trio.sleep(1)
    for _ in range(3):
        scene.relay.control.said.send_nowait(control.Draining(2**53 - 1))
    await trio.sleep(100)  # the channel stays open meanwhile: the time counts from its end
    assert state(scene.one) == (True, False)
    scene.relay.control.close()
    await trio.sleep(control.MAX_RETRY_AFTER_SECONDS - 1)
    assert len(scene.relay.opened) == 1
    await trio.sleep(2 + 5)
    assert state(scene.one) == (True, False)
    nursery.cancel_scope.cancel()


async def test_a_draining_that_comes_again_changes_nothing(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, scene: Scene
) -> None:
    start(nursery, scene)
    await trio.sleep(1)
    for seconds in (1, 60, 60):
        scene.relay.control.said.send_nowait(control.Draining(seconds))
    await trio.sleep(1)
    scene.relay.control.close()
    await trio.sleep(1 + 5)
    assert state(scene.one) == (True, False)
    nursery.cancel_scope.cancel()


async def test_a_relay_that_was_away_for_long_is_in_use_again_within_five_seconds(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, scene: Scene
) -> None:
    start(nursery, scene)
    for away in (35, 3600):
        await trio.sleep(60)
        scene.relay.error = RelayUnreachable("down")
        scene.relay.control.close()
        await trio.sleep(away)
        scene.relay.error = None
        await trio.sleep(5.01)
        assert state(scene.one) == (True, False)
    nursery.cancel_scope.cancel()


async def test_a_relay_that_stays_away_fills_no_log(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    scene.relay.error = RelayUnreachable("down")
    start(nursery, scene)
    await trio.sleep(3600)
    assert len(scene.relay.opened) > 600
    assert 60 <= len(caplog.records) <= 130
    nursery.cancel_scope.cancel()


async def test_what_was_taken_by_somebody_else_is_reported_and_needs_another_control_channel(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    """The relay accepts no lower generation than that of the channel that is registered now."""
    start(nursery, scene)
    await trio.sleep(1)
    scene.relay.answers["one"] = Reason.SUPERSEDED
    scene.relay.control.said.send_nowait(control.Ended("one", Reason.SUPERSEDED))
    await trio.sleep(0.1)
    assert state(scene.one) == (False, False)
    assert "taken the place of this one" in caplog.text
    assert scene.relay.control.closed.is_set()
    del scene.relay.answers["one"]
    await trio.sleep(5)
    assert state(scene.one) == state(scene.two) == (True, False)
    assert len(scene.relay.opened) == 2
    nursery.cancel_scope.cancel()


async def test_told_to_stop_it_opens_nothing_more(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, scene: Scene
) -> None:
    async with trio.open_nursery() as inner:
        start(inner, scene)
        await trio.sleep(1)
        scene.registrar.stop()
    assert len(scene.relay.opened) == 1
    nursery.cancel_scope.cancel()


async def test_told_to_stop_while_it_opens_a_control_channel_it_registers_nothing(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, scene: Scene
) -> None:
    scene.relay.takes = 5.0
    async with trio.open_nursery() as inner:
        start(inner, scene)
        await trio.sleep(1)
        scene.registrar.stop()
    assert not scene.relay.opened
    assert not scene.relay.asked
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("identity", ["relay", "another"])
async def test_one_relay_under_two_names_is_registered_under_one(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, scene: Scene, identity: str
) -> None:
    """Otherwise the two registrations would supersede each other without end."""
    relay = FakeRelay(identity)
    registrar = Registrar(
        relay,
        FakeDataChannels(),
        FakeSessions(),
        UnrecordedInstances(),
        unwatched_targets(),
        clock=relay.clock,
        events=logged_events(),
        changed=lambda: None,
    )
    registrar.publish(scene.one.published)
    start(nursery, scene)
    await trio.sleep(1)
    nursery.start_soon(registrar.run, nursery)
    await trio.sleep(ASK_AGAIN_SECONDS / 2)
    twin = scene.one.published.publications[1]
    assert state(scene.one) == (True, False)
    if identity == "another":
        assert state(twin) == (True, False)
    else:
        assert state(twin) == (False, True)
        assert "same relay" in str(twin.state.failure)
        assert not relay.asked
    # Where it can no longer be reached by its first name, the second one is as good.
    scene.relay.error = RelayUnreachable("down")
    scene.relay.control.close()
    await trio.sleep(ASK_AGAIN_SECONDS)
    assert state(twin) == (True, False)
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("is_foreign", [True, False])
async def test_an_instance_that_another_process_uses_is_given_up(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, is_foreign: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_jitter(monkeypatch)
    scene = Scene()
    scene.relay.is_foreign = is_foreign
    scene.relay.answers["one"] = Reason.SUPERSEDED
    start(nursery, scene)
    await trio.sleep(0.1)
    assert scene.relay.superseded == [scene.relay.control]
    assert len(scene.instances.renewed) == is_foreign
    del scene.relay.answers["one"]
    await trio.sleep(5)
    assert state(scene.one) == state(scene.two) == (True, False)
    assert len(scene.relay.opened) == 2
    nursery.cancel_scope.cancel()


async def test_offers_are_accepted_as_long_as_there_is_room_and_each_sender_has_a_share(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, scene: Scene
) -> None:
    start(nursery, scene)
    await trio.sleep(1)

    async def offer(sender: str, name: str = "one") -> control.Message:
        scene.relay.control.said.send_nowait(control.Offer(1, name, bytes(TICKET_SIZE), 30, sender))
        await trio.testing.wait_all_tasks_blocked()
        return scene.relay.control.sent[-1]

    refused = control.Failed(1, Reason.LIMIT)
    for _ in range(16):
        assert await offer("greedy") == control.Accept(1)
    assert await offer("greedy") == refused
    assert await offer("another") == control.Accept(1)
    assert await offer("greedy") == refused, "it displaces itself only, and not so soon"
    assert await offer("greedy", "two") == control.Accept(1), "each hybrid connection has places of its own"
    assert scene.channels.serving == 18
    nursery.cancel_scope.cancel()


async def test_data_channels_that_fail_are_counted_for_all_hybrid_connections_of_the_relay(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, scene: Scene
) -> None:
    start(nursery, scene)
    await trio.sleep(1)
    scene.channels.fails = True
    for second in range(30):
        for name in ("one", "two") * 16:
            await scene.relay.control.said.send(control.Offer(1, name, bytes(TICKET_SIZE), 30, "a"))
        await trio.sleep(1)
        if second == 9:
            before = scene.channels.serving
    assert scene.channels.serving - before <= 20 * FAILURES_PER_SECOND + 2 * 16
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("name", ["one", "three"])
async def test_offers_for_what_is_not_published_are_refused(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, scene: Scene, name: str
) -> None:
    scene.relay.answers["one"] = Reason.UNKNOWN_CONNECTION
    start(nursery, scene)
    await trio.sleep(1)
    scene.relay.control.said.send_nowait(control.Offer(1, name, bytes(TICKET_SIZE), 30))
    await trio.testing.wait_all_tasks_blocked()
    assert scene.relay.control.sent == [control.Failed(1, Reason.UNKNOWN_CONNECTION)]
    assert scene.channels.serving == 0
    nursery.cancel_scope.cancel()


async def test_a_channel_that_is_lost_while_it_registers_costs_no_instance(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.relay.is_foreign = True
    register, lost = FakeControl.register, [True, True]

    async def lose(self: FakeControl, message: control.Register) -> control.Registered | control.Failed:
        if lost:
            lost.pop()
            raise RelayUnreachable("lost", reason=Reason.SESSION_LOST)
        return await register(self, message)

    monkeypatch.setattr(FakeControl, "register", lose)
    start(nursery, scene)
    await trio.sleep(10)
    assert state(scene.one) == (True, False)
    assert len(scene.relay.opened) == 3
    assert scene.relay.superseded == []
    nursery.cancel_scope.cancel()


async def test_the_relay_is_told_about_the_targets_of_what_is_registered_there(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, scene: Scene
) -> None:
    unknown, unhealthy = control.TargetHealth.UNKNOWN, control.TargetHealth.UNHEALTHY
    scene.relay.answers["two"] = Reason.LISTENER_QUOTA
    start(nursery, scene)
    await trio.sleep(1)
    assert scene.relay.control.health == [control.Health("one", unknown)]
    scene.monitor.health = lambda target: unhealthy  # type: ignore[method-assign]
    await trio.sleep(10)
    scene.monitor.wake()
    await trio.sleep(1)
    assert set(scene.relay.control.health[1:]) == {control.Health("one", unhealthy)}
    del scene.relay.answers["two"]
    await trio.sleep(60)
    assert control.Health("two", unhealthy) in scene.relay.control.health[2:]
    before = scene.relay.control
    before.close()
    await trio.sleep(10)
    assert scene.relay.control is not before
    assert sorted(one.connection for one in scene.relay.control.health) == ["one", "two"]
    assert {one.target for one in scene.relay.control.health} == {unhealthy}
    nursery.cancel_scope.cancel()
