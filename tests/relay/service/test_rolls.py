"""A relay that is started while a key is rolled remembers which programs do not have the new key."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from hybridrelay._confirmed_time import ConfirmedTime
from hybridrelay.events.base import Event
from hybridrelay.events.relay_changes import KeyRollStarted
from hybridrelay.events.relay_resources import StateFileNotRead, StateFileNotWritten, StateFileWritten
from hybridrelay.events.stream import EventStream
from hybridrelay.protocol import control
from hybridrelay.protocol.control import KeptState
from hybridrelay.relay.core.rolls import RETURN_SECONDS, Roll
from hybridrelay.relay.model import KeyRoll
from hybridrelay.relay.service import rolls as module
from hybridrelay.relay.service.broker import BrokerService
from hybridrelay.relay.service.control import ControlPeer
from hybridrelay.relay.service.rolls import RollService
from hybridrelay.relay.store.memory import MemoryStore
from hybridrelay.relay.store.rolls import ROLLS_FILE, Remembered, SavedEnd, read_rolls, write_rolls
from hybridrelay.relay.store.sqlite import SQLiteStore
from hybridrelay.relay.store.store import Store
from hybridrelay.security import KeySlot, Right, Rule, generate_key

from ...waiting import async_wait_until
from ..peers import HOST, FarEnd, hello_of, make_broker, token_for, update
from ..steps import calls_at_a_time
from .program_channel import ProgramChannel

NOBODY: list[ControlPeer] = []


@pytest.fixture
def store(registry: SQLiteStore, rules: tuple[Rule, ...]) -> SQLiteStore:
    registry.create("db", [HOST], rules)
    return registry


def service(
    broker: BrokerService, store: Store, peers: list[ControlPeer], directory: Path, events: list[Event]
) -> RollService:
    return RollService(
        broker, lambda: peers, store, trio.CapacityLimiter(1),
        clock=time.time, events=EventStream(events.append), state_dir=directory,
    )  # fmt: skip


def right_time() -> ConfirmedTime:
    return ConfirmedTime(time.time(), trio.current_time())


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
        assert (snapshot.programs, snapshot.kept) == (1, 0)
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
    relay = service(broker, store, NOBODY, tmp_path, [])
    await relay._remember()
    assert relay.problem is not None
    assert relay.problem.code == "rolls"
    assert "keys that are being rolled are revoked at the end of --grace" in relay.problem.detail
    async with trio.open_nursery() as nursery:
        relay = service(broker, store, NOBODY, tmp_path, events)
        nursery.start_soon(relay.run)
        await until("both failures were reported", lambda: _count(events, StateFileNotWritten) == 1)
        assert _count(events, StateFileNotRead) == 1
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
        assert relay.is_in_use(key) is is_in_use
        mock_clock.jump(RETURN_SECONDS)
        await async_wait_until(relay_has_settled, seconds=60, what="the relay looks at the clock")
        assert not relay.is_in_use(key)
        nursery.cancel_scope.cancel()


def _many_rolls(connections: int) -> tuple[BrokerService, MemoryStore]:
    """Make hybrid connections with two rules each, of both of which a key is being rolled."""
    store = MemoryStore()
    both = [Rule.generate("listener", [Right.LISTEN]), Rule.generate("sender", [Right.SEND])]
    for number in range(connections):
        store.create(f"db{number:05}", [HOST], both)
        for rule in both:
            store.roll_key(f"db{number:05}", rule.name, KeySlot.SECONDARY, generate_key(), seconds=1000)
    return make_broker(store), store


async def test_many_rolls_delay_no_other_task(tmp_path: Path) -> None:
    async def longest_steps(connections: int) -> list[int]:
        broker, store = _many_rolls(connections)
        channels = [
            ProgramChannel(f"{number:032x}", frozenset([roll.old_key(one.name)]))
            for number, one in enumerate(store.list())
            for roll in one.rolls[:1]
        ]
        relay = service(broker, store, channels, tmp_path / str(connections), [])  # type: ignore[arg-type]
        (tmp_path / str(connections)).mkdir()
        looking = partial(relay._look, right_time())
        actions: list[Callable[[], Awaitable[object]]] = [relay._update, looking, looking, relay._programs]
        longest = [max(await calls_at_a_time(action)) for action in actions]
        assert all(isinstance(message, control.Key) for one in channels for message in one.given)
        assert sum(len(one.given) for one in channels) == len(channels) == connections
        return longest

    for few, many in zip(await longest_steps(210), await longest_steps(630), strict=True):
        assert many < 1.5 * few


async def test_rolls_of_which_no_program_has_a_key_cost_almost_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker, store = _many_rolls(20)
    events: list[Event] = []
    relay = service(broker, store, NOBODY, tmp_path, events)
    written: list[Remembered] = []

    def write(_: Path, rolls: Remembered, _ended: object) -> None:
        written.append(rolls)

    monkeypatch.setattr(module, "write_rolls", write)
    monkeypatch.setattr(Roll, "observe", None)  # is not called
    for _ in range(3):
        await relay._update()
        await relay._look(right_time())
        await relay._save()
    assert [len(rolls) for rolls in written] == [40]
    assert _count(events, KeyRollStarted) == 40
    # A roll that is over because a key was changed is no longer remembered; the others are not begun again.
    store.revoke_key("db00000", "sender", KeySlot.PRIMARY)
    store.delete("db00001")
    update(broker, store)
    for _ in range(2):
        await relay._update()
        await relay._save()
    assert [len(rolls) for rolls in written] == [40, 37]
    assert _count(events, KeyRollStarted) == 40
    assert relay.snapshot("db00000", "sender") is None
    assert relay.snapshot("db00000", "listener") is not None


async def test_the_cost_of_an_answer_does_not_depend_on_how_many_rolls_there_are(tmp_path: Path) -> None:
    async def cost(connections: int) -> list[int]:
        broker, store = _many_rolls(connections)
        relay = service(broker, store, NOBODY, tmp_path, [])
        await relay._update()
        answer = control.KeyKept("db00000", store.get("db00000").rolls[0].new_generation, KeptState.KEPT, "")

        async def say() -> None:
            relay.answered("192.0.2.1", "0" * 32, answer)

        return await calls_at_a_time(say)

    assert await cost(100) == await cost(1)


async def test_what_changes_while_it_is_saved_is_saved_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker, store = _many_rolls(1)
    (roll, _) = store.get("db00000").rolls
    channel = ProgramChannel("0" * 32, frozenset([roll.old_key("db00000")]))
    relay = service(broker, store, [channel], tmp_path, [])  # type: ignore[list-item]
    await relay._update()
    await relay._look(right_time())
    answers = iter([KeptState.WAITING, KeptState.KEPT])

    def write(directory: Path, rolls: Remembered, ended: list[SavedEnd]) -> None:
        write_rolls(directory, rolls, ended)
        for state in answers:
            trio.from_thread.run_sync(
                relay.answered, "192.0.2.1", "0" * 32, control.KeyKept("db00000", roll.new_generation, state, "")
            )
            break

    monkeypatch.setattr(module, "write_rolls", write)
    saved = []
    for _ in range(4):
        await relay._save()
        saved.append([one.state for each in read_rolls(tmp_path).values() for one in each or ()])
    assert saved == [[None], [KeptState.WAITING], [KeptState.KEPT], [KeptState.KEPT]]


def _programs(roll: KeyRoll, count: int) -> list[ProgramChannel]:
    key = roll.old_key("db00000")
    return [ProgramChannel(f"{number:032x}", frozenset([key])) for number in range(count)]


async def test_saving_many_programs_delays_no_other_task_and_is_seldom(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Remembered] = []

    def write(_: Path, rolls: Remembered, _ended: object) -> None:
        written.append(rolls)

    monkeypatch.setattr(module, "write_rolls", write)
    longest = []
    for count in (1000, 3000):
        broker, store = _many_rolls(1)
        (roll, _) = store.get("db00000").rolls
        channels = _programs(roll, count)
        relay = service(broker, store, channels, tmp_path, [])  # type: ignore[arg-type]
        await relay._update()
        await relay._look(right_time())
        longest.append(max(await calls_at_a_time(relay._programs)))
        await relay._save()
        channels.append(ProgramChannel("f" * 32, channels[0].keys))
        await relay._look(right_time())
        assert relay._changes != relay._written
        await relay._save()
        mock_clock.jump(count / module._WRITTEN_PER_SECOND + 0.01)
        await relay._save()
        assert [sum(len(one or ()) for one in rolls.values()) for rolls in written] == [count, count + 1]
        written.clear()
    assert longest[1] < 1.5 * longest[0]


async def test_the_room_for_programs_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PROGRAMS", 5)
    broker, store = _many_rolls(1)
    (roll, other) = store.get("db00000").rolls
    channels = _programs(roll, 5)
    relay = service(broker, store, channels, tmp_path, [])  # type: ignore[arg-type]

    async def observed(rule: str, program: str) -> tuple[int, bool]:
        current = store.get("db00000").roll(rule)
        assert current is not None
        channels.append(ProgramChannel(program * 32, frozenset([current.old_key("db00000")])))
        await relay._update()
        await relay._look(right_time())
        machine = relay._rolls["db00000", rule].machine
        return len(machine.programs), machine.is_crowded

    assert await observed(roll.rule, "a") == (5, True)
    assert await observed(other.rule, "b") == (0, True)
    assert set((await relay._programs()).values()) == {None}, (
        "a relay that is started again does not know all of them"
    )
    # The first roll is over because a key was changed, and another one begins.
    store.regenerate_key("db00000", roll.rule, KeySlot.PRIMARY)
    store.roll_key("db00000", roll.rule, KeySlot.SECONDARY, generate_key(), seconds=1000)
    update(broker, store)
    channels.clear()
    assert await observed(roll.rule, "c") == (1, False)
    known = relay._rolls["db00000", roll.rule]
    known.machine.answered("192.0.2.1", "c" * 32, KeptState.KEPT, "")
    await relay._retire("db00000", known.machine, has_waited=True)
    assert relay._room.used == 0
