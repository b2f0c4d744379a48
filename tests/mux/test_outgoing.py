"""The outgoing direction of a bridge, at a stream that accepts nothing more: has it failed, or has the peer only
stopped reading?"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import attrs
import pytest
import trio
import trio.testing

from hybridrelay.mux import MuxStream, Session
from hybridrelay.mux._directions import Broke, OutgoingDirection
from hybridrelay.mux.bridging import Input
from hybridrelay.protocol import Reason
from hybridrelay.streams.nowait import NowaitSocket
from hybridrelay.streams.registration import Next
from hybridrelay.testing import session_pair, tcp_pair

from .streams import open_stream


@attrs.define
class Scene:
    """A stream of which this side has the outgoing direction of a bridge, and the application of that bridge."""

    session: Session
    ours: MuxStream
    theirs: MuxStream
    local: trio.SocketStream
    application: trio.SocketStream
    reports: list[tuple[Input, Reason]] = attrs.field(factory=list)

    def direction(self, *early: bytes) -> OutgoingDirection:
        def report(cause: Input, reason: Reason = Reason.NO_ERROR) -> None:
            self.reports.append((cause, reason))

        return OutgoingDirection(self.ours, NowaitSocket(self.local), list(early), report)


@pytest.fixture
async def scene(nursery: trio.Nursery) -> AsyncIterator[Scene]:
    client, server = await session_pair(nursery)
    ours, theirs = await open_stream(client, server)
    local, application = await tcp_pair()
    async with local, application:
        yield Scene(client, ours, theirs, local, application)
    nursery.cancel_scope.cancel()


async def _says_something(scene: Scene) -> Callable[[], object]:
    await scene.application.send_all(b"x")
    await trio.lowlevel.wait_readable(scene.local.socket)
    return scene.direction().move


async def _ends(scene: Scene) -> Callable[[], object]:
    await scene.application.send_eof()
    await trio.lowlevel.wait_readable(scene.local.socket)
    return scene.direction().move


async def _is_repeated(scene: Scene) -> Callable[[], object]:
    return scene.direction(b"x", b"").move


async def _end_is_repeated(scene: Scene) -> Callable[[], object]:
    return scene.direction(b"").move


async def _waits_for_room(scene: Scene) -> Callable[[], object]:
    direction = scene.direction(bytes(1_000_000))
    assert direction.move() is Next.PAUSE, "the queue is full"
    return direction.continue_with_room


Step = Callable[[Scene], Awaitable[Callable[[], object]]]
STEPS: list[Step] = [_says_something, _ends, _is_repeated, _end_is_repeated, _waits_for_room]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("how", ["the peer resets", "this side resets", "the session ends"])
async def test_a_stream_that_has_failed_breaks_the_bridge(step: Step, how: str, scene: Scene) -> None:
    move = await step(scene)
    match how:
        case "the peer resets":
            scene.theirs.reset(Reason.TARGET_RESET)
        case "this side resets":
            scene.ours.reset(Reason.ADMINISTRATOR_DROPPED)
        case _:
            scene.session.close(Reason.GOING_AWAY)
    await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(Broke) as caught:
        move()
    assert caught.value.cause is (Input.STREAM_LOST if how == "the session ends" else Input.STREAM_RESET)
    if how == "the peer resets":
        assert caught.value.reason is Reason.TARGET_RESET
    assert scene.reports == [], "it is not that the peer has only stopped reading"


@pytest.mark.parametrize("step", [_says_something, _is_repeated, _waits_for_room])
async def test_a_peer_that_has_only_stopped_reading_does_not_break_the_bridge(step: Step, scene: Scene) -> None:
    move = await step(scene)
    await scene.theirs.aclose()
    await trio.testing.wait_all_tasks_blocked()
    move()
    assert scene.reports == [(Input.PEER_STOPPED, Reason.CANCELLED)]


@pytest.mark.parametrize("step", [_ends, _end_is_repeated])
async def test_a_peer_that_has_stopped_reading_misses_nothing_of_an_application_that_said_nothing(
    step: Step, scene: Scene
) -> None:
    move = await step(scene)
    await scene.theirs.aclose()
    await trio.testing.wait_all_tasks_blocked()
    move()
    assert scene.reports == [(Input.LOCAL_ENDED, Reason.NO_ERROR)]
