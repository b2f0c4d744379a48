"""Every stream that an application asks for has one event at its beginning and one at its end, whatever ended it."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import NoReturn

import attrs
import pytest
import trio
import trio.testing

from hybridrelay.connector import served_stream, sessions
from hybridrelay.connector.audit_logger import AuditLogger
from hybridrelay.connector.channels import DataChannels
from hybridrelay.connector.requested import first_target
from hybridrelay.connector.sessions import ProvenChannel, Sessions
from hybridrelay.connector.shares import Shares
from hybridrelay.connector.targets import TargetError
from hybridrelay.events import (
    Event,
    EventStream,
    SessionEnded,
    ShareUsedUp,
    StreamClosed,
    StreamNotConnected,
    StreamOpened,
    TargetOutOfResources,
)
from hybridrelay.mux import DATA_CONFIG, MuxStream, Session, SessionRole
from hybridrelay.mux._directions import OutgoingDirection
from hybridrelay.policy import Policy
from hybridrelay.protocol.config import BASE_WINDOW, SessionConfig
from hybridrelay.protocol.reasons import Reason
from hybridrelay.security import HostPort, PeerIdentity, Role
from hybridrelay.streams.sockets import abort_stream

from ..waiting import patience
from .fakes import WSS, FakeRelay, published

PEER = PeerIdentity("one", Role.APPLICATION, "app", "0A", 4e9)
#: In which a session must have resumed.
RESUME_SECONDS = 0.2


class Scene:
    """A connector, a client's session with it, and its target."""

    def __init__(self, target: trio.SocketListener, limits: SessionConfig) -> None:
        self.target = target
        self.published = published("one")
        address = HostPort("127.0.0.1", target.socket.getsockname()[1])
        self.published.use(attrs.evolve(self.published.string, target=address))
        self.happened: list[Event] = []
        events = EventStream(self.happened.append, AuditLogger())
        self.sessions = Sessions(Policy(), limits, events, lost=lambda _: None, changed=lambda: None)
        self.channels = DataChannels(self.sessions, events)
        #: The connector's tasks.
        self.scope = trio.CancelScope()
        #: The target's connections.
        self.accepted: list[trio.SocketStream] = []
        self.client = Session.create(SessionRole.INITIATOR, config=attrs.evolve(DATA_CONFIG, resume_deadline=100.0))

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        ours, theirs = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._serve, theirs)
            await nursery.start(partial(self.client.run, ours, reconnect=trio.sleep_forever))
            task_status.started()

    async def _serve(self, channel: trio.abc.Stream) -> None:
        with self.scope:
            await self.channels.greet(ProvenChannel(self.published, channel, PEER, FakeRelay(), WSS))

    async def connect(self) -> tuple[MuxStream, trio.SocketStream]:
        """A stream that has reached the target, and has moved five bytes to it and seven back."""
        stream = await self.client.open_stream()
        server = await self.target.accept()
        self.accepted.append(server)
        await stream.send_all(b"query")
        assert await server.receive_some() == b"query"
        await server.send_all(b"answers")
        assert await stream.receive_some() == b"answers"
        return stream, server

    def ends(self) -> list[StreamClosed | StreamNotConnected]:
        return [event for event in self.happened if isinstance(event, StreamClosed | StreamNotConnected)]

    def begun(self) -> list[StreamOpened]:
        return [event for event in self.happened if isinstance(event, StreamOpened)]


Start = Callable[[SessionConfig], Awaitable[Scene]]


async def eventually(condition: Callable[[], object]) -> None:
    with trio.fail_after(patience(10)):
        while not condition():
            await trio.sleep(0.01)


# --- what ends a stream that has reached its target


async def _both_finish(scene: Scene) -> None:
    stream, server = await scene.connect()
    await stream.send_eof()
    assert await server.receive_some() == b""
    await server.send_eof()
    assert await stream.receive_some() == b""


async def _target_resets_after_the_end_of_file(scene: Scene) -> None:
    stream, server = await scene.connect()
    await stream.send_eof()
    assert await server.receive_some() == b""
    await abort_stream(server)


async def _target_resets(scene: Scene) -> None:
    _, server = await scene.connect()
    await abort_stream(server)


async def _application_resets(scene: Scene) -> None:
    stream, _ = await scene.connect()
    stream.reset(Reason.CANCELLED)


async def _client_closes_the_session(scene: Scene) -> None:
    await scene.connect()
    scene.client.close()


async def _session_is_lost(scene: Scene) -> None:
    await scene.connect()
    scene.client.drop_channel()


async def _identity_is_denied(scene: Scene) -> None:
    await scene.connect()
    scene.sessions.set_policy(Policy(frozenset({PEER.label})))


