"""Which rows result from samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.relay.core.history import HistoryMachine, Sample, delay_until_sample
from hybridrelay.relay.history import MAX_VALUE, TOTAL, Row, Subject

ORDERS, BILLING = Subject("orders", 1.0), Subject("billing", 2.0)
#: The beginning of a minute.
NOON = 1_800_000_000


def _sample(
    machine: HistoryMachine, now: float, samples: Mapping[Subject, Sample], steady: float | None = None
) -> tuple[int, Mapping[Subject, Row]]:
    machine.begin(now, now if steady is None else steady)
    for subject, sample in samples.items():
        machine.observe(subject, sample)
    return machine.finish()


def _may_prune(machine: HistoryMachine) -> bool:
    return machine.may_prune


def _taken(machine: HistoryMachine) -> dict[tuple[int, Subject], Row]:
    rows: dict[tuple[int, Subject], Row] = {}
    for time, group in machine.take():
        for subject, row in group.items():
            rows[time, subject] = rows.get((time, subject), Row()).merged(row)
    return rows


def test_a_sample_is_about_the_ten_seconds_before_it() -> None:
    machine = HistoryMachine()
    time, rows = _sample(machine, NOON + 10.02, {ORDERS: Sample(listeners=2, bytes_to_senders=500, joins=1)})
    assert time == NOON
    assert rows[ORDERS] == rows[TOTAL] == Row(listeners_max=2, bytes_to_senders=500, joins=1)
    assert _taken(machine) == {(NOON, ORDERS): rows[ORDERS], (NOON, TOTAL): rows[TOTAL]}


def test_counters_are_differences_and_gauges_maxima() -> None:
    machine = HistoryMachine()
    for number, sample in enumerate(
        (Sample(1, 5, 3, 100, 10, 4, 1, 0), Sample(2, 1, 7, 150, 10, 6, 1, 1), Sample(1, 1, 1, 150, 11, 9, 3, 1)), 1
    ):
        _sample(machine, NOON + 10 * number, {ORDERS: sample})
    assert _taken(machine)[NOON, ORDERS] == Row(2, 5, 7, 150, 11, 9, 3, 1)


def test_the_total_is_of_the_same_moment() -> None:
    machine = HistoryMachine()
    _sample(machine, NOON + 10, {ORDERS: Sample(listeners=3), BILLING: Sample(listeners=1, joins=2)})
    _sample(machine, NOON + 20, {ORDERS: Sample(listeners=1), BILLING: Sample(listeners=2, joins=3)})
    assert _taken(machine)[NOON, TOTAL] == Row(listeners_max=4, joins=3)


def test_rows_of_zeros_are_left_out() -> None:
    machine = HistoryMachine()
    _sample(machine, NOON + 10, {ORDERS: Sample(joins=1)})
    machine.take()
    assert _sample(machine, NOON + 20, {ORDERS: Sample(joins=1), BILLING: Sample()}) == (NOON + 10, {})
    assert _taken(machine) == {}


def test_a_counter_that_restarts_begins_with_what_it_has() -> None:
    machine = HistoryMachine()
    _sample(machine, NOON + 10, {ORDERS: Sample(bytes_to_senders=1000, joins=5)})
    _, rows = _sample(machine, NOON + 20, {ORDERS: Sample(bytes_to_senders=300, joins=6)})
    assert rows[ORDERS] == Row(bytes_to_senders=300, joins=1)


def test_another_hybrid_connection_of_the_same_name_inherits_nothing() -> None:
    machine, again = HistoryMachine(), Subject("orders", 99.0)
    _sample(machine, NOON + 10, {ORDERS: Sample(bytes_to_senders=1000)})
    _, rows = _sample(machine, NOON + 20, {again: Sample(listeners=1, bytes_to_senders=1500)})
    assert rows[again] == Row(listeners_max=1)
    _, rows = _sample(machine, NOON + 30, {again: Sample(listeners=1, bytes_to_senders=1600)})
    assert rows[again] == Row(listeners_max=1, bytes_to_senders=100)


def test_what_was_deleted_is_forgotten() -> None:
    machine = HistoryMachine()
    _sample(machine, NOON + 10, {ORDERS: Sample(joins=5), BILLING: Sample(joins=5)})
    machine.keep_only({BILLING})
    _, rows = _sample(machine, NOON + 20, {ORDERS: Sample(joins=7), BILLING: Sample(joins=7)})
    assert (rows[ORDERS].joins, rows[BILLING].joins) == (7, 2)


def test_a_clock_that_is_set_back_adds_to_the_interval() -> None:
    machine = HistoryMachine()
    _sample(machine, NOON + 10, {ORDERS: Sample(listeners=1, joins=1)}, steady=0)
    _sample(machine, NOON + 70, {ORDERS: Sample(listeners=1, joins=2)}, steady=60)
    _sample(machine, NOON + 20, {ORDERS: Sample(listeners=3, joins=4)}, steady=70)
    taken = _taken(machine)
    assert taken[NOON, ORDERS] == Row(listeners_max=3, joins=3)
    assert taken[NOON + 60, ORDERS] == Row(listeners_max=1, joins=1)


@pytest.mark.parametrize("now", [-5.0, 0.0, 1e30])
def test_a_clock_that_is_far_off_gives_a_time_that_can_be_stored(now: float) -> None:
    machine = HistoryMachine()
    time, rows = _sample(machine, now, {ORDERS: Sample(joins=1)})
    assert 0 <= time < 253402300800
    assert rows[ORDERS] == Row(joins=1)


def test_nothing_old_is_deleted_until_the_clock_has_been_steady_for_an_hour() -> None:
    machine = HistoryMachine()
    assert not _may_prune(machine)
    for seconds in range(0, 3600, 10):
        _sample(machine, NOON + seconds, {}, steady=seconds)
        assert not _may_prune(machine)
    _sample(machine, NOON + 3600, {}, steady=3600)
    assert _may_prune(machine)
    _sample(machine, NOON + 3600 + 10 * 365 * 86400, {}, steady=3610)  # ten years ahead
    assert not _may_prune(machine)
    _sample(machine, NOON + 3620, {}, steady=3620)  # and back
    assert not _may_prune(machine)
    _sample(machine, NOON + 7300, {}, steady=7300)
    assert _may_prune(machine)


def test_rows_that_could_not_be_written_are_there_again_and_no_number_is_counted_twice() -> None:
    machine = HistoryMachine()
    _sample(machine, NOON + 10, {ORDERS: Sample(joins=1)})
    taken = machine.take()
    _sample(machine, NOON + 20, {ORDERS: Sample(joins=3)})
    machine.put_back(taken)
    _sample(machine, NOON + 30, {ORDERS: Sample(joins=4)})
    assert _taken(machine)[NOON, ORDERS].joins == 4


def test_rows_that_come_back_while_a_sample_is_made_do_not_get_its_numbers() -> None:
    machine = HistoryMachine()
    _sample(machine, NOON + 10, {ORDERS: Sample(joins=1)})
    taken = machine.take()
    machine.begin(NOON + 70, NOON + 70)
    machine.put_back(taken)
    machine.observe(ORDERS, Sample(joins=3))
    machine.finish()
    rows = _taken(machine)
    assert rows[NOON, ORDERS].joins == 1
    assert rows[NOON + 60, ORDERS].joins == 2


def test_if_rows_cannot_be_written_for_long_the_oldest_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybridrelay.relay.core.history.MAX_WAITING", 1000)
    machine, many = HistoryMachine(), [Subject(f"db{number}", 1.0) for number in range(250)]
    for minute in range(6):
        _sample(machine, NOON + 60 * minute + 10, dict.fromkeys(many, Sample(listeners=1)))
        machine.put_back(machine.take())
    groups = machine.take()
    assert sum(len(rows) for _, rows in groups) <= 1000
    assert [time for time, _ in groups] == [NOON + 60 * minute for minute in (3, 4, 5)]
    assert machine.dropped == 3 * (len(many) + 1)


@given(st.floats(0, 1e11))
def test_the_next_sample_is_never_far_away(now: float) -> None:
    assert 0 < delay_until_sample(now) <= 10


_NUMBERS = st.integers(0, 2**70)
_SAMPLES = st.builds(Sample, *[_NUMBERS] * 8)


@given(
    st.lists(
        st.tuples(
            st.floats(-1e12, 1e12),
            st.dictionaries(st.sampled_from([ORDERS, BILLING, Subject("orders", 9.0)]), _SAMPLES, max_size=3),
            st.sampled_from(["", "take", "put back"]),
        ),
        max_size=20,
    )
)
def test_whatever_counters_and_clocks_do_rows_have_possible_numbers(
    steps: Sequence[tuple[float, Mapping[Subject, Sample], str]],
) -> None:
    machine = HistoryMachine()
    for number, (now, samples, then) in enumerate(steps):
        time, rows = _sample(machine, now, samples, steady=10.0 * number)
        assert 0 <= time < 253402300800
        assert time % 10 == 0
        for row in rows.values():
            assert all(0 <= value <= MAX_VALUE for value in row)
            assert any(row)
        if then:
            taken = machine.take()
            for begin, group in taken:
                assert begin % 60 == 0
                assert all(0 <= value <= MAX_VALUE for row in group.values() for value in row)
            if then == "put back":
                machine.put_back(taken)


@given(st.lists(st.tuples(st.integers(0, 1000), st.booleans(), st.integers(1, 90)), max_size=40))
def test_all_that_is_counted_is_in_one_row(steps: Sequence[tuple[int, bool, int]]) -> None:
    """Whenever rows are taken, put back, or the clock jumps."""
    machine, counter, now = HistoryMachine(), 0, float(NOON)
    written: Counter[int] = Counter()
    for number, (more, succeeds, seconds) in enumerate(steps):
        counter, now = counter + more, now + seconds - 30
        _sample(machine, now, {ORDERS: Sample(bytes_to_listeners=counter)}, steady=10.0 * number)
        taken = machine.take()
        if succeeds:
            for time, rows in taken:
                written[time] += rows.get(ORDERS, Row()).bytes_to_listeners
        else:
            machine.put_back(taken)
    for (time, subject), row in _taken(machine).items():
        written[time] += row.bytes_to_listeners if subject == ORDERS else 0
    assert written.total() == counter
