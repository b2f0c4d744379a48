"""Connections of applications: each begins in one event and ends in exactly one, whatever ends it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import attrs
import pytest
import trio
import trio.testing

from hybridrelay.client import Client
from hybridrelay.client.ingress import connections as connections_module
from hybridrelay.client.ingress.connections import Connections
from hybridrelay.client.requests import StreamRequests
from hybridrelay.connectivity.counters import SUCCESS, EndpointCounters
from hybridrelay.errors import RelayUnreachable, StreamRefused
from hybridrelay.events import (
    Event,
    EventStream,
    InternalError,
    OutOfMemory,
    StreamClosed,
    StreamFailed,
    StreamRequested,
)
from hybridrelay.mux import Bridges, DatagramFlow, MuxStream, Session, open_bridges
from hybridrelay.mux import bridges as bridges_module
from hybridrelay.protocol.reasons import NOT_CONNECTED, Reason
from hybridrelay.streams import sockets
from hybridrelay.streams.sockets import abort_stream
from hybridrelay.testing import session_pair, tcp_pair

from ..strings import STRING


class FakeClient(Client):
    """Opens streams on a session of the test's, once `ready` is set."""

    listening: tuple[str, ...] = ()

    def __init__(self, session: Session) -> None:
        self.published: list[Event] = []
        self.stream_of_events = EventStream(self.published.append)
        self.counters = EndpointCounters()
        self.requests = StreamRequests(lambda: STRING, self.counters)
        self.session = session
        self.error: Exception | None = None
        #: Whether another connector may accept a stream that was refused.
        self.has_other_connector = False
        self.ready = trio.Event()
        self.ready.set()

    @property
    def connection(self) -> str:
        return "db"

    @property
    def events(self) -> EventStream:
        return self.stream_of_events

    @property
    def is_connected(self) -> bool:
        return self.ready.is_set()

    @property
    def open_patience(self) -> float:
        return 60.0

    async def request_stream(
        self, *, port: int | None = None, wait_opened: bool = True, patience: float | None = None
    ) -> MuxStream:
        await self.ready.wait()
        if self.error is not None:
            raise self.error
        return self.session.open_stream_nowait()

    def request_stream_nowait(self, *, port: int | None = None) -> MuxStream | None:
        if not self.ready.is_set() or isinstance(self.error, RelayUnreachable):
            return None
        if self.error is not None:
            raise self.error
        return self.session.open_stream_nowait()

    async def find_other_connector(self, refusal: StreamRefused, stream: MuxStream | DatagramFlow) -> bool:
        await trio.lowlevel.checkpoint()
        return self.has_other_connector and refusal.reason in NOT_CONNECTED

    def stream_id_of(self, stream: MuxStream) -> str:
        return f"5e55-{stream.stream_id}"


@attrs.define
class Scene:
    """One connection of an application that is being served."""

    client: FakeClient
    connector: Session
    application: trio.SocketStream
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    over: trio.Event = attrs.field(factory=trio.Event)

    async def serve(self, local: trio.SocketStream) -> None:
        with self.scope:
            async with open_bridges() as bridges, trio.open_nursery() as nursery:
                Connections(self.client, bridges, nursery).serve(local)
        self.over.set()

    async def target(self) -> MuxStream:
        """The connector's end, accepted."""
        return (await self.connector.offers.receive()).accept()

    async def end(self) -> StreamClosed | StreamFailed:
        """The one event that says how it ended."""
        await self.over.wait()
        first, *others, last = self.client.published
        assert isinstance(first, StreamRequested)
        assert isinstance(last, StreamClosed | StreamFailed)
        assert not any(isinstance(one, StreamClosed | StreamFailed) for one in others)
        assert first.activity_id == last.activity_id
        assert self.client.counters.streams_opened.total() == 1
        if isinstance(last, StreamFailed):
            assert self.client.counters.streams_opened == {("db", last.reason.slug): 1}
        assert len(self.client.requests) == 0
        return last

    async def is_reset(self) -> bool:
        try:
            return bool(await self.application.receive_some(1)) and False
        except trio.BrokenResourceError:
            return True


@pytest.fixture
async def scene(nursery: trio.Nursery) -> AsyncIterator[Scene]:
    here, there = await session_pair(nursery)
    application, local = await tcp_pair()
    made = Scene(FakeClient(here), there, application)
    made.client.ready = trio.Event()
    nursery.start_soon(made.serve, local)
    async with application:
        yield made


async def test_one_that_is_served_to_its_end(scene: Scene, nursery: trio.Nursery) -> None:
    scene.client.ready.set()
    await scene.application.send_all(b"question")
    await scene.application.send_eof()
    target = await scene.target()
    assert await target.receive_some() == b"question"
    await target.send_all(b"answer!")
    assert await target.receive_some() == b"", "otherwise it would stop reading before the end"
    await target.aclose()
    assert await scene.application.receive_some() == b"answer!"
    assert await scene.application.receive_some() == b""
    end = await scene.end()
    assert isinstance(end, StreamClosed)
    assert (end.outcome, end.reason) == ("closed", Reason.NO_ERROR)
    assert (end.bytes_to_target, end.bytes_to_client) == (8, 7)
    nursery.cancel_scope.cancel()


