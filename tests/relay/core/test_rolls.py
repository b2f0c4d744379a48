"""Transcripts of a roll: who is given the new key, and when the old one is revoked."""

from __future__ import annotations

import attrs
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.protocol.control import KeptState
from hybridrelay.relay.core import rolls
from hybridrelay.relay.core.rolls import (
    LATER_REPEAT_SECONDS,
    REPEAT_SECONDS,
    RETURN_SECONDS,
    SETTLED_SECONDS,
    GiveKey,
    RetireKey,
    Roll,
    Seen,
)
from hybridrelay.relay.model import KeyRoll
from hybridrelay.security import KeySlot

KEPT, MEMORY, WAITING = KeptState
ENDS = 1000.0
A, B = Seen("a", "1" * 32, "192.0.2.1", "connector"), Seen("b", "2" * 32, "192.0.2.2", "client")


def begin(*, waits: bool = False) -> Roll[str]:
    return Roll(KeyRoll("application", KeySlot.SECONDARY, 1, 2, 0.0, ENDS, waits))


def observe(roll: Roll[str], now: float, *channels: Seen[str], old: bool = False) -> list[object]:
    return list(roll.observe(channels, now, depends_on_old=old, is_over=now >= roll.roll.ends_at))


def kept(roll: Roll[str], *seen: Seen[str], state: KeptState = KEPT) -> None:
    for one in seen:
        assert roll.answered(one.address, one.instance, state, "") is not None


def test_after_the_end_those_without_the_key_are_given_it_again() -> None:
    roll = begin()
    observe(roll, 0.0, A, B)
    kept(roll, A)
    kept(roll, B, state=MEMORY)
    assert observe(roll, ENDS, A, B)[-1] == RetireKey(has_waited=True)
    assert roll.in_memory == 1
    assert roll.end() == 1
    assert [one.instance for one in roll.programs] == [B.instance]
    now = ENDS + REPEAT_SECONDS
    assert list(roll.observe([B], now, depends_on_old=True, is_over=False)) == []
    now = ENDS + LATER_REPEAT_SECONDS
    assert list(roll.observe([B], now, depends_on_old=True, is_over=False)) == [GiveKey("b")]
    assert list(roll.observe([], now, depends_on_old=True, is_over=False)) == []
    assert (roll.in_memory, len(roll.missing)) == (0, 1)  # it has disconnected, and is not forgotten
    kept(roll, B)
    assert roll.end() == 1
    assert not roll.has_seen


def test_after_a_restart_of_the_relay_programs_have_time_to_return() -> None:
    """The one that is back first has the new key. The other one, which has not, was seen too late to be known."""
    roll = Roll[str](begin().roll, resumed_at=0.0)
    observe(roll, 0.0, A)
    roll.answered(A.address, A.instance, KeptState.KEPT, "")
    for now in range(1, int(RETURN_SECONDS)):
        assert observe(roll, float(now), A) == []
    assert observe(roll, RETURN_SECONDS - 0.5, A, B) == [GiveKey("b")]
    assert observe(roll, RETURN_SECONDS, A, B) == []
    roll.answered(B.address, B.instance, KeptState.KEPT, "")
    assert observe(roll, RETURN_SECONDS + 1, A, B) == []
    assert observe(roll, RETURN_SECONDS + 1 + SETTLED_SECONDS, A, B) == [RetireKey(has_waited=False)]
    late = Roll[str](begin().roll, resumed_at=0.0)
    assert observe(late, ENDS, A)[-1] == RetireKey(has_waited=True)


def test_a_program_that_a_previous_relay_has_seen_is_waited_for() -> None:
    before = begin()
    observe(before, 0.0, A, B)
    kept(before, A)
    kept(before, B, state=WAITING)
    roll = Roll[str](before.roll, 0.0, [attrs.evolve(one, is_connected=False) for one in before.programs])
    assert [(one.instance, one.state, one.is_connected) for one in roll.missing] == [(B.instance, WAITING, False)]
    observe(roll, 100.0, A)
    for now in (200.0, 300.0):
        assert RetireKey(has_waited=False) not in observe(roll, now, A)
    assert GiveKey("b") in observe(roll, 400.0, A, B)
    kept(roll, B)
    observe(roll, 401.0, A, B)
    assert observe(roll, 401.0 + SETTLED_SECONDS, A, B)[-1] == RetireKey(has_waited=False)


