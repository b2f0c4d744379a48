"""Transcripts of the broker: inputs, and the commands and events that follow from each."""

from __future__ import annotations

import random
from collections.abc import Callable

import attrs
import pytest

from hybridrelay.errors import AuthorizationError, RendezvousError
from hybridrelay.events import (
    ConnectionCreated,
    ConnectionDeleted,
    ConnectionDisabled,
    ConnectionEnabled,
    KeyChanged,
    KeyRevoked,
    ListenerChosen,
    ListenerDeclined,
    ListenerDisplaced,
    ListenerLeft,
    ListenerRegistered,
    ListenerSilent,
    RendezvousEnded,
    RendezvousJoined,
    RendezvousTimeout,
    SenderJoining,
    SenderRefused,
    TokenExpired,
)
from hybridrelay.protocol.errors import RemoteProtocolError
from hybridrelay.protocol.reasons import Reason
from hybridrelay.relay.core.authorization import Authorization, Grant
from hybridrelay.relay.core.broker import Broker
from hybridrelay.relay.core.commands import (
    AskListener,
    CheckListener,
    EndRegistration,
    JoinFailed,
    JoinMade,
    RefuseDataChannel,
    StopMoving,
)
from hybridrelay.relay.core.join import Answer
from hybridrelay.relay.core.listener import Listener
from hybridrelay.relay.core.listeners import ListenerTable
from hybridrelay.relay.core.places import Places
from hybridrelay.relay.core.quotas import QuotaKind
from hybridrelay.relay.core.rendezvous import Arrival, RendezvousTable
from hybridrelay.relay.core.rendezvous_states import Input, State
from hybridrelay.relay.model import StoreChange
from hybridrelay.relay.quotas import Limits, Quota
from hybridrelay.relay.store.memory import MemoryStore
from hybridrelay.relay.store.store import Store
from hybridrelay.security import KeySlot, Right, Rule, audience_for, generate_key, make_token

from ..places import make_places

NAME = "db"


@attrs.define
class Scene:
    """A broker of one hybrid connection. A listener's handle is the name of its control channel."""

    store: MemoryStore
    broker: Broker[str]
    pairs: Places[str]
    now: float = 100.0

    @classmethod
    def make(cls, *, listeners: int = 64) -> Scene:
        store = MemoryStore()
        store.create(
            NAME, ["relay"], [Rule.generate("listener", [Right.LISTEN]), Rule.generate("sender", [Right.SEND])]
        )
        pairs = make_places("data channels", 100)
        randomness = random.Random(1)
        scene: Scene
        broker: Broker[str] = Broker(
            Authorization(store.snapshot()),
            make_places("control channels", 100),
            ListenerTable(randbelow=lambda below: 0, clock=lambda: scene.now, max_per_connection=listeners),
            RendezvousTable(
                b"\1\2\3\4",
                token_bytes=randomness.randbytes,
                places=pairs,
                open_places=make_places("open", 100),
            ),
            holder_secret=bytes(32),
        )
        scene = cls(store, broker, pairs)
        return scene

    def grant(self, rule: str) -> Grant:
        connection = self.store.get(NAME)
        key = connection.key_id(rule, KeySlot.PRIMARY)
        assert key is not None
        return Grant(connection, key, 1e9)

    def listener(self, instance: str, channel: str = "", *, generation: int = 1) -> Listener[str]:
        key = self.grant("listener").key
        return Listener(NAME, instance, generation, key, channel or f"channel of {instance}", "192.0.2.1")

    def register(self, instance: str) -> Listener[str]:
        self.now += 1.0
        listener = self.listener(instance)
        self.broker.register(listener, self.now)
        self.broker.take()
        return listener

    def ask(self) -> AskListener[str]:
        step = self.broker.joins.begin(self.grant("sender"), None, "192.0.2.9", now=self.now)
        self.broker.take()
        assert isinstance(step, AskListener)
        return step

    def answer(self, ask: AskListener[str], answer: Answer, reason: Reason = Reason.NO_ERROR) -> object:
        return self.broker.joins.answered(ask, answer, self.now, reason=reason)

    def matched(self) -> tuple[str, Arrival, Arrival]:
        """A rendezvous whose two tickets were used: its id, and the arrivals of listener and sender."""
        self.register("a")
        ask = self.ask()
        made = self.answer(ask, Answer.ACCEPTED)
        assert isinstance(made, JoinMade)
        of_listener, of_sender = (self.broker.use_ticket(ticket, self.now) for ticket in (ask.ticket, made.ticket))
        assert self.broker.take() == []
        return ask.rendezvous_id, of_listener, of_sender

    def joined(self) -> str:
        name, *arrivals = self.matched()
        for arrival in arrivals:
            self.broker.ready(arrival, self.now)
        self.broker.take()
        return name

    def update(self) -> None:
        change = StoreChange.between(self.broker.authorization.connections, self.store.snapshot())
        self.broker.update(change, self.now)


