"""After a roll has ended, the relay still knows which programs have not stored the new key."""

from __future__ import annotations

import json
import time
from pathlib import Path

import attrs
import pytest
import trio

from hybridrelay import _confirmed_time
from hybridrelay._confirmed_time import ConfirmedTime
from hybridrelay.events.base import Event
from hybridrelay.events.relay_changes import KeyNotKept, KeyRollEnded, KeyRollIncomplete
from hybridrelay.events.stream import EventStream
from hybridrelay.protocol import control
from hybridrelay.protocol.control import KeptState
from hybridrelay.relay.core.rolls import LATER_REPEAT_SECONDS
from hybridrelay.relay.model import KeyId
from hybridrelay.relay.service import rolls
from hybridrelay.relay.service.broker import BrokerService
from hybridrelay.relay.service.ended_rolls import KEPT_SECONDS
from hybridrelay.relay.service.rolls import RollService
from hybridrelay.relay.store.memory import MemoryStore
from hybridrelay.relay.store.rolls import ROLLS_FILE, read_ended_rolls, read_rolls
from hybridrelay.security import KeySlot, Right, Rule, generate_key

from ...waiting import async_wait_until
from ..peers import HOST, make_broker, update
from .program_channel import ProgramChannel

RULE = "sender"


@attrs.define
class Scene:
    """A relay that has rolled a key. One program has stored the new key, and another one has it only in memory."""

    directory: Path
    store: MemoryStore = attrs.field(factory=MemoryStore)
    channels: list[ProgramChannel] = attrs.field(factory=list)
    events: list[Event] = attrs.field(factory=list)
    now: float = attrs.field(factory=time.time)
    #: For a clock that is right.
    time: ConfirmedTime = attrs.field()

    @time.default
    def _begin(self) -> ConfirmedTime:
        return ConfirmedTime(self.now, self.now)

    def relay(self) -> RollService:
        self.broker = make_broker(self.store)
        return RollService(
            self.broker, lambda: self.channels, self.store, trio.CapacityLimiter(1),  # type: ignore[arg-type, return-value]
            clock=lambda: self.now, events=EventStream(self.events.append), state_dir=self.directory,
        )  # fmt: skip

    broker: BrokerService = attrs.field(init=False)

    def of(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def new_key(self) -> KeyId:
        found = self.store.get("db").key_id(RULE, KeySlot.SECONDARY)
        assert found is not None
        return found

    def answer(self, relay: RollService, channel: ProgramChannel, state: KeptState, detail: str = "") -> None:
        generation = self.new_key.generation
        relay.answered(channel.address, channel.instance, control.KeyKept("db", generation, state, detail))


async def look(scene: Scene, relay: RollService) -> None:
    scene.time.read(scene.now, scene.now)
    await relay._update()
    await relay._look(scene.time)
    await relay._save()


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    made = Scene(tmp_path)
    made.store.create("db", [HOST], [Rule.generate(RULE, [Right.SEND])])
    return made


async def rolled(scene: Scene) -> RollService:
    scene.store.roll_key("db", RULE, KeySlot.SECONDARY, generate_key(), seconds=100)
    relay = scene.relay()
    (roll,) = scene.store.get("db").rolls
    old = frozenset([roll.old_key("db")])
    scene.channels[:] = [ProgramChannel(number * 32, old, role=control.PeerRole.CLIENT) for number in ("1", "2")]
    await look(scene, relay)
    scene.answer(relay, scene.channels[0], KeptState.KEPT)
    scene.answer(relay, scene.channels[1], KeptState.MEMORY, "read-only")
    await look(scene, relay)
    return relay


async def ended(scene: Scene) -> RollService:
    relay = await rolled(scene)
    scene.now += 101
    await look(scene, relay)
    update(scene.broker, scene.store)
    for channel in scene.channels:
        channel.keys = frozenset([scene.new_key])
    await look(scene, relay)
    return relay


async def test_a_program_that_cannot_store_the_key_is_reported_before_the_old_one_ends(scene: Scene) -> None:
    relay = await rolled(scene)
    (event,) = scene.of(KeyNotKept)
    assert isinstance(event, KeyNotKept)
    assert (event.connection, event.rule, event.instance, event.detail) == ("db", RULE, "2" * 32, "read-only")
    (unkept,) = relay.unkept()
    assert (unkept.connection, unkept.rule, unkept.programs, unkept.ended_at) == ("db", RULE, 1, None)


async def test_it_stays_known_after_the_end_until_it_has_stored_the_key(scene: Scene, mock_clock: object) -> None:
    relay = await ended(scene)
    assert scene.store.get("db").rolls == ()
    assert [(one.missing, type(one)) for one in scene.of(KeyRollEnded)] == [(1, KeyRollEnded)]  # type: ignore[attr-defined]
    assert scene.of(KeyRollIncomplete) == [KeyRollIncomplete(connection="db", rule=RULE, programs=1)]
    assert relay.snapshot("db", RULE) is None
    shown = relay.ended("db", RULE)
    assert shown is not None
    assert (shown.seen, shown.kept, shown.ended_at) == (2, 1, scene.now)
    (missing,) = shown.missing
    assert (missing.instance, missing.state, missing.detail) == ("2" * 32, "memory", "read-only")
    (unkept,) = relay.unkept()
    assert (unkept.programs, unkept.ended_at) == (1, scene.now)
    # It is given the key again, and nobody else is.
    assert isinstance(mock_clock, trio.testing.MockClock)
    counts = [len(channel.given) for channel in scene.channels]
    mock_clock.jump(LATER_REPEAT_SECONDS)
    await look(scene, relay)
    assert [len(channel.given) - count for channel, count in zip(scene.channels, counts, strict=True)] == [0, 1]
    scene.answer(relay, scene.channels[1], KeptState.KEPT)
    mock_clock.jump(1)  # the file is not written too often
    await look(scene, relay)
    assert relay.ended("db", RULE) is None
    assert list(relay.unkept()) == []
    assert read_ended_rolls(scene.directory) == []
    assert relay._room.used == 0


async def test_the_next_relay_knows_it(scene: Scene) -> None:
    await ended(scene)
    assert read_rolls(scene.directory) == {}
    relay = scene.relay()
    await relay._remember()
    await look(scene, relay)
    shown = relay.ended("db", RULE)
    assert shown is not None
    assert (shown.seen, shown.kept, [one.state for one in shown.missing]) == (2, 1, ["memory"])
    assert [one.programs for one in relay.unkept()] == [1]
    scene.answer(relay, scene.channels[1], KeptState.KEPT)
    assert relay.ended("db", RULE) is None


async def test_the_next_relay_gives_the_key_again_as_rarely(scene: Scene, mock_clock: trio.testing.MockClock) -> None:
    earlier = await ended(scene)
    mock_clock.jump(1)  # the file is not written too often
    await earlier._save()
    relay = scene.relay()
    await relay._remember()
    await look(scene, relay)
    given = len(scene.channels[1].given)
    mock_clock.jump(LATER_REPEAT_SECONDS - 1)
    await look(scene, relay)
    assert len(scene.channels[1].given) == given
    mock_clock.jump(2)
    await look(scene, relay)
    assert len(scene.channels[1].given) == given + 1


async def test_the_next_relay_forgets_a_roll_whose_programs_have_all_stored_the_key(scene: Scene) -> None:
    await ended(scene)
    file = scene.directory / ROLLS_FILE
    file.write_text(file.read_text().replace('"memory"', '"kept"'))
    relay = scene.relay()
    await relay._remember()
    await look(scene, relay)
    assert relay.ended("db", RULE) is None
    assert relay._room.used == 0


@pytest.mark.parametrize("left", ["no room for a program", "what was seen before a restart cannot be read"])
async def test_it_is_known_that_programs_are_not_counted(scene: Scene, left: str) -> None:
    relay = await rolled(scene)
    started_at = scene.store.get("db").rolls[0].started_at
    expected = (started_at, False)
    if left == "no room for a program":
        relay._rolls["db", RULE].machine._take_room = lambda: False
        scene.channels.append(ProgramChannel("3" * 32, scene.channels[0].keys))
        expected = (started_at, True)
    else:
        scene.now += 50
        (scene.directory / ROLLS_FILE).write_text("damaged")
        relay = scene.relay()
        await relay._remember()
        expected = (scene.now, False)
    await look(scene, relay)
    scene.now += 101
    await look(scene, relay)

    shown = relay.ended("db", RULE)
    assert shown is not None
    assert (shown.seen_since, shown.is_crowded) == expected
    # The next relay knows it, too.
    (saved,) = read_ended_rolls(scene.directory)
    assert (saved.seen_since, saved.is_crowded) == expected
    update(scene.broker, scene.store)
    relay = scene.relay()
    await relay._remember()
    await look(scene, relay)
    shown = relay.ended("db", RULE)
    assert shown is not None
    assert (shown.seen_since, shown.is_crowded) == expected


async def test_a_file_without_what_was_not_counted_is_read(scene: Scene) -> None:
    await ended(scene)
    file = scene.directory / ROLLS_FILE
    content = json.loads(file.read_text())
    (one,) = content["ended"]
    content["ended"] = [one[:11]]
    file.write_text(json.dumps(content))
    (saved,) = read_ended_rolls(scene.directory)
    assert (saved.seen_since, saved.is_crowded) == (saved.roll.started_at, False)


async def test_a_program_that_has_left_is_still_shown_but_is_not_a_problem(scene: Scene) -> None:
    relay = await ended(scene)
    del scene.channels[1]
    await look(scene, relay)
    shown = relay.ended("db", RULE)
    assert shown is not None
    assert [one.is_connected for one in shown.missing] == [False]
    assert list(relay.unkept()) == []
    scene.now += KEPT_SECONDS + 1
    await look(scene, relay)
    assert relay.ended("db", RULE) is None


@pytest.mark.parametrize("change", ["regenerate", "revoke", "roll", "delete"])
async def test_it_is_forgotten_when_the_new_key_changes(scene: Scene, change: str) -> None:
    relay = await ended(scene)
    match change:
        case "regenerate":
            scene.store.regenerate_key("db", RULE, KeySlot.SECONDARY)
        case "revoke":
            scene.store.revoke_key("db", RULE, KeySlot.SECONDARY)
        case "roll":
            scene.store.roll_key("db", RULE, KeySlot.PRIMARY, generate_key(), seconds=1000)
        case "delete":
            scene.store.delete("db")
    update(scene.broker, scene.store)
    await look(scene, relay)
    assert relay.ended("db", RULE) is None
    assert read_ended_rolls(scene.directory) == []


async def test_an_old_key_that_an_administrator_revokes_ends_the_roll_in_the_same_way(scene: Scene) -> None:
    relay = await rolled(scene)
    scene.store.revoke_key("db", RULE, KeySlot.PRIMARY)
    update(scene.broker, scene.store)
    await look(scene, relay)
    shown = relay.ended("db", RULE)
    assert shown is not None
    assert [one.state for one in shown.missing] == ["memory"]


@pytest.mark.parametrize(
    "ended_rolls", ['{"a": 1}', "[1]", "[[1]]", '[["db","r","third",1,2,0,0,true,0,1,[]]]', '[["db","r"]]', "null"]
)
def test_a_damaged_file_is_an_error(tmp_path: Path, ended_rolls: str) -> None:
    text = f'{{"format":"hybridrelay-rolls","version":1,"rolls":{{}},"ended":{ended_rolls}}}'
    (tmp_path / ROLLS_FILE).write_text(text)
    with pytest.raises(ValueError, match=r"form|valid|number"):
        read_ended_rolls(tmp_path)


def test_a_file_of_an_earlier_version(tmp_path: Path) -> None:
    (tmp_path / ROLLS_FILE).write_text('{"format":"hybridrelay-rolls","version":1,"rolls":{}}')
    assert read_ended_rolls(tmp_path) == []


@pytest.mark.parametrize("when", ["while the relay runs", "at its start"])
async def test_a_clock_that_is_wrong_for_a_moment_ends_no_roll(
    scene: Scene, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An old key that was revoked cannot be brought back, and programs that were not connected would be lost."""
    monkeypatch.setattr(rolls, "_LOOK_SECONDS", 0.001)
    readings = 0

    def clock() -> float:
        nonlocal readings
        readings += 1
        return scene.now

    async def looked() -> bool:
        return readings >= 20

    async def some_looks() -> None:
        nonlocal readings
        readings = 0
        await async_wait_until(looked, seconds=60, what="the relay looks")

    scene.store.roll_key("db", RULE, KeySlot.SECONDARY, generate_key(), seconds=100, waits=True)
    (roll,) = scene.store.get("db").rolls
    relay = scene.relay()
    relay._clock = clock
    right = scene.now
    if when == "at its start":
        scene.now = right + 86_400
    async with trio.open_nursery() as nursery:
        nursery.start_soon(relay.run)
        await some_looks()
        scene.now = right + 86_400
        await some_looks()
        scene.now = right
        await some_looks()
        assert scene.store.get("db").rolls == (roll,)
        # When it is right that the time is over, the roll ends.
        monkeypatch.setattr(_confirmed_time, "CONFIRM_SECONDS", 0.0)
        scene.now = right + 86_400

        async def is_revoked() -> bool:
            return scene.store.rule("db", RULE).primary is None

        await async_wait_until(is_revoked, seconds=60, what="the old key is revoked")
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("number", ["Infinity", "-Infinity", "NaN", "1e400"])
async def test_a_file_with_a_number_that_is_not_finite_is_damaged(scene: Scene, number: str) -> None:
    await ended(scene)
    file = scene.directory / ROLLS_FILE
    content = json.loads(file.read_text())
    content["ended"][0][9] = 424242
    file.write_text(json.dumps(content).replace("424242", number))
    with pytest.raises(ValueError, match="not finite"):
        read_ended_rolls(scene.directory)
