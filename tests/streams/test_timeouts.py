"""Callbacks after a time, in virtual time."""

from __future__ import annotations

import random

import pytest
import trio
import trio.testing

from hybridrelay.streams.timeouts import Timeouts

SECONDS = 10.0


class Log:
    """Notes which callbacks were called, and when."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, float]] = []
        self._began = trio.current_time()

    def note(self, name: str) -> None:
        self.entries.append((name, round(trio.current_time() - self._began, 6)))


async def test_each_is_called_once_after_its_own_time(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    timeouts, log = Timeouts(nursery, SECONDS), Log()
    for name in "abc":
        timeouts.add(lambda name=name: log.note(name))  # type: ignore[misc]
        await trio.sleep(1)
    assert len(timeouts) == 3
    await trio.sleep(100)
    assert log.entries == [("a", 10.0), ("b", 11.0), ("c", 12.0)]
    assert len(timeouts) == 0
    assert not nursery.child_tasks, "the task has ended"
    timeouts.add(lambda: log.note("d"))
    await trio.sleep(100)
    assert log.entries[3:] == [("d", 113.0)]


async def test_all_that_are_due_at_the_same_time_are_called_in_order(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    timeouts, log = Timeouts(nursery, SECONDS), Log()
    for name in "abcdefgh":
        timeouts.add(lambda name=name: log.note(name))  # type: ignore[misc]
    assert len(nursery.child_tasks) == 1, "one task for all of them"
    await trio.sleep(SECONDS + 1)
    assert log.entries == [(name, SECONDS) for name in "abcdefgh"]


async def test_what_was_removed_is_not_called(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    timeouts, log = Timeouts(nursery, SECONDS), Log()
    callbacks = {name: (lambda name=name: log.note(name)) for name in "abcd"}
    for callback in callbacks.values():
        timeouts.add(callback)
        await trio.sleep(1)
    timeouts.remove(callbacks["a"])  # the one for which the task waits
    timeouts.remove(callbacks["c"])
    timeouts.remove(callbacks["c"])
    timeouts.remove(lambda: None)
    await trio.sleep(100)
    assert log.entries == [("b", 11.0), ("d", 13.0)]


async def test_a_callback_can_remove_others_that_are_due(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    timeouts, log = Timeouts(nursery, SECONDS), Log()

    def third() -> None:
        log.note("third")

    def second() -> None:
        log.note("second")

    def first() -> None:
        log.note("first")
        timeouts.remove(first)  # it was called already
        timeouts.remove(second)

    for callback in (first, second, third):
        timeouts.add(callback)
    await trio.sleep(100)
    assert log.entries == [("first", SECONDS), ("third", SECONDS)]


async def test_a_callback_can_add_itself_and_others(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    timeouts, log = Timeouts(nursery, SECONDS), Log()

    def again() -> None:
        log.note("again")
        if len(log.entries) < 4:
            timeouts.add(again)

    def other() -> None:
        log.note("other")
        timeouts.add(lambda: log.note("new"))

    timeouts.add(again)
    await trio.sleep(5)
    timeouts.add(other)
    await trio.sleep(100)
    assert log.entries == [
        ("again", 10.0),
        ("other", 15.0),
        ("again", 20.0),
        ("new", 25.0),
        ("again", 30.0),
    ]


async def test_adding_again_starts_the_time_again_and_delays_no_other(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    timeouts, log = Timeouts(nursery, SECONDS), Log()

    def twice() -> None:
        log.note("twice")

    timeouts.add(twice)
    await trio.sleep(1)
    timeouts.add(lambda: log.note("between"))
    await trio.sleep(1)
    timeouts.add(twice)
    assert len(timeouts) == 2
    await trio.sleep(100)
    assert log.entries == [("between", 11.0), ("twice", 12.0)]


async def test_any_order_of_adding_and_removing(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    rng = random.Random(7)
    timeouts, log = Timeouts(nursery, SECONDS), Log()
    callbacks = [(lambda name=str(number): log.note(name)) for number in range(20)]
    began, pending = trio.current_time(), dict[str, float]()
    expected: list[tuple[str, float]] = []
    for _ in range(2000):
        await trio.sleep(rng.random())
        now = trio.current_time() - began
        for name, when in list(pending.items()):
            if when <= now:
                expected.append((name, round(when, 6)))
                del pending[name]
        number = rng.randrange(len(callbacks))
        pending.pop(str(number), None)
        if rng.random() < 0.7:
            timeouts.add(callbacks[number])
            pending[str(number)] = now + SECONDS
        else:
            timeouts.remove(callbacks[number])
        assert len(timeouts) == len(pending)
    assert len(expected) > 50
    assert log.entries == expected


async def test_it_ends_with_its_nursery(autojump_clock: trio.testing.MockClock) -> None:
    log = Log()
    async with trio.open_nursery() as nursery:
        timeouts = Timeouts(nursery, SECONDS)
        timeouts.add(lambda: log.note("never"))
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    await trio.sleep(100)
    assert log.entries == []


async def test_a_callback_that_fails_does_not_keep_others_from_being_called(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    called: list[str] = []

    def fail() -> None:
        raise MemoryError

    timeouts = Timeouts(nursery, 3.0)
    timeouts.add(fail)
    timeouts.add(lambda: called.append("other"))
    await trio.sleep(4.0)
    assert called == ["other"]
    assert "MemoryError" in caplog.text
