"""A relay whose answers are played, and a registrar for two hybrid connections at it."""

from __future__ import annotations

import time

import attrs
import trio

from hybridrelay.connectivity import Candidate, candidates, discover
from hybridrelay.connectivity.instance import OwnInstance, new_instance
from hybridrelay.connector.instance_file import UnrecordedInstances
from hybridrelay.connector.published import Publication, Published
from hybridrelay.connector.registrar import Registrar
from hybridrelay.errors import RelayUnreachable
from hybridrelay.events import Event, EventStream, LogSubscriber
from hybridrelay.protocol import control
from hybridrelay.protocol.reasons import Reason
from hybridrelay.security import ConnectionString, Endpoint, HostPort, Role, Secret, create_authority, generate_key

GRANT = 3600.0
TCP, WSS, *_ = candidates(discover(), "auto")


class FakeControl:
    """A control channel whose other end is a `FakeRelay`."""

    def __init__(self, relay: FakeRelay, candidate: Candidate) -> None:
        self._relay = relay
        self.candidate = candidate
        self.relay = relay.identity
        self.said, self.messages = trio.open_memory_channel[control.Message](10)
        self.closed = trio.Event()
        #: What the connector has said, requests apart.
        self.sent: list[control.Message] = []

    async def send(self, message: control.Message) -> None:
        await trio.lowlevel.checkpoint()
        self.sent.append(message)

    def next_id(self) -> int:
        return 1

    def close(self) -> None:
        self.closed.set()
        self.said.close()

    async def request(self, message: control.Register) -> control.Message:
        await trio.lowlevel.checkpoint()
        if self.closed.is_set():
            raise RelayUnreachable("lost", reason=Reason.SESSION_LOST)
        self._relay.asked.append((trio.current_time(), message.connection))
        reason = self._relay.answers.get(message.connection)
        if reason is not None:
            return control.Failed(1, reason)
        return control.Registered(1, self._relay.clock() + self._relay.grant)


class FakeRelay:
    """Stands in for `RelayLink`: what it answers, and what it was asked."""

    host = "relay.example"

    def __init__(self, identity: str = "relay") -> None:
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
        self.control: FakeControl | None = None
        #: For which channels another instance was asked for, and whether there is one.
        self.superseded: list[FakeControl] = []
        self.is_foreign = False
        #: The key with which control channels would be opened now.
        self.key: Secret | None = None

    def clock(self) -> float:
        return trio.current_time()

    async def upgrade_route(self, *_: object) -> None:
        await trio.sleep_forever()

    def forget(self, **_: object) -> None:
        pass

    def use_key(self, key: Secret) -> None:
        self.key = key

    def renew_instance(self, superseded: FakeControl) -> OwnInstance | None:
        self.superseded.append(superseded)
        return new_instance() if self.is_foreign else None

    async def start_control(self, nursery: trio.Nursery, candidate: Candidate | None = None) -> FakeControl:
        await trio.sleep(self.takes)
        self.opened.append(trio.current_time())
        if self.error is not None:
            raise self.error
        self.control = FakeControl(self, candidate or WSS)
        return self.control

    def asked_for(self, name: str) -> list[float]:
        return [when for when, asked in self.asked if asked == name]


class FakeInstances(UnrecordedInstances):
    """Remembers the instances that the connector has had to take because another process uses the earlier one."""

    def __init__(self) -> None:
        super().__init__()
        self.renewed: list[OwnInstance] = []

    def add(self, instance: OwnInstance) -> None:
        self.renewed.append(instance)


@attrs.frozen
class FakeSession:
    is_open: bool


@attrs.frozen
class FakeServed:
    session: FakeSession


class Channels:
    """The sessions that go through the relay."""

    def __init__(self) -> None:
        self.sessions: list[FakeServed] = []
        #: Data channels that were begun; none of them gets anywhere.
        self.serving = 0

    def of(self, link: object) -> list[FakeServed]:
        return self.sessions

    async def serve(self, *_: object) -> None:
        self.serving += 1
        await trio.sleep_forever()


def published(name: str, key: str | None = None) -> Published:
    authority = create_authority(name, now=time.time())
    return Published(
        ConnectionString(
            endpoints=(Endpoint(FakeRelay.host),),
            key_name="listener",
            key=key or generate_key(),
            entity_path=name,
            target=HostPort("db", 1),
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
        self.channels = Channels()
        #: What was published.
        self.events: list[Event] = []
        self.registrar = Registrar(
            self.relay,
            self.channels,
            self.channels,
            self.instances,
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


def start(nursery: trio.Nursery, scene: Scene) -> None:
    nursery.start_soon(scene.registrar.run, nursery)


def state(publication: Publication) -> tuple[bool, bool]:
    return publication.state.is_registered, publication.state.is_refused
