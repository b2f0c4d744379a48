"""SQLite files that the relay can do without."""

from __future__ import annotations

import os
import sqlite3
import stat
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest

from hybridrelay.relay.store.expendable import ExpendableFile, ExpendableFileError
from hybridrelay.relay.store.schema import transaction

from ...descriptors import few_descriptors

SCHEMA = ("CREATE TABLE counted (name TEXT PRIMARY KEY, value INTEGER) WITHOUT ROWID",)


def _file(directory: Path, *, version: int = 1, max_bytes: int | None = None) -> ExpendableFile:
    return ExpendableFile(directory / "counted.db", "the file of numbers", SCHEMA, version, max_bytes)


def _write(file: ExpendableFile, value: int = 1) -> None:
    with closing(file.open()) as database, file.errors(), transaction(database):
        database.execute("INSERT OR REPLACE INTO counted VALUES ('a', ?)", (value,))


def _read(file: ExpendableFile) -> list[tuple[Any, ...]]:
    with closing(file.open()) as database, file.errors():
        return database.execute("SELECT * FROM counted").fetchall()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such links by default")
def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"")
    victim.chmod(0o644)
    (tmp_path / "counted.db").symlink_to(victim)
    with pytest.raises(ExpendableFileError, match="it is a symbolic link"):
        _write(_file(tmp_path))
    assert stat.S_IMODE(victim.stat().st_mode) == 0o644
    assert victim.read_bytes() == b""


def test_it_is_made_private_and_keeps_its_content(tmp_path: Path) -> None:
    _write(_file(tmp_path), 5)
    assert _read(_file(tmp_path)) == [("a", 5)]
    assert stat.S_IMODE((tmp_path / "counted.db").stat().st_mode) == 0o600


@pytest.mark.parametrize("damage", [b"no database at all" * 100, b"SQLite format 3\0" + bytes(4080)])
def test_a_damaged_file_is_recognized_and_set_aside(tmp_path: Path, damage: bytes) -> None:
    file = _file(tmp_path)
    file.path.write_bytes(damage)
    with pytest.raises(ExpendableFileError) as caught:
        file.open()
    assert caught.value.is_damaged
    assert caught.value.remedy
    copy = file.set_aside()
    assert copy.read_bytes() == damage
    _write(file)
    assert _read(file) == [("a", 1)]


def test_damage_in_the_middle_is_recognized_when_it_is_read(tmp_path: Path) -> None:
    file = _file(tmp_path)
    _write(file)
    content = bytearray(file.path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    file.path.write_bytes(content)
    with pytest.raises(ExpendableFileError) as caught:
        _read(file)
    assert caught.value.is_damaged


MIGRATIONS = {
    1: ("ALTER TABLE counted ADD COLUMN unit TEXT DEFAULT 'm'",),
    2: ("CREATE INDEX by_value ON counted (value)", "UPDATE counted SET value = value + 1"),
}


def _later(directory: Path, version: int, *, max_bytes: int | None = None) -> ExpendableFile:
    return attrs.evolve(_file(directory, version=version, max_bytes=max_bytes), migrations=MIGRATIONS)


def test_a_file_of_an_earlier_version_is_changed_to_the_current_one(tmp_path: Path) -> None:
    _write(_file(tmp_path), 5)
    assert _read(_later(tmp_path, 2)) == [("a", 5, "m")]
    for _ in range(2):
        assert _read(_later(tmp_path, 3)) == [("a", 6, "m")]
    with pytest.raises(ExpendableFileError, match="another version"):
        _later(tmp_path, 2).open()


def test_a_file_that_is_full_is_changed_as_well(tmp_path: Path) -> None:
    file = _file(tmp_path, max_bytes=32 * 1024)
    with pytest.raises(ExpendableFileError), closing(file.open()) as database, file.errors():  # noqa: PT012
        for number in range(10_000):
            database.execute("INSERT INTO counted VALUES (?, 0)", (f"{number}",))
    before = len(_read(file))
    assert len(_read(_later(tmp_path, 3, max_bytes=32 * 1024))) == before > 500


def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    _write(_file(tmp_path), 5)
    broken = {1: (*MIGRATIONS[1], "CREATE INDEX broken ON nothing (value)")}
    with pytest.raises(ExpendableFileError):
        attrs.evolve(_file(tmp_path, version=2), migrations=broken).open()
    assert _read(_file(tmp_path)) == [("a", 5)]


def test_a_migration_may_be_begun_twice_at_the_same_moment(tmp_path: Path) -> None:
    _write(_file(tmp_path), 5)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: _read(_later(tmp_path, 3)), range(4)))
    assert found == [[("a", 6, "m")]] * 4


