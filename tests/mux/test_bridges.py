"""Scopes of bridges: a scope ends when all its bridges have ended. If it is cancelled, those that are left are
reset."""

from __future__ import annotations

import math
import select
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NoReturn

import attrs
import pytest
import trio
import trio.testing

from hybridrelay.errors import StreamRefused
from hybridrelay.mux import BridgeProgress, Bridges, MuxStream, Session, open_bridges
from hybridrelay.mux._directions import OutgoingDirection
from hybridrelay.protocol import Reason
from hybridrelay.streams.sockets import abort_stream
from hybridrelay.testing import session_pair, tcp_pair

from ..receiving import receive_all
from ..waiting import async_wait_until, patience


@attrs.define
class Scene:
    """Two sessions, and the connections of applications at one of them."""

    client: Session
    server: Session
    #: How each bridge has ended, in this order: its number, and a bug.
    over: list[tuple[int, Exception | None]] = attrs.field(factory=list)
    progress: list[BridgeProgress] = attrs.field(factory=list)
    applications: list[trio.SocketStream] = attrs.field(factory=list)

    async def bridge(self, bridges: Bridges) -> tuple[trio.SocketStream, MuxStream]:
        """Start a bridge. Returns the application's end, and the stream at the other end of the session."""
        application, local = await tcp_pair()
        self.applications.append(application)
        number = len(self.progress)
        self.progress.append(BridgeProgress())

        def over(bug: Exception | None) -> None:
            self.over.append((number, bug))

        bridges.start(self.client.open_stream_nowait(), local, progress=self.progress[-1], over=over)
        return application, (await self.server.offers.receive()).accept()


