"""Ownership of an instance: only a peer that knows its secret may register it, supersede it or declare it dead."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from hybridrelay.protocol import control
from hybridrelay.protocol.reasons import Reason
from hybridrelay.relay.limits import DEPARTED_SECONDS
from hybridrelay.relay.service.broker import BrokerService
from hybridrelay.relay.store.sqlite import SQLiteStore
from hybridrelay.security import Rule

from ..peers import HOST, FarEnd, hello_of, make_broker, token_for

SECRET = "1" * 64
INSTANCE = control.instance_of(SECRET)
FOREIGN = "2" * 64
HUGE = control.MAX_INTEGER


@pytest.fixture
def broker(tmp_path: Path, rules: tuple[Rule, ...]) -> BrokerService:
    with SQLiteStore.open(tmp_path) as registry:
        registry.create("db", [HOST], rules)
        return make_broker(registry)


@pytest.fixture
def register(rules: tuple[Rule, ...]) -> control.Register:
    return control.Register(1, "db", token_for(rules[0]))


async def test_a_stolen_instance_without_its_secret_is_refused(
    broker: BrokerService, register: control.Register, nursery: trio.Nursery
) -> None:
    owner = await FarEnd.connect(broker, nursery, hello_of(SECRET), register)
    assert isinstance(await owner.hear(), control.Welcome)
    assert isinstance(await owner.hear(), control.Registered)
    registered = broker.listeners.find("db", INSTANCE)
    # With the secret of another instance: the relay closes the channel.
    thief = await FarEnd.connect(broker, nursery, hello_of(FOREIGN, generation=HUGE, instance=INSTANCE), register)
    with pytest.raises(trio.BrokenResourceError):
        await thief.hear()
    assert "does not belong" in str(thief.error)
    # Without a secret.
    thief = await FarEnd.connect(broker, nursery, hello_of(SECRET, generation=HUGE, shown=None), register)
    assert isinstance(await thief.hear(), control.Welcome)
    refused = await thief.hear()
    assert isinstance(refused, control.Failed)
    assert refused.reason is Reason.VERSION_MISMATCH
    assert broker.listeners.find("db", INSTANCE) is registered
    # The connector comes back with its next control channel.
    again = await FarEnd.connect(broker, nursery, hello_of(SECRET, generation=2), register)
    assert isinstance(await again.hear(), control.Welcome)
    assert isinstance(await again.hear(), control.Registered)
    nursery.cancel_scope.cancel()


async def test_only_a_peer_that_knows_the_secret_can_declare_an_instance_dead(
    broker: BrokerService, rules: tuple[Rule, ...], register: control.Register, nursery: trio.Nursery
) -> None:
    owner = await FarEnd.connect(broker, nursery, hello_of(SECRET), register)
    assert isinstance(await owner.hear(), control.Welcome)
    assert isinstance(await owner.hear(), control.Registered)
    stranger = await FarEnd.connect(broker, nursery, hello_of(FOREIGN))
    assert isinstance(await stranger.hear(), control.Welcome)
    # A wrong secret belongs to another instance.
    guess = control.Register(2, "db", token_for(rules[0]), (INSTANCE * 2,))
    assert isinstance(await stranger.ask(guess), control.Registered)
    assert broker.listeners.find("db", INSTANCE) is not None
    known = control.Register(3, "db", token_for(rules[0]), (SECRET,))
    assert isinstance(await stranger.ask(known), control.Registered)
    assert broker.listeners.find("db", INSTANCE) is None
    assert broker.listeners.why_not("db", INSTANCE) is Reason.LISTENER_GONE
    nursery.cancel_scope.cancel()


async def test_a_connector_cannot_declare_itself_dead(
    broker: BrokerService, rules: tuple[Rule, ...], nursery: trio.Nursery
) -> None:
    owner = await FarEnd.connect(broker, nursery, hello_of(SECRET))
    assert isinstance(await owner.hear(), control.Welcome)
    answer = await owner.ask(control.Register(1, "db", token_for(rules[0]), (SECRET,)))
    assert isinstance(answer, control.Registered)
    assert broker.listeners.find("db", INSTANCE) is not None
    nursery.cancel_scope.cancel()


async def test_a_relay_keeps_no_secret(
    broker: BrokerService, register: control.Register, nursery: trio.Nursery
) -> None:
    owner = await FarEnd.connect(broker, nursery, hello_of(SECRET), register)
    assert isinstance(await owner.hear(), control.Welcome)
    assert owner.peer.hello is not None
    assert owner.peer.hello.secret is None
    nursery.cancel_scope.cancel()


async def test_the_generation_of_an_instance_that_has_left_is_forgotten(
    broker: BrokerService, register: control.Register, autojump_clock: trio.testing.MockClock
) -> None:
    async def try_to_register(generation: int) -> control.Message | control.Unknown:
        async with trio.open_nursery() as nursery:
            far_end = await FarEnd.connect(broker, nursery, hello_of(SECRET, generation=generation), register)
            assert isinstance(await far_end.hear(), control.Welcome)
            answer = await far_end.hear()
            nursery.cancel_scope.cancel()
        return answer

    assert isinstance(await try_to_register(HUGE), control.Registered)
    refused = await try_to_register(1)
    assert isinstance(refused, control.Failed)
    assert refused.reason is Reason.SUPERSEDED
    await trio.sleep(DEPARTED_SECONDS + 1)
    assert isinstance(await try_to_register(1), control.Registered)
