"""Which updates a program uses, whatever its relays deliver, and in which order."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.administration.provisioning import provision
from hybridrelay.connectivity.update_machine import (
    TRANSITIONS,
    AnswerRelay,
    Command,
    MachineInput,
    MachineState,
    ReportNotUsed,
    StoreString,
    TryRelays,
    UpdateMachine,
    UseUpdate,
)
from hybridrelay.protocol.control import UpdateState
from hybridrelay.security import ConnectionString, Endpoint, HostPort, Role, Secret, Update, seal_update

NOW = 1_800_000_000.0
MADE = provision("orders", target=HostPort("db", 1), endpoints=[Endpoint("a.example")], now=NOW)
AUTHORITY = MADE.authority_file.authority
STRING = MADE.connector
KEPT, MEMORY, WAITING, REFUSED, OTHER = UpdateState


def update(sequence: int, **values: object) -> Update:
    base = Update(connection="orders", role=Role.CONNECTOR, sequence=sequence, not_after=NOW + 100)
    return attrs.evolve(base, **{"target": HostPort(f"db{sequence}", 1), **values})  # type: ignore[arg-type]


def sealed(wanted: Update) -> bytes:
    return seal_update(AUTHORITY, wanted, wanted.sequence.to_bytes(12, "big"))


@attrs.define
class Program:
    """A program, whose relays and file answer as told."""

    string: ConnectionString = STRING
    floor: int = 0
    now: float = NOW
    denial: str = ""
    unreachable: str = ""
    unwritable: str = ""
    machine: UpdateMachine = attrs.field(factory=UpdateMachine)
    tried: list[ConnectionString] = attrs.field(factory=list)
    stored: list[ConnectionString] = attrs.field(factory=list)

    def deliver(self, document: bytes, sequence: int = 1) -> list[Command]:
        """Returns what was decided, without what was carried out."""
        commands = self.machine.delivered(
            self.string, sequence, document, floor=self.floor, now=self.now, why_not=lambda _: self.denial
        )
        decided: list[Command] = []
        while commands:
            match command := commands.pop(0):
                case TryRelays(string):
                    assert self.machine.state is MachineState.TRYING
                    self.tried.append(string)
                    commands += self.machine.tried(self.string, self.unreachable)
                case StoreString(_, after):
                    assert self.machine.state is MachineState.STORING
                    if not self.unwritable:
                        self.stored.append(after)
                        self.floor = max(self.floor, after.update_sequence)
                    commands += self.machine.stored(self.string, self.unwritable)
                case UseUpdate(string):
                    self.string = string
                    decided.append(command)
                case _:
                    decided.append(command)
        assert self.machine.state is MachineState.IDLE
        return decided


def test_the_table_is_complete() -> None:
    """Every state can be reached, and can be left by giving up."""
    reached = {after for (before, _), after in TRANSITIONS.items() if before is not after}
    assert reached | {MachineState.IDLE} == set(MachineState)
    assert {what for _, what in TRANSITIONS} == set(MachineInput)
    assert all(TRANSITIONS[state, MachineInput.GIVEN_UP] is MachineState.IDLE for state in MachineState)


def test_another_target_is_stored_answered_and_used() -> None:
    program = Program()
    (used,) = program.deliver(sealed(update(5)))[1:]
    assert program.machine.not_used is None
    after = attrs.evolve(STRING, target=HostPort("db5", 1), update_sequence=5)
    assert used == UseUpdate(after, ("target",), "")
    assert (program.stored, program.tried) == ([after], [])
    assert program.deliver(sealed(update(5))) == [AnswerRelay(KEPT)]
    assert program.deliver(sealed(update(4))) == [AnswerRelay(KEPT)]  # a replay changes nothing
    assert program.string == after


def test_other_relays_are_tried_first() -> None:
    program = Program(unreachable="b.example: refused")
    relays = update(5, endpoints=(Endpoint("b.example"),), pins=())
    assert program.deliver(sealed(relays), 5) == [
        AnswerRelay(WAITING, "b.example: refused"),
        ReportNotUsed(WAITING, "b.example: refused"),
    ]
    assert (program.string, program.stored) == (STRING, [])
    assert program.machine.not_used == (5, WAITING, "b.example: refused")
    program.unreachable = ""
    answer, used = program.deliver(sealed(relays))
    assert answer == AnswerRelay(KEPT)
    assert isinstance(used, UseUpdate)
    assert used.changed == ("relays", "target")
    assert [one.hosts for one in program.tried] == [("b.example",)] * 2


def test_a_key_that_arrives_during_the_trial_is_kept() -> None:
    machine = UpdateMachine()
    relays = update(5, endpoints=(Endpoint("b.example"),))
    machine.delivered(STRING, 5, sealed(relays), floor=0, now=NOW, why_not=lambda _: "")
    rolled = attrs.evolve(STRING, key=Secret("new"))
    (store,) = machine.tried(rolled, "")
    assert isinstance(store, StoreString)
    assert (store.before, store.after.key) == (rolled, Secret("new"))


def test_a_file_that_cannot_be_written() -> None:
    """The update is used, and stored as soon as that is possible."""
    program = Program(unwritable="read-only")
    assert program.deliver(sealed(update(5)))[0] == AnswerRelay(MEMORY, "read-only")
    assert program.string.update_sequence == 5
    assert program.deliver(sealed(update(5))) == [AnswerRelay(MEMORY, "read-only")]
    program.unwritable = ""
    assert program.deliver(sealed(update(5))) == [AnswerRelay(KEPT)]
    assert program.stored == [program.string]
    assert program.deliver(sealed(update(5))) == [AnswerRelay(KEPT)]
    assert len(program.stored) == 1


IDENTITY, _ = STRING.require_identity()


@pytest.mark.parametrize(
    ("document", "changes", "state", "says"),
    [
        (b"x" * 200, {}, REFUSED, "not an update for this hybrid connection and side"),
        (b"", {}, REFUSED, "its size is wrong"),
        (sealed(update(5, not_after=NOW - 1)), {}, REFUSED, "has expired"),
        (sealed(update(5, not_before=NOW + 1)), {}, WAITING, "not valid yet"),
        (sealed(update(5)), {"denial": "denied by policy"}, REFUSED, "denied by policy"),
        (sealed(update(5)), {"floor": 6}, WAITING, "this machine has already used a later update"),
        (sealed(update(5)), {"string": attrs.evolve(STRING, update_key=None)}, REFUSED, "has no UpdateKey"),
        (sealed(update(5, serial="AA")), {}, OTHER, ""),
        (sealed(update(5, excluded=(IDENTITY.serial,))), {}, OTHER, ""),
    ],
)
def test_what_is_not_used(document: bytes, changes: dict[str, object], state: UpdateState, says: str) -> None:
    program = attrs.evolve(Program(), **changes)  # type: ignore[arg-type]
    before = program.string
    answer = program.deliver(document)[0]
    assert isinstance(answer, AnswerRelay)
    assert answer.state is state
    assert says in answer.detail
    assert (program.string, program.stored, program.tried) == (before, [], [])


def test_a_backup_that_was_restored() -> None:
    """The relay can deliver nothing that is earlier than what was used; what was used last is used again."""
    program = Program()
    for sequence in (5, 6, 7):
        program.deliver(sealed(update(sequence)))
    program.string = attrs.evolve(STRING, update_sequence=5)  # while it runs
    assert program.deliver(sealed(update(6)))[0].state is WAITING  # type: ignore[union-attr]
    restarted = Program(string=program.string, floor=program.floor)
    for one in (program, restarted):
        assert one.deliver(sealed(update(6)))[0].state is WAITING  # type: ignore[union-attr]
        assert one.string.update_sequence == 5
        assert one.deliver(sealed(update(7)))[0] == AnswerRelay(KEPT)
        assert one.string.target == HostPort("db7", 1)


def test_a_file_that_could_not_be_written_and_is_replaced_by_an_earlier_one() -> None:
    """What was used in this run counts, although nothing on the disk says so."""
    program = Program(unwritable="the file is read-only")
    assert isinstance(program.deliver(sealed(update(9)))[-1], UseUpdate)
    assert program.floor == 0
    program.string = attrs.evolve(STRING, update_sequence=2)
    answer, _ = program.deliver(sealed(update(7)))
    assert answer == AnswerRelay(
        WAITING, "this machine has already used a later update, which this relay does not have"
    )
    assert program.string.update_sequence == 2
    assert isinstance(program.deliver(sealed(update(9)))[-1], UseUpdate)


def test_giving_up_in_the_middle() -> None:
    for trial in (False, True):
        program = Program()
        wanted = update(5, endpoints=(Endpoint("b.example"),)) if trial else update(5)
        program.machine.delivered(STRING, 5, sealed(wanted), floor=0, now=NOW, why_not=lambda _: "")
        program.machine.give_up()
        assert program.deliver(sealed(update(5)))[0] == AnswerRelay(KEPT)


DOCUMENTS = {sequence: sealed(update(sequence)) for sequence in range(1, 6)}
DOCUMENTS |= {
    sequence: sealed(update(sequence, endpoints=(Endpoint(f"r{sequence}.example"),))) for sequence in range(6, 9)
}
MINE_NOT = [sealed(update(99, serial="AA")), sealed(update(99, excluded=(IDENTITY.serial,)))]
STEPS = st.one_of(
    st.tuples(st.just("deliver"), st.sampled_from(sorted(DOCUMENTS))),
    st.tuples(st.just("garbage"), st.integers(0, 3)),
    st.tuples(st.sampled_from(["restore", "restart", "unreachable", "reachable", "full", "free", "deny", "allow"])),
)


@given(st.lists(STEPS, max_size=30))
def test_any_order_of_anything(steps: list[tuple[str, int] | tuple[str]]) -> None:
    """Whatever happens, what is in use was signed for this program, and what was used once is never undone by a
    relay. At the end, an honest relay brings everybody to the last update."""
    program, backups, highest = Program(), [STRING], 0
    for step in steps:
        match step:
            case ("deliver", number):
                before = program.string
                program.deliver(DOCUMENTS[int(number)], int(number))
                after = program.string
                if after != before:
                    assert after.update_sequence >= highest
                    assert after.target == HostPort(f"db{after.update_sequence}", 1)
                highest = max(highest, after.update_sequence)
                backups.append(after)
            case ("garbage", number):
                before = program.string
                program.deliver([b"", b"x" * 500, *MINE_NOT][int(number)])
                assert program.string == before
            case ("restore",):
                program.string = backups[len(backups) // 2]
            case ("restart",):
                program = attrs.evolve(program, machine=UpdateMachine())
                if program.floor < program.string.update_sequence:
                    program.floor = program.string.update_sequence
            case ("unreachable",) | ("reachable",):
                program.unreachable = "no" if step == ("unreachable",) else ""
            case ("full",) | ("free",):
                # The mark is written in any case; see `UpdateMarks`.
                program.floor, program.unwritable = highest, "full" if step == ("full",) else ""
            case _:
                program.denial = "no" if step == ("deny",) else ""
    program.unreachable = program.unwritable = program.denial = ""
    program.deliver(DOCUMENTS[8], 8)
    assert program.string.update_sequence == 8
    assert program.string.hosts == ("r8.example",)