@pytest.fixture
def epoll(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the reactor use an epoll set, whatever the environment of the tests says."""
    if not hasattr(select, "epoll"):
        pytest.skip("this system has no epoll")
    monkeypatch.delenv("HYBRIDRELAY_POLLING", raising=False)


@pytest.fixture
async def scene(nursery: trio.Nursery) -> AsyncIterator[Scene]:
    made = Scene(*await session_pair(nursery))
    yield made
    for application in made.applications:
        await trio.aclose_forcefully(application)
    nursery.cancel_scope.cancel()


async def _is_reset(application: trio.SocketStream, stream: MuxStream) -> bool:
    with pytest.raises(trio.BrokenResourceError):
        await application.receive_some(1)
    with pytest.raises(trio.BrokenResourceError):
        await stream.receive_some(1)
    return True


@pytest.mark.usefixtures("epoll")
async def test_a_bridge_needs_no_task(scene: Scene) -> None:
    async with trio.open_nursery() as nursery:
        tasks_before = trio.lowlevel.current_statistics().tasks_living
        async with open_bridges() as bridges:
            ends = [await scene.bridge(bridges) for _ in range(5)]
            assert len(bridges) == 5
            await trio.testing.wait_all_tasks_blocked()
            living = trio.lowlevel.current_statistics().tasks_living
            for application, stream in ends:
                await application.send_all(b"question")
                assert await stream.receive_some() == b"question"
                await application.send_eof()
                await stream.send_eof()
                assert await receive_all(application) == b""
            assert living <= tasks_before + 1  # the time limits

            async def no_more_tasks() -> bool:  # a channel may have one for a moment
                return trio.lowlevel.current_statistics().tasks_living <= living

            await async_wait_until(no_more_tasks, seconds=10, what="the bridges have no tasks")
        assert len(bridges) == 0
        nursery.cancel_scope.cancel()
    assert scene.over == [(number, None) for number in range(5)]


async def test_the_end_of_the_scope_waits_for_all(scene: Scene) -> None:
    async with trio.open_nursery() as nursery:
        ended = trio.Event()
        ends: list[tuple[trio.SocketStream, MuxStream]] = []

        async def run() -> None:
            async with open_bridges() as bridges:
                ends.extend([await scene.bridge(bridges), await scene.bridge(bridges)])
            ended.set()

        nursery.start_soon(run)
        await trio.testing.wait_all_tasks_blocked()
        for application, stream in ends:
            assert not ended.is_set()
            await application.send_eof()
            await stream.send_eof()
            assert await receive_all(application) == b""
        await ended.wait()
    assert scene.over == [(0, None), (1, None)]
    assert all(progress.so_far().received_all for progress in scene.progress)


@pytest.mark.parametrize("how", ["cancelled", "an exception"])
async def test_a_scope_that_is_cut_short_resets_those_that_are_left(scene: Scene, how: str) -> None:
    made: list[Bridges] = []
    ends: list[tuple[trio.SocketStream, MuxStream]] = []

    async def run(scope: trio.CancelScope) -> None:
        async with open_bridges() as bridges:
            made.append(bridges)
            one, other = await scene.bridge(bridges), await scene.bridge(bridges)
            ends.append(other)
            await one[0].send_eof()
            await one[1].send_eof()
            assert await receive_all(one[0]) == b""
            await other[0].send_all(b"x")
            assert await other[1].receive_some() == b"x"
            if how == "an exception":
                raise KeyError
            scope.cancel()
            await trio.sleep_forever()

    with trio.CancelScope() as scope:
        if how == "an exception":
            with pytest.raises(KeyError):
                await run(scope)
        else:
            await run(scope)
    assert scope.cancelled_caught == (how == "cancelled")
    assert made[0].cut_off_count == 1
    assert [number for number, _ in scene.over] == [0, 1]
    assert scene.progress[0].so_far().reason is Reason.NO_ERROR
    assert scene.progress[1].so_far().reason is Reason.CANCELLED
    assert await _is_reset(*ends[0])


@asynccontextmanager
async def one_of_two(scene: Scene, bug: type[Exception]) -> AsyncIterator[tuple[trio.SocketStream, MuxStream]]:
    """Yield both ends of a bridge, which this bug ends in the block, and check that another bridge goes on."""
    async with open_bridges() as bridges:
        ends = await scene.bridge(bridges)
        survivor, its_stream = await scene.bridge(bridges)
        await trio.testing.wait_all_tasks_blocked()
        yield ends
        await survivor.send_all(b"y")
        assert await its_stream.receive_some() == b"y"
        await survivor.send_eof()
        await its_stream.send_eof()
    (number, error), survived = scene.over
    assert (number, survived) == (0, (1, None))
    assert isinstance(error, bug)


async def test_a_bug_ends_one_bridge_only(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def move(_: OutgoingDirection) -> NoReturn:
        raise RuntimeError("a bug")

    async with one_of_two(scene, RuntimeError) as (application, stream):
        with monkeypatch.context() as context:
            context.setattr(OutgoingDirection, "move", move)
            await application.send_all(b"x")
            assert await _is_reset(application, stream)


async def test_a_bridge_that_cannot_even_be_ended_affects_no_other_one(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There may be no memory, for instance."""

    def no_memory(*_: object) -> NoReturn:
        raise MemoryError

    async with one_of_two(scene, MemoryError) as (application, stream):
        with monkeypatch.context() as context:
            context.setattr(MuxStream, "reset", no_memory)
            context.setattr(OutgoingDirection, "move", no_memory)
            await application.send_all(b"x")
            with pytest.raises(trio.BrokenResourceError):
                await application.receive_some(1)
    await stream.aclose()


@pytest.mark.parametrize("how", ["reset", "lost"])
async def test_an_end_of_the_stream_is_noticed_while_the_connection_accepts_nothing(scene: Scene, how: str) -> None:
    async with open_bridges() as bridges:
        _, stream = await scene.bridge(bridges)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, bytes(50_000_000))
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert not scene.over
            nursery.cancel_scope.cancel()
        if how == "reset":
            stream.reset(Reason.TARGET_RESET)
        else:
            scene.server.close()
        await bridges.wait_empty()
    assert scene.over == [(0, None)]
    reason = scene.progress[0].so_far().reason
    assert reason is (Reason.TARGET_RESET if how == "reset" else Reason.SESSION_LOST)


async def test_everyone_who_waits_for_the_end_of_all_bridges_learns_of_it(scene: Scene) -> None:
    async with open_bridges() as bridges:
        application, stream = await scene.bridge(bridges)
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bridges.wait_empty)
                nursery.start_soon(bridges.wait_empty)
                await trio.testing.wait_all_tasks_blocked()
                stream.reset(Reason.TARGET_RESET)
    assert scene.over == [(0, None)]
    await application.aclose()


