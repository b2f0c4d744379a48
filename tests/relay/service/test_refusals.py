"""Which reason a client receives when a listener refuses: never a permanent one, and no text of the listener."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from hybridrelay.protocol import control
from hybridrelay.protocol.preamble import STATUS_SIZE, decode_status_untrusted
from hybridrelay.protocol.reasons import Reason
from hybridrelay.relay.core.join import MAX_ASKED
from hybridrelay.relay.core.listeners import Listener
from hybridrelay.relay.service.broker import BrokerService
from hybridrelay.relay.store.sqlite import SQLiteStore
from hybridrelay.security import KeySlot, Right, Rule
from hybridrelay.streams import receive_exactly

from ..listening import FakeListener
from ..peers import HOST, make_broker, token_for, update
from ..places import make_places


@pytest.fixture
def registry(tmp_path: Path, rules: tuple[Rule, ...]) -> Iterator[SQLiteStore]:
    with SQLiteStore.open(tmp_path) as registry:
        registry.create("db", [HOST], rules)
        yield registry


@pytest.fixture
def broker(registry: SQLiteStore) -> BrokerService:
    return make_broker(registry)


async def _register(broker: BrokerService, rules: tuple[Rule, ...], *handles: FakeListener) -> None:
    listen = await broker.authorize("db", token_for(rules[0]), Right.LISTEN)
    for number, handle in enumerate(handles):
        broker.listeners.register(Listener("db", f"{number:032x}", 1, listen.key, handle))


@pytest.mark.parametrize("reason", Reason)
async def test_no_reason_that_a_listener_gives_is_permanent(
    broker: BrokerService, rules: tuple[Rule, ...], reason: Reason
) -> None:
    await _register(broker, rules, FakeListener(control.Failed(1, reason, "fetch the current key")))
    send = await broker.authorize("db", token_for(rules[1]), Right.SEND)
    answer = await broker.join(send, None)
    assert isinstance(answer, control.Failed)
    assert not answer.reason.is_permanent
    assert answer.detail == "", "what it wrote is not passed on"
    passed_on = {Reason.LISTENER_ABSENT, Reason.LISTENER_CANNOT_DIAL, Reason.LIMIT, Reason.GOING_AWAY}
    expected = reason if reason in passed_on else Reason.LISTENER_DECLINED
    assert answer.reason is (Reason.LIMIT if reason is Reason.BUSY else expected)


async def test_others_are_asked_when_one_refuses(broker: BrokerService, rules: tuple[Rule, ...]) -> None:
    refusing = [FakeListener(control.Failed(1, Reason.WRONG_KEY)) for _ in range(MAX_ASKED - 1)]
    willing = FakeListener(control.Accept(1))
    await _register(broker, rules, *refusing, willing)
    send = await broker.authorize("db", token_for(rules[1]), Right.SEND)
    for _ in range(10):
        assert isinstance(await broker.join(send, None), control.Joined)
    assert willing.offers == 10
    assert any(one.offers for one in refusing)


async def test_a_waiting_peer_is_not_told_that_the_key_of_the_other_was_revoked(
    broker: BrokerService, registry: SQLiteStore, rules: tuple[Rule, ...]
) -> None:
    await _register(broker, rules, FakeListener(control.Accept(1)))
    send = await broker.authorize("db", token_for(rules[1]), Right.SEND)
    joined = await broker.join(send, None)
    assert isinstance(joined, control.Joined)
    ours, far = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(broker.serve_channel, broker.use_ticket(joined.ticket), ours)
        await trio.testing.wait_all_tasks_blocked()
        registry.revoke_key("db", rules[0].name, KeySlot.PRIMARY)
        update(broker, registry)
        assert decode_status_untrusted(await receive_exactly(far, STATUS_SIZE)) is Reason.PEER_ABSENT


async def test_a_join_beyond_the_limit_is_refused_before_a_listener_is_asked(
    registry: SQLiteStore, rules: tuple[Rule, ...]
) -> None:
    broker = make_broker(registry, pairs=make_places("data channels", 100, per_key=2))
    willing = FakeListener(control.Accept(1))
    await _register(broker, rules, willing)
    send = await broker.authorize("db", token_for(rules[1]), Right.SEND)
    for _ in range(2):
        assert isinstance(await broker.join(send, None), control.Joined)
        assert willing.offers
    refused = await broker.join(send, None)
    assert isinstance(refused, control.Failed)
    assert refused.reason is Reason.LIMIT
    assert "as many data channels" in refused.detail
    assert willing.offers == 2


async def test_a_pair_that_is_displaced_by_another_holder(registry: SQLiteStore, rules: tuple[Rule, ...]) -> None:
    """A pair whose client has not proved its identity is aborted; one whose client has is kept."""
    pairs = make_places("data channels", 100, per_key=3, spares_established=True)
    broker = make_broker(registry, pairs=pairs)
    listener = FakeListener(control.Accept(1))
    await _register(broker, rules, listener)
    send = await broker.authorize("db", token_for(rules[1]), Right.SEND)
    far: list[list[trio.abc.HalfCloseableStream]] = []
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            joined = await broker.join(send, None, "192.0.2.1")
            assert isinstance(joined, control.Joined)
            legs = [trio.testing.memory_stream_pair() for _ in range(2)]
            far.append([leg[1] for leg in legs])
            for ticket, leg in zip((joined.ticket, listener.ticket), legs, strict=True):
                nursery.start_soon(broker.serve_channel, broker.use_ticket(ticket), leg[0])
            for stream in far[-1]:
                await receive_exactly(stream, STATUS_SIZE)
            if len(far) == 1:
                listener.prove()
        newcomer = await broker.join(send, None, "198.51.100.7")
        assert isinstance(newcomer, control.Joined)
        for stream in far[1]:
            assert await stream.receive_some() == b""  # how a memory stream reports an abort
        for pair in (far[0], far[2]):
            await pair[0].send_all(b"data")
            assert await receive_exactly(pair[1], 4) == b"data"
        assert len(pairs) == 3
        nursery.cancel_scope.cancel()
