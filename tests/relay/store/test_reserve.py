"""Space that is kept for a full disk."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from hybridrelay.errors import StateError
from hybridrelay.events import EventStream
from hybridrelay.relay import SQLiteStore
from hybridrelay.relay.store.reserve import RESERVE_BYTES, RESERVE_FILE, SECOND_FILE, Reserve, is_disk_full

from ...descriptors import few_descriptors
from .test_sqlite import Rules


def _size(directory: Path) -> int:
    return (directory / RESERVE_FILE).stat().st_size


def test_it_is_made_released_and_made_again(tmp_path: Path) -> None:
    kept = Reserve(tmp_path)
    assert not kept.release()
    for _ in range(2):
        kept.restore()
        kept.restore()
        assert _size(tmp_path) == RESERVE_BYTES
        assert (tmp_path / RESERVE_FILE).stat().st_mode & 0o077 == 0
        assert kept.release()
        assert not (tmp_path / RESERVE_FILE).exists()


def test_an_empty_file_keeps_a_second_inode(tmp_path: Path) -> None:
    kept = Reserve(tmp_path)
    kept.restore()
    assert (tmp_path / SECOND_FILE).stat().st_size == 0
    assert (tmp_path / SECOND_FILE).stat().st_mode & 0o077 == 0
    assert kept.release()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / SECOND_FILE).touch()
    assert kept.release()
    assert list(tmp_path.iterdir()) == []


def test_it_takes_back_what_it_released_however_full_the_disk_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Reserve(tmp_path)
    kept.restore()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    for _ in range(20):
        assert kept.release()
        kept.restore_released()
        assert _size(tmp_path) == RESERVE_BYTES


def test_what_could_not_be_taken_back_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Reserve(tmp_path)
    kept.restore()
    assert kept.release()
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", _fail_as_full)
        kept.restore_released()
    assert _size(tmp_path) == 0
    kept.restore_released()
    assert _size(tmp_path) == RESERVE_BYTES
    (tmp_path / RESERVE_FILE).unlink()
    kept.restore_released()  # nothing has been released since the file was complete
    assert not (tmp_path / RESERVE_FILE).exists()


def _fail_as_full(descriptor: int, data: bytes) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_space_is_released_even_if_the_name_cannot_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Reserve(tmp_path)
    kept.restore()

    def refuse(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "unlink", refuse)  # as some file systems do when they are full
    assert kept.release()
    assert _size(tmp_path) == 0


def test_it_takes_no_more_than_the_disk_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = [300_000]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free[0]))
    kept = Reserve(tmp_path)
    kept.restore()
    small = _size(tmp_path)
    assert 0 < small < 300_000
    free[0] = 0
    kept.restore()
    assert _size(tmp_path) == small
    free[0] = 1 << 30
    kept.restore()
    assert _size(tmp_path) == RESERVE_BYTES


def test_a_directory_that_cannot_be_written_is_not_an_error(tmp_path: Path) -> None:
    Reserve(tmp_path / "absent").restore()
    assert not Reserve(tmp_path / "absent").release()


def _sqlite(code: int) -> sqlite3.Error:
    error = sqlite3.OperationalError("x")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (_sqlite(sqlite3.SQLITE_FULL), True),
        (_sqlite(sqlite3.SQLITE_IOERR_SHMSIZE), True),
        (_sqlite(sqlite3.SQLITE_CANTOPEN), True),
        (_sqlite(sqlite3.SQLITE_BUSY), False),
        (_sqlite(sqlite3.SQLITE_CORRUPT), False),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), True),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), True),
        (OSError(errno.EACCES, os.strerror(errno.EACCES)), False),
        (ValueError(), False),
        (None, False),
    ],
)
def test_what_may_be_a_full_disk(error: BaseException | None, full: bool) -> None:
    assert is_disk_full(error) is full


def test_a_change_that_finds_no_space_is_tried_again_without_the_reserve(
    tmp_path: Path, rules: Rules, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SQLiteStore.open(tmp_path) as registry:
        registry.create("sql", ["relay.example.com"], rules)
        delete = registry._delete

        def delete_without_reserve(name: str, version: int | None) -> None:
            if (tmp_path / RESERVE_FILE).exists():
                raise StateError("full") from _sqlite(sqlite3.SQLITE_FULL)
            delete(name, version)

        monkeypatch.setattr(registry, "_delete", delete_without_reserve)
        registry.delete("sql")
        assert registry.list() == ()
        assert _size(tmp_path) == RESERVE_BYTES


def test_without_a_reserve_a_change_is_not_tried_again(
    tmp_path: Path, rules: Rules, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SQLiteStore.open(tmp_path) as registry:
        registry.create("sql", ["relay.example.com"], rules)
        tries = []

        def fail(name: str, version: int | None) -> None:
            tries.append(name)
            raise StateError("full") from _sqlite(sqlite3.SQLITE_FULL)

        monkeypatch.setattr(registry, "_delete", fail)
        with pytest.raises(StateError):
            registry.delete("sql")
        assert len(tries) == 2
        assert _size(tmp_path) == RESERVE_BYTES
        Reserve(tmp_path).release()
        with pytest.raises(StateError):
            registry.delete("sql")
        assert len(tries) == 3


@pytest.mark.parametrize("fails", [False, True], ids=["opens", "fails"])
def test_what_was_released_to_open_the_registry_is_taken_back(
    tmp_path: Path, rules: Rules, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    with SQLiteStore.open(tmp_path) as registry:
        registry.create("sql", ["relay.example.com"], rules)
    opening = SQLiteStore._open

    def open_without_reserve(
        state_dir: Path, clock: Callable[[], float], reserve: Reserve, events: EventStream, *, create: bool
    ) -> SQLiteStore:
        if fails or (tmp_path / RESERVE_FILE).exists():
            raise StateError("full") from _sqlite(sqlite3.SQLITE_CANTOPEN)
        return opening(state_dir, clock, reserve, events, create=create)

    monkeypatch.setattr(SQLiteStore, "_open", open_without_reserve)
    if fails:
        with pytest.raises(StateError):
            SQLiteStore.open(tmp_path, create=False)
    else:
        with SQLiteStore.open(tmp_path, create=False) as registry:
            assert [one.name for one in registry.list()] == ["sql"]
    assert _size(tmp_path) == RESERVE_BYTES


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_a_shortage_of_descriptors_is_not_a_full_disk(tmp_path: Path, rules: Rules) -> None:
    with SQLiteStore.open(tmp_path) as registry:
        registry.create("sql", ["relay.example.com"], rules)
        reserve = (tmp_path / RESERVE_FILE).stat().st_ino
    with few_descriptors(1), pytest.raises(StateError) as caught:
        SQLiteStore.open(tmp_path, create=False)
    assert "has run out of file descriptors" in str(caught.value)
    assert "ulimit -n" in str(caught.value.remedy)
    assert (tmp_path / RESERVE_FILE).stat().st_ino == reserve