@pytest.mark.usefixtures("epoll")  # nothing else reports it
async def test_a_reset_of_the_connection_is_noticed_while_the_stream_accepts_nothing(scene: Scene) -> None:
    async with open_bridges() as bridges:
        application, stream = await scene.bridge(bridges)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(application.send_all, bytes(50_000_000))
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert not scene.over
            nursery.cancel_scope.cancel()
        await abort_stream(application)
        await bridges.wait_empty()
    assert scene.over == [(0, None)]
    with pytest.raises(trio.BrokenResourceError):
        await receive_all(stream)


@pytest.mark.parametrize("succeeds", [True, False, None])
async def test_a_bridge_that_is_cut_off_while_another_stream_is_opened(scene: Scene, succeeds: bool | None) -> None:
    """Whether that succeeds at the same moment, fails, or is still waited for."""
    application, local = await tcp_pair()
    scene.applications.append(application)
    asked, answer = trio.Event(), trio.Event()
    opened: list[MuxStream] = []

    async def reopen(refusal: StreamRefused) -> MuxStream:
        asked.set()
        with trio.CancelScope(shield=succeeds is not None):
            await answer.wait()
        if not succeeds:
            raise refusal
        opened.append(scene.client.open_stream_nowait())
        return opened[-1]

    def over(bug: Exception | None) -> None:
        scene.over.append((0, bug))

    async with trio.open_nursery() as nursery:

        async def run() -> None:
            async with open_bridges() as bridges:
                bridges.start(scene.client.open_stream_nowait(), local, reopen=reopen, over=over)
                await bridges.wait_empty()

        nursery.start_soon(run)
        (await scene.server.offers.receive()).refuse(Reason.GOING_AWAY)
        await asked.wait()
        nursery.cancel_scope.cancel()
        answer.set()
    assert scene.over == [(0, None)]
    assert local.socket.fileno() == -1
    assert all(stream.reset_reason is Reason.CANCELLED for stream in opened)
    with pytest.raises(trio.BrokenResourceError):
        await application.receive_some(1)


async def test_a_program_that_ends_while_another_stream_is_opened(scene: Scene) -> None:
    """What it has sent by then arrives over the other stream, and so does the end of file."""
    application, local = await tcp_pair()
    scene.applications.append(application)
    asked, answer, over = trio.Event(), trio.Event(), list[Exception | None]()

    async def reopen(refusal: StreamRefused) -> MuxStream:
        asked.set()
        await answer.wait()
        return scene.client.open_stream_nowait()

    async with open_bridges() as bridges, trio.open_nursery() as nursery:
        bridges.start(scene.client.open_stream_nowait(), local, reopen=reopen, over=over.append)
        await application.send_all(b"early ")
        (await scene.server.offers.receive()).refuse(Reason.GOING_AWAY)
        await asked.wait()
        await application.send_all(b"late")
        nursery.start_soon(bridges.end_programs)
        await trio.testing.wait_all_tasks_blocked()
        answer.set()
        with trio.fail_after(patience(20)):
            stream = (await scene.server.offers.receive()).accept()
            assert await receive_all(stream) == b"early late"
            await stream.send_eof()
            await bridges.wait_empty()
    assert over == [None]


@attrs.define(eq=False)
class _Program:
    """A bridge whose buffers become empty after so many looks at them; see `RunningBridge`."""

    bridges: Bridges
    looks: float
    ended_at: float | None = None

    def has_unread(self) -> bool:
        self.looks -= 1
        return self.looks >= 0

    def end_program(self) -> None:
        self.ended_at = trio.current_time()
        self.cut_off()

    def cut_off(self) -> None:
        self.bridges.ended(self)  # type: ignore[arg-type]


async def test_a_bridge_whose_buffers_stay_full_delays_no_other_one(autojump_clock: trio.testing.MockClock) -> None:
    """When the process ends: there is one deadline for all of them."""
    async with open_bridges() as bridges:
        programs = [_Program(bridges, looks) for looks in (math.inf, 0, 3, math.inf, 0)]
        bridges._running.update(dict.fromkeys(programs))  # type: ignore[arg-type]
        began = trio.current_time()
        with trio.move_on_after(10) as scope:
            await bridges.end_programs()
        assert scope.cancelled_caught
        at_once = [one.ended_at is not None and one.ended_at - began < 1 for one in programs]
        assert at_once == [False, True, True, False, True]
        assert [*map(id, bridges._running)] == [id(programs[0]), id(programs[3])]
        bridges.cut_off()
        await bridges.end_programs()
