"""Usage: what is counted in which period, and what is saved."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.relay.core.usage import UsageMachine
from hybridrelay.relay.model import KeyId
from hybridrelay.relay.usage import MAX_USAGE, TOTAL, Batch, Period, Usage
from hybridrelay.security import KeySlot

NOVEMBER, DECEMBER = Period(2026, 11), Period(2026, 12)
KEY = KeyId("db", "sender", KeySlot.PRIMARY, 7)


def at(text: str) -> float:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC).timestamp()


NOW = at("2026-11-15")


@pytest.mark.parametrize(
    ("time", "period"),
    [
        (at("2026-11-01T00:00:00"), "2026-11"), (at("2026-11-30T23:59:59"), "2026-11"), (at("2026-12-01"), "2026-12"),
        (0.0, "1970-01"), (-1e9, "1970-01"), (1e18, "9998-12"), (at("9999-06-01"), "9998-12"), (-1e18, "1970-01"),
    ],
)  # fmt: skip
def test_a_period_is_a_month(time: float, period: str) -> None:
    found = Period.at(time)
    assert str(found) == period
    assert Period.parse(period) == found
    assert Period.at(found.begin) == found
    assert Period.at(found.end - 1) == found
    assert found.end > found.begin


def test_differences_count_for_the_hybrid_connection_and_for_all() -> None:
    machine = UsageMachine(NOW)
    machine.observe("db", 10, 5)
    machine.observe("db", 10, 5)
    machine.observe("web", 1, 1)
    machine.observe("db", 12, 9)
    machine.joined("db")
    assert machine.of("db") == Usage(12, 9, 1)
    assert machine.of(TOTAL) == Usage(13, 10, 1)
    assert machine.of("other") == Usage()
    assert machine.bytes_by_connection() == {"db": 21, "web": 2}


def test_a_total_that_is_lower_began_again() -> None:
    machine = UsageMachine(NOW)
    machine.observe("db", 100, 100)
    machine.observe("db", 3, 200)
    assert machine.of("db") == Usage(103, 300)
    machine.forget("db")
    machine.observe("db", 500, 500)
    assert machine.of("db") == Usage(603, 800), "deleted and created again, and it has moved more than before"


def test_the_next_period_begins_with_nothing() -> None:
    machine = UsageMachine(NOW)
    machine.observe("db", 10, 5)
    assert not machine.advance(NOVEMBER.end - 1)
    assert machine.of("db").bytes == 15
    assert not machine.advance(NOVEMBER.end)
    assert (machine.period, machine.of("db"), machine.of(TOTAL)) == (DECEMBER, Usage(), Usage())
    machine.observe("db", 11, 5)
    assert machine.of("db") == Usage(1, 0)
    assert machine.take().usage == {
        (NOVEMBER, "db"): Usage(10, 5), (NOVEMBER, TOTAL): Usage(10, 5),
        (DECEMBER, "db"): Usage(1, 0), (DECEMBER, TOTAL): Usage(1, 0),
    }  # fmt: skip


def test_a_period_never_runs_backwards() -> None:
    machine = UsageMachine(NOW)
    machine.advance(DECEMBER.begin)
    assert machine.advance(NOW)
    machine.observe("db", 10, 5)
    assert (machine.period, machine.of("db").bytes) == (DECEMBER, 15)
    assert machine.advance(0.0)
    assert not machine.advance(DECEMBER.begin + 1)


def test_what_could_not_be_saved_is_saved_later_and_once() -> None:
    machine = UsageMachine(NOW)
    machine.observe("db", 10, 5)
    machine.used(KEY, 1.0)
    batch = machine.take()
    assert batch
    machine.observe("db", 12, 5)
    machine.used(KEY, 2.0)
    machine.put_back(batch)
    assert machine.take() == Batch({(NOVEMBER, "db"): Usage(12, 5), (NOVEMBER, TOTAL): Usage(12, 5)}, {KEY: 2.0})
    assert not machine.take()
    assert machine.of("db") == Usage(12, 5)


def test_what_an_earlier_run_has_saved_is_added() -> None:
    machine = UsageMachine(NOW)
    machine.observe("db", 1, 1)
    machine.restore(NOVEMBER, {"db": Usage(10, 10, 3), TOTAL: Usage(20, 20, 5)}, {KEY: 5.0})
    assert (machine.of("db"), machine.of(TOTAL)) == (Usage(11, 11, 3), Usage(21, 21, 5))
    assert machine.last_use(KEY) == 5.0
    assert machine.take().usage[NOVEMBER, "db"] == Usage(1, 1), "what was saved is not saved again"


@pytest.mark.parametrize("saved", [None, Period(2026, 10)])
def test_an_earlier_period_does_not_count(saved: Period | None) -> None:
    machine = UsageMachine(NOW)
    machine.restore(saved, {"db": Usage(10, 10, 3)}, {})
    assert (machine.period, machine.of("db")) == (NOVEMBER, Usage())


def test_a_relay_that_starts_with_a_wrong_clock_continues_the_later_period() -> None:
    machine = UsageMachine(0.0)
    machine.observe("db", 1, 1)
    machine.restore(NOVEMBER, {"db": Usage(10, 10)}, {})
    assert (machine.period, machine.of("db")) == (NOVEMBER, Usage(11, 11))
    assert machine.take().usage[NOVEMBER, "db"] == Usage(1, 1)
    assert machine.advance(1.0)
    assert not machine.advance(NOW)


def test_keys_that_do_not_exist_any_more_are_forgotten() -> None:
    machine = UsageMachine(NOW)
    others = [KeyId("db", "sender", KeySlot.SECONDARY, 8), KeyId("web", "sender", KeySlot.PRIMARY, 9)]
    for key in (KEY, *others):
        machine.used(key, 1.0)
    machine.forget_keys([KEY])
    machine.keep_keys({"db": None})
    assert machine.key_uses() == {others[0]: 1.0}
    assert machine.take().keys == {others[0]: 1.0}


def test_numbers_do_not_exceed_what_can_be_stored() -> None:
    machine = UsageMachine(NOW)
    machine.observe("db", 2**60, 2**60)
    assert machine.of("db") == Usage(MAX_USAGE, MAX_USAGE)
    assert machine.of("db").bytes == MAX_USAGE


@given(st.lists(st.tuples(st.sampled_from(["observe", "save", "fail", "clock"]), st.integers(0, 400)), max_size=40))
def test_nothing_is_lost_or_counted_twice(steps: list[tuple[str, int]]) -> None:
    machine, total, saved, latest = UsageMachine(NOW), 0, 0, NOVEMBER
    for step, number in steps:
        match step:
            case "observe":
                total += number
                machine.observe("db", total, 0)
            case "clock":
                machine.advance(NOW + (number - 200) * 86_400)
                assert machine.period >= latest
                latest = machine.period
            case _:
                batch = machine.take()
                if step == "save":
                    saved += sum(one.bytes for (_, name), one in batch.usage.items() if name == "db")
                else:
                    machine.put_back(batch)
    saved += sum(one.bytes for (_, name), one in machine.take().usage.items() if name == "db")
    assert saved == total
