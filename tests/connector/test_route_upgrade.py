"""A connector opens a control channel over a better route first, and lets go of the earlier one afterwards.

The relay's half is the real one, reached through memory; everything happens in virtual time.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from hybridrelay.connectivity import DIRECTLY, Candidate, RelayEndpoint
from hybridrelay.connectivity.control import ControlChannel
from hybridrelay.connectivity.instance import new_instance
from hybridrelay.connectivity.link import RelayLink
from hybridrelay.connector import channels
from hybridrelay.connector.instance_file import UnrecordedInstances
from hybridrelay.connector.published import Publication
from hybridrelay.connector.registrar import Registrar
from hybridrelay.connector.registration import Registration
from hybridrelay.connector.sessions import Sessions
from hybridrelay.connector.unproven import Newcomer
from hybridrelay.errors import HybridRelayError, RelayUnreachable, RendezvousError
from hybridrelay.events import DataChannelDeclined, DataChannelFailed, Event, EventStream, Level, logged_events
from hybridrelay.mux import CONTROL_CONFIG, DATA_CONFIG, EarlySession, Session, SessionRole
from hybridrelay.policy import Policy
from hybridrelay.protocol import control
from hybridrelay.protocol.control_codec import ControlDecoder, encode_message
from hybridrelay.protocol.preamble import TICKET_SIZE
from hybridrelay.protocol.reasons import Reason
from hybridrelay.relay.service.broker import BrokerService
from hybridrelay.relay.service.control import ControlPeer
from hybridrelay.relay.store.sqlite import SQLiteStore
from hybridrelay.security import Right, Rule, Secret, audience_for, make_token

from ..keys import key_of
from .fakes import (
    HOST,
    TCP,
    WSS,
    FakeControl,
    FakeDataChannels,
    FakeRelay,
    FakeSessions,
    no_check,
    published,
    state,
    unwatched_targets,
)

SECRET = "0" * 64
INSTANCE = control.instance_of(SECRET)
#: To the relay, and as long again for its answer (seconds).
DELAY = 0.05
NAMES = ("one", "two")


class Control(ControlChannel):
    """A control channel with a delay, to a relay that may refuse registrations."""

    place: Place

    async def register(self, message: control.Register) -> control.Registered | control.Failed:
        self.place.requests += 1
        await trio.sleep(DELAY)
        if reason := self.place.refusals.get((self.candidate.route.name, message.connection)):
            return control.Failed(message.id, reason)
        answer = await super().register(message)
        self.place.on_reply(self, message.connection)
        await trio.sleep(DELAY)
        self.place.on_answer(self, message.connection)
        return answer


@attrs.define(eq=False)
class Opened:
    """A control channel as both sides have it."""

    #: The relay's; in its place the connector's, until the relay has authenticated it.
    session: Session
    channel: Control = attrs.field(init=False)


class Place(RelayLink):
    """The link to a relay in the same process; a test says when there is a better route."""

    def __init__(self, broker: BrokerService, relay: trio.Nursery) -> None:
        super().__init__(RelayEndpoint(HOST), control.PeerRole.CONNECTOR, instance=new_instance(), dialer=DIRECTLY)
        self.broker = broker
        self._relay = relay
        #: Raised in place of opening another channel.
        self.error: HybridRelayError | None = None
        #: What it takes to open one (seconds).
        self.takes = 2 * DELAY
        #: By route and hybrid connection.
        self.refusals: dict[tuple[str, str], Reason] = {}
        self.opened: list[Opened] = []
        #: The relay's ends of them.
        self.peers: list[ControlPeer] = []
        self.requests = self.forgotten = 0
        #: Called when an answer has arrived, and when the code that has asked is about to see it.
        self.on_reply: Callable[[Control, str], None] = lambda channel, name: None
        self.on_answer: Callable[[Control, str], None] = lambda channel, name: None
        self.improved: Callable[[Candidate], Awaitable[None]]

    async def upgrade_route(
        self, in_use: Callable[[], Candidate | None], improved: Callable[[Candidate], Awaitable[None]]
    ) -> None:
        self.improved = improved
        await trio.sleep_forever()

    def forget(self, *, network_changed: bool = False) -> None:
        self.forgotten += 1

    def renew_instance(self, superseded: ControlChannel) -> None:
        """It was one of our own channels that has taken the place of another."""

    async def start_control(self, nursery: trio.Nursery, candidate: Candidate | None = None) -> Control:
        await trio.sleep(self.takes)
        if self.error is not None:
            raise self.error
        generation = len(self.opened) + 1
        ours, theirs = trio.testing.memory_stream_pair()
        session = Session.create(SessionRole.INITIATOR, config=CONTROL_CONFIG)
        opened = Opened(session)
        self._relay.start_soon(self._serve_peer, theirs, opened)
        await nursery.start(session.run, ours)
        stream = session.open_stream_nowait()
        hello = control.Hello(control.PeerRole.CONNECTOR, INSTANCE, generation, "test", SECRET)
        await stream.send_all(encode_message(hello))
        channel = Control(session, stream, control.Welcome("f" * 32, "test"), candidate or WSS, pin="pin")
        channel.place = self
        opened.channel = channel
        self.opened.append(opened)
        nursery.start_soon(self._serve_channel, channel, session)
        return channel

    async def _serve_peer(self, channel: trio.abc.Stream, opened: Opened) -> None:
        early = EarlySession(channel)
        peer = ControlPeer(self.broker, early)
        self.peers.append(peer)
        try:
            async with trio.open_nursery() as nursery:
                with suppress(trio.BrokenResourceError):
                    while not peer.authorized and await peer.serve_some():
                        pass
                    if peer.authorized:
                        opened.session, stream = early.take_over()
                        nursery.start_soon(opened.session.run, channel)
                        peer.attach(opened.session, stream, nursery)
                        while await peer.serve_some():
                            pass
                nursery.cancel_scope.cancel()
        finally:
            peer.lost()
            await trio.aclose_forcefully(channel)

    @staticmethod
    async def _serve_channel(channel: Control, session: Session) -> None:
        await channel._serve(ControlDecoder(), [])
        session.close()

    @property
    def routes(self) -> list[str]:
        """The routes of the control channels that are open."""
        return [one.channel.candidate.route.name for one in self.opened if one.session.outcome is None]

    @property
    def listening(self) -> dict[str, int]:
        """Which control channel is registered for what; counted from 1."""
        found = {name: self.broker.listeners.find(name, INSTANCE) for name in NAMES}
        return {name: listener.generation for name, listener in found.items() if listener is not None}


class MovingSessions(FakeSessions):
    """Remembers the routes to which sessions were to move."""

    def __init__(self) -> None:
        super().__init__()
        self.moved: list[Candidate] = []

    async def move(self, link: RelayLink, candidate: Candidate) -> None:
        self.moved.append(candidate)


class FailingChannels(FakeDataChannels):
    """Fails all data channels."""

    async def serve(
        self,
        publication: Publication,
        control_channel: ControlChannel,
        offer: control.Offer,
        newcomer: Newcomer,
        key: Secret | None = None,
    ) -> None:
        self.serving += 1
        publication.unproven.leave(newcomer)
        await trio.sleep(0.001)
        with suppress(RelayUnreachable):
            # So that rendezvous do not add up to a limit.
            await control_channel.send(control.Failed(offer.id, Reason.LISTENER_CANNOT_DIAL))


class Scene:
    """A connector that is registered over the worse route, for `one` and `two`."""

    def __init__(self, place: Place, keys: dict[str, Secret]) -> None:
        self.place = place
        self.channels, self.sessions = FailingChannels(), MovingSessions()
        self.registrar = Registrar(
            place,
            self.channels,
            self.sessions,
            UnrecordedInstances(),
            unwatched_targets(),
            clock=trio.current_time,
            events=logged_events(),
            changed=lambda: None,
        )
        self.registrations = {}
        self.keys = keys
        for name, key in keys.items():
            made = published(name, key)
            self.registrar.publish(made)
            self.registrations[name] = made.publications[0]
        self.ended = trio.Event()
        self.scope = trio.CancelScope()

    async def run(self) -> None:
        with self.scope:
            async with trio.open_nursery() as nursery:
                await self.registrar.run(nursery)
                nursery.cancel_scope.cancel()
        self.ended.set()

    @property
    def states(self) -> list[tuple[bool, bool]]:
        return [state(one) for one in self.registrations.values()]

    @asynccontextmanager
    async def joining(self) -> AsyncIterator[None]:
        """During the block, senders join this connector all the time, and succeed."""
        async with trio.open_nursery() as nursery:
            for name in NAMES:
                nursery.start_soon(self._join, name)
            yield
            nursery.cancel_scope.cancel()

    async def _join(self, name: str) -> None:
        token = make_token(
            audience_for(self.place.host, name), "listener", self.keys[name], trio.current_time() + 9e5
        )
        grant = await self.place.broker.authorize(name, token, Right.SEND)
        while True:
            answer = await self.place.broker.join(grant, INSTANCE)
            assert isinstance(answer, control.Joined), answer
            await trio.sleep(0.003)


@pytest.fixture
def calm(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Check at the end that no warning was logged."""
    caplog.set_level(logging.INFO)
    yield
    assert not [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.fixture
async def scene(nursery: trio.Nursery, tmp_path: Path) -> Scene:
    rules = {name: Rule.generate("listener", [Right.LISTEN, Right.SEND]) for name in NAMES}
    with SQLiteStore.open(tmp_path / "state") as registry:
        for name, rule in rules.items():
            registry.create(name, [HOST], [rule])
        snapshot = registry.snapshot()
    keys = {name: key_of(rule) for name, rule in rules.items()}

    async def refresh() -> None:
        pass

    relay = await nursery.start(_open_nursery)
    scene = Scene(Place(BrokerService(snapshot, refresh=refresh, clock=trio.current_time), relay), keys)
    nursery.start_soon(scene.run)
    await trio.sleep(1)
    assert scene.place.listening == {"one": 1, "two": 1}
    return scene


async def _open_nursery(*, task_status: trio.TaskStatus[trio.Nursery]) -> None:
    async with trio.open_nursery() as nursery:
        task_status.started(nursery)
        await trio.sleep_forever()


@contextmanager
def always_listening(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Check after every change of the relay's table that there is a listener for every hybrid connection."""
    table = scene.place.broker.listeners
    seen: list[dict[str, int]] = []

    def watched(change: Callable[..., object]) -> Callable[..., object]:
        def changing(*arguments: object, **options: object) -> object:
            result = change(*arguments, **options)
            seen.append(scene.place.listening)
            return result

        return changing

    with monkeypatch.context() as patch:
        for name in ("register", "remove", "declare_gone", "revoke", "forget"):
            patch.setattr(table, name, watched(getattr(table, name)))
        yield
    assert all(listening.keys() == set(NAMES) for listening in [*seen, scene.place.listening])


@pytest.mark.usefixtures("calm")
async def test_there_is_a_listener_at_every_moment(
    autojump_clock: trio.testing.MockClock, scene: Scene, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scene.joining():
        await trio.sleep(0.1)
        with always_listening(scene, monkeypatch):
            await scene.place.improved(TCP)
            assert scene.place.listening == {"one": 2, "two": 2}
            await trio.sleep(0.1)
    assert scene.place.routes == ["tcp"]
    assert scene.place.forgotten == 0
    assert scene.sessions.moved == [TCP]
    assert scene.states == [(True, False)] * 2
    assert scene.channels.serving > 100
    requests = scene.place.requests
    await trio.sleep(3600)
    # Renewed by the new one alone.
    assert scene.place.requests == requests + 2
    assert len(scene.place.opened) == 2
    nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("calm")
async def test_nothing_changes_where_no_control_channel_can_be_opened(
    autojump_clock: trio.testing.MockClock, scene: Scene, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.place.error = RelayUnreachable("dropped")
    with always_listening(scene, monkeypatch):
        with pytest.raises(RelayUnreachable, match="dropped"):
            await scene.place.improved(TCP)
        await trio.sleep(3600)
    assert scene.place.routes == ["wss"]
    assert scene.states == [(True, False)] * 2
    assert scene.sessions.moved == []
    assert scene.place.forgotten == 0
    nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("calm")
@pytest.mark.parametrize("reason", [Reason.LIMIT, Reason.WRONG_KEY])
async def test_nothing_changes_where_nothing_can_be_registered(
    autojump_clock: trio.testing.MockClock,
    scene: Scene,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
    reason: Reason,
) -> None:
    scene.place.refusals = {("tcp", name): reason for name in NAMES}
    with always_listening(scene, monkeypatch):
        with pytest.raises(HybridRelayError) as caught:
            await scene.place.improved(TCP)
        assert caught.value.reason is reason
        await trio.sleep(3600)
    assert scene.place.routes == ["wss"]
    assert scene.states == [(True, False)] * 2
    nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("calm")
async def test_what_cannot_be_registered_yet_stays_where_it_is(
    autojump_clock: trio.testing.MockClock, scene: Scene, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.place.refusals["tcp", "two"] = Reason.LIMIT
    with always_listening(scene, monkeypatch):
        async with scene.joining():
            await scene.place.improved(TCP)
            await trio.sleep(0.1)
        assert scene.place.listening == {"one": 2, "two": 1}
        assert scene.place.routes == ["wss", "tcp"]
        assert scene.states == [(True, False)] * 2
        scene.place.refusals.clear()
        await trio.sleep(3600)
    assert scene.place.listening == {"one": 2, "two": 2}
    assert scene.place.routes == ["tcp"]
    nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("calm")
@pytest.mark.parametrize("happens", ["loss", "jump"])
async def test_an_opening_that_hangs_holds_up_nothing(
    autojump_clock: trio.testing.MockClock, scene: Scene, nursery: trio.Nursery, happens: str
) -> None:
    """If the working channel is lost, or the network changes, the channel that is being opened is not waited for."""
    scene.place.takes = 1000.0
    async with trio.open_nursery() as upgrading:
        upgrading.start_soon(_fail_to_upgrade, scene)
        await trio.sleep(1)
        scene.place.takes = 2 * DELAY
        if happens == "loss":
            scene.place.opened[0].session.close()
        else:
            scene.registrar.network_changed()
        await trio.sleep(2)
        assert scene.place.listening == dict.fromkeys(NAMES, 2 if happens == "loss" else 1)
    assert trio.current_time() < 100
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("reason", [Reason.LIMIT, Reason.SUPERSEDED])
async def test_an_end_right_behind_the_answer_is_not_overlooked(
    autojump_clock: trio.testing.MockClock, scene: Scene, nursery: trio.Nursery, reason: Reason
) -> None:
    """Two tasks wake up, one for the answer and one for the end, in either order."""
    ended = False

    def end(channel: Control, name: str) -> None:
        nonlocal ended
        if channel.candidate == TCP and name == "one" and not ended:
            ended = True
            listener = scene.place.broker.listeners.find("one", INSTANCE)
            assert listener is not None
            scene.place.broker.listeners.remove(listener)
            channel._deliver(control.Ended("one", reason))

    scene.place.on_reply = end
    await scene.place.improved(TCP)
    await trio.sleep(60)
    assert ended
    assert scene.place.listening.keys() == set(NAMES)
    assert scene.states == [(True, False)] * 2
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("_time", range(20))
async def test_an_end_that_arrives_while_all_is_ended_harms_nothing(
    autojump_clock: trio.testing.MockClock, scene: Scene, nursery: trio.Nursery, _time: int
) -> None:
    scene.place.opened[0].channel._deliver(control.Ended("one", Reason.SUPERSEDED))
    scene.scope.cancel()
    await scene.ended.wait()
    nursery.cancel_scope.cancel()


async def test_what_only_the_earlier_channel_has_is_renewed_over_that(
    autojump_clock: trio.testing.MockClock, scene: Scene, nursery: trio.Nursery
) -> None:
    scene.place.refusals["tcp", "two"] = Reason.LIMIT
    await scene.place.improved(TCP)
    for _ in range(12):
        await trio.sleep(600)
        for opened in scene.place.peers:
            opened.expire(trio.current_time())
    assert scene.place.listening == {"one": 2, "two": 1}
    assert scene.place.routes == ["wss", "tcp"]
    del scene.place.refusals["tcp", "two"]
    await trio.sleep(600)
    assert scene.place.listening == {"one": 2, "two": 2}
    assert scene.place.routes == ["tcp"]
    nursery.cancel_scope.cancel()


async def test_what_the_relay_asked_for_over_an_earlier_channel_is_forgotten_with_it(
    autojump_clock: trio.testing.MockClock, scene: Scene, nursery: trio.Nursery
) -> None:
    scene.place.opened[0].channel._deliver(control.Draining(300))
    await scene.place.improved(TCP)
    await trio.sleep(3600)
    scene.place.opened[1].session.close()
    await trio.sleep(60)
    assert scene.place.listening.keys() == set(NAMES)
    assert scene.place.forgotten == 1
    nursery.cancel_scope.cancel()


async def test_where_both_are_lost_it_begins_anew(
    autojump_clock: trio.testing.MockClock, scene: Scene, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    scene.place.takes, scene.place.error = 5.0, RelayUnreachable("dropped")
    async with trio.open_nursery() as upgrading:
        upgrading.start_soon(_fail_to_upgrade, scene)
        await trio.sleep(1)
        scene.place.opened[0].session.close()
    await trio.testing.wait_all_tasks_blocked()
    assert "was lost" in caplog.text
    assert scene.states == [(False, False)] * 2
    scene.place.error = None
    await trio.sleep(3600)
    assert scene.place.listening == {"one": 2, "two": 2}
    nursery.cancel_scope.cancel()


async def _fail_to_upgrade(scene: Scene) -> None:
    with pytest.raises(HybridRelayError):
        await scene.place.improved(TCP)


@pytest.mark.parametrize("after", NAMES)
async def test_what_a_channel_took_before_it_was_lost_is_registered_anew(
    autojump_clock: trio.testing.MockClock,
    scene: Scene,
    nursery: trio.Nursery,
    after: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The earlier channel cannot register it again: the relay has accepted a higher generation."""

    def cut(channel: Control, name: str) -> None:
        if channel.candidate is TCP and name == after:
            scene.place.on_answer = lambda channel, name: None
            channel.close()

    scene.place.on_answer = cut
    with suppress(RelayUnreachable):  # it may just have been complete
        await scene.place.improved(TCP)
    await trio.sleep(3600)
    assert scene.place.listening == {"one": 3, "two": 3}
    assert scene.states == [(True, False)] * 2
    assert "was lost" in caplog.text
    nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("calm")
@pytest.mark.parametrize("cancelled", [False, True], ids=["stopped", "cancelled"])
async def test_it_may_end_at_any_moment(
    autojump_clock: trio.testing.MockClock, scene: Scene, nursery: trio.Nursery, cancelled: bool
) -> None:
    """While it opens, and during each of two registrations. `moments` spans all of that."""
    moments = [DELAY * 0.6 * number for number in range(12)]

    async def upgrade() -> None:
        with suppress(RelayUnreachable):
            await scene.place.improved(TCP)

    for number, moment in enumerate(moments):
        async with trio.open_nursery() as upgrading:
            # As `RelayLink.upgrade_route` would, it ends with the registrar.
            upgrading.start_soon(upgrade)
            await trio.sleep(moment)
            if cancelled:
                upgrading.cancel_scope.cancel()
                scene.scope.cancel()
            else:
                scene.registrar.stop()
            with trio.fail_after(5 * DELAY):
                await scene.ended.wait()
            upgrading.cancel_scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(DELAY)
        assert (scene.place.routes, scene.place.listening) == ([], {}), moment
        assert scene.states == [(False, False)] * 2
        if number + 1 < len(moments):
            scene = await _again(scene, nursery)
    nursery.cancel_scope.cancel()


async def _again(scene: Scene, nursery: trio.Nursery) -> Scene:
    """Start the same connector again."""
    fresh = Scene(scene.place, scene.keys)
    nursery.start_soon(fresh.run)
    await trio.sleep(1)
    assert fresh.place.listening.keys() == set(NAMES)
    return fresh


@pytest.mark.parametrize("has_ended", [True, False], ids=["lost", "open"])
async def test_an_acceptance_that_did_not_reach_the_relay_does_not_matter(
    monkeypatch: pytest.MonkeyPatch, has_ended: bool
) -> None:
    """The relay forgets the offer with the control channel, and makes another one over the next."""

    async def open_data_channel(*_: object, **__: object) -> None:
        raise RendezvousError("unknown", reason=Reason.TICKET_UNKNOWN)

    monkeypatch.setattr(channels, "open_data_channel", open_data_channel)
    made = published("one")
    link = FakeRelay()
    channel = FakeControl(link, WSS)
    channel.has_ended = has_ended
    publication = Publication(made, link, Registration(made.name, made.string), no_check)
    newcomer = publication.unproven.admit("", 1)
    assert newcomer is not None
    published_events: list[Event] = []
    stream = EventStream(published_events.append)
    sessions = Sessions(Policy(), DATA_CONFIG, stream, lost=lambda _: None, changed=lambda: None)
    served = channels.DataChannels(sessions, stream)
    await served.serve(publication, channel, control.Offer(1, "one", bytes(TICKET_SIZE), 30.0), newcomer)
    (event,) = published_events
    assert type(event) is (DataChannelDeclined if has_ended else DataChannelFailed)
    assert event.level is (Level.INFO if has_ended else Level.WARNING)
    assert newcomer.has_failed
