"""Who is given an update, how often, and who counts as not having it."""

from __future__ import annotations

from functools import partial

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.protocol.control import UpdateState
from hybridrelay.relay.core import updates
from hybridrelay.relay.core.room import Room
from hybridrelay.relay.core.updates import DEPARTED_SECONDS, REPEAT_SECONDS, Distribution, GiveUpdate

KEPT, MEMORY, WAITING, REFUSED, OTHER = UpdateState


#: What people are shown; decides nothing.
TIME_OF_DAY = 1_800_000_000.0


@attrs.frozen
class Channel:
    handle: str
    instance: str
    address: str
    role: str


def seen(handle: str, instance: str = "", *, role: str = "connector", address: str = "192.0.2.1") -> Channel:
    return Channel(handle, instance or handle, address, role)


def observe(machine: Distribution[Channel], *channels: Channel, now: float) -> list[str]:
    """The channels over which the update is sent, sorted."""
    outputs = machine.observe(set(channels), now, time_of_day=TIME_OF_DAY + now)
    assert all(isinstance(one, GiveUpdate) for one in outputs)
    return sorted(one.channel.handle for one in outputs)


def names(one: Distribution[Channel], *, missing: bool = True) -> list[str]:
    return sorted(each.instance for each in (one.missing if missing else one.recipients))


def test_it_is_repeated_until_it_is_kept() -> None:
    machine = Distribution[Channel](5)
    assert observe(machine, seen("a"), seen("b"), now=0) == ["a", "b"]
    assert observe(machine, seen("a"), seen("b"), now=REPEAT_SECONDS - 1) == []
    assert machine.answered("192.0.2.1", "a", KEPT, "") is not None
    assert machine.answered("192.0.2.1", "b", WAITING, "no relay") is not None
    assert names(machine) == ["b"]
    assert observe(machine, seen("a"), seen("b"), now=REPEAT_SECONDS) == ["b"]
    assert observe(machine, seen("a2", "a"), seen("b"), now=REPEAT_SECONDS + 1) == ["a2"]  # a new channel
    assert machine.missing[0].detail == "no relay"


def test_a_program_that_has_lost_it_is_given_it_again() -> None:
    machine = Distribution[Channel](5)
    assert observe(machine, seen("a"), seen("a2", "a"), now=0) == ["a", "a2"]
    machine.answered("192.0.2.1", "a", KEPT, "")
    assert observe(machine, seen("a"), seen("a2", "a"), now=REPEAT_SECONDS) == []
    machine.answered("192.0.2.1", "a", MEMORY, "the file is read-only now")
    assert names(machine) == ["a"]
    assert observe(machine, seen("a2", "a"), now=REPEAT_SECONDS + 1) == ["a2"]
    machine.answered("192.0.2.1", "a", KEPT, "")
    assert observe(machine, seen("a2", "a"), now=3 * REPEAT_SECONDS) == []


def test_those_that_it_is_not_for_do_not_count() -> None:
    machine = Distribution[Channel](5)
    observe(machine, seen("a"), seen("b"), now=0)
    machine.answered("192.0.2.1", "a", OTHER, "")
    assert (names(machine), names(machine, missing=False)) == (["b"], ["b"])
    assert observe(machine, seen("a"), now=REPEAT_SECONDS) == []


def test_answers_that_nobody_has_asked_for() -> None:
    machine = Distribution[Channel](5)
    assert machine.answered("192.0.2.1", "a", KEPT, "") is None
    observe(machine, seen("a"), now=0)
    assert machine.answered("192.0.2.2", "a", KEPT, "") is None  # another program claims the instance
    noted = [machine.answered("192.0.2.1", "a", WAITING, str(number)) for number in range(9)]
    assert sum(one is not None for one in noted) == updates.MAX_ANSWERS
    assert names(machine) == ["a"]


def test_a_program_that_has_left() -> None:
    """Connectors are remembered for the next update. Clients have new instances, and are remembered only if they do
    not have this one."""
    machine = Distribution[Channel](5)
    everybody = [seen("c"), seen("d", role="client"), seen("e", role="client")]
    observe(machine, *everybody, now=0)
    machine.answered("192.0.2.1", "c", KEPT, "")
    machine.answered("192.0.2.1", "d", KEPT, "")
    observe(machine, now=10)
    assert names(machine, missing=False) == ["c", "e"]
    assert (names(machine), machine.missing[0].departed_at) == (["e"], TIME_OF_DAY + 10)
    later = Distribution(6, machine)
    assert names(later) == ["c", "e"]
    observe(later, seen("c"), now=20)
    later.answered("192.0.2.1", "c", KEPT, "")
    assert names(later) == ["e"]
    observe(later, now=11 + DEPARTED_SECONDS)
    assert names(later, missing=False) == ["c"]


