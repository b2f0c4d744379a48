"""How updates that a relay delivers are carried out: the trial of relays, the order of steps, and hostile relays."""

from __future__ import annotations

import base64
import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, cast

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from hybridrelay.administration.provisioning import provision
from hybridrelay.connectivity import updates as module
from hybridrelay.connectivity.control import ControlChannel
from hybridrelay.connectivity.endpoint import RelayEndpoint
from hybridrelay.connectivity.link import RelayLink
from hybridrelay.connectivity.new_keys import ANSWER_SECONDS, NewKeys, OtherRelay
from hybridrelay.connectivity.updates import MAX_AT_ONCE, SECONDS_EACH, TRIAL_SECONDS, Updates
from hybridrelay.errors import ConfigurationError, RelayUnreachable
from hybridrelay.events import Event, EventStream
from hybridrelay.events.endpoint import UpdateNotUsed, UpdateReceived
from hybridrelay.protocol import control
from hybridrelay.protocol.control import UpdateState
from hybridrelay.protocol.reasons import Reason
from hybridrelay.security import ConnectionString, Endpoint, HostPort, Role, Update, seal_update

NOW = 1_800_000_000.0
PIN, OTHER_PIN = (f"sha256:{'A' * 42}{end}=" for end in "AE")
MADE = provision("orders", target=HostPort("db", 1), endpoints=[Endpoint("a.example")], pins=(PIN,), now=NOW)
STRING = MADE.connector
KEPT, MEMORY, WAITING, REFUSED, OTHER = UpdateState


def message(sequence: int = 5, **values: Any) -> control.Update:
    wanted = Update(connection="orders", role=Role.CONNECTOR, sequence=sequence, not_after=NOW + 1, **values)
    sealed = seal_update(MADE.authority_file.authority, wanted, sequence.to_bytes(12, "big"))
    return control.Update("orders", sequence, base64.b64encode(sealed).decode())


TARGET = message(target=HostPort("db2", 1))


@attrs.define
class Relays:
    """Relays that are tried: what happens there, by host. None never answers."""

    answers: dict[str, control.Failed | Exception | None] = attrs.field(factory=dict)
    tried: list[str] = attrs.field(factory=list)
    open_channels: int = 0

    def link(self, endpoint: RelayEndpoint) -> RelayLink:
        if endpoint.host == "unusable.example":
            raise ConfigurationError("serves no port")
        return cast(RelayLink, Trial(self, endpoint))


@attrs.define
class Trial:
    relays: Relays
    endpoint: RelayEndpoint

    async def start_control(self, nursery: trio.Nursery) -> Trial:
        self.relays.tried.append(self.endpoint.host)
        await nursery.start(self._stay_open)
        return self

    async def _stay_open(self, *, task_status: trio.TaskStatus[None]) -> None:
        self.relays.open_channels += 1
        try:
            task_status.started()
            await trio.sleep_forever()
        finally:
            self.relays.open_channels -= 1

    async def check(self, connection: str, token: str) -> control.Checked | control.Failed:
        answer = self.relays.answers.get(self.endpoint.host, None)
        if isinstance(answer, Exception):
            raise answer
        if answer is None and self.endpoint.host in self.relays.answers:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        return control.Checked(1) if answer is None else answer


@attrs.define
class Program:
    string: ConnectionString = STRING
    relays: Relays = attrs.field(factory=Relays)
    why_not: str = ""
    use_fails: bool = False
    steps: list[object] = attrs.field(factory=list)
    events: list[Event] = attrs.field(factory=list)
    changing: trio.Lock = attrs.field(factory=trio.Lock)
    is_lost: bool = False
    #: As of an open control channel.
    relay: tuple[str, str] = (PIN, "0" * 32)

    async def send(self, answer: control.UpdateKept) -> None:
        if self.is_lost:
            raise RelayUnreachable("lost")
        self.steps.append((answer.state, answer.detail))

    async def keep(self, before: ConnectionString, after: ConnectionString) -> str:
        await trio.lowlevel.checkpoint()
        self.steps.append(("keep", before.update_sequence, after.update_sequence))
        return ""

    def use(self, string: ConnectionString) -> None:
        if self.use_fails:
            raise ConfigurationError("denied by policy")
        self.steps.append(("use", string.update_sequence))
        self.string = string

    def updates(self, *, has_file: bool = True) -> Updates:
        return Updates(
            lambda: self.string,
            use=self.use,
            why_not=lambda _: self.why_not,
            new_link=self.relays.link,
            keep=self.keep if has_file else None,
            floor=None,
            clock=lambda: NOW,
            events=EventStream(self.events.append),
            changing=self.changing,
        )

    async def deliver(self, updates: Updates, given: control.Update = TARGET) -> list[object]:
        before = len(self.steps)
        await updates.received(cast(ControlChannel, self), RelayEndpoint("a.example", {}, (PIN,)), given)
        return self.steps[before:]