@pytest.fixture
def scene() -> Scene:
    return Scene.make()


def ended(
    name: str, outcome: str, reason: Reason, *, to_client: int = 0, to_connector: int = 0, seconds: float = 0.0
) -> RendezvousEnded:
    return RendezvousEnded(
        connection=NAME,
        activity_id=name,
        outcome=outcome,
        reason=reason,
        bytes_to_client=to_client,
        bytes_to_connector=to_connector,
        seconds=seconds,
    )


# --- listeners


def test_a_listener_registers_renews_and_leaves(scene: Scene) -> None:
    first, again = scene.listener("a", "one"), scene.listener("a", "one")
    scene.broker.register(first, scene.now)
    assert scene.broker.take() == [ListenerRegistered(connection=NAME, peer="192.0.2.1", instance="a")]
    scene.broker.register(again, scene.now)
    assert scene.broker.take() == [], "a renewal is not an event"
    scene.broker.unregister(first)
    assert scene.broker.take() == [], "it was renewed"
    for _ in range(2):
        scene.broker.unregister(again)
    left = ListenerLeft(connection=NAME, peer="192.0.2.1", instance="a", reason=Reason.NO_ERROR)
    assert scene.broker.take() == [left]


def test_an_instance_that_comes_back_takes_over(scene: Scene) -> None:
    before = scene.register("a")
    scene.broker.register(scene.listener("a", "another channel", generation=2), scene.now)
    assert scene.broker.take() == [EndRegistration(before, Reason.SUPERSEDED)]
    with pytest.raises(RendezvousError):
        scene.broker.register(before, scene.now)
    assert scene.broker.take() == []


def test_a_successor_ends_the_registration_of_an_instance_that_is_dead(scene: Scene) -> None:
    dead = scene.register("a")
    scene.broker.register(scene.listener("b"), scene.now, replaces=["a", "b", "never seen"])
    assert scene.broker.take() == [
        ListenerLeft(connection=NAME, peer="192.0.2.1", instance="a", reason=Reason.SUPERSEDED),
        EndRegistration(dead, Reason.SUPERSEDED),
        ListenerRegistered(connection=NAME, peer="192.0.2.1", instance="b"),
    ]


def test_a_listener_is_displaced_by_one_of_another_holder() -> None:
    scene = Scene.make(listeners=2)
    scene.register("a")
    newest = scene.register("b")
    newcomer = attrs.evolve(scene.listener("c"), address="198.51.100.1")
    scene.broker.register(newcomer, scene.now)
    assert scene.broker.take() == [
        ListenerDisplaced(connection=NAME, instance="b", successor="c"),
        ListenerLeft(connection=NAME, peer="192.0.2.1", instance="b", reason=Reason.LISTENER_QUOTA),
        EndRegistration(newest, Reason.LISTENER_QUOTA),
        ListenerRegistered(connection=NAME, peer="198.51.100.1", instance="c"),
    ]


def test_a_refused_listener_shows_at_once_that_the_quota_is_used_up() -> None:
    scene = Scene.make()
    scene.store.change(NAME, quota=Quota(limits=Limits(listeners=1)))
    scene.update()
    scene.register("a")
    scene.broker.take()
    assert list(scene.broker.quotas.most_used()) == [], "nobody was refused, and the regular check is not yet due"
    with pytest.raises(RendezvousError, match="1 of 1 listeners"):
        scene.broker.register(scene.listener("b"), scene.now)
    assert list(scene.broker.quotas.most_used()) == [(NAME, QuotaKind.LISTENERS, 1, 1)]


def test_a_token_that_has_expired_ends_a_registration(scene: Scene) -> None:
    listener = scene.register("a")
    for _ in range(2):
        scene.broker.token_expired(listener)
    assert scene.broker.take() == [
        TokenExpired(connection=NAME, peer="192.0.2.1", instance="a"),
        ListenerLeft(connection=NAME, peer="192.0.2.1", instance="a", reason=Reason.TOKEN_EXPIRED),
        EndRegistration(listener, Reason.TOKEN_EXPIRED),
    ]


# --- joins