async def test_one_that_the_target_refuses(scene: Scene, nursery: trio.Nursery) -> None:
    scene.client.ready.set()
    offer = await scene.connector.offers.receive()
    offer.refuse(Reason.TARGET_REFUSED)
    end = await scene.end()
    assert isinstance(end, StreamFailed)
    assert end.reason is Reason.TARGET_REFUSED
    assert await scene.is_reset()
    nursery.cancel_scope.cancel()


async def test_one_for_which_another_connector_reaches_the_target(scene: Scene, nursery: trio.Nursery) -> None:
    scene.client.ready.set()
    scene.client.has_other_connector = True
    await scene.application.send_all(b"at once")
    (await scene.connector.offers.receive()).refuse(Reason.TARGET_REFUSED)
    target = await scene.target()
    assert await target.receive_some() == b"at once"
    target.reset(Reason.TARGET_RESET)
    assert isinstance(await scene.end(), StreamClosed)
    assert scene.client.counters.streams_opened == {("db", SUCCESS): 1}
    nursery.cancel_scope.cancel()


async def test_one_that_another_stream_carries_counts_as_opened(scene: Scene, nursery: trio.Nursery) -> None:
    scene.client.ready.set()
    (await scene.connector.offers.receive()).refuse(Reason.GOING_AWAY)
    (await scene.target()).reset(Reason.TARGET_RESET)
    end = await scene.end()
    assert isinstance(end, StreamClosed)
    assert scene.client.counters.streams_opened == {("db", SUCCESS): 1}
    nursery.cancel_scope.cancel()


async def test_one_that_its_application_resets(scene: Scene, nursery: trio.Nursery) -> None:
    scene.client.ready.set()
    await scene.application.send_all(b"x")
    target = await scene.target()
    assert await target.receive_some() == b"x"
    await abort_stream(scene.application)
    end = await scene.end()
    assert isinstance(end, StreamClosed)
    assert (end.outcome, end.to_target, end.to_client) == ("broken", "reset-by-application", "reset-by-application")
    nursery.cancel_scope.cancel()


async def test_one_that_the_target_resets(scene: Scene, nursery: trio.Nursery) -> None:
    scene.client.ready.set()
    (await scene.target()).reset(Reason.TARGET_RESET)
    end = await scene.end()
    assert isinstance(end, StreamClosed)
    assert (end.outcome, end.reason, end.to_client) == ("broken", Reason.TARGET_RESET, "reset-by-target")
    assert await scene.is_reset()
    nursery.cancel_scope.cancel()


async def test_one_that_is_lost_with_its_session(scene: Scene, nursery: trio.Nursery) -> None:
    scene.client.ready.set()
    await (await scene.target()).send_all(b"x")
    assert await scene.application.receive_some() == b"x"
    scene.client.session.close(Reason.SESSION_LOST)
    end = await scene.end()
    assert isinstance(end, StreamClosed)
    assert (end.outcome, end.reason, end.to_client) == ("broken", Reason.SESSION_LOST, "lost")
    assert await scene.is_reset()
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("has_session", [False, True])
async def test_one_that_is_cancelled(scene: Scene, nursery: trio.Nursery, has_session: bool) -> None:
    if has_session:
        scene.client.ready.set()
        await scene.target()
    await trio.testing.wait_all_tasks_blocked()
    scene.scope.cancel()
    end = await scene.end()
    assert isinstance(end, StreamClosed)
    assert (end.outcome, end.reason, end.to_client) == ("broken", Reason.CANCELLED, "lost")
    assert await scene.is_reset()
    nursery.cancel_scope.cancel()


async def test_one_for_which_there_is_no_session(scene: Scene, nursery: trio.Nursery) -> None:
    scene.client.error = RelayUnreachable("down")
    scene.client.ready.set()
    end = await scene.end()
    assert isinstance(end, StreamFailed)
    assert end.detail == "down"
    assert await scene.is_reset()
    nursery.cancel_scope.cancel()


