"""What a program does with a new key: which it takes, in which order, and what it answers."""

from __future__ import annotations

from typing import cast

import attrs
import pytest
import trio
import trio.testing

from hybridrelay.connectivity.control import ControlChannel
from hybridrelay.connectivity.new_keys import ANSWER_SECONDS, KEY_SECONDS, NewKeys
from hybridrelay.errors import AuthorizationError, RelayUnreachable
from hybridrelay.events import Event, EventStream
from hybridrelay.events.endpoint import NewKeyReceived
from hybridrelay.protocol import control
from hybridrelay.protocol.control import KeptState
from hybridrelay.protocol.reasons import Reason
from hybridrelay.security import ConnectionString, Endpoint, Secret, key_fingerprint

OLD = ConnectionString(
    endpoints=(Endpoint("a.example.com"), Endpoint("b.example.com")),
    key_name="application",
    key=Secret("old"),
    entity_path="orders",
)
NEW = attrs.evolve(OLD, key=Secret("new"))
GIVEN = control.Key("orders", "application", 7, "new")


@attrs.define
class Other:
    """Another relay."""

    host: str = "b.example.com"
    error: Exception | None = None
    #: The keys that were shown to it.
    asked: list[str] = attrs.field(factory=list[str])

    async def check_accepted(self, string: ConnectionString) -> None:
        await trio.lowlevel.checkpoint()
        self.asked.append(string.key.reveal())
        if self.error is not None:
            raise self.error


@attrs.define
class Program:
    """A program whose steps are recorded; it is its own control channel."""

    string: ConnectionString = OLD
    why: str = ""
    steps: list[object] = attrs.field(factory=list)
    events: list[Event] = attrs.field(factory=list)
    is_lost: bool = False

    async def send(self, message: control.KeyKept) -> None:
        if self.is_lost:
            raise RelayUnreachable("lost")
        self.steps.append((message.state, message.detail))

    async def keep(self, before: ConnectionString, after: ConnectionString) -> str:
        await trio.lowlevel.checkpoint()
        self.steps.append(("keep", before.key.reveal(), after.key.reveal()))
        return self.why

    def use(self, string: ConnectionString) -> None:
        self.steps.append(("use", string.key.reveal()))
        self.string = string

    def keys(self, *, has_file: bool = True) -> NewKeys:
        return NewKeys(
            lambda: self.string,
            self.use,
            self.keep if has_file else None,
            EventStream(self.events.append),
            changing=trio.Lock(),
        )

    async def give(self, keys: NewKeys, message: control.Key = GIVEN, *others: Other) -> list[object]:
        before = len(self.steps)
        await keys.received(self, "a.example.com", message, others)  # type: ignore[arg-type]
        return self.steps[before:]


KEEP, USE = ("keep", "old", "new"), ("use", "new")


async def test_it_is_stored_then_answered_then_used() -> None:
    program = Program()
    keys = program.keys()
    other = Other()
    assert await program.give(keys, GIVEN, other) == [KEEP, (KeptState.KEPT, ""), USE]
    assert program.string == NEW
    assert other.asked == ["new", "new"]  # before, and when it is used, so that the relay sees who has it
    assert program.events == [
        NewKeyReceived(connection="orders", host="a.example.com", key=key_fingerprint(NEW.key), kept=True)
    ]
    # Asked again, perhaps by the other relay: nothing is stored twice, and what the relay refused before is retried.
    assert await program.give(keys) == [(KeptState.KEPT, ""), USE]
    assert len(program.events) == 1


async def test_without_a_place_it_is_in_memory_only() -> None:
    program = Program()
    keys = program.keys(has_file=False)
    answer = (KeptState.MEMORY, "this program has no file in which to store the connection string")
    assert await program.give(keys) == [answer, USE]
    assert await program.give(keys) == [answer, USE]


async def test_a_file_that_cannot_be_written_is_tried_again() -> None:
    program = Program(why="read-only")
    keys = program.keys()
    assert await program.give(keys) == [KEEP, (KeptState.MEMORY, "read-only"), USE]
    assert program.events == [
        NewKeyReceived(
            connection="orders", host="a.example.com", key=key_fingerprint(NEW.key), kept=False, detail="read-only"
        )
    ]
    program.why = ""
    assert await program.give(keys) == [KEEP, (KeptState.KEPT, ""), USE]
    assert await program.give(keys) == [(KeptState.KEPT, ""), USE]


async def test_a_string_that_was_read_with_the_key_is_kept() -> None:
    program = Program(string=NEW)
    assert await program.give(program.keys()) == [(KeptState.KEPT, ""), USE]


