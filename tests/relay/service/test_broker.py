"""The shell of the broker: rights that end while a peer waits, limits of keys, and data channels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from hybridrelay.events import Event, EventStream, SenderRevoked
from hybridrelay.mux import CONTROL_CONFIG, Session
from hybridrelay.protocol import control
from hybridrelay.protocol.control_codec import ControlDecoder, encode_message
from hybridrelay.protocol.preamble import STATUS_SIZE, decode_status_untrusted
from hybridrelay.protocol.reasons import Reason
from hybridrelay.relay.core.join import MAX_ASKED
from hybridrelay.relay.core.listeners import Listener
from hybridrelay.relay.core.rendezvous import SILENT_SECONDS, Arrival
from hybridrelay.relay.quotas import Limits, Quota
from hybridrelay.relay.service.broker import OFFER_SECONDS, BrokerService
from hybridrelay.relay.service.control import ControlPeer
from hybridrelay.relay.service.listener_handle import ListenerHandle
from hybridrelay.relay.store.sqlite import SQLiteStore
from hybridrelay.security import KeySlot, Right, Rule
from hybridrelay.streams import receive_exactly
from hybridrelay.testing import session_pair

from ..listening import FakeListener, deaf, leaving, willing
from ..peers import HOST, FarEnd, client_hello, make_broker, token_for, update
from ..places import make_places


@pytest.fixture
def registry(tmp_path: Path, rules: tuple[Rule, ...]) -> Iterator[SQLiteStore]:
    with SQLiteStore.open(tmp_path) as registry:
        registry.create("db", [HOST], rules)
        yield registry


async def test_a_join_ends_when_its_key_is_revoked_meanwhile(
    registry: SQLiteStore, rules: tuple[Rule, ...], autojump_clock: trio.testing.MockClock
) -> None:
    broker = make_broker(registry)
    listen = await broker.authorize("db", token_for(rules[0]), Right.LISTEN)
    send = await broker.authorize("db", token_for(rules[1]), Right.SEND)
    handles = [deaf(), deaf()]
    for number, handle in enumerate(handles):
        broker.listeners.register(Listener("db", f"{number:032x}", 1, listen.key, handle))
    answers: list[control.Joined | control.Failed] = []

    async def join() -> None:
        answers.append(await broker.join(send, None))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(join)
        await trio.sleep(OFFER_SECONDS / 2)
        registry.revoke_key("db", rules[1].name, KeySlot.PRIMARY)
        update(broker, registry)
    assert [answer.reason for answer in answers if isinstance(answer, control.Failed)] == [Reason.KEY_REVOKED]
    assert sum(handle.offers for handle in handles) == 1


async def test_a_listener_that_has_just_left_can_be_checked(registry: SQLiteStore) -> None:
    async with trio.open_nursery() as nursery:
        session, relay_side = await session_pair(nursery, config=CONTROL_CONFIG)
        stream = session.open_stream_nowait()
        await stream.send_all(b"x")
        accepted = (await relay_side.offers.receive()).accept()
        peer = ControlPeer(make_broker(registry))
        peer.attach(relay_side, accepted, nursery)
        nursery.cancel_scope.cancel()
    peer._is_silent = True
    peer.check_alive()  # a join that gave up at this very moment


class Registering:
    """Connectors that register for "db", each over a control channel of its own."""

    def __init__(self, broker: BrokerService) -> None:
        self._broker = broker
        self.peers: list[ControlPeer] = []
        self.sessions: list[Session] = []

    async def register(self, nursery: trio.Nursery, *tokens: str) -> list[control.Message | control.Unknown]:
        """Register one of them. Returns the answers."""
        session, relay_side = await session_pair(nursery, config=CONTROL_CONFIG)
        self.sessions.append(relay_side)
        stream = session.open_stream_nowait()
        secret = f"{len(self.peers):064x}"
        hello = control.Hello(control.PeerRole.CONNECTOR, control.instance_of(secret), 1, "test", secret)
        await stream.send_all(encode_message(hello))
        for token in tokens:
            await stream.send_all(encode_message(control.Register(1, "db", token)))
        peer = ControlPeer(self._broker)
        peer.attach(relay_side, (await relay_side.offers.receive()).accept(), nursery)
        self.peers.append(peer)
        decoder = ControlDecoder()
        answers: list[control.Message | control.Unknown] = []
        while len(answers) <= len(tokens):
            await peer.serve_some()
            await trio.testing.wait_all_tasks_blocked()
            answers += decoder.receive_data_untrusted(await stream.receive_some())
        return answers[1:]


async def test_the_control_channels_of_a_key_are_limited(
    registry: SQLiteStore, rules: tuple[Rule, ...], monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    broker = make_broker(registry, control_channels=make_places("control channels", 10, per_key=2))
    connectors = Registering(broker)
    token = token_for(rules[0])
    for _ in range(2):
        first, renewed = await connectors.register(nursery, token, token)
        assert isinstance(first, control.Registered)
        assert isinstance(renewed, control.Registered)
    (refused,) = await connectors.register(nursery, token)
    assert isinstance(refused, control.Failed)
    assert refused.reason is Reason.LIMIT
    assert not connectors.peers[2].authorized
    for _ in range(2):
        connectors.peers[0].lost()
    (registered,) = await connectors.register(nursery, token)
    assert isinstance(registered, control.Registered)
    (refused,) = await connectors.register(nursery, token)
    assert isinstance(refused, control.Failed)
    for peer in connectors.peers:
        peer.lost()
    assert not broker.listeners.find("db", control.instance_of("0" * 64))
    nursery.cancel_scope.cancel()


async def test_a_revoked_key_holds_no_control_channels(
    registry: SQLiteStore, rules: tuple[Rule, ...], monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    broker = make_broker(registry, control_channels=make_places("control channels", 10, per_key=1))
    connectors = Registering(broker)
    primary, secondary = token_for(rules[0]), token_for(rules[0], slot=KeySlot.SECONDARY)
    answers = await connectors.register(nursery, primary, secondary)
    assert [type(answer) for answer in answers] == [control.Registered, control.Registered]
    registry.revoke_key("db", rules[0].name, KeySlot.PRIMARY)
    update(broker, registry)
    (peer,) = connectors.peers
    peer.check_keys()
    assert connectors.sessions[0].outcome is None, "another key has authorized it, too"
    (refused,) = await connectors.register(nursery, secondary)
    assert isinstance(refused, control.Failed)
    peer.lost()
    (registered,) = await connectors.register(nursery, secondary)
    assert isinstance(registered, control.Registered)
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("reason", [Reason.KEY_REVOKED, Reason.RIGHT_MISSING])
async def test_a_client_whose_key_has_lost_its_right_is_no_longer_a_sender(
    registry: SQLiteStore, rules: tuple[Rule, ...], nursery: trio.Nursery, reason: Reason
) -> None:
    """Neither in lists, nor for the hybrid connection's changes, although its control channel has not ended yet. It
    is told why, and then the channel ends."""
    events: list[Event] = []
    broker = make_broker(registry, EventStream(events.append))
    client = await FarEnd.connect(broker, nursery, client_hello())
    await client.hear()
    assert isinstance(await client.ask(control.Check(1, "db", token_for(rules[1]))), control.Checked)
    assert [peer for _, peer in broker.senders.page(10, connection="db")] == [client.peer]
    assert client.peer._index.of(["db"]) == [client.peer]
    if reason is Reason.KEY_REVOKED:
        registry.revoke_key("db", rules[1].name, KeySlot.PRIMARY)
    else:
        registry.put_rule("db", rules[1].name, [Right.LISTEN])
    update(broker, registry)
    client.peer.check_keys()
    assert broker.senders.page(10, connection="db") == []
    assert client.peer._index.of(["db"]) == []
    assert [event.reason for event in events if isinstance(event, SenderRevoked)] == [reason]
    assert await client.hear() == control.Ended("db", reason)
    with pytest.raises(trio.BrokenResourceError):
        await client.hear()
    nursery.cancel_scope.cancel()


async def test_revoking_the_key_of_a_registration_whose_control_channel_has_ended_does_no_harm(
    registry: SQLiteStore, rules: tuple[Rule, ...]
) -> None:
    """Its control channel is over, and so is the nursery in which a message would have been sent to its peer."""
    broker = make_broker(registry)
    connectors = Registering(broker)
    async with trio.open_nursery() as nursery:
        await connectors.register(nursery, token_for(rules[0]))
        nursery.cancel_scope.cancel()
    registry.revoke_key("db", rules[0].name, KeySlot.PRIMARY)
    update(broker, registry)
    assert not broker.listeners.find("db", control.instance_of("0" * 64))


async def test_a_listener_learns_that_the_sender_has_left(registry: SQLiteStore, rules: tuple[Rule, ...]) -> None:
    """It gets a status and not a reset, after which it would assume that its own route to the relay is broken."""
    broker = make_broker(registry)
    listen = await broker.authorize("db", token_for(rules[0]), Right.LISTEN)
    send = await broker.authorize("db", token_for(rules[1]), Right.SEND)
    handle = willing()
    broker.listeners.register(Listener("db", "0" * 32, 1, listen.key, handle))
    joined = await broker.join(send, None)
    assert isinstance(joined, control.Joined)
    sender, sender_far = trio.testing.memory_stream_pair()
    listener, listener_far = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(broker.serve_channel, broker.use_ticket(joined.ticket), sender)
        await trio.testing.wait_all_tasks_blocked()
        await trio.aclose_forcefully(sender_far)
        nursery.start_soon(broker.serve_channel, broker.use_ticket(handle.ticket), listener)
        status = await receive_exactly(listener_far, STATUS_SIZE)
    assert decode_status_untrusted(status) is Reason.PEER_ABSENT
    assert await listener_far.receive_some() == b""


async def test_a_listener_can_distinguish_holders_and_learns_nothing_else_about_them(
    registry: SQLiteStore, rules: tuple[Rule, ...]
) -> None:
    broker = make_broker(registry)
    listen = await broker.authorize("db", token_for(rules[0]), Right.LISTEN)
    primary = await broker.authorize("db", token_for(rules[1]), Right.SEND)
    secondary = await broker.authorize("db", token_for(rules[1], slot=KeySlot.SECONDARY), Right.SEND)
    handle = willing()
    broker.listeners.register(Listener("db", "0" * 32, 1, listen.key, handle))
    names = []
    for grant, address in [
        (primary, "192.0.2.1"),
        (primary, "192.0.2.2"),
        (primary, "198.51.100.1"),
        (secondary, "192.0.2.1"),
    ]:
        await broker.join(grant, None, address, client_address=f"{address} as stated")
        names.append(tuple(handle.holder.split("/")))
        assert handle.client_address == f"{address} as stated"
        await broker.join(grant, None, address)
        assert tuple(handle.holder.split("/")) == names[-1]
    one, neighbor, stranger, with_other_key = names
    assert [a == b for a, b in zip(one, neighbor, strict=True)] == [True, True, False], "the same network"
    assert [a == b for a, b in zip(one, stranger, strict=True)] == [True, False, False], "the same key"
    assert not set(one) & set(with_other_key)
    assert all(len(part) == 16 and "192.0" not in part for name in names for part in name)


async def test_a_connector_cannot_compute_the_names_of_holders(
    registry: SQLiteStore, rules: tuple[Rule, ...]
) -> None:
    """It knows the names of keys, and can guess addresses. But the names also depend on a secret of the relay."""
    names = set()
    for secret in (b"1" * 32, b"2" * 32, None, None):
        broker = make_broker(registry, holder_secret=secret)
        listen = await broker.authorize("db", token_for(rules[0]), Right.LISTEN)
        send = await broker.authorize("db", token_for(rules[1]), Right.SEND)
        handle = willing()
        broker.listeners.register(Listener("db", "0" * 32, 1, listen.key, handle))
        await broker.join(send, None, "192.0.2.1")
        names.add(handle.holder)
    assert len(names) == 4


async def _accepted_join(broker: BrokerService, rules: tuple[Rule, ...]) -> tuple[Arrival, Arrival]:
    """The arrivals of a sender and of a listener, in this order: both tickets are used."""
    listen = await broker.authorize("db", token_for(rules[0]), Right.LISTEN)
    send = await broker.authorize("db", token_for(rules[1]), Right.SEND)
    handle = willing()
    broker.listeners.register(Listener("db", "0" * 32, 1, listen.key, handle))
    joined = await broker.join(send, None)
    assert isinstance(joined, control.Joined)
    return broker.use_ticket(joined.ticket), broker.use_ticket(handle.ticket)


@pytest.mark.parametrize("first", [0, 1])
async def test_data_channels_come_in_any_order_after_their_tickets_were_used(
    registry: SQLiteStore, rules: tuple[Rule, ...], first: int
) -> None:
    broker = make_broker(registry)
    arrivals = await _accepted_join(broker, rules)
    async with trio.open_nursery() as nursery:
        far_ends = []
        for arrival in (arrivals[first], arrivals[1 - first]):
            ours, far = trio.testing.memory_stream_pair()
            far_ends.append(far)
            nursery.start_soon(broker.serve_channel, arrival, ours)
            await trio.testing.wait_all_tasks_blocked()
        for far in far_ends:
            assert decode_status_untrusted(await receive_exactly(far, STATUS_SIZE)) is Reason.NO_ERROR
        await far_ends[0].send_all(b"x")
        assert await far_ends[1].receive_some() == b"x"
        nursery.cancel_scope.cancel()
    for arrival in arrivals:
        broker.abandon(arrival)  # they are joined, so this has no effect
    assert broker.statistics()["joined_pairs"] == 0


@pytest.mark.parametrize("first", [0, 1])
async def test_a_data_channel_that_never_comes_ends_the_rendezvous(
    registry: SQLiteStore, rules: tuple[Rule, ...], first: int
) -> None:
    broker = make_broker(registry)
    arrivals = await _accepted_join(broker, rules)
    ours, far = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(broker.serve_channel, arrivals[first], ours)
        await trio.testing.wait_all_tasks_blocked()
        broker.abandon(arrivals[1 - first])
        assert decode_status_untrusted(await receive_exactly(far, STATUS_SIZE)) is Reason.PEER_ABSENT
    assert broker.statistics()["joined_pairs"] == broker.statistics()["open_rendezvous"] == 0


async def test_a_data_channel_that_arrives_after_the_end_is_refused(
    registry: SQLiteStore, rules: tuple[Rule, ...]
) -> None:
    broker = make_broker(registry)
    arrivals = await _accepted_join(broker, rules)
    registry.revoke_key("db", rules[0].name, KeySlot.PRIMARY)
    update(broker, registry)
    for arrival in arrivals:
        ours, far = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(broker.serve_channel, arrival, ours)
            assert decode_status_untrusted(await receive_exactly(far, STATUS_SIZE)) is Reason.PEER_ABSENT
            assert await far.receive_some() == b""
    assert broker.statistics()["joined_pairs"] == 0


INSTANCE = "a" * 32


@pytest.mark.parametrize("wanted", [None, INSTANCE])
async def test_an_offer_that_was_lost_with_a_control_channel_goes_over_its_successor(
    registry: SQLiteStore, rules: tuple[Rule, ...], wanted: str | None
) -> None:
    broker = make_broker(registry)
    listen = await broker.authorize("db", token_for(rules[0]), Right.LISTEN)
    send = await broker.authorize("db", token_for(rules[1]), Right.SEND)
    successor: Listener[ListenerHandle] = Listener("db", INSTANCE, 2, listen.key, willing())
    handle = leaving(lambda: broker.listeners.register(successor))
    broker.listeners.register(Listener("db", INSTANCE, 1, listen.key, handle))
    joined = await broker.join(send, wanted)
    assert isinstance(joined, control.Joined)
    assert joined.listener == INSTANCE
    # What was offered first is withdrawn: one pair waits, not two.
    assert broker.statistics()["open_rendezvous"] == 1


@pytest.mark.parametrize("wanted", [None, INSTANCE])
async def test_a_listener_that_only_leaves_is_passed_over(
    registry: SQLiteStore, rules: tuple[Rule, ...], wanted: str | None
) -> None:
    """Its registration is renewed meanwhile, but over the same control channel, so it is not asked again."""
    broker = make_broker(registry)
    listen = await broker.authorize("db", token_for(rules[0]), Right.LISTEN)
    send = await broker.authorize("db", token_for(rules[1]), Right.SEND)
    handle = leaving(lambda: broker.listeners.register(Listener("db", INSTANCE, 1, listen.key, handle)))
    broker.listeners.register(Listener("db", INSTANCE, 1, listen.key, handle))
    failed = await broker.join(send, wanted)
    assert isinstance(failed, control.Failed)
    assert (failed.reason, handle.offers) == (Reason.LISTENER_SILENT, 1)


async def test_successors_that_leave_as_well_are_not_asked_for_ever(
    registry: SQLiteStore, rules: tuple[Rule, ...]
) -> None:
    broker = make_broker(registry)
    listen = await broker.authorize("db", token_for(rules[0]), Right.LISTEN)
    send = await broker.authorize("db", token_for(rules[1]), Right.SEND)
    asked: list[FakeListener] = []

    def replace() -> None:
        asked.append(leaving(replace))
        broker.listeners.register(Listener("db", INSTANCE, len(asked), listen.key, asked[-1]))

    replace()
    failed = await broker.join(send, None)
    assert isinstance(failed, control.Failed)
    assert failed.reason is Reason.LISTENER_SILENT
    assert sum(one.offers for one in asked) == MAX_ASKED
    assert broker.statistics()["open_rendezvous"] == 0


async def test_a_listener_that_the_sender_wants_to_avoid_is_not_asked(
    registry: SQLiteStore, rules: tuple[Rule, ...]
) -> None:
    broker = make_broker(registry)
    listen = await broker.authorize("db", token_for(rules[0]), Right.LISTEN)
    send = await broker.authorize("db", token_for(rules[1]), Right.SEND)
    instances = [f"{number:032x}" for number in range(5)]
    for instance in instances:
        broker.listeners.register(Listener("db", instance, 1, listen.key, willing()))
    for _ in range(10):
        joined = await broker.join(send, None, avoid=instances[:4])
        assert isinstance(joined, control.Joined)
        assert joined.listener == instances[4]
    failed = await broker.join(send, None, avoid=instances)
    assert isinstance(failed, control.Failed)
    assert failed.reason is Reason.NO_LISTENER
    joined = await broker.join(send, instances[0], avoid=instances)
    assert isinstance(joined, control.Joined), "it asked for this one"


@pytest.mark.parametrize("is_silent", [True, False])
async def test_a_pair_gives_its_place_to_its_program_if_the_client_sends_nothing(
    registry: SQLiteStore, rules: tuple[Rule, ...], autojump_clock: trio.testing.MockClock, is_silent: bool
) -> None:
    pairs = make_places("pairs", 100, clock=trio.current_time, per_key=1, spares_established=True)
    broker = make_broker(registry, pairs=pairs)
    listen = await broker.authorize("db", token_for(rules[0]), Right.LISTEN)
    send = await broker.authorize("db", token_for(rules[1]), Right.SEND)
    handle = willing()
    broker.listeners.register(Listener("db", "0" * 32, 1, listen.key, handle))

    async def join() -> control.Joined | control.Failed:
        return await broker.join(send, None, instance="1" * 32)

    joined = await join()
    assert isinstance(joined, control.Joined)
    async with trio.open_nursery() as nursery:
        far_ends = []
        for ticket in (joined.ticket, handle.ticket):
            ours, far = trio.testing.memory_stream_pair()
            far_ends.append(far)
            nursery.start_soon(broker.serve_channel, broker.use_ticket(ticket), ours)
        for far in far_ends:
            assert decode_status_untrusted(await receive_exactly(far, STATUS_SIZE)) is Reason.NO_ERROR
        broker.core.establish(joined.rendezvous)
        assert isinstance(await join(), control.Failed)
        await far_ends[is_silent].send_all(b"x")  # from the client; or only from the connector
        await trio.sleep(SILENT_SECONDS)
        assert isinstance(await join(), control.Joined if is_silent else control.Failed)
        nursery.cancel_scope.cancel()


async def test_addresses_that_use_a_key_have_equal_shares_of_the_rate(
    registry: SQLiteStore, rules: tuple[Rule, ...], autojump_clock: trio.testing.MockClock
) -> None:
    """However many sessions each of them has."""
    registry.change("db", quota=Quota("", Limits(bytes_per_second=65536)))
    broker = make_broker(registry)
    listen = await broker.authorize("db", token_for(rules[0]), Right.LISTEN)
    send = await broker.authorize("db", token_for(rules[1]), Right.SEND)
    handle = willing()
    broker.listeners.register(Listener("db", "0" * 32, 1, listen.key, handle))
    moved = Counter[str]()

    async def receive(address: str, far: trio.abc.ReceiveStream) -> None:
        while True:
            data = await far.receive_some(65536)
            moved[address] += len(data)

    async with trio.open_nursery() as nursery:
        for address in ("192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.2"):
            joined = await broker.join(send, None, address)
            assert isinstance(joined, control.Joined)
            for ticket in (joined.ticket, handle.ticket):
                ours, far = trio.testing.memory_stream_pair()
                nursery.start_soon(broker.serve_channel, broker.use_ticket(ticket), ours)
                if ticket == joined.ticket:
                    await far.send_all(bytes(2**20))
                else:
                    nursery.start_soon(receive, address, far)
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert moved.total() == pytest.approx(655_360, rel=0.05)
    assert moved["192.0.2.2"] == pytest.approx(327_680, rel=0.15)
