"""The file with the usage: what is kept, and what happens if it is damaged."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from hybridrelay.relay.model import KeyId
from hybridrelay.relay.store.expendable import ExpendableFileError
from hybridrelay.relay.store.usage import USAGE_FILE, UsageFile
from hybridrelay.relay.usage import MAX_USAGE, TOTAL, Batch, PastUsage, Period, Usage
from hybridrelay.security import KeySlot

NOVEMBER, DECEMBER = Period(2026, 11), Period(2026, 12)
KEY, OTHER = KeyId("db", "sender", KeySlot.PRIMARY, 7), KeyId("web", "sender", KeySlot.PRIMARY, 8)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[UsageFile]:
    made = UsageFile(tmp_path)
    yield made
    made.close()


def batch(period: Period, name: str, usage: Usage) -> Batch:
    return Batch({(period, name): usage}, {})


def test_what_was_saved_is_added_up_and_there_after_reopening(file: UsageFile, tmp_path: Path) -> None:
    assert file.load().period is None
    file.save(batch(NOVEMBER, "db", Usage(1, 2, 3)), None)
    file.save(batch(NOVEMBER, "db", Usage(10, 20, 30)), None)
    file.save(batch(NOVEMBER, TOTAL, Usage(5, 5, 5)), None)
    file.save(Batch({}, {KEY: 5.0, OTHER: 6.0}), None)
    file.close()
    with contextlib.closing(UsageFile(tmp_path)) as again:
        saved = again.load()
        assert saved.period == NOVEMBER
        assert saved.usage == {"db": Usage(11, 22, 33), TOTAL: Usage(5, 5, 5)}
        assert saved.keys == {KEY: 5.0, OTHER: 6.0}
    assert (tmp_path / USAGE_FILE).stat().st_mode & 0o777 == 0o600


def test_only_the_last_period_is_loaded_and_the_others_can_be_read(file: UsageFile) -> None:
    file.save(batch(NOVEMBER, "db", Usage(1, 2, 3)), None)
    file.save(batch(DECEMBER, "web", Usage(4, 5, 6)), None)
    assert (file.load().period, file.load().usage) == (DECEMBER, {"web": Usage(4, 5, 6)})
    assert file.past("db") == [PastUsage(NOVEMBER, Usage(1, 2, 3))]
    assert file.past("other") == []


def test_old_periods_are_deleted(file: UsageFile) -> None:
    period = NOVEMBER
    for number in range(30):
        file.save(batch(period, "db", Usage(number)), None)
        period = Period.at(period.end)
    past = file.past("db")
    assert [one.usage.to_client for one in past] == list(range(29, 5, -1))


def test_uses_of_keys_that_do_not_exist_any_more_are_deleted(file: UsageFile) -> None:
    file.save(Batch({}, {KEY: 5.0, OTHER: 6.0}), None)
    file.save(Batch({}, {KeyId("db", "sender", KeySlot.PRIMARY, 9): 7.0}), {"db"})
    assert file.load().keys == {KeyId("db", "sender", KeySlot.PRIMARY, 9): 7.0}, "the key was regenerated"


def test_numbers_stay_within_what_can_be_stored(file: UsageFile) -> None:
    for _ in range(2):
        file.save(batch(NOVEMBER, "db", Usage(MAX_USAGE, MAX_USAGE, MAX_USAGE)), None)
    assert file.load().usage["db"] == Usage(MAX_USAGE, MAX_USAGE, MAX_USAGE)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE usage SET period = 'x'",
        "UPDATE usage SET to_client = 'many'",
        "UPDATE usage SET joins = -1",
        "UPDATE keys SET slot = 'third'",
        "UPDATE keys SET used_at = 'never'",
        "PRAGMA user_version = 99",
        None,
    ],
)
def test_a_damaged_file_is_set_aside(file: UsageFile, tmp_path: Path, damage: str | None) -> None:
    file.save(Batch({(NOVEMBER, "db"): Usage(1, 2, 3)}, {KEY: 5.0}), None)
    file.close()
    path = tmp_path / USAGE_FILE
    if damage is None:
        path.write_bytes(b"not a database" * 1000)
    else:
        with contextlib.closing(sqlite3.connect(path)) as database, database:
            database.execute(damage)
    assert (file.load().usage, file.load().keys) == ({}, {})
    assert file.set_aside is not None
    assert file.set_aside[0].exists()
    file.save(batch(NOVEMBER, "db", Usage(1)), None)
    assert file.load().usage == {"db": Usage(1)}


def test_a_file_that_cannot_be_opened_is_an_error_until_it_can(file: UsageFile, tmp_path: Path) -> None:
    (tmp_path / USAGE_FILE).mkdir()
    with pytest.raises(ExpendableFileError):
        file.save(batch(NOVEMBER, "db", Usage(1)), None)
    (tmp_path / USAGE_FILE).rmdir()
    file.save(batch(NOVEMBER, "db", Usage(1)), None)
    assert file.load().usage == {"db": Usage(1)}


def test_a_file_that_is_full_loses_the_oldest_period_first(file: UsageFile, monkeypatch: pytest.MonkeyPatch) -> None:
    for period in (NOVEMBER, DECEMBER):
        file.save(Batch({(period, TOTAL): Usage(7), **{(period, f"db{n}"): Usage(1) for n in range(2000)}}, {}), None)
    file.close()
    monkeypatch.setattr(file, "file", _limited(file))
    file.save(Batch({(DECEMBER, f"web{n}"): Usage(1) for n in range(1000)}, {}), None)
    assert file.past("db1") == [PastUsage(DECEMBER, Usage(1))]
    assert [one.period for one in file.past(TOTAL)] == [DECEMBER, NOVEMBER], "the total is kept"


def _limited(file: UsageFile) -> object:
    import attrs

    size = file.file.path.stat().st_size
    return attrs.evolve(file.file, max_bytes=size)