async def test_it_is_stored_then_answered_then_used() -> None:
    program = Program()
    updates = program.updates()
    assert updates.status() is None
    assert await program.deliver(updates) == [("keep", 0, 5), (KEPT, ""), ("use", 5)]
    assert program.events == [
        UpdateReceived(connection="orders", host="a.example", sequence=5, changed=("target",), kept=True)
    ]
    assert await program.deliver(updates) == [(KEPT, "")]
    assert (await program.deliver(updates, message(4))) == [(KEPT, "")]
    status = updates.status()
    assert status is not None
    assert (status.sequence, status.state) == (5, "used")


async def test_without_a_file_or_without_an_answer() -> None:
    program = Program(is_lost=True)
    assert await program.deliver(program.updates(has_file=False)) == [("use", 5)]
    assert isinstance(program.events[0], UpdateReceived)
    assert not program.events[0].kept


async def test_what_is_used_no_longer_when_it_is_stored() -> None:
    """The policy has changed at this moment: this is reported, and the program goes on."""
    program = Program(use_fails=True)
    await program.deliver(program.updates())
    assert [event.name for event in program.events] == ["update.not-used"]
    assert program.string == STRING


def relays(*hosts: str, pins: tuple[str, ...] = (PIN,)) -> control.Update:
    return message(endpoints=tuple(map(Endpoint, hosts)), pins=pins)


async def test_a_list_with_the_relay_that_is_connected_needs_no_trial() -> None:
    for given in (relays("A.example", "b.example"), relays("a.example", pins=(OTHER_PIN, PIN))):
        program = Program()
        assert ("use", 5) in await program.deliver(program.updates(), given)
        assert program.relays.tried == []


@pytest.mark.parametrize(
    "given",
    [
        relays("a.example", pins=(OTHER_PIN,)),
        relays("a.example", pins=()),
        message(endpoints=(Endpoint("a.example", {"data": 1}),)),
    ],
)
async def test_the_same_relay_with_other_pins_or_ports_is_tried(given: control.Update) -> None:
    program = Program()
    await program.deliver(program.updates(), given)
    assert program.relays.tried == ["a.example"]


REFUSED_KEY = control.Failed(1, Reason.WRONG_KEY)
QUOTA = control.Failed(1, Reason.SENDER_QUOTA)
DOWN = RelayUnreachable("connection refused")


@pytest.mark.parametrize(
    ("answers", "is_used", "says"),
    [
        ({"b.example": DOWN}, True, ""),
        ({"b.example": DOWN, "c.example": QUOTA}, True, ""),
        ({"b.example": None}, True, ""),
        ({"b.example": DOWN, "c.example": REFUSED_KEY}, False, "c.example: orders: the shared access key is wrong"),
        (
            {"b.example": DOWN, "c.example": DOWN},
            False,
            "b.example: connection refused; c.example: connection refused",
        ),
        ({"b.example": None, "c.example": None}, False, "b.example: no answer; c.example: no answer"),
    ],
)
async def test_one_relay_has_to_accept(
    answers: dict[str, control.Failed | Exception | None], is_used: bool, says: str, autojump_clock: MockClock
) -> None:
    program = Program(relays=Relays(answers))
    started = trio.current_time()
    steps = await program.deliver(program.updates(), relays("b.example", "c.example"))
    assert trio.current_time() - started <= TRIAL_SECONDS
    assert program.relays.open_channels == 0
    assert set(program.relays.tried) == {"b.example", "c.example"}
    if is_used:
        assert steps == [("keep", 0, 5), (KEPT, ""), ("use", 5)]
        return
    ((state, detail),) = cast(list[tuple[UpdateState, str]], steps)
    assert (state, program.string) == (WAITING, STRING)
    assert says in detail
    assert [event.name for event in program.events] == ["update.not-used"]


