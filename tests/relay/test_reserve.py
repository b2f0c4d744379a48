"""Space that is kept for a full disk."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from pathlib import Path
from types import SimpleNamespace

import pytest

from hybridrelay.errors import StateError
from hybridrelay.relay import Registry
from hybridrelay.relay.reserve import RESERVE_BYTES, RESERVE_FILE, Reserve, is_disk_full

from .test_registry import Rules


def _size(folder: Path) -> int:
    return (folder / RESERVE_FILE).stat().st_size


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


def test_a_directory_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    Reserve(tmp_path / "absent").restore()
    assert not Reserve(tmp_path / "absent").release()


def _sqlite(code: int) -> sqlite3.Error:
    error = sqlite3.OperationalError("x")
    error.sqlite_errorcode = code  # type: ignore[misc]
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
    with Registry.open(tmp_path) as registry:
        registry.create("sql", ["relay.example.com"], rules)
        delete = registry._delete

        def delete_without_reserve(name: str) -> None:
            if (tmp_path / RESERVE_FILE).exists():
                raise StateError("full") from _sqlite(sqlite3.SQLITE_FULL)
            delete(name)

        monkeypatch.setattr(registry, "_delete", delete_without_reserve)
        registry.delete("sql")
        assert registry.list() == ()
        assert _size(tmp_path) == RESERVE_BYTES


def test_without_a_reserve_the_error_is_told(tmp_path: Path, rules: Rules, monkeypatch: pytest.MonkeyPatch) -> None:
    with Registry.open(tmp_path) as registry:
        registry.create("sql", ["relay.example.com"], rules)
        tries = []

        def fail(name: str) -> None:
            tries.append(name)
            raise StateError("full") from _sqlite(sqlite3.SQLITE_FULL)

        monkeypatch.setattr(registry, "_delete", fail)
        with pytest.raises(StateError):
            registry.delete("sql")
        assert len(tries) == 2
        with pytest.raises(StateError):
            registry.delete("sql")
        assert len(tries) == 3
