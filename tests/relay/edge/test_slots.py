"""Which connection is displaced when all slots for unauthenticated connections are taken."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.relay.edge.slots import Slot, Slots, address_group

KEY = b"k" * 8


class Recorder:
    """Takes slots by name and records who was evicted."""

    def __init__(self, total: int, per_address: int) -> None:
        self.slots = Slots(total, per_address)
        self.evicted: list[str] = []
        self.taken: dict[str, Slot] = {}

    def take(self, name: str, address: str) -> None:
        self.taken[name] = self.slots.take(address, lambda: self.evicted.append(name))


def test_one_address_may_take_all_that_is_free() -> None:
    recorder = Recorder(4, 1)
    for name in "abcd":
        recorder.take(name, "10.0.0.1")
    assert recorder.evicted == []
    assert len(recorder.slots) == 4


def test_the_oldest_of_the_address_that_has_the_most_is_displaced_if_that_is_above_its_share() -> None:
    recorder = Recorder(6, 2)
    recorder.take("old honest", "10.0.0.1")
    for name in ("flood 1", "flood 2", "flood 3", "flood 4"):
        recorder.take(name, "10.0.0.66")
    recorder.take("honest", "10.0.0.2")

    recorder.take("newcomer", "10.0.0.3")
    recorder.take("flood 5", "10.0.0.66")

    assert recorder.evicted == ["flood 1", "flood 2"]


def test_the_oldest_of_all_is_displaced_if_no_address_is_above_its_share() -> None:
    recorder = Recorder(4, 2)
    for name, address in (("a", "10.0.0.1"), ("b", "10.0.0.2"), ("c", "10.0.0.2"), ("d", "10.0.0.3")):
        recorder.take(name, address)
    recorder.take("e", "10.0.0.4")
    recorder.take("f", "10.0.0.5")
    assert recorder.evicted == ["a", "b"]


def test_a_slot_whose_peer_has_proved_a_key_counts_as_one_of_another_address() -> None:
    recorder = Recorder(6, 2)
    recorder.take("proved", "10.0.0.66")
    recorder.slots.prove(recorder.taken["proved"], KEY)
    for number in range(8):
        recorder.take(f"flood {number}", "10.0.0.66")
    assert recorder.evicted == ["flood 0", "flood 1", "flood 2"]
    recorder.slots.release(recorder.taken["proved"])
    recorder.slots.prove(recorder.taken["proved"], KEY)
    recorder.take("newcomer", "10.0.0.1")
    assert len(recorder.evicted) == 3
    assert len(recorder.slots) == 6


def test_a_slot_whose_peer_has_proved_a_key_keeps_its_place_among_the_advanced() -> None:
    recorder = Recorder(4, 1)
    for name in "abcd":
        recorder.take(name, "10.0.0.1")
    recorder.slots.advance(recorder.taken["a"])
    for name in "abcd":
        recorder.slots.prove(recorder.taken[name], KEY)
    recorder.take("e", "10.0.0.2")
    assert recorder.evicted == ["b"]


def test_a_storm_of_newcomers_displaces_newcomers() -> None:
    """Whether they come from one address, which is above its share, or from many."""
    for addresses in (["10.0.0.1"] * 10, [f"10.0.1.{number}" for number in range(10)]):
        recorder = Recorder(4, 2)
        for name, address in zip("abcd", addresses, strict=False):
            recorder.take(name, address)
        recorder.slots.advance(recorder.taken["a"])
        for name, address in zip("efghij", addresses[4:], strict=True):
            recorder.take(name, address)
        assert recorder.evicted == ["b", "c", "d", "e", "f", "g"]


def test_an_advanced_connection_that_goes_no_further_leaves_room_for_newcomers() -> None:
    recorder = Recorder(4, 4)
    for number, name in enumerate("abcd"):
        recorder.take(name, f"10.0.0.{number}")
        recorder.slots.advance(recorder.taken[name])
    for number, name in enumerate("efgh"):
        recorder.take(name, f"10.0.1.{number}")
    assert recorder.evicted == ["a", "b", "e", "f"]


def test_advancing_without_a_slot_or_twice_is_harmless() -> None:
    recorder = Recorder(1, 1)
    recorder.take("a", "10.0.0.1")
    recorder.take("b", "10.0.0.2")
    recorder.slots.advance(recorder.taken["a"])
    recorder.slots.advance(recorder.taken["b"])
    recorder.slots.advance(recorder.taken["b"])
    recorder.slots.release(recorder.taken["b"])
    assert len(recorder.slots) == 0


def test_a_released_slot_is_free_and_releasing_twice_is_harmless() -> None:
    recorder = Recorder(1, 1)
    recorder.take("a", "10.0.0.1")
    recorder.slots.release(recorder.taken["a"])
    recorder.take("b", "10.0.0.1")
    recorder.slots.release(recorder.taken["a"])
    assert recorder.evicted == []
    assert len(recorder.slots) == 1
    recorder.take("c", "10.0.0.1")
    assert recorder.evicted == ["b"]


@given(
    st.lists(st.tuples(st.sampled_from(["take", "take", "advance", "release"]), st.integers(0, 4))),
    st.integers(1, 6).flatmap(lambda total: st.tuples(st.just(total), st.integers(1, total))),
)
def test_the_total_is_never_exceeded_and_each_is_evicted_at_most_once(
    steps: list[tuple[str, int]], limits: tuple[int, int]
) -> None:
    total, per_address = limits
    recorder = Recorder(total, per_address)
    for number, (step, which) in enumerate(steps):
        if step != "take" and recorder.taken:
            name = sorted(recorder.taken)[which % len(recorder.taken)]
            if step == "advance":
                recorder.slots.advance(recorder.taken[name])
            else:
                recorder.slots.release(recorder.taken.pop(name))
        else:
            recorder.take(str(number), f"10.0.0.{which}")
        assert len(recorder.slots) <= total
    assert len(set(recorder.evicted)) == len(recorder.evicted)
    alive = {name: slot for name, slot in recorder.taken.items() if name not in recorder.evicted}
    for slot in alive.values():
        recorder.slots.release(slot)
    assert len(recorder.slots) == 0


@pytest.mark.parametrize(
    ("address", "group"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("unix", "unix"),
    ],
)
def test_what_counts_as_one_address(address: str, group: str) -> None:
    assert address_group(address) == group


@pytest.mark.parametrize(("total", "per_address"), [(0, 0), (1, 2), (3, 0)])
def test_impossible_numbers_are_refused(total: int, per_address: int) -> None:
    with pytest.raises(ValueError, match="share"):
        Slots(total, per_address)


async def test_the_connection_that_is_displaced_is_cancelled_and_no_other() -> None:
    slots = Slots(1, 1)
    evicted, other = trio.CancelScope(), trio.CancelScope()

    async def wait(task_status: trio.TaskStatus[None]) -> None:
        with evicted, slots.held(slots.take("10.0.0.1", evicted.cancel)):
            task_status.started()
            await trio.sleep_forever()

    with trio.fail_after(60), other:
        async with trio.open_nursery() as nursery:
            await nursery.start(wait)
            with slots.held(slots.take("10.0.0.2", other.cancel)):
                while not evicted.cancelled_caught:
                    await trio.lowlevel.checkpoint()
                assert len(slots) == 1
    assert not other.cancelled_caught
    assert len(slots) == 0


def test_a_slot_is_free_after_an_error() -> None:
    slots = Slots(2, 1)
    with pytest.raises(RuntimeError), slots.held(slots.take("10.0.0.1", lambda: None)):
        raise RuntimeError
    assert len(slots) == 0


def test_a_connection_that_a_proxy_names_counts_for_its_own_address() -> None:
    evicted: list[str] = []
    slots = Slots(4, 1)
    for number in range(4):
        slot = slots.take("10.0.0.1", lambda number=number: evicted.append(f"c{number}"))  # type: ignore[misc]
        slots.move(slot, f"192.0.2.{min(number, 2)}")
    slots.take("10.0.0.1", lambda: None)
    assert evicted == ["c2"], "the address that has more than its share loses its oldest"
    assert len(slots) == 4


def test_a_slot_that_was_released_does_not_move() -> None:
    slots = Slots(1)
    slot = slots.take("10.0.0.1", lambda: None)
    slots.release(slot)
    slots.move(slot, "192.0.2.1")
    assert len(slots) == 0