def test_a_join_fails_if_nobody_listens(scene: Scene) -> None:
    step = scene.broker.joins.begin(scene.grant("sender"), None, "192.0.2.9", now=0.0)
    assert step == JoinFailed(Reason.NO_LISTENER)
    assert scene.broker.take() == [
        SenderJoining(connection=NAME, peer="192.0.2.9"),
        SenderRefused(connection=NAME, peer="192.0.2.9", reason=Reason.NO_LISTENER),
    ]


def test_listeners_are_asked_one_after_the_other(scene: Scene) -> None:
    a, b, c = (scene.register(name) for name in "abc")
    first = scene.ask()
    assert first.listener is a
    second = scene.answer(first, Answer.TIMEOUT)
    assert isinstance(second, AskListener)
    assert second.listener is b
    facts = {"connection": NAME, "activity_id": first.rendezvous_id, "instance": "a"}
    assert scene.broker.take() == [
        ListenerSilent(**facts),
        CheckListener(a),
        RefuseDataChannel(first.rendezvous_id, Reason.LISTENER_CANNOT_DIAL),
        ended(first.rendezvous_id, "withdrawn", Reason.LISTENER_CANNOT_DIAL),
        ListenerChosen(
            connection=NAME,
            activity_id=second.rendezvous_id,
            instance="b",
            why="drawn",
            sessions=0,
            candidates=2,
            healthy=2,
        ),
    ]
    third = scene.answer(second, Answer.DECLINED, Reason.LIMIT)
    assert isinstance(third, AskListener)
    assert third.listener is c
    assert scene.broker.take()[0] == ListenerDeclined(
        connection=NAME, activity_id=second.rendezvous_id, instance="b", reason=Reason.LIMIT
    )
    made = scene.answer(third, Answer.ACCEPTED)
    assert isinstance(made, JoinMade)
    assert made.instance == "c"
    assert scene.broker.take() == []
    assert len({first.holder, second.holder, third.holder}) == 1
    assert len(scene.pairs) == 1


def test_a_sender_that_does_not_wait_any_longer_leaves_nothing_behind(scene: Scene) -> None:
    scene.register("a")
    ask = scene.ask()
    for _ in range(2):
        scene.broker.joins.cancel(ask, scene.now)
    assert scene.broker.take() == [
        RefuseDataChannel(ask.rendezvous_id, Reason.LISTENER_CANNOT_DIAL),
        ended(ask.rendezvous_id, "withdrawn", Reason.LISTENER_CANNOT_DIAL),
    ]
    assert len(scene.pairs) == 0
    with pytest.raises(RemoteProtocolError):
        scene.broker.use_ticket(ask.ticket, scene.now)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda store: store.revoke_key(NAME, "sender", KeySlot.PRIMARY), Reason.KEY_REVOKED),
        (lambda store: store.delete_rule(NAME, "sender"), Reason.KEY_REVOKED),
        (lambda store: store.put_rule(NAME, "sender", [Right.LISTEN]), Reason.RIGHT_MISSING),
        (lambda store: store.change(NAME, disabled=True), Reason.CONNECTION_DISABLED),
        (lambda store: store.delete(NAME), Reason.UNKNOWN_CONNECTION),
    ],
)
@pytest.mark.parametrize("answer", [Answer.TIMEOUT, Answer.DECLINED, Answer.LOST])
def test_a_sender_whose_key_lost_its_right_while_a_listener_was_asked(
    scene: Scene, change: Callable[[Store], object], reason: Reason, answer: Answer
) -> None:
    scene.register("a")
    scene.register("b")
    ask = scene.ask()
    change(scene.store)
    scene.update()
    assert scene.answer(ask, answer) == JoinFailed(reason)