@pytest.mark.parametrize(
    "error",
    [AuthorizationError("the key is wrong", reason=Reason.WRONG_KEY), RelayUnreachable("no route")],
)
async def test_a_key_that_another_relay_does_not_accept_is_not_used(
    autojump_clock: trio.testing.MockClock, error: Exception
) -> None:
    program = Program()
    keys = program.keys()
    other = Other(error=error)
    assert await program.give(keys, GIVEN, other) == [(KeptState.WAITING, f"b.example.com: {error}")]
    assert program.string == OLD
    assert program.events == []
    other.error = None
    assert await program.give(keys, GIVEN, other) == [KEEP, (KeptState.KEPT, ""), USE]


@pytest.mark.parametrize(
    "message",
    [
        attrs.evolve(GIVEN, connection="other"),
        attrs.evolve(GIVEN, rule="connector"),
        attrs.evolve(GIVEN, key="a;b"),
        attrs.evolve(GIVEN, key="a b"),
        attrs.evolve(GIVEN, key="é"),
    ],
)
async def test_keys_that_are_not_for_us(message: control.Key) -> None:
    program = Program()
    assert await program.give(program.keys(), message) == []
    assert program.string == OLD


async def test_a_channel_that_is_lost_meanwhile_loses_nothing() -> None:
    program = Program(is_lost=True)
    assert await program.give(program.keys()) == [KEEP, USE]


async def test_two_relays_at_the_same_moment(nursery: trio.Nursery) -> None:
    program = Program()
    keys = program.keys()
    async with trio.open_nursery() as both:
        both.start_soon(program.give, keys)
        both.start_soon(program.give, keys)
    assert program.steps.count(KEEP) == 1


async def test_a_relay_that_gives_keys_without_end_is_slowed_down(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    program = Program()
    keys = program.keys()
    for number in range(10_000):
        nursery.start_soon(program.give, keys, control.Key("orders", "application", number, f"key{number}"))
        if number % 1000 == 0:
            await trio.testing.wait_all_tasks_blocked(0.0)
    await trio.testing.wait_all_tasks_blocked(0.0)
    assert len(nursery.child_tasks) == 1  # the others are not waiting
    await program.give(keys, attrs.evolve(GIVEN, key="latest"))
    used = [step[1] for step in program.steps if isinstance(step, tuple) and step[0] == "use"]
    assert len(used) == 1
    await trio.sleep(KEY_SECONDS + 1)
    used = [step[1] for step in program.steps if isinstance(step, tuple) and step[0] == "use"]
    assert used[1:] == ["latest"]
    assert len(program.events) == 2


async def test_a_relay_that_gives_the_key_in_use_without_end_is_slowed_down(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    program = Program()
    keys = program.keys()
    in_use = attrs.evolve(GIVEN, key=program.string.key.reveal())
    for number in range(1_000):
        nursery.start_soon(program.give, keys, attrs.evolve(in_use, generation=number))
        await trio.testing.wait_all_tasks_blocked(0.0)
    assert sum(step == ("use", in_use.key) for step in program.steps) == 1
    await trio.sleep(KEY_SECONDS + 1)
    assert sum(step == ("use", in_use.key) for step in program.steps) == 2
    assert len(nursery.child_tasks) == 0


async def test_a_relay_that_gives_keys_without_end_does_not_delay_another_one(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    program = Program()
    keys = program.keys()
    await program.give(keys)
    nursery.start_soon(program.give, keys, control.Key("orders", "application", 8, "bad"))
    await trio.testing.wait_all_tasks_blocked(0.0)
    began = trio.current_time()
    await keys.received(program, "b.example.com", attrs.evolve(GIVEN, key="newer"), ())  # type: ignore[arg-type]
    assert trio.current_time() == began
    assert program.string.key.reveal() == "newer"


async def test_a_relay_that_reads_no_answer_delays_no_other(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    class Deaf:
        async def send(self, message: control.KeyKept) -> None:
            await trio.sleep_forever()

    program = Program()
    keys = program.keys()
    nursery.start_soon(keys.received, cast(ControlChannel, Deaf()), "b.example.com", GIVEN, ())
    await trio.testing.wait_all_tasks_blocked(0.0)
    await program.give(keys, attrs.evolve(GIVEN, key="newer"))
    assert program.string.key.reveal() == "newer"
    assert trio.current_time() <= ANSWER_SECONDS


async def test_a_message_whose_handling_was_cancelled_keeps_no_later_one_from_being_handled(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    program = Program()
    keys = program.keys()
    await program.give(keys)
    newer = attrs.evolve(GIVEN, key="newer")
    with trio.move_on_after(1):
        await program.give(keys, newer)
    assert program.string.key.reveal() == "new"
    assert await program.give(keys, newer) == [("keep", "new", "newer"), (KeptState.KEPT, ""), ("use", "newer")]
