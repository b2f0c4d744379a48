"""The relay's end of a control channel: what a peer may request, and when what it has got ends."""

from __future__ import annotations

import contextlib
import itertools
import time
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import cast

import pytest
import trio
import trio.testing

from hybridrelay.events import Event, EventStream
from hybridrelay.events.relay import ControlChannelSilent, ControlChannelUnread, ListenerLeft
from hybridrelay.mux import CONTROL_CONFIG, DIALED_CONTROL_CONFIG, EarlySession, MuxStream, Session, SessionRole
from hybridrelay.protocol import RemoteProtocolError, control
from hybridrelay.protocol.config import SessionConfig
from hybridrelay.protocol.control_codec import encode_message
from hybridrelay.protocol.preamble import STATUS_SIZE
from hybridrelay.protocol.reasons import Reason
from hybridrelay.relay.client_addresses import ClientAddresses
from hybridrelay.relay.core import control_channel
from hybridrelay.relay.core.control_channel import MAX_JOINS, MAX_REGISTRATIONS
from hybridrelay.relay.core.listeners import Listener
from hybridrelay.relay.core.places import TENURE_SECONDS
from hybridrelay.relay.edge.authentication import AuthenticatedControlChannel
from hybridrelay.relay.limits import REFUSALS_BEFORE_AUTHORIZED, UNREAD_SWEEPS
from hybridrelay.relay.service import control as relay_control
from hybridrelay.relay.service.broker import OFFER_SECONDS, BrokerService
from hybridrelay.relay.service.connections import ControlPeers
from hybridrelay.relay.service.control import CHECK_SECONDS, ControlPeer
from hybridrelay.relay.service.patience import STEPS
from hybridrelay.relay.service.rolls import RollService
from hybridrelay.relay.store.sqlite import SQLiteStore
from hybridrelay.security import KeySlot, Right, Rule, audience_for, make_token
from hybridrelay.streams import TLSStream, receive_exactly
from hybridrelay.streams.turns import MAX_FRAMES, SharedTurns
from hybridrelay.testing import session_pair

from ...leaks import no_garbage_collector
from ...waiting import patience
from ..listening import willing
from ..peers import HOST, FarEnd, client_hello, hello_of, make_broker, token_for, update
from ..places import make_places

SECRET = "1" * 64
NAMES = ("db", "other", "third")
#: More messages with keys than the queue of a control channel holds.
MANY = 2000


@pytest.fixture
def registry(tmp_path: Path, rules: tuple[Rule, ...]) -> Iterator[SQLiteStore]:
    with SQLiteStore.open(tmp_path) as registry:
        for name in NAMES:
            registry.create(name, [HOST], rules)
        yield registry


@pytest.fixture
def broker(registry: SQLiteStore) -> BrokerService:
    return make_broker(registry)


async def _connector(broker: BrokerService, nursery: trio.Nursery, secret: str = SECRET) -> FarEnd:
    far_end = await FarEnd.connect(broker, nursery, hello_of(secret))
    assert isinstance(await far_end.hear(), control.Welcome)
    return far_end


async def _client(broker: BrokerService, nursery: trio.Nursery) -> FarEnd:
    far_end = await FarEnd.connect(broker, nursery, client_hello())
    assert isinstance(await far_end.hear(), control.Welcome)
    return far_end


