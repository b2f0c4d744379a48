"""How the room for remembered programs is shared among hybrid connections."""

from __future__ import annotations

import itertools
from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hybridrelay.relay.core.room import FEW, FREE_PART, LEAST, Room

TOTAL, MOST = 50_000, 10_000


def fill(room: Room, connection: str) -> int:
    return next(number for number in itertools.count() if not room.take(connection))


def test_one_hybrid_connection_leaves_room_for_many() -> None:
    room = Room(TOTAL, MOST)
    assert fill(room, "a") == MOST
    used = [fill(room, f"b{number}") for number in range(1000)]
    assert used == sorted(used, reverse=True)
    assert used[0] == int((TOTAL / 2 - MOST) * FREE_PART)
    assert used[100] == FEW
    assert used[-1] == LEAST
    assert room.used <= TOTAL + LEAST * len(used)
    room.release("a", MOST)
    assert fill(room, "few") > LEAST


def test_what_is_given_back_can_be_taken_again() -> None:
    room = Room(TOTAL, 3)
    assert fill(room, "a") == 3
    room.release("a")
    assert room.take("a")
    assert not room.take("a")
    room.release("a", 3)
    assert room.used == 0
    assert fill(room, "a") == 3


class RoomMachine(RuleBasedStateMachine):
    """Hybrid connections take and give back room in any order."""

    NAMES = tuple(map(str, range(40)))

    def __init__(self) -> None:
        super().__init__()
        self.room = Room(1000, 300)
        self.has = Counter[str]()

    @rule(name=st.sampled_from(NAMES), count=st.sampled_from([1, 7, 8, 50, 400]))
    def take(self, name: str, count: int) -> None:
        for _ in range(count):
            if not self.room.take(name):
                assert self.has[name] >= LEAST
                break
            self.has[name] += 1

    @rule(name=st.sampled_from(NAMES), part=st.sampled_from([0.1, 0.5, 1.0]))
    def give_back(self, name: str, part: float) -> None:
        count = int(self.has[name] * part)
        self.room.release(name, count)
        self.has[name] -= count

    @invariant()
    def the_room_is_not_exceeded(self) -> None:
        assert self.room.used == self.has.total()
        assert self.room.used <= 1000 + LEAST * len(self.NAMES)
        assert max(self.has.values(), default=0) <= 300


TestRoom = RoomMachine.TestCase
TestRoom.settings = settings(max_examples=50, stateful_step_count=60, deadline=None)