def test_programs_that_have_left_are_forgotten_however_many_others_are_connected() -> None:
    """Also if as many programs without room are connected as are remembered."""
    room = Room(1, 1)
    machine = Distribution[Channel](5, take_room=partial(room.take, "db"), release_room=partial(room.release, "db"))
    observe(machine, seen("left"), now=0)
    observe(machine, seen("without room"), now=1)
    assert names(machine) == ["left"]
    observe(machine, seen("without room"), now=2 + DEPARTED_SECONDS)
    assert names(machine) == []
    # One that has returned is not forgotten.
    observe(machine, seen("back"), now=2 + DEPARTED_SECONDS)
    observe(machine, now=3 + DEPARTED_SECONDS)
    observe(machine, seen("back"), now=4 + DEPARTED_SECONDS)
    observe(machine, seen("back"), now=9 + 2 * DEPARTED_SECONDS)
    assert names(machine) == ["back"]


def test_a_second_channel_of_the_same_program() -> None:
    """A program has two while it tries out the relays of an update."""
    machine = Distribution[Channel](5)
    assert observe(machine, seen("trial", "a"), now=0) == ["trial"]
    observe(machine, now=1)
    assert machine.missing[0].departed_at == TIME_OF_DAY + 1
    assert observe(machine, seen("first", "a"), seen("second", "a"), now=2) == ["first", "second"]
    machine.answered("192.0.2.1", "a", KEPT, "")
    observe(machine, seen("first", "a"), now=3)
    assert (names(machine), machine.recipients[0].departed_at) == ([], None)


def test_a_clock_that_is_set_changes_nothing() -> None:
    machine = Distribution[Channel](5)
    observe(machine, seen("a"), seen("b"), now=0)
    observe(machine, seen("a"), now=1)
    for now, time_of_day in ((2, 0.0), (3, 2 * TIME_OF_DAY), (4, TIME_OF_DAY)):
        assert machine.observe({seen("a")}, now, time_of_day=time_of_day) == []
        assert names(machine) == ["a", "b"]
    assert observe(machine, seen("a"), now=REPEAT_SECONDS) == ["a"]
    assert observe(machine, seen("a"), now=2 + DEPARTED_SECONDS) == ["a"]
    assert names(machine) == ["a"]


def test_the_number_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(updates, "MAX_DEPARTED", 3)
    room = Room(5, 5)
    take, release = partial(room.take, "db"), partial(room.release, "db")
    machine = Distribution[Channel](5, take_room=take, release_room=release)
    many = [seen(f"c{number}") for number in range(9)]
    assert len(observe(machine, *many, now=0)) == 9
    assert len(names(machine, missing=False)) == 5
    assert machine.is_crowded
    observe(machine, now=1)
    assert len(names(machine, missing=False)) == 3
    assert take()
    release(1)
    later = Distribution[Channel](6, machine, take_room=take, release_room=release)
    assert len(names(later, missing=False)) == 3
    assert not later.is_crowded
    assert [take() for _ in range(3)] == [True, True, False]
    release(2)
    later.close()
    assert [take() for _ in range(6)] == [True] * 5 + [False]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("observe"), st.sets(st.sampled_from("abc")), st.integers(0, 100)),
            st.tuples(st.just("answer"), st.sampled_from("abc"), st.sampled_from(UpdateState)),
        ),
        max_size=40,
    )
)
def test_a_distribution_agrees_with_a_simple_model(steps: list[tuple[str, object, object]]) -> None:
    """Nobody who has it is asked again on the same channel, and everybody else is, at the latest after a minute."""
    room = Room(100, 100)
    machine = Distribution[Channel](1, take_room=partial(room.take, "db"), release_room=partial(room.release, "db"))
    now, asked = 0.0, dict[str, float]()
    state: dict[str, UpdateState] = {}
    for what, who, value in steps:
        if what == "answer":
            assert isinstance(who, str)
            assert isinstance(value, UpdateState)
            if machine.answered("192.0.2.1", who, value, "") is not None:
                state[who] = value
                if value is OTHER and who not in asked:  # it has left
                    del state[who]
            continue
        assert isinstance(who, set)
        assert isinstance(value, int)
        now += value
        given_to = set(observe(machine, *(seen(one) for one in sorted(who)), now=now))
        for one in who:
            is_due = one not in asked or (state.get(one) not in (KEPT, OTHER) and now - asked[one] >= REPEAT_SECONDS)
            assert (one in given_to) == is_due
            if one in given_to:
                asked[one] = now
        for one in set("abc") - who:
            asked.pop(one, None)
            if state.get(one) is OTHER:
                del state[one]
        missing = {one.instance for one in machine.missing}
        assert room.used == len(machine._recipients)
        assert {one for one in who if state.get(one) not in (KEPT, OTHER)} <= missing
        assert not {one for one in who if state.get(one) in (KEPT, OTHER)} & missing