async def _connector_stops(scene: Scene) -> None:
    await scene.connect()
    await scene.sessions.drain(0)


async def _connector_is_cancelled(scene: Scene) -> None:
    await scene.connect()
    scene.scope.cancel()


async def _bug_while_joined(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def move(_: OutgoingDirection) -> NoReturn:
        raise RuntimeError("a bug")

    _, server = await scene.connect()
    monkeypatch.setattr(OutgoingDirection, "move", move)
    await server.send_all(b"more")


# --- what ends one before


def _connecting_takes_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_stream, "open_target", lambda _, **options: trio.sleep_forever())


def _connecting_raises(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    async def open_target(_: HostPort, **options: object) -> trio.SocketStream:
        await trio.lowlevel.checkpoint()
        raise error

    monkeypatch.setattr(served_stream, "open_target", open_target)


async def _ask(scene: Scene) -> MuxStream:
    stream = scene.client.open_stream_nowait()
    await eventually(scene.begun)
    return stream


async def _target_refuses(scene: Scene) -> None:
    await scene.target.aclose()
    await _ask(scene)


async def _target_is_silent(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    _connecting_raises(monkeypatch, TargetError("the target did not answer", Reason.TARGET_TIMEOUT))
    await _ask(scene)


async def _machine_is_out_of_descriptors(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_socket(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(trio.socket, "socket", no_socket)
    await _ask(scene)
    await eventually(scene.ends)
    monkeypatch.undo()
    assert [event.target for event in scene.happened if isinstance(event, TargetOutOfResources)]


async def _bug_while_connecting(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    _connecting_raises(monkeypatch, RuntimeError("a bug"))
    await _ask(scene)


async def _stream_is_denied(scene: Scene) -> None:
    scene.sessions.streams._open._policy = lambda: Policy(frozenset({PEER.label}))
    await _ask(scene)


async def _application_has_its_share(scene: Scene) -> None:
    shares, streams = Shares(limit=lambda: 10_000, ports=lambda: 1), scene.sessions.streams
    streams._serving = attrs.evolve(streams._serving, shares=shares)
    taken = shares.ports(first_target(scene.published.target))
    assert taken.take((scene.published, PEER.serial))
    await _ask(scene)
    await eventually(scene.ends)
    assert [event.serial for event in scene.happened if isinstance(event, ShareUsedUp)] == [PEER.serial]


async def _application_gives_up(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    _connecting_takes_for_ever(monkeypatch)
    (await _ask(scene)).reset(Reason.CANCELLED)


async def _session_is_lost_while_connecting(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    _connecting_takes_for_ever(monkeypatch)
    await _ask(scene)
    scene.client.drop_channel()


async def _identity_is_denied_while_connecting(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    _connecting_takes_for_ever(monkeypatch)
    await _ask(scene)
    scene.sessions.set_policy(Policy(frozenset({PEER.label})))


async def _connector_stops_while_connecting(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    _connecting_takes_for_ever(monkeypatch)
    await _ask(scene)
    await scene.sessions.drain(0)


async def _connector_is_cancelled_while_connecting(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    _connecting_takes_for_ever(monkeypatch)
    await _ask(scene)
    scene.scope.cancel()


CLOSED, RUDE, BROKEN, NOT_CONNECTED = "closed", "closed-with-reset", "broken", "not connected"
ENDINGS: list[tuple[Callable[..., Awaitable[None]], str, Reason]] = [
    (_both_finish, CLOSED, Reason.NO_ERROR),
    (_target_resets_after_the_end_of_file, RUDE, Reason.TARGET_RESET),
    (_target_resets, BROKEN, Reason.TARGET_RESET),
    (_application_resets, BROKEN, Reason.CANCELLED),
    (_client_closes_the_session, BROKEN, Reason.SESSION_LOST),
    (_session_is_lost, BROKEN, Reason.SESSION_LOST),
    (_identity_is_denied, BROKEN, Reason.IDENTITY_DENIED),
    (_connector_stops, BROKEN, Reason.GOING_AWAY),
    (_connector_is_cancelled, BROKEN, Reason.GOING_AWAY),
    (_bug_while_joined, BROKEN, Reason.INTERNAL_ERROR),
    (_target_refuses, NOT_CONNECTED, Reason.TARGET_REFUSED),
    (_target_is_silent, NOT_CONNECTED, Reason.TARGET_TIMEOUT),
    (_machine_is_out_of_descriptors, NOT_CONNECTED, Reason.OUT_OF_RESOURCES),
    (_bug_while_connecting, NOT_CONNECTED, Reason.INTERNAL_ERROR),
    (_stream_is_denied, NOT_CONNECTED, Reason.IDENTITY_DENIED),
    (_application_has_its_share, NOT_CONNECTED, Reason.LIMIT),
    (_application_gives_up, NOT_CONNECTED, Reason.CANCELLED),
    (_session_is_lost_while_connecting, NOT_CONNECTED, Reason.SESSION_LOST),
    (_identity_is_denied_while_connecting, NOT_CONNECTED, Reason.IDENTITY_DENIED),
    (_connector_stops_while_connecting, NOT_CONNECTED, Reason.GOING_AWAY),
    (_connector_is_cancelled_while_connecting, NOT_CONNECTED, Reason.GOING_AWAY),
]


@pytest.fixture
async def start(nursery: trio.Nursery, target: trio.SocketListener) -> AsyncIterator[Start]:
    """Starts a connector with these limits, and a session with it."""
    scenes: list[Scene] = []

    async def start(limits: SessionConfig) -> Scene:
        scenes.append(Scene(target, limits))
        await nursery.start(scenes[-1].run)
        return scenes[-1]

    yield start
    nursery.cancel_scope.cancel()
    for scene in scenes:
        for server in scene.accepted:
            await trio.aclose_forcefully(server)


@pytest.fixture
async def target() -> AsyncIterator[trio.SocketListener]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        yield listener


@pytest.fixture
def audit(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """The kinds of the lines in the audit log."""
    caplog.set_level(logging.INFO, "hybridrelay.audit")
    return lambda: [
        record.__dict__["fields"]["event"] for record in caplog.records if record.name == "hybridrelay.audit"
    ]


def _kind(end: StreamClosed | StreamNotConnected) -> str:
    return NOT_CONNECTED if isinstance(end, StreamNotConnected) else end.outcome


@pytest.mark.parametrize(("end", "kind", "reason"), ENDINGS, ids=[end.__name__[1:] for end, *_ in ENDINGS])
async def test_exactly_one_event_at_the_end(
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
    audit: Callable[[], list[str]],
    end: Callable[..., Awaitable[None]],
    kind: str,
    reason: Reason,
) -> None:
    scene = await start(attrs.evolve(DATA_CONFIG, resume_deadline=RESUME_SECONDS))
    await (end(scene, monkeypatch) if "monkeypatch" in end.__annotations__ else end(scene))
    await eventually(scene.ends)
    scene.scope.cancel()  # nothing follows when the connector ends
    await eventually(lambda: any(isinstance(event, SessionEnded) for event in scene.happened))
    await trio.testing.wait_all_tasks_blocked()

    (begun,), (ended,) = scene.begun(), scene.ends()
    assert (_kind(ended), ended.reason) == (kind, reason)
    assert ended.activity_id == begun.activity_id
    assert (ended.connection, ended.label, ended.serial) == (begun.connection, begun.label, begun.serial)
    assert ended.target == begun.target == str(scene.published.target)
    assert scene.happened.index(begun) < scene.happened.index(ended)
    assert audit() == ["open", "refused" if kind == NOT_CONNECTED else kind]


async def test_streams_that_the_session_refuses_by_itself_have_the_same_two_events(
    start: Start, monkeypatch: pytest.MonkeyPatch, audit: Callable[[], list[str]]
) -> None:
    """There is memory for one stream."""
    monkeypatch.setattr(sessions, "PROCESS_BUDGET", 2 * BASE_WINDOW - 1)
    scene = await start(DATA_CONFIG)
    await scene.connect()
    refused = [scene.client.open_stream_nowait() for _ in range(2)]
    await eventually(lambda: len(scene.ends()) == len(refused))

    assert [(_kind(one), one.reason) for one in scene.ends()] == [(NOT_CONNECTED, Reason.LIMIT)] * 2
    assert len({one.activity_id for one in scene.begun()}) == 3
    assert {one.activity_id for one in scene.ends()} == {one.activity_id for one in scene.begun()[1:]}
    assert audit() == ["open", "open", "refused", "open", "refused"]


async def test_more_streams_than_can_be_processed(start: Start) -> None:
    """The connector has not looked at the first one when the others arrive."""
    scene = await start(attrs.evolve(DATA_CONFIG, max_backlog=1))
    for _ in range(3):
        scene.client.open_stream_nowait()
    await eventually(lambda: len(scene.begun()) == 3)
    await eventually(lambda: len(scene.ends()) == 2)

    assert {one.reason for one in scene.ends()} == {Reason.LIMIT}


async def test_a_stream_that_was_given_up_before_it_was_registered_again_at_has_no_event(start: Start) -> None:
    scene = await start(DATA_CONFIG)
    scene.client.open_stream_nowait().reset(Reason.CANCELLED)
    await scene.connect()

    assert len(scene.begun()) == 1