async def test_one_that_its_application_resets_before_there_is_a_session(scene: Scene, nursery: trio.Nursery) -> None:
    await trio.testing.wait_all_tasks_blocked()
    await abort_stream(scene.application)
    end = await scene.end()
    assert isinstance(end, StreamClosed)
    assert (end.to_target, end.bytes_to_target) == ("reset-by-application", 0)
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("sent", [b"", b"half of it"])
async def test_one_that_its_application_resets_at_the_moment_in_which_its_stream_is_opened(
    scene: Scene, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    """The target must not see what was sent with an end of file, as if the application had finished."""

    async def wait_reset_and_open(stream: trio.SocketStream) -> None:
        await sockets.wait_reset(stream)
        scene.client.ready.set()

    monkeypatch.setattr(connections_module, "wait_reset", wait_reset_and_open)
    await trio.testing.wait_all_tasks_blocked()
    if sent:
        await scene.application.send_all(sent)
    await abort_stream(scene.application)
    end = await scene.end()
    assert isinstance(end, StreamClosed)
    assert (end.to_target, end.bytes_to_target) == ("reset-by-application", 0)
    target = await scene.target()
    with pytest.raises(trio.BrokenResourceError):
        await target.receive_some()
    nursery.cancel_scope.cancel()


async def test_one_that_comes_while_there_is_a_session_needs_no_task(nursery: trio.Nursery) -> None:
    here, there = await session_pair(nursery)
    for error in (None, KeyError("a bug"), StreamRefused("too many streams", reason=Reason.LIMIT)):
        application, local = await tcp_pair()
        scene = Scene(FakeClient(here), there, application)
        scene.client.error = error
        async with application, open_bridges() as bridges, trio.open_nursery() as waiting:
            Connections(scene.client, bridges, waiting).serve(local)
            assert not waiting.child_tasks
            if error is None:
                (await scene.target()).reset(Reason.TARGET_RESET)
        scene.over.set()
        end = await scene.end()
        assert isinstance(end, StreamClosed if error is None else StreamFailed)
    nursery.cancel_scope.cancel()


async def test_a_session_that_ends_at_this_moment_is_replaced_by_another_one(nursery: trio.Nursery) -> None:
    here, there = await session_pair(nursery)
    application, local = await tcp_pair()
    scene = Scene(FakeClient(here), there, application)
    scene.client.error = StreamRefused("going away", reason=Reason.GOING_AWAY)
    async with application, open_bridges() as bridges, trio.open_nursery() as waiting:
        Connections(scene.client, bridges, waiting).serve(local)
        scene.client.error = None
        (await scene.target()).reset(Reason.TARGET_RESET)
    scene.over.set()
    assert isinstance(await scene.end(), StreamClosed)
    nursery.cancel_scope.cancel()


async def test_a_bug_ends_one_connection_only(scene: Scene, nursery: trio.Nursery) -> None:
    scene.client.error = KeyError("a bug")
    scene.client.ready.set()
    end = await scene.end()
    assert isinstance(end, StreamFailed)
    assert end.reason is Reason.INTERNAL_ERROR
    (bug,) = [event for event in scene.client.published if isinstance(event, InternalError)]
    assert isinstance(bug.exception, KeyError)
    assert await scene.is_reset()
    nursery.cancel_scope.cancel()


async def test_a_lack_of_memory_ends_one_connection_only_and_is_not_reported_as_a_bug(
    scene: Scene, nursery: trio.Nursery
) -> None:
    scene.client.error = ExceptionGroup("", [MemoryError()])
    scene.client.ready.set()
    end = await scene.end()
    assert isinstance(end, StreamFailed)
    (event,) = [event for event in scene.client.published if isinstance(event, InternalError | OutOfMemory)]
    assert isinstance(event, OutOfMemory)
    assert "ulimit -v" in event.remedy
    assert await scene.is_reset()
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("where", ["the bridge", "the reactor", "the request"])
async def test_a_lack_of_memory_when_a_stream_was_opened_ends_one_connection_only(
    where: str, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not end the task that accepts connections, for which `serve` is called."""

    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    target = {
        "the bridge": (bridges_module, "Bridge"),
        "the reactor": (Bridges, "begin"),
        "the request": (connections_module, "tune_socket"),
    }[where]
    here, there = await session_pair(nursery)
    application, local = await tcp_pair()
    scene = Scene(FakeClient(here), there, application)
    async with application:
        with monkeypatch.context() as patched:
            patched.setattr(*target, fail)
            async with open_bridges() as bridges, trio.open_nursery() as waiting:
                Connections(scene.client, bridges, waiting).serve(local)
                assert not waiting.child_tasks
                assert not len(bridges)
        scene.over.set()
        assert isinstance(await scene.end(), StreamFailed)
        (event,) = [event for event in scene.client.published if isinstance(event, InternalError | OutOfMemory)]
        assert isinstance(event, OutOfMemory)
        assert await scene.is_reset()
    if where != "the request":
        with pytest.raises(trio.BrokenResourceError):
            await (await scene.target()).receive_some()
    nursery.cancel_scope.cancel()


async def test_a_connector_that_acknowledges_nothing_does_not_delay_the_event(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Its seconds are the time until the application's connection was closed."""
    channels = trio.testing.memory_stream_pair()
    here, there = await session_pair(nursery, channels=lambda: channels)
    application, local = await tcp_pair()
    scene = Scene(FakeClient(here), there, application)
    nursery.start_soon(scene.serve, local)
    async with application:
        target = await scene.target()
        await target.send_eof()
        assert await application.receive_some() == b""
        channels[1].send_stream.send_all_hook = None  # from here on, nothing from the connector arrives
        await trio.sleep(7)
        await application.send_eof()
        await scene.over.wait()
        assert not any(isinstance(event, StreamClosed) for event in scene.client.published)
        await trio.sleep(5.5)
        end = await scene.end()
    assert isinstance(end, StreamClosed)
    assert (end.outcome, end.reason, end.to_target, end.to_client) == (
        "unconfirmed",
        Reason.NO_ERROR,
        "unconfirmed",
        "finished",
    )
    assert 7 <= end.seconds < 7.5
    nursery.cancel_scope.cancel()
