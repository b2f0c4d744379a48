"""Transcripts of a control channel at the relay: messages, and what follows from each."""

from __future__ import annotations

import random

import attrs
import pytest

from hybridrelay.errors import AuthorizationError, RendezvousError
from hybridrelay.events import (
    ControlChannelDisplaced,
    ListenerLeft,
    ListenerRefused,
    ListenerRegistered,
    ListenerTargetHealthy,
    ListenerTargetUnhealthy,
    SenderRefused,
    SenderRevoked,
    TokenInvalid,
    TokenRefused,
)
from hybridrelay.events.base import Event
from hybridrelay.protocol import RemoteProtocolError, control
from hybridrelay.protocol.reasons import Reason
from hybridrelay.relay.core import control_channel
from hybridrelay.relay.core.authorization import Authorization, Grant
from hybridrelay.relay.core.broker import Broker
from hybridrelay.relay.core.commands import EndControlChannel
from hybridrelay.relay.core.control_channel import (
    MAX_JOINS,
    MAY_SEND,
    Authorize,
    Close,
    ControlChannelCore,
    KeepCheckpoint,
    KeyAnswered,
    OfferAnswered,
    SenderProved,
    SendMessage,
    StartJoin,
    TakeClaim,
)
from hybridrelay.relay.core.control_channel_states import TRANSITIONS, ChannelInput, ChannelState
from hybridrelay.relay.core.holders import Holder
from hybridrelay.relay.core.listeners import ListenerTable
from hybridrelay.relay.core.places import TENURE_SECONDS, Places
from hybridrelay.relay.core.rendezvous import RendezvousTable
from hybridrelay.relay.limits import (
    HEALTH_REPORTS,
    HEALTH_SECONDS,
    IDLE_CLIENT_SECONDS,
    REFUSALS_BEFORE_AUTHORIZED,
    REFUSED_CHANNEL_SECONDS,
)
from hybridrelay.relay.model import StoreChange
from hybridrelay.relay.store.memory import MemoryStore
from hybridrelay.security import KeySlot, Right, Rule

from ..places import make_places

SECRET = "1" * 64
INSTANCE = control.instance_of(SECRET)
WELCOME = control.Welcome("0" * 32, "test", ())
CONNECTOR = control.Hello(control.PeerRole.CONNECTOR, INSTANCE, 1, "test", SECRET)
CLIENT = control.Hello(control.PeerRole.CLIENT, "c" * 32, 1, "test")
TARGET_STATES = (
    control.TargetHealth.UNHEALTHY,
    control.TargetHealth.HEALTHY,
    control.TargetHealth.UNKNOWN,
)
PEER = "192.0.2.1"


@attrs.define
class Scene:
    """A broker and a control channel."""

    store: MemoryStore
    broker: Broker[str]
    channel: ControlChannelCore[str]
    places: Places[str]

    def state(self) -> ChannelState:
        return self.channel.state

    def grant(self, rule: str, name: str = "db", slot: KeySlot = KeySlot.PRIMARY, expires_at: float = 1e9) -> Grant:
        connection = self.broker.authorization.connections[name]
        key = connection.key_id(rule, slot)
        assert key is not None
        return Grant(connection, key, expires_at)

    def request(self, request: control.Register | control.Join, grant: Grant) -> object:
        wanted = self.channel.receive(request, 0.0)
        assert isinstance(wanted, Authorize)
        assert wanted.request is request
        self.channel.authorize(request, grant, 0.0)
        return self.channel.grant(request, grant, 0.0)

    def update(self) -> None:
        change = StoreChange.between(self.broker.authorization.connections, self.store.snapshot())
        self.broker.update(change, 0.0)


@pytest.fixture
def scene() -> Scene:
    store = MemoryStore()
    rules = [Rule.generate("listener", [Right.LISTEN]), Rule.generate("sender", [Right.SEND])]
    for name in ("db", "web"):
        store.create(name, ["relay"], rules if name == "db" else [attrs.evolve(rule) for rule in rules])
    places = make_places("control channels", 100)
    broker: Broker[str] = Broker(
        Authorization(store.snapshot()),
        places,
        ListenerTable(randbelow=lambda below: 0, clock=lambda: 0.0),
        RendezvousTable(
            b"\1\2\3\4",
            token_bytes=random.Random(1).randbytes,
            places=make_places("data channels", 100),
            open_places=make_places("open", 100),
        ),
        holder_secret=bytes(32),
    )
    return Scene(store, broker, ControlChannelCore(broker, "this channel", WELCOME, PEER), places)


