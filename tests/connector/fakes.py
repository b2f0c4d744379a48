"""A fake relay whose answers a test chooses, and a registrar for two hybrid connections at it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import pytest
import trio

from hybridrelay.connectivity import DIRECTLY, Backoff, Candidate, RelayEndpoint, candidates, discover
from hybridrelay.connectivity.control import ControlChannel
from hybridrelay.connectivity.instance import OwnInstance, new_instance
from hybridrelay.connectivity.link import RelayLink
from hybridrelay.connector.channels import DataChannels
from hybridrelay.connector.instance_file import UnrecordedInstances
from hybridrelay.connector.published import Publication, Published
from hybridrelay.connector.registrar import Registrar
from hybridrelay.connector.sessions import Served, Sessions
from hybridrelay.connector.target_monitor import TargetMonitor
from hybridrelay.connector.unproven import Newcomer
from hybridrelay.errors import RelayUnreachable
from hybridrelay.events import Event, EventStream, LogSubscriber, logged_events
from hybridrelay.mux import DATA_CONFIG, Session, SessionRole
from hybridrelay.policy import Policy
from hybridrelay.protocol import SessionCore, control
from hybridrelay.protocol.reasons import Reason
from hybridrelay.security import (
    ConnectionString,
    Endpoint,
    HostPort,
    PeerIdentity,
    Role,
    Secret,
    StreamTarget,
    Target,
    create_authority,
    generate_key,
)
from hybridrelay.streams.turns import SharedTurns

#: The relay, as connection strings name it.
HOST = "relay.example"
GRANT = 3600.0
DATABASE = HostPort("db", 1)
TCP, WSS, *_ = candidates(discover(), "auto")


class FakeControl(ControlChannel):
    """A control channel whose other end is a `FakeRelay`. There is no session below it."""

    def __init__(self, relay: FakeRelay, candidate: Candidate) -> None:
        self._relay = relay
        self.candidate = candidate
        self.relay = relay.identity
        self.has_ended = False
        self.turns = SharedTurns()
        self.said, self.messages = trio.open_memory_channel[control.Message](10)
        self.closed = trio.Event()
        #: What the connector has said, requests apart; and what it has said about targets.
        self.sent: list[control.Message] = []
        self.health: list[control.Health] = []

    async def send(self, message: control.Message) -> None:
        await trio.lowlevel.checkpoint()
        if isinstance(message, control.Health):
            self.health.append(message)
        else:
            self.sent.append(message)

    def next_id(self) -> int:
        return 1

    def close(self) -> None:
        self.closed.set()
        self.said.close()

    async def register(self, message: control.Register) -> control.Registered | control.Failed:
        await trio.lowlevel.checkpoint()
        if self.closed.is_set():
            raise RelayUnreachable("lost", reason=Reason.SESSION_LOST)
        self._relay.asked.append((trio.current_time(), message.connection))
        reason = self._relay.answers.get(message.connection)
        if reason is not None:
            return control.Failed(1, reason)
        return control.Registered(1, self._relay.clock() + self._relay.grant)


class FakeRelay(RelayLink):
    """The link to a fake relay: the test sets its answers, and sees what it was asked."""

    def __init__(self, identity: str = "relay", host: str = HOST) -> None:
        super().__init__(RelayEndpoint(host), control.PeerRole.CONNECTOR, instance=new_instance(), dialer=DIRECTLY)
        self.identity = identity, "run"
        #: Refusals, by hybrid connection.
        self.answers: dict[str, Reason] = {}
        #: For how long it registers (seconds).
        self.grant = GRANT
        #: What opening a control channel raises.
        self.error: Exception | None = None
        #: For how long it is opened.
        self.takes = 0.0
        self.opened: list[float] = []
        self.asked: list[tuple[float, str]] = []
        #: Every control channel that was opened.
        self.controls: list[FakeControl] = []
        #: For which channels another instance was asked for, and whether there is one.
        self.superseded: list[ControlChannel] = []
        self.is_foreign = False

    @property
    def control(self) -> FakeControl:
        """The control channel that was opened last."""
        return self.controls[-1]

    @property
    def key(self) -> Secret | None:
        """The key with which control channels would be opened now."""
        return self.endpoint.key

    def clock(self) -> float:
        return trio.current_time()

    async def choose(self) -> Candidate:
        return WSS

    async def upgrade_route(
        self, in_use: Callable[[], Candidate | None], improved: Callable[[Candidate], Awaitable[None]]
    ) -> None:
        await trio.sleep_forever()

    def renew_instance(self, superseded: ControlChannel) -> OwnInstance | None:
        self.superseded.append(superseded)
        return new_instance() if self.is_foreign else None

    async def start_control(self, nursery: trio.Nursery, candidate: Candidate | None = None) -> FakeControl:
        await trio.sleep(self.takes)
        self.opened.append(trio.current_time())
        if self.error is not None:
            raise self.error
        self.controls.append(FakeControl(self, candidate or WSS))
        return self.control

    def asked_for(self, name: str) -> list[float]:
        return [when for when, asked in self.asked if asked == name]


class FakeInstances(UnrecordedInstances):
    """Remembers the instances that the connector has had to take because another process uses the earlier one."""

    def __init__(self) -> None:
        super().__init__()
        self.renewed: list[OwnInstance] = []
        #: The instances of relays that the connector has left.
        self.forgotten: list[OwnInstance] = []

    async def renew(self, earlier: OwnInstance, instance: OwnInstance) -> None:
        await super().renew(earlier, instance)
        self.renewed.append(instance)

    async def forget(self, instance: OwnInstance) -> None:
        await super().forget(instance)
        self.forgotten.append(instance)


def unwatched_targets() -> TargetMonitor:
    """Nothing is known about any target."""

    async def dial(target: StreamTarget) -> trio.SocketStream:
        raise AssertionError("nothing is checked")

    return TargetMonitor(list, dial, logged_events())


class FakeSession(Session):
    """A session without a peer, which says of itself that it is open, or not."""

    def __init__(self, *, is_open: bool) -> None:
        super().__init__(SessionCore(SessionRole.ACCEPTOR))
        self._says_open = is_open

    @property
    def is_open(self) -> bool:
        return self._says_open


class FakeSessions(Sessions):
    """The sessions that go through the relay, as the test wants them."""

    def __init__(self) -> None:
        super().__init__(Policy(), DATA_CONFIG, logged_events(), lost=lambda _: None, changed=lambda: None)
        self.found: list[Served] = []

    def add(self, *, is_open: bool) -> None:
        peer = PeerIdentity("one", Role.APPLICATION, "app", "0A", 4e9)
        self.found.append(Served(FakeSession(is_open=is_open), published("one"), peer, FakeRelay(), WSS))

    def of(self, link: RelayLink) -> list[Served]:
        return self.found


class FakeDataChannels(DataChannels):
    """Data channels of which none gets anywhere."""

    def __init__(self) -> None:
        super().__init__(FakeSessions(), logged_events())
        #: How many were begun.
        self.serving = 0
        #: Whether they fail at once.
        self.fails = False

    async def serve(
        self,
        publication: Publication,
        control_channel: ControlChannel,
        offer: control.Offer,
        newcomer: Newcomer,
        key: Secret | None = None,
    ) -> None:
        self.serving += 1
        if self.fails:
            publication.unproven.failed(newcomer)
        else:
            await trio.sleep_forever()


def published(name: str, key: Secret | None = None, target: Target = DATABASE) -> Published:
    authority = create_authority(name, now=time.time())
    return Published(
        ConnectionString(
            endpoints=(Endpoint(HOST),),
            key_name="listener",
            key=key or generate_key(),
            entity_path=name,
            target=target,
            identity=authority.issue(Role.CONNECTOR, "x", now=time.time()),
            authority=authority.certificate,
        )
    )


class Scene:
    """A registrar for `one` and `two`."""

    def __init__(self) -> None:
        self.relay = FakeRelay()
        self.instances = FakeInstances()
        self.changes = 0
        self.channels = FakeDataChannels()
        self.sessions = FakeSessions()
        self.monitor = unwatched_targets()
        #: What was published.
        self.events: list[Event] = []
        self.registrar = Registrar(
            self.relay,
            self.channels,
            self.sessions,
            self.instances,
            self.monitor,
            clock=self.relay.clock,
            events=EventStream(LogSubscriber(), self.events.append),
            changed=self._count,
        )
        made = published("one"), published("two")
        for each in made:
            self.registrar.publish(each)
        self.one, self.two = (each.publications[0] for each in made)

    def _count(self) -> None:
        self.changes += 1


def without_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every wait of a back-off the longest that it may be, so that nothing depends on chance."""
    next_wait = Backoff.next_wait

    def wait(self: Backoff, **options: float) -> float:
        self.random = lambda: 1.0
        return next_wait(self, **options)

    monkeypatch.setattr(Backoff, "next_wait", wait)


def start(nursery: trio.Nursery, scene: Scene) -> None:
    nursery.start_soon(scene.registrar.run, nursery)


def state(publication: Publication) -> tuple[bool, bool]:
    return publication.state.is_registered, publication.state.is_refused


async def no_check(*_: object) -> None:
    """Takes the place of `Publication.check_key` where no key is rolled."""
    raise AssertionError("no key is rolled")