@pytest.mark.parametrize("reason", ["the instance has a pair", "the relay has just started"])
@pytest.mark.parametrize("kind", [QuotaKind.SENDERS, QuotaKind.SESSIONS, QuotaKind.BYTES])
def test_only_a_join_that_names_its_listener_may_be_for_an_existing_session(
    scene: Scene, reason: str, kind: QuotaKind
) -> None:
    """To resume or move a session, clients ask for its listener. Other joins get no more than the quota allows."""
    scene.register("a")
    instance = "1" * 32
    if reason == "the instance has a pair":
        ask = scene.broker.joins.begin(scene.grant("sender"), None, "192.0.2.9", instance=instance, now=scene.now)
        assert isinstance(ask, AskListener)
        made = scene.answer(ask, Answer.ACCEPTED)
        assert isinstance(made, JoinMade)
        for arrival in [scene.broker.use_ticket(ticket, scene.now) for ticket in (ask.ticket, made.ticket)]:
            scene.broker.ready(arrival, scene.now)
    else:
        scene.broker.quotas.lenient_until = scene.now + 50.0
        assert isinstance(scene.answer(scene.ask(), Answer.ACCEPTED), JoinMade)
    limits = Limits(senders=1, sessions=1) if kind is not QuotaKind.BYTES else Limits(bytes_per_month=100)
    scene.store.change(NAME, quota=Quota(limits=limits))
    scene.update()
    scene.broker.senders[NAME] = 1
    scene.broker.quotas.count_bytes({NAME: 100}, 100, scene.now)

    def refusal(wanted: str | None, now: float) -> Reason | None:
        if kind is not QuotaKind.SENDERS:
            step = scene.broker.joins.begin(scene.grant("sender"), wanted, "192.0.2.9", instance=instance, now=now)
            return step.reason if isinstance(step, JoinFailed) else None
        try:
            scene.broker.check_sender_quota(NAME, instance, wanted, now)
        except RendezvousError as exc:
            return exc.reason
        return None

    refused = {
        QuotaKind.SENDERS: Reason.SENDER_QUOTA,
        QuotaKind.SESSIONS: Reason.SESSION_QUOTA,
        QuotaKind.BYTES: Reason.TRANSFER_QUOTA,
    }[kind]
    assert [refusal(wanted, scene.now) for wanted in (None, "a")] == [refused, None]
    if reason == "the relay has just started":
        assert refusal("a", scene.now + 50.0) is refused


# --- data channels


def test_two_data_channels_are_joined_and_end(scene: Scene) -> None:
    name, listener, sender = scene.matched()
    assert scene.broker.ready(listener, scene.now) is State.MATCHED
    assert scene.broker.take() == []
    assert scene.broker.ready(sender, scene.now) is State.JOINED
    assert scene.broker.take() == [RendezvousJoined(connection=NAME, activity_id=name)]
    for arrival in (listener, sender):
        scene.broker.gone(arrival, scene.now)
    assert scene.broker.take() == [], "once it is joined, only the end of the moving ends it"
    scene.now += 7.5
    scene.broker.moving_ended(name, Input.FINISHES, scene.now, bytes_to_client=3, bytes_to_connector=5)
    assert scene.broker.take() == [
        RefuseDataChannel(name, Reason.NO_ERROR),
        ended(name, "finished", Reason.NO_ERROR, to_client=3, to_connector=5, seconds=7.5),
    ]
    assert len(scene.pairs) == 0


@pytest.mark.parametrize("leaver", [0, 1])
def test_a_data_channel_that_is_gone_before_it_was_joined_ends_the_rendezvous(scene: Scene, leaver: int) -> None:
    name, *arrivals = scene.matched()
    scene.broker.ready(arrivals[1 - leaver], scene.now)
    scene.broker.gone(arrivals[leaver], scene.now)
    assert scene.broker.take() == [
        RefuseDataChannel(name, Reason.PEER_ABSENT),
        ended(name, "left", Reason.PEER_ABSENT),
    ]
    assert scene.broker.ready(arrivals[leaver], scene.now) is State.ENDED


def test_a_ticket_that_nobody_uses_expires(scene: Scene) -> None:
    scene.register("a")
    ask = scene.ask()
    made = scene.answer(ask, Answer.ACCEPTED)
    assert isinstance(made, JoinMade)
    scene.broker.ready(scene.broker.use_ticket(made.ticket, scene.now), scene.now)
    deadline = scene.broker.next_deadline()
    assert deadline is not None
    scene.broker.expire(deadline - 0.1)
    assert scene.broker.take() == []
    scene.broker.expire(deadline)
    assert scene.broker.take() == [
        RendezvousTimeout(connection=NAME, activity_id=ask.rendezvous_id, absent=("listener",)),
        RefuseDataChannel(ask.rendezvous_id, Reason.PEER_ABSENT),
        ended(ask.rendezvous_id, "listener absent", Reason.PEER_ABSENT),
    ]
    assert scene.broker.next_deadline() is None


def test_a_joined_rendezvous_ends_once_when_the_relay_stops(scene: Scene) -> None:
    name = scene.joined()
    for _ in range(2):
        scene.broker.shut_down(scene.now)
    assert scene.broker.take() == [StopMoving(name)]
    scene.broker.moving_ended(name, Input.CANCELLED, scene.now, bytes_to_client=1, bytes_to_connector=2)
    assert scene.broker.take() == [
        RefuseDataChannel(name, Reason.GOING_AWAY),
        ended(name, "shut down", Reason.GOING_AWAY, to_client=1, to_connector=2),
    ]


# --- changes of the store