def test_if_a_previous_relay_was_forgotten_the_old_key_is_revoked_at_the_end() -> None:
    roll = Roll[str](begin().roll, 0.0, None)
    assert roll.has_forgotten
    observe(roll, 0.0, A)
    kept(roll, A)
    for now in (100.0, 200.0, ENDS - 1):
        assert observe(roll, now, A) == []
    assert observe(roll, ENDS, A) == [RetireKey(has_waited=True)]


def test_what_has_to_be_remembered_is_counted() -> None:
    roll = begin()
    observe(roll, 0.0, A)
    assert roll.changes == 1
    observe(roll, 1.0, A)
    observe(roll, REPEAT_SECONDS, A)
    assert roll.changes == 1
    kept(roll, A)
    assert roll.changes == 2
    assert roll.answered(A.address, A.instance, KEPT, "") is None
    assert roll.changes == 2


def test_all_get_the_key_and_then_the_old_one_ends() -> None:
    roll = begin()
    assert observe(roll, 0.0, A, B, old=True) == [GiveKey("a"), GiveKey("b")]
    assert observe(roll, 1.0, A, B, old=True) == []
    kept(roll, A)
    assert [one.instance for one in roll.missing] == [B.instance]
    kept(roll, B)
    assert observe(roll, 2.0, A, B, old=True) == []  # a session still depends on it
    assert observe(roll, 3.0, A, B) == []
    assert observe(roll, 3.0 + SETTLED_SECONDS - 0.1, A, B) == []
    assert observe(roll, 3.0 + SETTLED_SECONDS, A, B) == [RetireKey(has_waited=False)]


def test_all_must_be_well_without_interruption() -> None:
    roll = begin()
    observe(roll, 0.0, A)
    kept(roll, A)
    assert observe(roll, 1.0, A) == []
    assert observe(roll, 4.0, A, old=True) == []
    assert observe(roll, 6.5, A) == []
    assert observe(roll, 7.0, A, B) == [GiveKey("b")]
    assert observe(roll, 20.0, A, B) == []
    kept(roll, B)
    assert observe(roll, 21.0, A, B) == []
    assert observe(roll, 26.0, A, B) == [RetireKey(has_waited=False)]


def test_a_program_that_has_not_kept_it_is_asked_again() -> None:
    roll = begin()
    assert observe(roll, 0.0, A) == [GiveKey("a")]
    kept(roll, A, state=WAITING)
    assert observe(roll, REPEAT_SECONDS - 1, A) == []
    assert observe(roll, REPEAT_SECONDS, A) == [GiveKey("a")]
    kept(roll, A, state=MEMORY)
    assert observe(roll, 2 * REPEAT_SECONDS, A) == [GiveKey("a")]
    kept(roll, A)
    assert REPEAT_SECONDS > SETTLED_SECONDS
    assert observe(roll, 3 * REPEAT_SECONDS, A) == []


def test_a_new_control_channel_is_asked_in_any_case() -> None:
    """The program may have been started again, or the relay may have been."""
    roll = begin()
    observe(roll, 0.0, A)
    kept(roll, A)
    again = Seen("c", A.instance, A.address, A.role)
    assert observe(roll, 1.0, A, again) == [GiveKey("c")]
    assert len(roll.programs) == 1


def test_in_memory_only_does_not_count() -> None:
    roll = begin()
    observe(roll, 0.0, A)
    kept(roll, A, state=MEMORY)
    for now in range(1, int(ENDS), 50):
        assert RetireKey(has_waited=False) not in observe(roll, float(now), A)
    assert observe(roll, ENDS, A)[-1] == RetireKey(has_waited=True)


def test_a_program_that_left_without_the_key_is_waited_for() -> None:
    roll = begin()
    observe(roll, 0.0, A, B)
    kept(roll, A)
    assert observe(roll, 1.0, A) == []
    assert observe(roll, 100.0, A) == []
    (missing,) = roll.missing
    assert (missing.instance, missing.is_connected, missing.state) == (B.instance, False, None)
    assert observe(roll, ENDS, A) == [RetireKey(has_waited=True)]


