"""The tables of the history."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hybridrelay.relay.history import MAX_VALUE, TOTAL, Row, Subject
from hybridrelay.relay.store.history import (
    KEPT_SECONDS,
    RECENT_KEPT_SECONDS,
    HistoryTables,
    ReadTooLong,
    history_file,
    recent_history,
)

ORDERS, BILLING = Subject("orders", 1.5), Subject("billing", 2.5)
#: The beginning of a day.
NOW = 1_800_057_600
DAY = 86400


@pytest.fixture
def tables(tmp_path: Path) -> Iterator[HistoryTables]:
    opened = HistoryTables(history_file(tmp_path, 1 << 30).open(), KEPT_SECONDS, 1 << 30)
    yield opened
    opened.close()


def read(
    tables: HistoryTables, resolution: int, *subjects: Subject, begin: int = 0, end: int = NOW * 2
) -> list[tuple[int, Row]]:
    stored = min(resolution, 3600)
    return tables.read(stored, resolution, frozenset(subjects), begin, end)


def test_a_minute_is_in_each_longer_interval(tables: HistoryTables) -> None:
    tables.write([(NOW, {ORDERS: Row(2, 1, 1, 100, 10, 3, 1, 0)})], None)
    tables.write([(NOW + 60, {ORDERS: Row(1, 4, 0, 50, 5, 2, 0, 1)}), (NOW + 3600, {ORDERS: Row(joins=1)})], None)
    both = Row(2, 4, 1, 150, 15, 5, 1, 1)
    assert read(tables, 60, ORDERS) == [
        (NOW, Row(2, 1, 1, 100, 10, 3, 1, 0)),
        (NOW + 60, Row(1, 4, 0, 50, 5, 2, 0, 1)),
        (NOW + 3600, Row(joins=1)),
    ]
    for resolution in (300, 3600):
        assert read(tables, resolution, ORDERS) == [(NOW, both), (NOW + 3600, Row(joins=1))]
    assert read(tables, DAY, ORDERS) == [(NOW, both.merged(Row(joins=1)))]


def test_a_minute_that_is_written_in_parts_adds_up(tables: HistoryTables) -> None:
    for row in (Row(2, 0, 0, 5), Row(1, 3, 0, 6), Row(0, 0, 0, MAX_VALUE)):
        tables.write([(NOW, {ORDERS: row}), (NOW, {ORDERS: Row()})], None)
    assert read(tables, 60, ORDERS) == [(NOW, Row(2, 3, 0, MAX_VALUE))]
    assert read(tables, DAY, ORDERS) == [(NOW, Row(2, 3, 0, MAX_VALUE))]


def test_only_rows_of_the_requested_time_are_read(tables: HistoryTables) -> None:
    tables.write([(NOW + 60 * minute, {ORDERS: Row(joins=1)}) for minute in range(5)], None)
    found = read(tables, 60, ORDERS, begin=NOW + 60, end=NOW + 180)
    assert [time for time, _ in found] == [NOW + 60, NOW + 120]


def test_several_hybrid_connections_are_added_up(tables: HistoryTables) -> None:
    tables.write([(NOW, {ORDERS: Row(2, joins=1), BILLING: Row(3, joins=4), TOTAL: Row(5, joins=9)})], None)
    assert read(tables, 60, ORDERS, BILLING) == [(NOW, Row(5, joins=5))]
    assert read(tables, 60, TOTAL) == [(NOW, Row(5, joins=9))]
    assert read(tables, 60) == []
    assert read(tables, 60, Subject("orders", 7.0)) == []


def test_what_was_created_again_under_the_same_name_has_nothing(tables: HistoryTables) -> None:
    again = Subject("orders", 77.0)
    tables.write([(NOW, {ORDERS: Row(joins=1)})], None)
    tables.write([(NOW + 60, {again: Row(joins=2)})], None, {again})
    assert read(tables, 60, again) == [(NOW + 60, Row(joins=2))]
    assert read(tables, 60, ORDERS) == []


def test_what_was_deleted_is_deleted_and_the_total_stays(tables: HistoryTables) -> None:
    tables.write([(NOW, {ORDERS: Row(joins=1), BILLING: Row(joins=1), TOTAL: Row(joins=2)})], None)
    tables.write([], None, {BILLING})
    for resolution in (*KEPT_SECONDS, DAY):
        assert read(tables, resolution, ORDERS) == []
        assert read(tables, resolution, BILLING) == [(NOW, Row(joins=1))]
        assert read(tables, resolution, TOTAL) == [(NOW, Row(joins=2))]


def test_old_rows_are_deleted_those_of_short_intervals_first(tables: HistoryTables) -> None:
    tables.write([(NOW, {ORDERS: Row(joins=1), TOTAL: Row(joins=1)})], None)
    for days, kept in ((2, (60, 300, 3600)), (4, (300, 3600)), (15, (3600,)), (399, (3600,)), (402, ())):
        tables.write([], NOW + days * DAY)
        for subject in (ORDERS, TOTAL):
            assert tuple(resolution for resolution in KEPT_SECONDS if read(tables, resolution, subject)) == kept


def test_rows_of_a_clock_that_was_far_ahead_are_deleted(tables: HistoryTables) -> None:
    tables.write([(NOW + 10 * 365 * DAY, {ORDERS: Row(joins=1)}), (NOW, {ORDERS: Row(joins=1)})], None)
    tables.write([], NOW)
    assert [time for time, _ in read(tables, 60, ORDERS)] == [NOW]


def test_old_rows_of_all_hybrid_connections_are_deleted_in_several_steps(tables: HistoryTables) -> None:
    many = [Subject(f"db{number}", 1.0) for number in range(600)]
    tables.write([(NOW, dict.fromkeys(many, Row(joins=1)))], None)
    for _ in range(3):
        tables.write([], NOW + 4 * DAY)
    assert read(tables, 60, *many) == []
    assert read(tables, 300, *many) == [(NOW, Row(joins=600))]


def test_what_cannot_be_written_leaves_everything_as_it_was(tables: HistoryTables) -> None:
    new = Subject("new", 3.0)
    with pytest.raises(OverflowError):
        tables.write([(NOW, {new: Row(joins=1), ORDERS: Row(joins=2**70)})], None)
    assert read(tables, 60, new, ORDERS) == []
    tables.write([(NOW, {BILLING: Row(joins=1), new: Row(joins=2)})], None)
    assert read(tables, 60, new) == [(NOW, Row(joins=2))]
    assert read(tables, 60, BILLING) == [(NOW, Row(joins=1))]


def test_the_file_stays_within_its_limit_and_keeps_the_coarsest_rows_longest(tmp_path: Path) -> None:
    limit = 1 << 18
    file = history_file(tmp_path, limit)
    tables = HistoryTables(file.open(), KEPT_SECONDS, limit)
    many = [Subject(f"db{number}", 1.0) for number in range(8)]
    row = Row(1, 1, 1, 10**9, 10**9, 10, 10, 10)
    minutes = 1800
    for minute in range(0, minutes, 6):
        tables.write([(NOW + 60 * (minute + one), dict.fromkeys(many, row)) for one in range(6)], None)
    tables.close()
    assert file.path.stat().st_size <= limit
    tables = HistoryTables(file.open(), KEPT_SECONDS, limit)
    lengths = {resolution: [len(read(tables, resolution, one)) for one in many] for resolution in KEPT_SECONDS}
    tables.close()
    assert lengths[3600] == [minutes // 60] * 8
    assert min(lengths[60]) > 0  # the latest are there
    assert max(lengths[60]) < minutes // 2
    assert max(lengths[60]) < 3 * min(lengths[60])  # each hybrid connection has lost about as many rows as the others


def test_reading_that_takes_too_long_is_given_up(tables: HistoryTables, monkeypatch: pytest.MonkeyPatch) -> None:
    many = [Subject(f"db{number}", 1.0) for number in range(2000)]
    tables.write([(NOW, dict.fromkeys(many, Row(joins=1)))], None)
    monkeypatch.setattr("hybridrelay.relay.store.history._READ_SECONDS", 0.0)
    with pytest.raises(ReadTooLong):
        read(tables, 60, *many)
    monkeypatch.undo()
    assert read(tables, 60, *many) == [(NOW, Row(joins=2000))]


def test_the_last_hour_in_memory(tmp_path: Path) -> None:
    tables = recent_history()
    assert tables.kept == RECENT_KEPT_SECONDS
    for number in range(500):
        tables.write([(NOW + 10 * number, {ORDERS: Row(joins=1)})], NOW + 10 * number)
    times = [time for time, _ in tables.read(10, 10, frozenset([ORDERS]), 0, NOW * 2)]
    tables.close()
    assert times == [NOW + 10 * number for number in range(139, 500)]
    assert list(tmp_path.iterdir()) == []