def test_disabling_ends_everything_and_says_so(scene: Scene) -> None:
    name = scene.joined()
    (listener,) = scene.broker.listeners.of(NAME)
    asked = scene.ask()
    scene.store.change(NAME, disabled=True)
    scene.update()
    disabled = Reason.CONNECTION_DISABLED
    assert scene.broker.take() == [
        ConnectionDisabled(connection=NAME),
        ListenerLeft(connection=NAME, peer="192.0.2.1", instance="a", reason=disabled),
        EndRegistration(listener, disabled),
        StopMoving(name),
        RefuseDataChannel(asked.rendezvous_id, disabled),
        ended(asked.rendezvous_id, "disabled", disabled),
    ]
    scene.broker.moving_ended(name, Input.CANCELLED, scene.now, bytes_to_client=1, bytes_to_connector=2)
    assert scene.broker.take()[-1] == ended(name, "disabled", disabled, to_client=1, to_connector=2)
    assert scene.answer(asked, Answer.LOST) == JoinFailed(disabled), "no other listener is asked"
    scene.broker.take()

    scene.store.change(NAME, disabled=False)
    scene.update()
    assert scene.broker.take() == [ConnectionEnabled(connection=NAME)]
    scene.register("b")
    scene.ask()


def test_disabling_keeps_no_place_for_a_session(scene: Scene) -> None:
    name = scene.joined()
    scene.broker.establish(name)
    scene.broker.moving_ended(name, Input.BREAKS, scene.now, bytes_to_client=0, bytes_to_connector=0)
    assert len(scene.pairs) == 1
    scene.store.change(NAME, disabled=True)
    scene.update()
    assert len(scene.pairs) == 0


@pytest.mark.parametrize(("key", "reason"), [("primary", "connection-disabled"), ("other", "wrong-key")])
def test_only_the_holder_of_a_valid_key_learns_that_a_hybrid_connection_is_disabled(
    scene: Scene, key: str, reason: str
) -> None:
    rule = scene.store.rule(NAME, "sender")
    assert rule.primary is not None
    token = make_token(
        audience_for("relay", NAME), "sender", rule.primary if key == "primary" else generate_key(), expires_at=1000
    )
    authorization = scene.broker.authorization
    scene.store.change(NAME, disabled=True)
    scene.update()
    with pytest.raises(AuthorizationError) as caught:
        authorization.verify(NAME, token, Right.SEND, 500.0)
    assert caught.value.reason.slug == reason


def test_a_key_that_is_revoked_ends_everything_that_it_had_authorized(scene: Scene) -> None:
    name = scene.joined()
    listener = scene.broker.listeners.find(NAME, "a")
    assert listener is not None
    scene.store.revoke_key(NAME, "listener", KeySlot.PRIMARY)
    scene.update()
    assert scene.broker.take() == [
        KeyRevoked(connection=NAME, rule="listener", slot="primary"),
        ListenerLeft(connection=NAME, peer="192.0.2.1", instance="a", reason=Reason.KEY_REVOKED),
        EndRegistration(listener, Reason.KEY_REVOKED),
        StopMoving(name),
    ]
    scene.broker.moving_ended(name, Input.BREAKS, scene.now, bytes_to_client=0, bytes_to_connector=0)
    assert scene.broker.take()[-1] == ended(name, "revoked", Reason.KEY_REVOKED)


def test_a_key_that_is_regenerated_is_another_key(scene: Scene) -> None:
    scene.store.regenerate_key(NAME, "sender", KeySlot.SECONDARY)
    scene.update()
    assert scene.broker.take() == [KeyChanged(connection=NAME, rule="sender", slot="secondary")]


def test_hybrid_connections_come_and_go(scene: Scene) -> None:
    listener = scene.register("a")
    scene.store.delete(NAME)
    scene.store.create("new", ["relay"], [])
    scene.update()
    events: list[object] = [
        ConnectionCreated(connection="new"),
        ConnectionDeleted(connection=NAME),
        ListenerLeft(connection=NAME, peer="192.0.2.1", instance="a", reason=Reason.UNKNOWN_CONNECTION),
        EndRegistration(listener, Reason.UNKNOWN_CONNECTION),
    ]
    assert scene.broker.take() == events
    assert scene.broker.listeners.count() == 0


def test_events_never_contain_a_ticket(scene: Scene) -> None:
    scene.register("a")
    ask = scene.ask()
    made = scene.answer(ask, Answer.ACCEPTED)
    assert isinstance(made, JoinMade)
    shown = repr(ask) + repr(made)
    assert repr(ask.ticket) not in shown
    assert repr(made.ticket) not in shown