def test_one_that_left_with_the_key_is_not() -> None:
    roll = begin()
    observe(roll, 0.0, A)
    kept(roll, A)
    assert observe(roll, 1.0) == []
    assert observe(roll, 6.0) == [RetireKey(has_waited=False)]


def test_without_programs_the_old_key_stays_for_the_grace_period() -> None:
    roll = begin()
    assert observe(roll, 0.0) == []
    assert observe(roll, ENDS - 1) == []
    assert observe(roll, ENDS) == [RetireKey(has_waited=True)]


def test_a_roll_that_waits_uses_up_the_grace_period() -> None:
    roll = begin(waits=True)
    observe(roll, 0.0, A)
    kept(roll, A)
    observe(roll, 1.0, A)
    assert observe(roll, ENDS - 1, A) == []
    assert observe(roll, ENDS, A) == [RetireKey(has_waited=False)]


def test_answers_that_nobody_asked_for() -> None:
    roll = begin()
    assert roll.answered(A.address, A.instance, KEPT, "") is None
    observe(roll, 0.0, A)
    # Somebody else with the same instance, which a client only claims.
    assert roll.answered("198.51.100.1", A.instance, KEPT, "") is None
    assert roll.missing
    assert roll.answered(A.address, A.instance, WAITING, "b.example.com") is not None
    assert roll.answered(A.address, A.instance, WAITING, "b.example.com") is None  # nothing new
    assert roll.programs[0].detail == "b.example.com"


def test_a_program_that_answers_all_the_time_is_noted_a_few_times_each_time_it_is_asked() -> None:
    roll = begin()
    for now in (0.0, REPEAT_SECONDS):
        assert observe(roll, now, A) == [GiveKey("a")]
        answers = [roll.answered(A.address, A.instance, WAITING, f"{now} {number}") for number in range(100)]
        assert sum(answer is not None for answer in answers) == rolls.MAX_ANSWERS
    # But the old key is not revoked because such an answer is left out.
    roll = begin()
    observe(roll, 0.0, A)
    for number in range(100):
        roll.answered(A.address, A.instance, KEPT, str(number))
    assert roll.answered(A.address, A.instance, MEMORY, "") is not None
    assert roll.missing
    assert roll.answered(A.address, A.instance, KEPT, "") is None


def test_programs_that_a_previous_relay_has_seen_need_room_too() -> None:
    before = begin()
    observe(before, 0.0, A, B)
    rooms = iter([True, False])
    roll = Roll[str](before.roll, 0.0, before.programs, take_room=lambda: next(rooms))
    assert (roll.programs, roll.is_crowded) == (before.programs[:1], True)


def test_with_too_many_programs_the_old_key_stays_until_the_end() -> None:
    rooms = iter([True])
    roll = Roll[str](begin().roll, take_room=lambda: next(rooms, False))
    assert observe(roll, 0.0, A, B) == [GiveKey("a")]
    assert (roll.is_crowded, roll.changes) == (True, 2)
    kept(roll, A)
    observe(roll, 1.0, A, B)
    assert roll.changes == 3
    assert observe(roll, 500.0, A) == []
    assert observe(roll, ENDS, A) == [RetireKey(has_waited=True)]


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from([None, *KeptState]), st.booleans(), st.floats(0, 30)),
        max_size=40,
    ),
    st.booleans(),
)
def test_it_never_ends_early(steps: list[tuple[str, KeptState | None, bool, float]], waits: bool) -> None:
    """Whatever happens: before the end, the old key is revoked only when all that were seen have kept the new one."""
    roll, now, states = begin(waits=waits), 0.0, dict[str, KeptState | None]()
    for name, answer, old, seconds in steps:
        now += seconds
        channel = Seen(name, name * 32, "192.0.2.1", "client")
        outputs = observe(roll, now, channel, old=old)
        states.setdefault(name, None)
        for output in outputs:
            if isinstance(output, RetireKey) and now < ENDS:
                assert not waits
                assert not old
                assert set(states.values()) == {KEPT}
                return
        if answer is not None:
            roll.answered("192.0.2.1", name * 32, answer, "")
            states[name] = answer