async def test_a_relay_that_cannot_be_used_at_all() -> None:
    program = Program()
    ((state, detail),) = cast(
        list[tuple[UpdateState, str]], await program.deliver(program.updates(), relays("unusable.example"))
    )
    assert (state, "serves no port" in detail) == (WAITING, True)


async def test_a_cancelled_trial_is_begun_again(autojump_clock: MockClock) -> None:
    program = Program(relays=Relays({"b.example": None}))
    updates = program.updates()
    with trio.move_on_after(1):
        await program.deliver(updates, relays("b.example"))
    assert (program.relays.open_channels, program.steps) == (0, [])
    program.relays.answers.clear()
    assert ("use", 5) in await program.deliver(updates, relays("b.example"))


async def test_a_relay_that_delivers_very_many(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few are examined, and fewer events are published. Another relay is heard meanwhile, and this one afterwards."""
    examined: list[int] = []
    program = Program()
    updates = program.updates()
    garbage = base64.b64encode(bytes(4608)).decode()
    for number in range(10_000):
        if updates.may_handle("a.example"):
            examined.append(number)
            await program.deliver(updates, control.Update("orders", number, garbage))
        await trio.sleep(0.01)
    assert len(examined) <= MAX_AT_ONCE + math.ceil(100 / SECONDS_EACH) + 1
    assert len(program.events) <= 100 / module._REPORT_MIN_SECONDS + 1
    assert all(isinstance(event, UpdateNotUsed) for event in program.events)
    assert program.string == STRING
    assert updates.may_handle("b.example")
    assert ("use", 5) in await program.deliver(updates)
    await trio.sleep(SECONDS_EACH)
    assert updates.may_handle("a.example")


async def test_a_relay_that_reads_no_answer_delays_no_other(autojump_clock: MockClock) -> None:
    class Deaf:
        relay = PIN, "0" * 32

        async def send(self, message: control.Message) -> None:
            await trio.sleep_forever()

    program = Program()
    updates = program.updates()
    async with trio.open_nursery() as nursery:
        deaf = cast(ControlChannel, Deaf())
        nursery.start_soon(updates.received, deaf, RelayEndpoint("b.example", {}, (PIN,)), TARGET)
        await trio.testing.wait_all_tasks_blocked()
        assert (KEPT, "") in await program.deliver(updates)
    assert trio.current_time() <= ANSWER_SECONDS


@pytest.mark.parametrize("has_trial", [False, True])
async def test_a_relay_that_delivers_for_hours_and_reads_no_answer(
    autojump_clock: MockClock, has_trial: bool
) -> None:
    """Its updates do not accumulate, and the update of another relay is used as soon as one of them was handled."""
    waiting = 0

    class Deaf:
        relay = PIN, "0" * 32

        async def send(self, message: control.Message) -> None:
            await trio.sleep_forever()

    program = Program()
    program.relays.answers["unreachable.example"] = None
    updates = program.updates()
    endpoint, deaf = RelayEndpoint("evil.example", {}, (PIN,)), cast(ControlChannel, Deaf())
    given = message(4, endpoints=(Endpoint("unreachable.example"),)) if has_trial else message(4, serial="AB")

    async def receive() -> None:
        nonlocal waiting
        waiting += 1
        await updates.received(deaf, endpoint, given)
        waiting -= 1

    async with trio.open_nursery() as nursery:

        async def deliver() -> None:
            while True:
                if updates.may_handle("evil.example"):
                    nursery.start_soon(receive)
                await trio.sleep(1)

        nursery.start_soon(deliver)
        await trio.sleep(3600)
        assert waiting <= 2 + ANSWER_SECONDS / SECONDS_EACH
        began = trio.current_time()
        assert ("use", 5) in await program.deliver(updates)
        assert trio.current_time() - began <= TRIAL_SECONDS
        async with program.changing:  # held for no answer
            pass
        nursery.cancel_scope.cancel()


async def test_of_the_updates_of_a_relay_that_wait_the_latest_is_handled(autojump_clock: MockClock) -> None:
    program = Program()
    program.relays.answers["unreachable.example"] = None
    updates = program.updates()
    slow, first, second = message(4, endpoints=(Endpoint("unreachable.example"),)), message(5), TARGET
    async with trio.open_nursery() as nursery:
        nursery.start_soon(program.deliver, updates, slow)
        await wait_all_tasks_blocked()
        nursery.start_soon(program.deliver, updates, first)
        await wait_all_tasks_blocked()
        assert await program.deliver(updates, second) == []
    assert [step for step in program.steps if step == ("use", 5)] == [("use", 5)]
    assert program.string.target == HostPort("db2", 1)


async def test_updates_for_others_change_nothing() -> None:
    program = Program()
    updates = program.updates()
    assert await program.deliver(updates, attrs.evolve(TARGET, connection="billing")) == []
    assert await program.deliver(updates, message(serial="AB")) == [(OTHER, "")]
    other = provision("orders", target=HostPort("db", 1), endpoints=[Endpoint("a.example")], now=NOW)
    forged = seal_update(
        other.authority_file.authority,
        Update(connection="orders", role=Role.CONNECTOR, sequence=9, not_after=NOW + 1),
        bytes(12),
    )
    given = control.Update("orders", 9, base64.b64encode(forged).decode())
    assert [step[0] for step in cast(list[Any], await program.deliver(updates, given))] == [REFUSED]
    assert program.string == STRING


async def test_two_relays_with_different_updates() -> None:
    """The latest one wins, whichever comes first, and both relays hear that it is in use."""
    first, second = message(5, target=HostPort("db5", 1)), message(6, target=HostPort("db6", 1))
    for order in ((first, second), (second, first)):
        program = Program()
        updates = program.updates()
        async with trio.open_nursery() as nursery:
            for given in order:
                nursery.start_soon(program.deliver, updates, given)
        assert program.string.target == HostPort("db6", 1)
        assert (KEPT, "") in await program.deliver(updates, first)
        assert (KEPT, "") in await program.deliver(updates, second)
        assert program.string.update_sequence == 6


@attrs.define
class SlowProgram(Program):
    """A program that stores connection strings as a whole, each one when the test says so."""

    stored: list[ConnectionString] = attrs.field(factory=list)
    may_store: trio.Semaphore = attrs.field(factory=lambda: trio.Semaphore(0))

    async def keep(self, before: ConnectionString, after: ConnectionString) -> str:
        await self.may_store.acquire()
        self.stored.append(after)
        return ""

    async def check_accepted(self, string: ConnectionString) -> None:
        """As another relay, which is asked about a new key."""
        await self.may_store.acquire()

    @property
    def host(self) -> str:
        return "b.example"

    def new_keys(self) -> NewKeys:
        events = EventStream(self.events.append)
        return NewKeys(lambda: self.string, self.use, self.keep, events, changing=self.changing)

    async def give_key(self, keys: NewKeys, *others: OtherRelay) -> None:
        given = control.Key("orders", self.string.key_name, 7, "new")
        await keys.received(cast(ControlChannel, self), "a.example", given, others)


@pytest.mark.parametrize("asks_others", [False, True])
@pytest.mark.parametrize("key_first", [False, True])
@pytest.mark.parametrize("given", [TARGET, relays("b.example")], ids=["without a trial", "with a trial"])
async def test_a_new_key_at_the_same_time(
    given: control.Update, key_first: bool, asks_others: bool, nursery: trio.Nursery
) -> None:
    """Whatever is stored or used later has both."""
    program = SlowProgram()
    updates, keys = program.updates(), program.new_keys()
    others = [program] if asks_others else []
    starts: list[Callable[[], Awaitable[object]]] = [
        partial(program.give_key, keys, *others),
        partial(program.deliver, updates, given),
    ]
    for start in starts if key_first else reversed(starts):
        nursery.start_soon(start)
        await wait_all_tasks_blocked()
    while nursery.child_tasks:
        program.may_store.release()
        await wait_all_tasks_blocked()
    for string in (program.string, program.stored[-1]):
        assert (string.key.reveal(), string.update_sequence) == ("new", 5)
        assert (string.target, string.endpoints) != (STRING.target, STRING.endpoints)
    assert len(program.stored) == 2


async def test_a_key_that_is_stored_while_the_string_is_read_again(nursery: trio.Nursery) -> None:
    program = SlowProgram()
    nursery.start_soon(program.give_key, program.new_keys())
    await wait_all_tasks_blocked()
    program.string = attrs.evolve(program.string, target=HostPort("db3", 1))
    program.may_store.release()
    await wait_all_tasks_blocked()
    assert (program.string.key.reveal(), program.string.target) == ("new", HostPort("db3", 1))