REGISTER = control.Register(1, "db", "token")
JOIN = control.Join(1, "db", "token")
MESSAGES: list[control.Message] = [
    REGISTER,
    JOIN,
    control.Unregister(1, "db"),
    control.Accept(1),
    control.Proved(1),
    control.Failed(1, Reason.LIMIT),
    CONNECTOR,
    CLIENT,
    WELCOME,
    control.Draining(1.0),
    control.Ended("db", Reason.LIMIT),
    control.Joined(1, bytes(32), INSTANCE, 1.0),
    control.Registered(1, 1.0),
    control.Offer(1, "db", bytes(32), 1.0, ""),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
@pytest.mark.parametrize("hello", [CONNECTOR, CLIENT], ids=["connector", "client"])
def test_what_a_role_may_say(scene: Scene, hello: control.Hello, message: control.Message) -> None:
    assert scene.channel.receive(hello, 0.0) == SendMessage(WELCOME)
    if isinstance(message, MAY_SEND[hello.role]):
        scene.channel.receive(message, 0.0)
    else:
        with pytest.raises(RemoteProtocolError, match="may not send"):
            scene.channel.receive(message, 0.0)


@pytest.mark.parametrize(
    "message", [one for one in MESSAGES if not isinstance(one, control.Hello)], ids=lambda one: type(one).__name__
)
def test_hello_comes_first(scene: Scene, message: control.Message) -> None:
    with pytest.raises(RemoteProtocolError, match="is not hello"):
        scene.channel.receive(message, 0.0)


def test_a_hello_with_a_foreign_secret(scene: Scene) -> None:
    with pytest.raises(RemoteProtocolError, match="does not belong"):
        scene.channel.receive(attrs.evolve(CONNECTOR, secret="2" * 64), 0.0)


def test_the_secret_is_not_kept(scene: Scene) -> None:
    scene.channel.receive(CONNECTOR, 0.0)
    assert scene.channel.hello == attrs.evolve(CONNECTOR, secret=None)


def test_the_table_leads_to_the_end_from_everywhere() -> None:
    assert {before for before, happened in TRANSITIONS if happened is ChannelInput.LOST} == set(ChannelState)
    for (before, _), after in TRANSITIONS.items():
        assert (before is ChannelState.OVER) <= (after is ChannelState.OVER)


def test_a_connector_registers_answers_offers_and_unregisters(scene: Scene) -> None:
    channel, broker = scene.channel, scene.broker
    assert scene.state() is ChannelState.NEW
    channel.receive(CONNECTOR, 0.0)
    assert scene.state() is ChannelState.GREETED
    grant = scene.grant("listener", expires_at=77.0)
    assert scene.request(REGISTER, grant) == SendMessage(control.Registered(1, 77.0))
    assert (scene.state(), channel.authorized, channel.connections) == (ChannelState.AUTHORIZED, True, ("db",))
    assert broker.take() == [ListenerRegistered(connection="db", peer=PEER, instance=INSTANCE)]
    answer = control.Accept(7)
    assert channel.receive(answer, 0.0) == OfferAnswered(7, answer)
    channel.expire(77.0)
    assert broker.take() == []
    for _ in range(2):
        assert channel.receive(control.Unregister(1, "db"), 0.0) is None
    left = ListenerLeft(connection="db", peer=PEER, instance=INSTANCE, reason=Reason.NO_ERROR)
    assert broker.take() == [left]
    assert scene.request(REGISTER, grant) == SendMessage(control.Registered(1, 77.0))
    for _ in range(2):
        channel.lost()
    assert broker.take()[-1] == left
    assert (scene.state(), len(scene.places)) == (ChannelState.OVER, 0)


def test_an_instance_without_its_secret_may_not_register(scene: Scene) -> None:
    scene.channel.receive(attrs.evolve(CONNECTOR, secret=None), 0.0)
    with pytest.raises(RendezvousError) as caught:
        scene.channel.authorize(REGISTER, scene.grant("listener"), 0.0)
    assert caught.value.reason is Reason.VERSION_MISMATCH
    assert scene.channel.refuse(REGISTER, caught.value) == SendMessage(
        control.Failed(1, Reason.VERSION_MISMATCH, str(caught.value))
    )
    assert [type(event) for event in scene.broker.take()] == [ListenerRefused]
    assert (scene.state(), len(scene.places)) == (ChannelState.GREETED, 0)


def test_registrations_are_limited(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_channel, "MAX_REGISTRATIONS", 1)
    scene.channel.receive(CONNECTOR, 0.0)
    for _ in range(2):
        assert isinstance(scene.request(REGISTER, scene.grant("listener")), SendMessage)
    with pytest.raises(RendezvousError) as caught:
        scene.channel.authorize(control.Register(2, "web", "token"), scene.grant("listener", "web"), 0.0)
    assert caught.value.reason is Reason.LIMIT


def test_keys_are_limited_and_presenting_one_again_costs_little(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_channel, "MAX_KEYS", 2)
    scene.channel.receive(CLIENT, 0.0)
    grants = [scene.grant("sender", slot=slot) for slot in KeySlot]
    assert [scene.channel.authorize(JOIN, grant, 0.0) for grant in grants] == [True, True]
    monkeypatch.setattr(scene.channel, "_count_sender", None)  # takes time in proportion to the keys
    assert [scene.channel.authorize(JOIN, grant, 0.0) for grant in grants] == [False, False]
    with pytest.raises(RendezvousError, match="too many keys") as caught:
        scene.channel.authorize(control.Join(2, "web", "token"), scene.grant("sender", "web"), 0.0)
    assert caught.value.reason is Reason.LIMIT
    assert scene.channel.keys == {grant.key for grant in grants}
    assert scene.channel.connections == ("db",)


def test_joins_are_limited(scene: Scene) -> None:
    scene.channel.receive(CLIENT, 0.0)
    grant = scene.grant("sender")
    for _ in range(MAX_JOINS):
        assert scene.request(JOIN, grant) == StartJoin(JOIN, grant)
    assert scene.request(JOIN, grant) == SendMessage(control.Failed(1, Reason.LIMIT))
    assert scene.broker.take() == [SenderRefused(connection="db", peer=PEER, reason=Reason.LIMIT)]
    scene.channel.join_ended()
    assert scene.request(JOIN, grant) == StartJoin(JOIN, grant)


@pytest.mark.parametrize(
    "reason", [Reason.WRONG_KEY, Reason.TOKEN_EXPIRED, Reason.RIGHT_MISSING, Reason.UNKNOWN_CONNECTION]
)
def test_refusals_of_a_peer_without_a_right_are_limited(scene: Scene, reason: Reason) -> None:
    scene.channel.receive(CLIENT, 0.0)
    error = AuthorizationError("no", reason=reason)
    for _ in range(REFUSALS_BEFORE_AUTHORIZED):
        assert scene.channel.refuse(JOIN, error) == SendMessage(control.Failed(1, reason, "no"))
    with pytest.raises(RemoteProtocolError):
        scene.channel.refuse(JOIN, error)
    event = TokenInvalid if reason in (Reason.WRONG_KEY, Reason.TOKEN_EXPIRED) else TokenRefused
    expected = event(connection="db", peer=PEER, right="send", reason=reason, detail="no")
    assert scene.broker.take() == [expected] * REFUSALS_BEFORE_AUTHORIZED


def test_a_channel_has_one_place(scene: Scene) -> None:
    scene.channel.receive(CLIENT, 0.0)
    for slot in (KeySlot.PRIMARY, KeySlot.PRIMARY, KeySlot.SECONDARY):
        scene.request(JOIN, scene.grant("sender", slot=slot))
    assert len(scene.places) == 1
    scene.channel.lost()
    assert len(scene.places) == 0


@pytest.mark.parametrize("role", [CLIENT, CONNECTOR], ids=["client", "connector"])
def test_a_channel_of_a_hybrid_connection_that_is_disabled(scene: Scene, role: control.Hello) -> None:
    scene.channel.receive(role, 0.0)
    if role is CLIENT:
        scene.request(JOIN, scene.grant("sender"))
    else:
        scene.request(REGISTER, scene.grant("listener"))
    scene.store.change("db", disabled=True)
    scene.update()
    disabled = Reason.CONNECTION_DISABLED
    told = [SendMessage(control.Ended("db", disabled))] if role is CLIENT else []  # the broker tells listeners
    assert scene.channel.check_keys() == [*told, Close(disabled, gracefully=True)]
    assert scene.state() is ChannelState.REVOKED


def test_a_channel_that_is_also_used_for_another_hybrid_connection_stays(scene: Scene) -> None:
    scene.channel.receive(CLIENT, 0.0)
    for name in ("db", "web"):
        scene.request(attrs.evolve(JOIN, connection=name), scene.grant("sender", name))
    scene.store.change("db", disabled=True)
    scene.update()
    assert scene.channel.check_keys() == [SendMessage(control.Ended("db", Reason.CONNECTION_DISABLED))]
    assert scene.state() is ChannelState.AUTHORIZED


def test_a_client_whose_key_is_replaced(scene: Scene) -> None:
    """There is a key in the slot again, and it is another one."""
    scene.channel.receive(CLIENT, 0.0)
    scene.request(control.Join(1, "db", "token"), scene.grant("sender", "db", KeySlot.PRIMARY))
    scene.store.regenerate_key("db", "sender", KeySlot.PRIMARY)
    scene.update()
    assert scene.channel.check_keys() == [
        SendMessage(control.Ended("db", Reason.KEY_REVOKED)),
        Close(Reason.KEY_REVOKED, gracefully=True),
    ]


@pytest.mark.parametrize("role", [CLIENT, CONNECTOR], ids=["client", "connector"])
@pytest.mark.parametrize("lost", [Right.SEND, Right.LISTEN])
def test_a_channel_whose_rule_loses_a_right(scene: Scene, role: control.Hello, lost: Right) -> None:
    """It ends, with the reason, if its peer needs that right."""
    needed = Right.SEND if role is CLIENT else Right.LISTEN
    scene.store.put_rule("db", "both", [Right.LISTEN, Right.SEND])
    scene.update()
    scene.channel.receive(role, 0.0)
    scene.request(JOIN if role is CLIENT else REGISTER, scene.grant("both"))
    scene.store.put_rule("db", "both", [Right.SEND if lost is Right.LISTEN else Right.LISTEN])
    scene.broker.take()
    scene.update()
    left = [output.reason for output in scene.broker.take() if isinstance(output, ListenerLeft)]
    outputs = scene.channel.check_keys()
    events = scene.broker.take()
    missing = Reason.RIGHT_MISSING
    if role is CONNECTOR:
        assert left == [missing if lost is needed else Reason.KEY_REVOKED], "everything of the rule ends"
    if lost is not needed:
        assert (outputs, events, scene.state()) == ([], [], ChannelState.AUTHORIZED)
        return
    assert outputs[-1] == Close(missing, gracefully=True)
    assert scene.state() is ChannelState.REVOKED
    if role is CLIENT:
        assert outputs[:-1] == [SendMessage(control.Ended("db", missing))]
        assert events == [SenderRevoked(connection="db", peer=PEER, instance=CLIENT.instance, reason=missing)]
    else:  # the broker tells listeners
        assert (outputs[:-1], events) == ([], [])


def test_a_client_that_has_another_key_with_the_right_keeps_its_channel(scene: Scene) -> None:
    scene.store.put_rule("db", "both", [Right.LISTEN, Right.SEND])
    scene.update()
    scene.channel.receive(CLIENT, 0.0)
    for rule in ("both", "sender"):
        scene.request(JOIN, scene.grant(rule))
    scene.store.put_rule("db", "both", [Right.LISTEN])
    scene.update()
    scene.broker.take()
    assert (scene.channel.check_keys(), scene.broker.take()) == ([], [])
    assert [key.rule for key in scene.channel.keys] == ["sender"]


def test_a_client_whose_keys_are_gone_for_several_reasons(scene: Scene) -> None:
    scene.channel.receive(CLIENT, 0.0)
    for name in ("db", "web"):
        scene.request(attrs.evolve(JOIN, connection=name), scene.grant("sender", name))
    scene.store.put_rule("db", "sender", [Right.LISTEN])
    scene.store.change("web", disabled=True)
    scene.update()
    scene.broker.take()
    assert scene.channel.check_keys()[-1] == Close(Reason.KEY_REVOKED, gracefully=True)
    reasons = {event.connection: event.reason for event in scene.broker.take() if isinstance(event, SenderRevoked)}
    assert reasons == {"db": Reason.RIGHT_MISSING, "web": Reason.CONNECTION_DISABLED}


def test_a_client_whose_keys_are_revoked_one_after_the_other(scene: Scene) -> None:
    scene.channel.receive(CLIENT, 0.0)
    for name, slot in (("db", KeySlot.PRIMARY), ("db", KeySlot.SECONDARY), ("web", KeySlot.PRIMARY)):
        scene.request(control.Join(1, name, "token"), scene.grant("sender", name, slot))
    assert scene.channel.check_keys() == []

    scene.store.revoke_key("db", "sender", KeySlot.PRIMARY)
    scene.update()
    assert scene.channel.check_keys() == [], "another key of the same hybrid connection is valid"
    scene.store.revoke_key("db", "sender", KeySlot.SECONDARY)
    scene.update()
    assert scene.channel.check_keys() == [SendMessage(control.Ended("db", Reason.KEY_REVOKED))]
    assert scene.state() is ChannelState.AUTHORIZED
    scene.store.delete("web")
    scene.update()
    assert scene.channel.check_keys() == [
        SendMessage(control.Ended("web", Reason.UNKNOWN_CONNECTION)),
        Close(Reason.KEY_REVOKED, gracefully=True),
    ]
    assert scene.state() is ChannelState.REVOKED
    assert scene.channel.check_keys() == []
    assert len(scene.places) == 1, "the channel is not over yet"
    scene.channel.lost()
    assert len(scene.places) == 0


def test_a_client_that_is_gone_does_not_count_as_a_sender(scene: Scene) -> None:
    """It counts neither for the quota of senders nor in what administrators see."""
    for _ in range(2):
        channel = ControlChannelCore(scene.broker, "of a client", WELCOME, PEER)
        channel.receive(CLIENT, 0.0)
        channel.authorize(JOIN, scene.grant("sender"), 0.0)
        assert scene.broker.senders == {"db": 1}
        channel.lost()
        assert scene.broker.senders == {}


def test_a_superseded_channel_ends_with_its_last_registration(scene: Scene) -> None:
    scene.channel.receive(CONNECTOR, 0.0)
    for name in ("db", "web"):
        scene.request(control.Register(1, name, "token"), scene.grant("listener", name))
    assert scene.channel.ended("db", Reason.SUPERSEDED) == SendMessage(control.Ended("db", Reason.SUPERSEDED))
    assert scene.channel.ended("web", Reason.SUPERSEDED) == Close(Reason.SUPERSEDED, gracefully=False)


def test_a_token_that_was_verified_when_the_channel_was_lost_already(scene: Scene) -> None:
    scene.channel.receive(CONNECTOR, 0.0)
    scene.channel.lost()
    assert isinstance(scene.request(REGISTER, scene.grant("listener")), SendMessage)
    assert scene.state() is ChannelState.OVER
    scene.channel.lost()
    assert scene.broker.listeners.count() == len(scene.places) == 0


@attrs.define
class Crowd:
    """Control channels of keys that may have three each, and a clock."""

    scene: Scene
    now: float = 0.0
    channels: dict[str, ControlChannelCore[str]] = attrs.field(factory=dict)

    @classmethod
    def of(cls, scene: Scene) -> Crowd:
        crowd = cls(scene)
        scene.broker.control_channels = make_places("control channels", 100, clock=lambda: crowd.now, per_key=3)
        return crowd

    def client(self, name: str, address: str, *, joined: bool = False) -> None:
        self._open(name, address, CLIENT, JOIN, "sender")
        if joined:
            self.channels[name].join_ended(joined=True)

    def connector(self, name: str, address: str) -> None:
        secret = name.encode().hex().ljust(64, "0")
        hello = control.Hello(control.PeerRole.CONNECTOR, control.instance_of(secret), 1, "test", secret)
        self._open(name, address, hello, REGISTER, "listener")

    def _open(
        self, name: str, address: str, hello: control.Hello, request: control.Register | control.Join, rule: str
    ) -> None:
        channel = ControlChannelCore(self.scene.broker, name, WELCOME, address)
        channel.receive(hello, 0.0)
        grant = self.scene.grant(rule)
        channel.authorize(request, grant, 0.0)
        channel.grant(request, grant, 0.0)
        self.channels[name] = channel

    def ended(self) -> list[str]:
        """Which control channels the broker has ended since the last call."""
        outputs = self.scene.broker.take()
        names = [one.handle for one in outputs if isinstance(one, EndControlChannel)]
        assert len([one for one in outputs if isinstance(one, ControlChannelDisplaced)]) == len(names)
        for name in names:
            self.channels[name].lost()
        return names


def test_a_holder_with_fewer_control_channels_gets_one_from_the_holder_with_most(scene: Scene) -> None:
    crowd = Crowd.of(scene)
    for name in "abc":
        crowd.client(name, PEER)
    crowd.client("honest", "198.51.100.7")
    assert crowd.ended() == ["a"]
    assert len(scene.broker.control_channels) == 3
    with pytest.raises(RendezvousError) as caught:
        crowd.client("d", PEER)
    assert caught.value.reason is Reason.LIMIT


def test_an_idle_client_is_displaced_by_one_of_another_hybrid_connection_if_no_place_is_left(scene: Scene) -> None:
    now = 0.0
    broker = scene.broker
    broker.control_channels = make_places("control channels", 3, clock=lambda: now)
    for name in "abc":
        broker.control_channels.take(Holder(scene.grant("sender").key, PEER), name)
    other = Holder(scene.grant("sender", "web").key, "198.51.100.7")
    now = TENURE_SECONDS
    broker.admit_control_channel(other, "new", "instance")
    assert broker.take() == [
        EndControlChannel("a", Reason.LIMIT),
        ControlChannelDisplaced(connection="db", rule="sender", peer=PEER, successor="", by_other=True),
    ]
    assert broker.control_channels.held_by_connection("web") == 1
    assert len(broker.control_channels) == 3


def test_idle_clients_are_displaced_first(scene: Scene) -> None:
    crowd = Crowd.of(scene)
    crowd.client("busy", PEER, joined=True)
    crowd.client("idle", PEER)
    crowd.client("busy too", PEER, joined=True)
    crowd.client("honest", "198.51.100.7", joined=True)
    crowd.now += TENURE_SECONDS
    assert crowd.ended() == ["idle"]
    # A join establishes the place of its control channel only for a while.
    crowd.now = IDLE_CLIENT_SECONDS + TENURE_SECONDS
    crowd.client("another", "198.51.100.7")
    assert crowd.ended() == ["busy"]


def test_connectors_with_a_registration_stay(scene: Scene) -> None:
    crowd = Crowd.of(scene)
    for name in "abc":
        crowd.connector(name, PEER)
    crowd.channels["b"].receive(control.Unregister(1, "db"), 0.0)
    crowd.now += TENURE_SECONDS
    crowd.connector("d", PEER)
    assert crowd.ended() == ["b"]
    crowd.channels["c"].ended("db", Reason.TOKEN_EXPIRED)
    crowd.now += TENURE_SECONDS
    crowd.connector("e", PEER)
    assert crowd.ended() == ["c"]
    with pytest.raises(RendezvousError):
        crowd.connector("f", PEER)


def test_a_channel_whose_registrations_are_refused_ends_after_a_while(scene: Scene) -> None:
    crowd = Crowd.of(scene)
    scene.broker.listeners = ListenerTable(randbelow=lambda below: 0, clock=lambda: crowd.now, max_per_connection=1)
    crowd.connector("a", PEER)
    crowd.connector("b", PEER)
    for name, close in [("a", None), ("b", Close(Reason.LIMIT, gracefully=True))]:
        crowd.now = REFUSED_CHANNEL_SECONDS - 1
        assert crowd.channels[name].expire(0.0) is None
        crowd.now = REFUSED_CHANNEL_SECONDS
        assert crowd.channels[name].expire(0.0) == close
        assert crowd.channels[name].expire(0.0) is None, "once"


def test_a_channel_with_a_registration_does_not_end_because_another_one_is_refused(scene: Scene) -> None:
    crowd = Crowd.of(scene)
    crowd.connector("a", PEER)
    crowd.channels["a"].refuse(control.Register(2, "web", "token"), AuthorizationError("no", reason=Reason.WRONG_KEY))
    crowd.now = 2 * REFUSED_CHANNEL_SECONDS
    assert crowd.channels["a"].expire(0.0) is None


def test_a_listener_that_has_withdrawn_everything_keeps_its_channel(scene: Scene) -> None:
    crowd = Crowd.of(scene)
    crowd.connector("a", PEER)
    crowd.channels["a"].receive(control.Unregister(1, "db"), 0.0)
    crowd.now = 2 * REFUSED_CHANNEL_SECONDS
    assert crowd.channels["a"].expire(0.0) is None


def test_a_listener_says_that_a_sender_has_proved_its_identity(scene: Scene) -> None:
    scene.channel.receive(CONNECTOR, 0.0)
    assert scene.channel.receive(control.Proved(7), 0.0) == SenderProved(7)


def test_a_relay_that_drains_accepts_what_existing_sessions_depend_on(scene: Scene) -> None:
    channel, broker, grant = scene.channel, scene.broker, scene.grant("listener", expires_at=77.0)
    channel.receive(CONNECTOR, 0.0)
    scene.request(REGISTER, grant)
    broker.is_draining = True
    registered = SendMessage(control.Registered(1, 77.0))
    assert scene.request(REGISTER, grant) == registered, "renewed"
    with pytest.raises(RendezvousError) as caught:
        channel.authorize(control.Register(2, "web", "token"), scene.grant("listener", "web"), 0.0)
    assert caught.value.reason is Reason.RELAY_DRAINING
    successor = ControlChannelCore(broker, "its next channel", WELCOME, PEER)
    successor.receive(attrs.evolve(CONNECTOR, generation=CONNECTOR.generation + 1), 0.0)
    successor.authorize(REGISTER, grant, 0.0)
    assert successor.grant(REGISTER, grant, 0.0) == registered
    registration = broker.listeners.find(REGISTER.connection, INSTANCE)
    assert registration is not None
    broker.listeners.remove(registration)
    returning = ControlChannelCore(broker, "after the others have ended", WELCOME, PEER)
    returning.receive(attrs.evolve(CONNECTOR, generation=CONNECTOR.generation + 2), 0.0)
    returning.authorize(REGISTER, grant, 0.0)
    assert returning.grant(REGISTER, grant, 0.0) == registered
    places = len(scene.places)
    client, send = ControlChannelCore(broker, "of a client", WELCOME, PEER), scene.grant("sender")
    client.receive(CLIENT, 0.0)
    with pytest.raises(RendezvousError) as caught:
        client.authorize(JOIN, send, 0.0)
    assert caught.value.reason is Reason.RELAY_DRAINING
    assert len(scene.places) == places, "it has got no place"
    resumption = attrs.evolve(JOIN, listener=INSTANCE)
    client.authorize(resumption, send, 0.0)
    assert client.grant(resumption, send, 0.0) == StartJoin(resumption, send)


# --- claims and new keys


def make_channel(make_scene: Scene, hello: control.Hello) -> ControlChannelCore[str]:
    channel: ControlChannelCore[str] = ControlChannelCore(make_scene.broker, "other", WELCOME, PEER)
    assert channel.receive(hello, 0.0) == SendMessage(WELCOME)
    return channel


TAKER = control.Hello(control.PeerRole.TAKER, "d" * 32, 1, "test")
TAKE = control.Take(1, "a" * 32, "b" * 64)


def test_a_taker_may_ask_once_and_nothing_else(scene: Scene) -> None:
    channel = make_channel(scene, TAKER)
    assert channel.receive(TAKE, 0.0) == TakeClaim(TAKE)
    assert not channel.authorized
    with pytest.raises(RemoteProtocolError, match="only one claim"):
        channel.receive(TAKE, 0.0)
    for message in (control.Join(1, "db", "t"), control.Register(1, "db", "t"), control.Check(1, "db", "t")):
        with pytest.raises(RemoteProtocolError, match="may not send"):
            make_channel(scene, TAKER).receive(message, 0.0)
    for hello in (CONNECTOR, CLIENT):
        with pytest.raises(RemoteProtocolError, match="may not send"):
            make_channel(scene, hello).receive(TAKE, 0.0)


@pytest.mark.parametrize(
    ("hello", "rule", "right"), [(CONNECTOR, "listener", Right.LISTEN), (CLIENT, "sender", Right.SEND)]
)
def test_a_token_is_checked_and_nothing_begins(scene: Scene, hello: control.Hello, rule: str, right: Right) -> None:
    channel = make_channel(scene, hello)
    check = control.Check(5, "db", "t")
    assert channel.receive(check, 0.0) == Authorize(check, right)
    grant = scene.grant(rule)
    channel.authorize(check, grant, 0.0)
    assert channel.grant(check, grant, 0.0) == SendMessage(control.Checked(5))
    assert channel.authorized
    assert channel.keys == {grant.key}
    assert len(scene.broker.listeners.index) == 0
    # Both keys of a rule, while it is rolled; and a key that the relay does not know is not an attempt to guess.
    both = scene.grant(rule, slot=KeySlot.SECONDARY)
    channel.authorize(check, both, 0.0)
    assert channel.keys == {grant.key, both.key}
    scene.broker.take()
    error = AuthorizationError("wrong", reason=Reason.WRONG_KEY)
    assert channel.refuse(check, error) == SendMessage(control.Failed(5, Reason.WRONG_KEY, "wrong"))
    assert scene.broker.take() == []


def test_a_peer_with_a_key_cannot_try_other_hybrid_connections_unnoticed(scene: Scene) -> None:
    channel = make_channel(scene, CLIENT)
    channel.authorize(control.Check(1, "db", "t"), scene.grant("sender"), 0.0)
    scene.broker.take()
    for number, reason in enumerate((Reason.WRONG_KEY, Reason.UNKNOWN_CONNECTION)):
        channel.refuse(control.Check(number, "other", "t"), AuthorizationError("no", reason=reason))
    noted = [output for output in scene.broker.take() if isinstance(output, TokenInvalid | TokenRefused)]
    assert [(event.connection, event.reason) for event in noted] == [
        ("other", Reason.WRONG_KEY),
        ("other", Reason.UNKNOWN_CONNECTION),
    ]


def test_a_stranger_cannot_guess_unnoticed_with_checks(scene: Scene) -> None:
    channel = make_channel(scene, CLIENT)
    error = AuthorizationError("wrong", reason=Reason.WRONG_KEY)
    for number in range(REFUSALS_BEFORE_AUTHORIZED):
        channel.refuse(control.Check(number, "db", "t"), error)
    assert [type(output) for output in scene.broker.take()] == [TokenInvalid] * REFUSALS_BEFORE_AUTHORIZED
    with pytest.raises(RemoteProtocolError, match="too many"):
        channel.refuse(control.Check(9, "db", "t"), error)


WITNESS = control.Witness(4, "db", "0f" * 8, 1, "ab" * 32, "t", "k", "s")


@pytest.mark.parametrize(("hello", "rule"), [(CONNECTOR, "listener"), (CLIENT, "sender")])
def test_checkpoints_are_kept_for_peers_with_a_key(scene: Scene, hello: control.Hello, rule: str) -> None:
    channel = make_channel(scene, hello)
    with pytest.raises(RemoteProtocolError, match="before a valid token"):
        channel.receive(WITNESS, 0.0)
    channel.authorize(control.Check(1, "db", "t"), scene.grant(rule), 0.0)
    assert channel.receive(WITNESS, 0.0) == KeepCheckpoint(WITNESS)
    other = channel.receive(attrs.evolve(WITNESS, connection="other"), 0.0)
    assert isinstance(other, SendMessage)
    assert isinstance(other.message, control.Failed)
    assert (other.message.id, other.message.reason) == (4, Reason.RIGHT_MISSING)
    with pytest.raises(RemoteProtocolError, match="may not send"):
        make_channel(scene, TAKER).receive(WITNESS, 0.0)


def test_an_answer_about_a_key_is_passed_on_only_from_those_who_have_one(scene: Scene) -> None:
    answer = control.KeyKept("db", 7, control.KeptState.KEPT)
    for hello, rule in ((CONNECTOR, "listener"), (CLIENT, "sender")):
        channel = make_channel(scene, hello)
        assert channel.receive(answer, 0.0) is None
        channel.authorize(control.Check(1, "db", "t"), scene.grant(rule), 0.0)
        assert channel.receive(answer, 0.0) == KeyAnswered(answer)
        assert channel.receive(attrs.evolve(answer, connection="other"), 0.0) is None


# --- the health of targets


def test_a_connector_reports_the_health_of_targets_that_it_has_registered(scene: Scene) -> None:
    channel, broker = scene.channel, scene.broker
    unhealthy, healthy, unknown = (control.Health("db", one) for one in TARGET_STATES)
    channel.receive(CONNECTOR, 0.0)
    with pytest.raises(RemoteProtocolError, match="before a valid token"):
        channel.receive(unhealthy, 0.0)
    scene.request(REGISTER, scene.grant("listener"))
    broker.take()
    facts = {"connection": "db", "peer": PEER, "instance": INSTANCE}
    table: list[tuple[control.Health, list[Event]]] = [
        (healthy, []),
        (unhealthy, [ListenerTargetUnhealthy(**facts)]),
        (unhealthy, []),
        (healthy, [ListenerTargetHealthy(**facts)]),
        (unhealthy, [ListenerTargetUnhealthy(**facts)]),
        (unknown, [ListenerTargetHealthy(**facts)]),
        (control.Health("web", control.TargetHealth.UNHEALTHY), []),
    ]
    for message, events in table:
        assert channel.receive(message, 0.0) is None
        assert broker.take() == events
    channel.receive(control.Unregister(2, "db"), 0.0)
    broker.take()
    assert channel.receive(unhealthy, 0.0) is None, "the connector may not know yet that its registration has ended"
    assert broker.take() == []
    for hello in (CLIENT, TAKER):
        with pytest.raises(RemoteProtocolError, match="may not send"):
            make_channel(scene, hello).receive(healthy, 0.0)


def test_a_connector_cannot_report_health_without_end(scene: Scene) -> None:
    channel = scene.channel
    channel.receive(CONNECTOR, 0.0)
    scene.request(REGISTER, scene.grant("listener"))
    now = 0.0
    for _ in range(3):
        for number in range(2 * HEALTH_REPORTS):
            channel.receive(control.Health("db", TARGET_STATES[number % 2]), now)
        now += HEALTH_SECONDS
    for number in range(2 * HEALTH_REPORTS):
        channel.receive(control.Health("db", TARGET_STATES[number % 2]), now)
    with pytest.raises(RemoteProtocolError, match="too often") as caught:
        channel.receive(control.Health("db", TARGET_STATES[0]), now + HEALTH_SECONDS - 0.1)
    assert caught.value.reason is Reason.LIMIT