@pytest.mark.parametrize("version", [0, 2])
def test_a_file_of_another_version_that_cannot_be_changed_is_set_aside(tmp_path: Path, version: int) -> None:
    _write(_file(tmp_path, version=1))
    with pytest.raises(ExpendableFileError, match="another version") as caught:
        _file(tmp_path, version=version).open()
    assert caught.value.is_damaged


def test_the_log_of_a_damaged_file_is_not_applied_to_the_new_one(tmp_path: Path) -> None:
    file = _file(tmp_path)
    database = file.open()
    with transaction(database):
        database.execute("INSERT INTO counted VALUES ('old', 1)")
    log = Path(f"{file.path}-wal")
    assert log.stat().st_size > 0
    kept = log.read_bytes()
    database.close()
    log.write_bytes(kept)
    others = [Path(f"{file.path}{suffix}") for suffix in ("-shm", "-journal")]
    for other in others:
        other.write_bytes(b"of the damaged file")
    copy = file.set_aside()
    # SQLite itself ignores the log of an empty file, so the new content does not show that it was removed.
    assert [path.name for path in tmp_path.iterdir()] == [copy.name]
    assert _read(file) == []


def test_a_file_that_reaches_its_limit_is_full_and_keeps_what_it_had(tmp_path: Path) -> None:
    file = _file(tmp_path, max_bytes=1 << 16)
    _write(file)
    database = file.open()
    with pytest.raises(ExpendableFileError) as caught, file.errors(), transaction(database):
        database.executemany("INSERT INTO counted VALUES (?, 1)", ((f"{n:060}",) for n in range(2000)))
    assert caught.value.is_full
    assert not caught.value.is_damaged
    database.close()
    assert _read(file) == [("a", 1)]
    assert file.path.stat().st_size <= 1 << 16


def test_a_locked_file_is_not_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybridrelay.relay.store.expendable._BUSY_TIMEOUT_SECONDS", 0.0)
    file = _file(tmp_path)
    _write(file)
    with closing(sqlite3.connect(file.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(ExpendableFileError, match="locked") as caught:
            _write(file)
        assert not caught.value.is_damaged
    _write(file)


@contextmanager
def _not_as_root() -> Iterator[None]:
    """Access files as another user, because root writes everywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(sys.platform == "win32", reason="users and modes are POSIX")
def test_a_directory_that_cannot_be_written() -> None:
    with tempfile.TemporaryDirectory() as made:  # which, unlike those of pytest, other users can reach
        directory = Path(made)
        directory.chmod(0o555)
        with _not_as_root(), pytest.raises(ExpendableFileError) as caught:
            _file(directory).open()
        directory.chmod(0o700)
        assert not caught.value.is_damaged
        assert caught.value.remedy


def test_it_may_be_opened_twice_at_the_same_moment(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / str(number)).mkdir()
        file = _file(tmp_path / str(number))
        with ThreadPoolExecutor(2) as pool:
            for opened in [pool.submit(file.open), pool.submit(file.open)]:
                opened.result().close()


def test_something_else_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "counted.db").mkdir()
    with pytest.raises(ExpendableFileError, match="cannot be used") as caught:
        _file(tmp_path).open()
    assert not caught.value.is_damaged


def test_the_error_names_a_shortage_of_descriptors(tmp_path: Path) -> None:
    file = _file(tmp_path)
    _write(file)
    with few_descriptors(1), pytest.raises(ExpendableFileError, match="file descriptors") as caught:
        file.open()
    assert not caught.value.is_damaged
