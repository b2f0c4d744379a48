"""The cost of reading a relay's state depends on how much is read, and not on how much there is."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType

import attrs
import pytest
import trio

from hybridrelay.events import EventStream
from hybridrelay.protocol import control
from hybridrelay.protocol.reasons import Reason
from hybridrelay.relay import HybridConnection
from hybridrelay.relay.core.listener import Listener
from hybridrelay.relay.core.pairs import Pair, PairEnd
from hybridrelay.relay.edge.certificates import RelayCertificates
from hybridrelay.relay.edge.permits import HandshakeScheduler
from hybridrelay.relay.edge.slots import Slots
from hybridrelay.relay.limits import LISTENERS_PER_CONNECTION
from hybridrelay.relay.model import KeyId
from hybridrelay.relay.service.broker import BrokerService
from hybridrelay.relay.service.checkpoints import CheckpointService
from hybridrelay.relay.service.connections import ControlPeers
from hybridrelay.relay.service.history import HistoryService
from hybridrelay.relay.service.joined import JoinedService
from hybridrelay.relay.service.listener_handle import ListenerHandle
from hybridrelay.relay.service.live import RunningRelay
from hybridrelay.relay.service.places import places_for_control_channels, places_for_pairs
from hybridrelay.relay.service.rolls import RollService
from hybridrelay.relay.service.updates import UpdateService
from hybridrelay.relay.service.usage import UsageService
from hybridrelay.relay.service.watcher import StoreWatcher
from hybridrelay.relay.store.memory import MemoryStore
from hybridrelay.relay.updates import StoredUpdate
from hybridrelay.security import KeySlot, Role, load_or_create_relay_certificate

from ..listening import willing


def calls_of(function: Callable[[], object]) -> int:
    """Return how many functions were called, including built-in ones."""
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(before)
    return calls


@pytest.fixture
def certificates(tmp_path_factory: pytest.TempPathFactory) -> RelayCertificates:
    own = load_or_create_relay_certificate(tmp_path_factory.mktemp("state"), now=time.time())
    return RelayCertificates(own, None, lambda: own, outer_needed=False)


def relay_with(listeners: int, certificates: RelayCertificates) -> RunningRelay:
    async def refresh() -> None:
        pass

    nothing: Mapping[str, HybridConnection] = {}
    broker = BrokerService(nothing, refresh=refresh, events=EventStream())
    handle: ListenerHandle = willing()
    for number in range(listeners):
        name = f"db{number // LISTENERS_PER_CONNECTION:05}"
        key = KeyId(name, "listener", KeySlot.PRIMARY, 1)
        broker.core.register(Listener(name, f"{number:032x}", 1, key, handle, "192.0.2.1", "tcp", "test/1"), 0.0)
    broker.carry_out()
    peers = ControlPeers(broker, "0" * 32, tuple)
    places = places_for_pairs(100), places_for_control_channels(100)
    history = HistoryService(Path("/nowhere"), broker, clock=time.time, events=EventStream(), max_bytes=0)
    usage = UsageService(Path("/nowhere"), broker, clock=time.time, events=EventStream())
    rolls = RollService(
        broker, lambda: peers, MemoryStore(), trio.CapacityLimiter(1), clock=time.time, events=EventStream()
    )
    updates = UpdateService(
        broker, lambda: peers, MemoryStore(), trio.CapacityLimiter(1), clock=time.time, events=EventStream()
    )
    checkpoints = CheckpointService(Path("/nowhere"), clock=time.time, events=EventStream())
    return RunningRelay(
        broker,
        peers,
        certificates,
        *places,
        Slots(100),
        HandshakeScheduler(),
        history,
        usage,
        rolls,
        updates,
        checkpoints,
        JoinedService(Path("/nowhere"), 0.0, clock=time.time, events=EventStream()),
        StoreWatcher(MemoryStore(), events=EventStream()),
        time.time,
    )


async def test_the_cost_of_a_page_does_not_depend_on_how_many_there_are(certificates: RelayCertificates) -> None:
    few, many = relay_with(128, certificates), relay_with(10_000, certificates)
    after = ("db00000", f"{20:032x}")

    def looks_of(relay: RunningRelay) -> list[Callable[[], object]]:
        return [
            lambda: relay.listeners(10, after=after),
            lambda: relay.listeners(10, connection="db00001"),
            lambda: relay.connection("db00001"),
            relay.snapshot,
        ]

    await trio.lowlevel.checkpoint()
    assert many.snapshot().listeners == 10_000
    assert [one.instance for one in many.listeners(10, after=after)] == [f"{number:032x}" for number in range(21, 31)]
    for look_at_few, look_at_many in zip(looks_of(few), looks_of(many), strict=True):
        assert calls_of(look_at_many) == calls_of(look_at_few)


@attrs.define
class Sender:
    """A control channel of a client."""

    since: float = 0.0
    instance: str = "c" * 32
    address: str = "192.0.2.1"
    transport: str = "tcp"
    software: str = "test/1"

    def key_for(self, connection: str) -> KeyId | None:
        return None

    def end(self, reason: Reason) -> None:
        pass


@attrs.define
class Counted:
    """The bytes of one pair. Counts how often they are read."""

    sums: int = 0

    @property
    def to_client(self) -> int:
        self.sums += 1
        return 1

    @property
    def to_connector(self) -> int:
        return 1


async def test_the_pairs_of_an_instance_are_summed_once_for_all_of_its_control_channels(
    certificates: RelayCertificates,
) -> None:
    relay, moved = relay_with(1, certificates), Counted()
    key = KeyId("db00000", "sender", KeySlot.PRIMARY, 1)
    listener, sender = PairEnd(f"{0:032x}", "192.0.2.1", key), PairEnd(Sender().instance, "192.0.2.1", key)
    for number in range(50):
        relay.broker.senders.set("db00000", f"{number:016x}", Sender())
        relay.broker.pairs.joined(Pair(f"{number:032x}", "db00000", listener, sender, 0.0, moved))
    await trio.lowlevel.checkpoint()
    found = relay.senders(50)
    assert [(one.sessions, one.bytes_to_client) for one in found] == [(50, 50)] * 50
    assert moved.sums == 50


async def test_the_cost_of_an_answer_to_an_update_does_not_depend_on_how_many_there_are() -> None:
    def an_update(number: int) -> StoredUpdate:
        return StoredUpdate(f"db{number:05}", Role.CONNECTOR, "", 7, b"sealed", 0.0, 2e9, "target")

    async def refresh() -> None:
        pass

    async def service_with(updates: int) -> UpdateService:
        class Stored(MemoryStore):
            def updates(self, name: str | None = None) -> tuple[StoredUpdate, ...]:
                return tuple(map(an_update, range(updates)))

        nothing: Mapping[str, HybridConnection] = {}
        broker = BrokerService(nothing, refresh=refresh, events=EventStream())
        limiter = trio.CapacityLimiter(1)
        made = UpdateService(broker, list, Stored(), limiter, clock=time.time, events=EventStream())
        await made._read()
        return made

    def costs(service: UpdateService) -> list[int]:
        answer = control.UpdateKept("db00001", 7, control.UpdateState.KEPT, "")
        assert len(service.snapshot("db00001")) == 1
        return [
            calls_of(lambda: service.answered("192.0.2.1", "c" * 32, control.PeerRole.CONNECTOR, answer)),
            calls_of(lambda: service.snapshot("db00001")),
        ]

    assert costs(await service_with(2000)) == costs(await service_with(2))
