"""A relay that is started while a key is rolled remembers which programs do not have the new key."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from hybridrelay.events.base import Event
from hybridrelay.events.relay_resources import StateFileNotWritten, StateFileWritten
from hybridrelay.events.stream import EventStream
from hybridrelay.protocol import control
from hybridrelay.protocol.control import KeptState
from hybridrelay.relay.core.rolls import RETURN_SECONDS
from hybridrelay.relay.service import rolls as module
from hybridrelay.relay.service.broker import BrokerService
from hybridrelay.relay.service.control import ControlPeer
from hybridrelay.relay.service.rolls import RollService
from hybridrelay.relay.store.rolls import ROLLS_FILE, read_rolls
from hybridrelay.relay.store.sqlite import SQLiteStore
from hybridrelay.security import KeySlot, Rule, generate_key

from ...waiting import async_wait_until
from ..peers import HOST, FarEnd, hello_of, make_broker, token_for, update

NOBODY: list[ControlPeer] = []


@pytest.fixture
def store(registry: SQLiteStore, rules: tuple[Rule, ...]) -> SQLiteStore:
    registry.create("db", [HOST], rules)
    return registry


def service(
    broker: BrokerService, store: SQLiteStore, peers: list[ControlPeer], folder: Path, events: list[Event]
) -> RollService:
    return RollService(
        broker, lambda: peers, store, trio.CapacityLimiter(1),
        clock=time.time, events=EventStream(events.append), state_dir=folder,
    )  # fmt: skip


def begin_roll(broker: BrokerService, store: SQLiteStore, rule: str) -> None:
    store.roll_key("db", rule, KeySlot.SECONDARY, generate_key(), seconds=1000)
    update(broker, store)


async def until(what: str, happened: Callable[[], object]) -> None:
    async def condition() -> bool:
        return bool(happened())

    await async_wait_until(condition, seconds=60, what=what)


async def test_the_next_relay_knows_which_programs_do_not_have_the_key(
    tmp_path: Path, store: SQLiteStore, rules: tuple[Rule, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.01)
    events: list[Event] = []
    rule = rules[0].name
    async with trio.open_nursery() as nursery:
        broker = make_broker(store)
        connector = await FarEnd.connect(broker, nursery, hello_of("0" * 64))
        await connector.hear()
        assert isinstance(await connector.ask(control.Check(1, "db", token_for(rules[0]))), control.Checked)
        first = service(broker, store, [connector.peer], tmp_path, events)
        nursery.start_soon(first.run)
        await until("it has begun", lambda: first._has_begun)
        begin_roll(broker, store, rule)
        await until("the program is saved", lambda: any(read_rolls(tmp_path).values()))
        peer = connector.peer
        generation = store.get("db").rolls[0].new_generation
        first.answered(
            peer.address, peer.instance, control.KeyKept("db", generation, KeptState.WAITING, "another relay")
        )
        await until(
            "its answer is saved",
            lambda: (
                [one.state for each in read_rolls(tmp_path).values() for one in each or ()] == [KeptState.WAITING]
            ),
        )
        nursery.cancel_scope.cancel()
    async with trio.open_nursery() as nursery:
        second = service(make_broker(store), store, NOBODY, tmp_path, events)
        nursery.start_soon(second.run)
        await until("it has begun", lambda: second._has_begun)
        snapshot = second.snapshot("db", rule)
        assert snapshot is not None
        assert not snapshot.has_forgotten
        assert (snapshot.holders, snapshot.kept) == (1, 0)
        (missing,) = snapshot.missing
        assert (missing.instance, missing.state, missing.detail) == (peer.instance, "waiting", "another relay")
        assert not missing.is_connected
        nursery.cancel_scope.cancel()


async def test_a_relay_that_cannot_read_what_was_seen_says_so_and_waits_for_the_end(
    tmp_path: Path, store: SQLiteStore, rules: tuple[Rule, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(module, "_WRITE_AGAIN_SECONDS", 0.01)
    events: list[Event] = []
    rule = rules[0].name
    broker = make_broker(store)
    begin_roll(broker, store, rule)
    (tmp_path / ROLLS_FILE).mkdir()
    async with trio.open_nursery() as nursery:
        relay = service(broker, store, NOBODY, tmp_path, events)
        nursery.start_soon(relay.run)
        await until("both failures were reported", lambda: _count(events, StateFileNotWritten) == 2)
        snapshot = relay.snapshot("db", rule)
        assert snapshot is not None
        assert snapshot.has_forgotten
        problem = relay.problem
        assert problem is not None
        assert problem.code == "rolls"
        (tmp_path / ROLLS_FILE).rmdir()
        await until("it is written", lambda: _count(events, StateFileWritten))
        assert not relay.problem
        nursery.cancel_scope.cancel()
    # The next one knows that something was forgotten.
    assert list(read_rolls(tmp_path).values()) == [None]


def _count(events: list[Event], type_: type[Event]) -> int:
    return sum(isinstance(event, type_) for event in events)


@pytest.mark.parametrize(("ago", "is_in_use"), [(-1.0, False), (10.0, True), (3600.0, True), (10_000.0, False)])
async def test_a_key_that_was_in_use_until_the_relay_was_started_counts_as_in_use_for_a_while(
    store: SQLiteStore, rules: tuple[Rule, ...], tmp_path: Path, mock_clock: MockClock, ago: float, is_in_use: bool
) -> None:
    """`ago`: how long before the start of the relay it was used; -1: after it."""
    broker = make_broker(store)
    relay = service(broker, store, NOBODY, tmp_path, [])
    key = store.get("db").key_id(rules[0].name, KeySlot.PRIMARY)
    assert key is not None
    broker.usage.used(key, relay._started_at - ago)
    assert relay.is_in_use(key) is is_in_use
    mock_clock.rate = 1.0

    async def relay_has_settled() -> bool:
        return relay._have_returned

    async with trio.open_nursery() as nursery:
        nursery.start_soon(relay.run)
        await trio.testing.wait_all_tasks_blocked()
        assert await trio.to_thread.run_sync(relay.is_in_use, key) is is_in_use
        mock_clock.jump(RETURN_SECONDS)
        await async_wait_until(relay_has_settled, seconds=60, what="the relay looks at the clock")
        # As the operation does, which asks in a thread.
        assert not await trio.to_thread.run_sync(relay.is_in_use, key)
        nursery.cancel_scope.cancel()