async def test_concurrent_joins_are_limited(
    broker: BrokerService, rules: tuple[Rule, ...], autojump_clock: trio.testing.MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        deaf = await _connector(broker, nursery)
        await deaf.say(control.Register(1, "db", token_for(rules[0])))
        assert isinstance(await deaf.hear(), control.Registered)
        client = await _client(broker, nursery)
        began = trio.current_time()
        await client.say(*(control.Join(number, "db", token_for(rules[1])) for number in range(MAX_JOINS + 3)))
        answers = [await client.hear() for _ in range(3)]
        assert trio.current_time() == began, "these have not waited for a listener"
        for answer in answers:
            assert isinstance(answer, control.Failed)
            assert answer.reason is Reason.LIMIT
        for _ in range(MAX_JOINS):
            answer = await client.hear()
            assert isinstance(answer, control.Failed)
            assert answer.reason is Reason.LISTENER_SILENT
        assert trio.current_time() == pytest.approx(began + OFFER_SECONDS)
        # They are over, so there is room for another one.
        answer = await client.ask(control.Join(99, "db", token_for(rules[1])))
        assert isinstance(answer, control.Failed)
        assert answer.reason in {Reason.LISTENER_SILENT, Reason.NO_LISTENER}
        nursery.cancel_scope.cancel()


async def test_a_peer_that_reads_nothing_has_a_limited_number_of_joins(
    registry: SQLiteStore, rules: tuple[Rule, ...], autojump_clock: trio.testing.MockClock
) -> None:
    """The answers wait until it reads, and only as many as it may have joins. Then the relay reads nothing, either,
    and at last ends the channel."""
    events, unread = EventStream(), list[ControlChannelUnread]()
    events.subscribe(lambda event: unread.append(event) if isinstance(event, ControlChannelUnread) else None)
    broker = make_broker(registry, events)
    async with trio.open_nursery() as nursery:
        client = await _client(broker, nursery)
        with trio.move_on_after(60) as scope:
            for number in itertools.count():
                await client.say(control.Join(number, "db", token_for(rules[1])))
        assert scope.cancelled_caught, "the relay does not read any more"
        for _ in range(UNREAD_SWEEPS):
            client.peer.check_reading()
        assert not has_ended(client.session)
        client.peer.check_reading()
        client.peer.check_reading()
        await trio.testing.wait_all_tasks_blocked()
        assert has_ended(client.session)
        (event,) = unread
        assert event.instance == client_hello().instance
        assert 1 <= event.messages <= MAX_JOINS + 1
        nursery.cancel_scope.cancel()


async def test_a_peer_that_leaves_a_part_of_its_queue_unread_loses_its_channel(
    broker: BrokerService, autojump_clock: trio.testing.MockClock
) -> None:
    """It loses the channel even though no message has to wait for room."""
    async with trio.open_nursery() as nursery:
        client = await _client(broker, nursery)
        key = control.Key("db", "rule", 1, "k" * 100)
        size = len(encode_message(key))
        for _ in range(20 * 1024 // size):  # the window of the peer has 16 KiB
            client.peer.give(key)
            await trio.testing.wait_all_tasks_blocked()
        for number in range(UNREAD_SWEEPS + 1):
            assert not has_ended(client.session), number
            client.peer.check_reading()
        await trio.testing.wait_all_tasks_blocked()
        assert has_ended(client.session)
        nursery.cancel_scope.cancel()


async def test_a_peer_that_reads_late_keeps_its_channel(
    broker: BrokerService, rules: tuple[Rule, ...], autojump_clock: trio.testing.MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        connector = await _connector(broker, nursery)
        key = control.Key("db", "rule", 1, "k" * 100)
        for _ in range(3):
            for _ in range(MANY):
                connector.peer.give(key)
            for _ in range(UNREAD_SWEEPS):
                await trio.testing.wait_all_tasks_blocked()
                connector.peer.check_reading()
            for _ in range(MANY):
                assert await connector.hear() == key
        connector.peer.check_reading()
        assert isinstance(await connector.ask(control.Register(1, "db", token_for(rules[0]))), control.Registered)
        nursery.cancel_scope.cancel()


async def test_a_channel_stores_one_checkpoint_at_a_time_until_the_answer_was_read(
    broker: BrokerService, rules: tuple[Rule, ...], autojump_clock: trio.testing.MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        client = await _client(broker, nursery)
        assert isinstance(await client.ask(control.Check(1, "db", token_for(rules[1]))), control.Checked)
        for _ in range(MANY):
            client.peer.give(control.Key("db", "rule", 1, "k" * 100))
        for number in (2, 3):
            await client.say(control.Witness(number, "db", "0f" * 8, number, "ab" * 32, "t", "k", "s"))
            await trio.sleep(60)
        for _ in range(MANY):
            assert isinstance(await client.hear(), control.Key)
        details = {}
        for _ in range(2):
            answer = await client.hear()
            assert isinstance(answer, control.Failed)  # this relay keeps no checkpoints
            details[answer.id] = answer.detail
        assert "too many checkpoints" not in details[2]
        assert "too many checkpoints" in details[3]
        nursery.cancel_scope.cancel()


async def test_a_key_is_in_use_while_a_registration_depends_on_it(
    registry: SQLiteStore, broker: BrokerService, rules: tuple[Rule, ...], nursery: trio.Nursery
) -> None:
    """This also holds if no control channel is known over which it was presented."""
    peers = list[ControlPeer]()
    rolls = RollService(
        broker, lambda: peers, registry, trio.CapacityLimiter(1), clock=time.time, events=EventStream()
    )
    key = registry.get("db").key_id(rules[0].name, KeySlot.PRIMARY)
    other = registry.get("db").key_id(rules[0].name, KeySlot.SECONDARY)
    assert key is not None
    assert other is not None
    assert not rolls.is_in_use(key)
    connector = await _connector(broker, nursery)
    assert isinstance(await connector.ask(control.Check(1, "db", token_for(rules[0]))), control.Checked)
    assert not rolls.is_in_use(key)
    peers.append(connector.peer)
    assert rolls.is_in_use(key)
    peers.clear()
    assert isinstance(await connector.ask(control.Register(2, "db", token_for(rules[0]))), control.Registered)
    assert rolls.is_in_use(key)
    assert not rolls.is_in_use(other)
    await connector.say(control.Unregister(3, "db"))
    assert isinstance(await connector.ask(control.Check(4, "db", token_for(rules[0]))), control.Checked)
    assert not rolls.is_in_use(key)
    nursery.cancel_scope.cancel()


async def test_registrations_of_one_control_channel_are_limited(
    broker: BrokerService, rules: tuple[Rule, ...], monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    monkeypatch.setattr(control_channel, "MAX_REGISTRATIONS", 2)
    connector = await _connector(broker, nursery)
    for name in NAMES[:2]:
        answer = await connector.ask(control.Register(1, name, token_for(rules[0], name)))
        assert isinstance(answer, control.Registered)
    refused = await connector.ask(control.Register(2, NAMES[2], token_for(rules[0], NAMES[2])))
    assert isinstance(refused, control.Failed)
    assert refused.reason is Reason.LIMIT
    assert broker.listeners.count() == 2
    # A renewal is not another registration, and one that has ended does not count any more.
    answer = await connector.ask(control.Register(3, NAMES[0], token_for(rules[0], NAMES[0])))
    assert isinstance(answer, control.Registered)
    await connector.say(control.Unregister(4, NAMES[1]))
    answer = await connector.ask(control.Register(5, NAMES[2], token_for(rules[0], NAMES[2])))
    assert isinstance(answer, control.Registered)
    nursery.cancel_scope.cancel()


def test_the_limits_have_the_documented_values() -> None:
    assert (MAX_JOINS, MAX_REGISTRATIONS, REFUSALS_BEFORE_AUTHORIZED) == (32, 1024, 8)


async def test_a_registration_ends_with_its_token(
    broker: BrokerService, rules: tuple[Rule, ...], nursery: trio.Nursery
) -> None:
    assert rules[0].primary is not None
    until = int(time.time()) + 1000
    connector = await _connector(broker, nursery)
    token = make_token(audience_for(HOST, "db"), rules[0].name, rules[0].primary, expires_at=until)
    answer = await connector.ask(control.Register(1, "db", token))
    assert answer == control.Registered(1, until)
    connector.peer.expire(until - 0.5)
    assert broker.listeners.count() == 1
    connector.peer.expire(until + 0.5)
    assert broker.listeners.count() == 0
    assert await connector.hear() == control.Ended("db", Reason.TOKEN_EXPIRED)
    nursery.cancel_scope.cancel()


async def test_a_registration_that_was_renewed_lasts_longer(
    broker: BrokerService, rules: tuple[Rule, ...], nursery: trio.Nursery
) -> None:
    assert rules[0].primary is not None
    now = int(time.time())
    connector = await _connector(broker, nursery)
    for until in (now + 1000, now + 2000):
        token = make_token(audience_for(HOST, "db"), rules[0].name, rules[0].primary, expires_at=until)
        assert await connector.ask(control.Register(1, "db", token)) == control.Registered(1, until)
    connector.peer.expire(now + 1500)
    assert broker.listeners.count() == 1
    nursery.cancel_scope.cancel()


async def test_refusals_before_a_valid_token_are_limited(
    broker: BrokerService, rules: tuple[Rule, ...], nursery: trio.Nursery
) -> None:
    stranger = await _client(broker, nursery)
    join = control.Join(1, "nowhere", token_for(rules[1]))
    for _ in range(REFUSALS_BEFORE_AUTHORIZED):
        assert isinstance(await stranger.ask(join), control.Failed)
    with pytest.raises(trio.BrokenResourceError):
        await stranger.ask(join)
    assert stranger.error is not None
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("rule", [0, 1])
async def test_a_key_with_one_right_does_not_give_the_other(
    broker: BrokerService, rules: tuple[Rule, ...], nursery: trio.Nursery, rule: int
) -> None:
    """The listener's key does not join, and the sender's does not register."""
    token = token_for(rules[rule])
    if rule == 0:
        refused = await (await _client(broker, nursery)).ask(control.Join(1, "db", token))
    else:
        refused = await (await _connector(broker, nursery)).ask(control.Register(1, "db", token))
    assert isinstance(refused, control.Failed)
    assert refused.reason is Reason.RIGHT_MISSING
    assert broker.listeners.count() == 0
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("connect", "message"),
    [
        (_connector, control.Join(1, "db", "token")),
        (_connector, control.Welcome("0" * 32, "test")),
        (_connector, control.Draining(1.0)),
        (_connector, control.Registered(1, 1.0)),
        (_connector, control.Ended("db", Reason.KEY_REVOKED)),
        (_connector, hello_of(SECRET, generation=2)),
        (_client, control.Register(1, "db", "token")),
        (_client, control.Unregister(1, "db")),
        (_client, control.Accept(1)),
        (_client, control.Failed(1, Reason.LIMIT)),
        (_client, client_hello()),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else type(value).__name__,
)
async def test_a_message_that_a_connector_or_a_client_may_not_send_breaks_its_control_channel(
    broker: BrokerService,
    nursery: trio.Nursery,
    connect: Callable[[BrokerService, trio.Nursery], Awaitable[FarEnd]],
    message: control.Message,
) -> None:
    peer = await connect(broker, nursery)
    with pytest.raises(trio.BrokenResourceError):
        await peer.ask(message)
    assert "may not send" in str(peer.error)
    nursery.cancel_scope.cancel()


async def test_hello_comes_first(broker: BrokerService, nursery: trio.Nursery) -> None:
    far_end = await FarEnd.connect(broker, nursery, control.Join(1, "db", "token"))
    with pytest.raises(trio.BrokenResourceError):
        await far_end.hear()
    assert "not hello" in str(far_end.error)
    nursery.cancel_scope.cancel()


async def test_a_control_channel_has_one_place_however_many_keys_it_uses(
    registry: SQLiteStore, rules: tuple[Rule, ...], nursery: trio.Nursery
) -> None:
    places = make_places("control channels", 4)
    broker = make_broker(registry, control_channels=places)
    connector = await _connector(broker, nursery)
    for name in NAMES:
        answer = await connector.ask(control.Register(1, name, token_for(rules[0], name)))
        assert isinstance(answer, control.Registered)
    assert len(places) == 1
    another = await _connector(broker, nursery, "2" * 64)
    assert isinstance(await another.ask(control.Register(1, "db", token_for(rules[0]))), control.Registered)
    # The key of "db" has as many as are free.
    third = await _connector(broker, nursery, "3" * 64)
    refused = await third.ask(control.Register(1, "db", token_for(rules[0])))
    assert isinstance(refused, control.Failed)
    assert refused.reason is Reason.LIMIT
    assert not third.peer.authorized
    answer = await third.ask(control.Register(1, "other", token_for(rules[0], "other")))
    assert isinstance(answer, control.Registered)
    connector.peer.lost()
    connector.peer.lost()
    assert len(places) == 2
    nursery.cancel_scope.cancel()


async def test_the_secondary_key_is_as_valid_as_the_primary_one(
    broker: BrokerService, rules: tuple[Rule, ...], nursery: trio.Nursery
) -> None:
    grant = await broker.authorize("db", token_for(rules[0], slot=KeySlot.SECONDARY), Right.LISTEN)
    assert grant.key.slot is KeySlot.SECONDARY


async def test_a_listener_that_stays_silent_loses_its_control_channel(
    registry: SQLiteStore, rules: tuple[Rule, ...], autojump_clock: trio.testing.MockClock
) -> None:
    events, published = EventStream(), list[Event]()
    events.subscribe(published.append)
    broker = make_broker(registry, events)
    async with trio.open_nursery() as nursery:
        secrets = {"silent": SECRET, "speaking": "2" * 64}
        listeners = {name: await _connector(broker, nursery, secret) for name, secret in secrets.items()}
        for listener in listeners.values():
            assert isinstance(await listener.ask(control.Register(1, "db", token_for(rules[0]))), control.Registered)
        client = await _client(broker, nursery)
        answer = await client.ask(control.Join(1, "db", token_for(rules[1])))
        assert isinstance(answer, control.Failed)
        assert answer.reason is Reason.LISTENER_SILENT, "neither has answered the offer"
        await listeners["speaking"].say(control.Unregister(2, "other"))
        await trio.sleep(CHECK_SECONDS + 1)
        registered = [listener.instance for listener in broker.listeners.of("db")]
        assert registered == [control.instance_of(secrets["speaking"])]
        assert listeners["silent"].session.outcome is not None
        assert listeners["speaking"].session.outcome is None
        (ended,) = [event for event in published if isinstance(event, ControlChannelSilent)]
        (left,) = [event for event in published if isinstance(event, ListenerLeft)]
        assert ended.instance == left.instance == control.instance_of(SECRET)
        assert (ended.name, left.reason) == ("control.silent", Reason.PEER_SILENT), "no administrator has dropped it"
        nursery.cancel_scope.cancel()


def has_ended(session: Session) -> bool:
    return session.outcome is not None


async def test_a_listener_is_not_dropped_if_it_has_answered_when_it_is_to_be_checked(
    broker: BrokerService, rules: tuple[Rule, ...], autojump_clock: trio.testing.MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        connector, client = await _connector(broker, nursery), await _client(broker, nursery)
        assert isinstance(await connector.ask(control.Register(1, "db", token_for(rules[0]))), control.Registered)
        await client.say(control.Join(1, "db", token_for(rules[1])))
        offer = await connector.hear()
        assert isinstance(offer, control.Offer)
        await connector.say(control.Accept(offer.id))
        assert isinstance(await client.hear(), control.Joined)
        connector.peer.check_alive()  # a join that gave up at this very moment
        await trio.sleep(3 * CHECK_SECONDS)
        assert not has_ended(connector.session)
        await client.say(control.Join(2, "db", token_for(rules[1])))
        assert isinstance(await connector.hear(), control.Offer)
        assert isinstance(await client.hear(), control.Failed)
        await trio.sleep(3 * CHECK_SECONDS)
        assert has_ended(connector.session), "it has not answered this one"
        nursery.cancel_scope.cancel()


async def test_a_listener_whose_answer_is_read_late_is_still_asked(
    broker: BrokerService, rules: tuple[Rule, ...], nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    """Each pass of the relay's event loop takes longer than a listener has time to answer."""
    connector, client = await _connector(broker, nursery), await _client(broker, nursery)
    assert isinstance(await connector.ask(control.Register(1, "db", token_for(rules[0]))), control.Registered)
    await client.say(control.Join(1, "db", token_for(rules[1])))
    offer = await connector.hear()
    assert isinstance(offer, control.Offer)
    for _ in range(STEPS // 2):
        mock_clock.jump(2 * OFFER_SECONDS)
        await trio.testing.wait_all_tasks_blocked()
    await connector.say(control.Accept(offer.id))
    assert isinstance(await client.hear(), control.Joined)
    nursery.cancel_scope.cancel()


async def test_a_listener_can_withdraw_only_its_latest_acceptances(
    broker: BrokerService, rules: tuple[Rule, ...], monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    monkeypatch.setattr(relay_control, "_MAX_WATCHED", 2)
    listener, client = await _connector(broker, nursery), await _client(broker, nursery)
    assert isinstance(await listener.ask(control.Register(1, "db", token_for(rules[0]))), control.Registered)
    offers = []
    for number in range(3):
        await client.say(control.Join(number, "db", token_for(rules[1])))
        offer = await listener.hear()
        assert isinstance(offer, control.Offer)
        offers.append(offer.id)
        await listener.say(control.Accept(offer.id))
        assert isinstance(await client.hear(), control.Joined)
    assert broker.statistics()["open_rendezvous"] == 3
    for offer_id, left in zip(offers, (3, 2, 1), strict=True):
        # Twice: the second time, there is nothing left to withdraw.
        for _ in range(2):
            await listener.say(control.Failed(offer_id, Reason.LISTENER_CANNOT_DIAL))
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert broker.statistics()["open_rendezvous"] == left
    nursery.cancel_scope.cancel()


async def test_a_control_channel_whose_place_is_needed_ends(
    registry: SQLiteStore, rules: tuple[Rule, ...], nursery: trio.Nursery
) -> None:
    now = 0.0
    places = make_places("control channels", 10, per_key=1, clock=lambda: now)
    broker = make_broker(registry, control_channels=places)
    idle = await _client(broker, nursery)
    join = control.Join(1, "db", token_for(rules[1]))
    assert isinstance(await idle.ask(join), control.Failed), "nobody listens"
    assert idle.peer.authorized
    now = TENURE_SECONDS
    newcomer = await _client(broker, nursery)
    assert isinstance(await newcomer.ask(join), control.Failed)
    assert newcomer.peer.authorized
    with trio.fail_after(patience(20)):
        await idle.session.wait_ended()
    assert len(places) == 1
    assert newcomer.session.outcome is None
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("how", ["closed", "broken", "against the rules", "cancelled"])
async def test_what_a_channel_held_before_it_authenticated_is_freed_when_it_ends(
    broker: BrokerService, how: str
) -> None:
    """The garbage collector is not needed. It does not know how much memory OpenSSL has allocated below."""
    peers = ControlPeers(broker, "0" * 32, lambda: ())
    raw, below = trio.testing.memory_stream_pair()
    freed = weakref.ref(below)

    async def admit(early: EarlySession) -> None:
        with contextlib.suppress(RemoteProtocolError, trio.BrokenResourceError):
            assert await peers.admit(early, "192.0.2.1") is None

    with no_garbage_collector():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(admit, EarlySession(below))
            del below
            await trio.testing.wait_all_tasks_blocked()
            assert freed() is not None
            match how:
                case "closed":
                    await raw.aclose()
                case "broken":
                    raw.send_stream.close()
                case "against the rules":
                    await raw.send_all(bytes(100))
                case _:
                    nursery.cancel_scope.cancel()
        assert freed() is None


async def test_one_whose_place_is_needed_before_it_is_attached_ends_at_once(
    broker: BrokerService, nursery: trio.Nursery
) -> None:
    session, relay_side = await session_pair(nursery, config=CONTROL_CONFIG)
    stream = session.open_stream_nowait()
    await stream.send_all(b"x")
    accepted = (await relay_side.offers.receive()).accept()
    peer = ControlPeer(broker, EarlySession(trio.testing.memory_stream_pair()[0]))
    peer.end(Reason.LIMIT)
    peer.attach(relay_side, accepted, nursery)
    with trio.fail_after(patience(20)):
        assert (await session.wait_ended()).reason is Reason.LIMIT
    nursery.cancel_scope.cancel()


async def test_a_listener_says_which_client_has_proved_its_identity(
    registry: SQLiteStore, rules: tuple[Rule, ...], nursery: trio.Nursery
) -> None:
    """*proved* refers to the offer that it names. It counts only after that was accepted and its pair was joined."""
    pairs = make_places("data channels", 10)
    broker = make_broker(registry, pairs=pairs)
    connector = await _connector(broker, nursery)
    assert isinstance(await connector.ask(control.Register(1, "db", token_for(rules[0]))), control.Registered)
    client = await _client(broker, nursery)
    await client.say(control.Join(1, "db", token_for(rules[1])))
    offer = await connector.hear()
    assert isinstance(offer, control.Offer)
    await connector.say(control.Proved(offer.id), control.Accept(offer.id))
    joined = await client.hear()
    assert isinstance(joined, control.Joined)
    far = []
    for ticket in (joined.ticket, offer.ticket):
        ours, theirs = trio.testing.memory_stream_pair()
        nursery.start_soon(broker.serve_channel, broker.use_ticket(ticket), ours)
        far.append(theirs)
    for one in far:
        await receive_exactly(one, STATUS_SIZE)
    grant = await broker.authorize("db", token_for(rules[1]), Right.SEND)

    def established() -> list[bool]:
        return [place.is_established for place in pairs.of(grant.key)]

    assert established() == [False]
    await connector.say(control.Proved(offer.id + 1), control.Proved(offer.id), control.Proved(offer.id))
    await trio.testing.wait_all_tasks_blocked()
    assert established() == [True]
    nursery.cancel_scope.cancel()


async def test_a_late_proof_of_an_identity_counts_however_many_others_came_first(
    registry: SQLiteStore, rules: tuple[Rule, ...], monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    """Offers whose clients have proved their identity are forgotten, so they do not push out others."""
    monkeypatch.setattr(relay_control, "_MAX_WATCHED", 2)
    pairs = make_places("data channels", 10)
    broker = make_broker(registry, pairs=pairs)
    connector = await _connector(broker, nursery)
    assert isinstance(await connector.ask(control.Register(1, "db", token_for(rules[0]))), control.Registered)
    client = await _client(broker, nursery)
    offers = []
    for number in range(4):
        await client.say(control.Join(number, "db", token_for(rules[1])))
        offer = await connector.hear()
        assert isinstance(offer, control.Offer)
        await connector.say(control.Accept(offer.id))
        joined = await client.hear()
        assert isinstance(joined, control.Joined)
        for ticket in (joined.ticket, offer.ticket):
            ours, theirs = trio.testing.memory_stream_pair()
            nursery.start_soon(broker.serve_channel, broker.use_ticket(ticket), ours)
            nursery.start_soon(receive_exactly, theirs, STATUS_SIZE)
        await trio.testing.wait_all_tasks_blocked()
        offers.append(offer.id)
        if number:
            await connector.say(control.Proved(offer.id))
    await connector.say(control.Proved(offers[0]))
    await trio.testing.wait_all_tasks_blocked()
    grant = await broker.authorize("db", token_for(rules[1]), Right.SEND)
    assert [place.is_established for place in pairs.of(grant.key)] == [True] * 4
    nursery.cancel_scope.cancel()


async def _admitted(
    peers: ControlPeers,
    nursery: trio.Nursery,
    *messages: control.Message,
    address: str = "192.0.2.1",
    config: SessionConfig = DIALED_CONTROL_CONFIG,
) -> tuple[AuthenticatedControlChannel[ControlPeer], MuxStream]:
    """A control channel whose peer has sent these messages, the last of them with a valid token; and the peer's end
    of its stream."""
    ours, theirs = trio.testing.memory_stream_pair()
    far_end = Session.create(SessionRole.INITIATOR, config=config)
    nursery.start_soon(far_end.run, ours)
    early = EarlySession(theirs)
    stream = far_end.open_stream_nowait()
    await stream.send_all(b"".join(map(encode_message, messages)))
    peer = await peers.admit(early, address)
    assert peer is not None
    return AuthenticatedControlChannel(peer, early, cast(TLSStream, theirs)), stream


async def test_the_control_channels_of_one_key_share_turns(
    broker: BrokerService, rules: tuple[Rule, ...], nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may come from any addresses, and each has only a few messages at a time."""
    given: list[SharedTurns | None] = []
    take_over = EarlySession.take_over

    def observed(self: EarlySession, turns: SharedTurns | None = None) -> tuple[Session, MuxStream]:
        given.append(turns)
        return take_over(self, turns)

    monkeypatch.setattr(EarlySession, "take_over", observed)
    peers = ControlPeers(broker, "0" * 32, lambda: ())
    for name, address in (("db", "192.0.2.1"), ("db", "198.51.100.1"), ("other", "192.0.2.1")):
        request = control.Join(1, name, token_for(rules[1], name))
        channel, _ = await _admitted(peers, nursery, client_hello(), request, address=address)
        nursery.start_soon(peers.serve, channel)
        await trio.testing.wait_all_tasks_blocked()
    first, second, of_another = given
    assert first is not None
    assert second is not None
    assert of_another is not None
    first.count(2 * MAX_FRAMES)
    assert (second.is_over, of_another.is_over) == (True, False)
    nursery.cancel_scope.cancel()


async def test_the_keys_of_one_team_share_turns_however_many_it_makes(
    registry: SQLiteStore, rules: tuple[Rule, ...], nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Teams are distinguished by the beginnings of the names of hybrid connections, up to a slash."""
    given: dict[str, SharedTurns] = {}
    take_over = EarlySession.take_over
    names = ("team/a", "team/b", "teams/a", "team")

    def observed(self: EarlySession, turns: SharedTurns | None = None) -> tuple[Session, MuxStream]:
        assert turns is not None
        given[name] = turns
        return take_over(self, turns)

    monkeypatch.setattr(EarlySession, "take_over", observed)
    for name in names:
        registry.create(name, [HOST], rules)
    peers = ControlPeers(make_broker(registry), "0" * 32, lambda: ())
    for name in names:
        channel, _ = await _admitted(peers, nursery, client_hello(), control.Join(1, name, token_for(rules[1], name)))
        nursery.start_soon(peers.serve, channel)
        await trio.testing.wait_all_tasks_blocked()
    given["team/a"].count(2 * MAX_FRAMES)
    assert {name: turns.is_over for name, turns in given.items()} == {
        "team/a": True, "team/b": True, "teams/a": False, "team": False
    }  # fmt: skip
    nursery.cancel_scope.cancel()


async def test_the_messages_of_one_key_take_turns_however_many_are_in_a_frame_and_on_however_many_channels(
    broker: BrokerService, rules: tuple[Rule, ...], nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    channels, messages = 8, 180  # the messages fill almost the whole window of a channel
    # The clock stands still, so that a turn is a number of messages and frames, and not a time.
    turns = SharedTurns(lambda: 0.0)
    take_over = EarlySession.take_over
    monkeypatch.setattr(EarlySession, "take_over", lambda self, _turns=None: take_over(self, turns))
    passes, all_handled = 0, trio.Event()
    handled = Counter[int]()

    def answered(*_: object) -> None:
        handled[passes] += 1
        if handled.total() == channels * messages:
            all_handled.set()

    peers = ControlPeers(broker, "0" * 32, lambda: ())
    peers.update_answered = answered
    request = control.Join(1, "db", token_for(rules[1]))
    streams = []
    for _ in range(channels):
        channel, stream = await _admitted(peers, nursery, client_hello(), request, config=CONTROL_CONFIG)
        nursery.start_soon(peers.serve, channel)
        streams.append(stream)
    await trio.testing.wait_all_tasks_blocked()
    for stream in streams:
        nursery.start_soon(stream.send_all, encode_message(control.UpdateKept("db", 7, "other")) * messages)
    while not all_handled.is_set():
        passes += 1
        await trio.lowlevel.checkpoint()
    assert max(handled.values()) <= 2 * MAX_FRAMES, "at most two turns can end in one pass"
    nursery.cancel_scope.cancel()


async def test_a_key_that_is_revoked_between_the_token_and_the_attachment_ends_the_channel(
    registry: SQLiteStore, rules: tuple[Rule, ...], nursery: trio.Nursery
) -> None:
    broker = make_broker(registry)
    peers = ControlPeers(broker, "0" * 32, lambda: ())
    channel, _ = await _admitted(peers, nursery, hello_of(SECRET), control.Register(1, "db", token_for(rules[0])))
    registry.revoke_key("db", rules[0].name, KeySlot.PRIMARY)
    update(broker, registry)
    with trio.fail_after(patience(20)), contextlib.suppress(trio.BrokenResourceError):
        await peers.serve(channel)
    assert len(peers) == broker.listeners.count() == 0
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("choice", "stated"), [("exact", "2001:db8::7:8"), ("network", "2001:db8::/64"), ("none", "")]
)
async def test_listeners_learn_as_much_of_a_clients_address_as_the_relay_tells(
    broker: BrokerService, rules: tuple[Rule, ...], nursery: trio.Nursery, choice: str, stated: str
) -> None:
    """Everything else in the relay goes by the /64."""
    peers = ControlPeers(broker, "0" * 32, lambda: (), client_addresses=ClientAddresses(choice))
    listen = await broker.authorize("db", token_for(rules[0]), Right.LISTEN)
    handle = willing()
    broker.listeners.register(Listener("db", "0" * 32, 1, listen.key, handle))
    request = control.Join(1, "db", token_for(rules[1]))
    channel, _ = await _admitted(peers, nursery, client_hello(), request, address="2001:db8::7:8")
    assert channel.peer.address == "2001:db8::/64"
    nursery.start_soon(peers.serve, channel)
    await trio.testing.wait_all_tasks_blocked()
    assert handle.client_address == stated
    nursery.cancel_scope.cancel()
