"""New files: private, never over an existing one, all or none."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

from hybridrelay.administration.new_files import check_new_files, new_files
from hybridrelay.errors import ConfigurationError


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX")
def test_files_are_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with new_files({tmp_path / "a": "one\n", tmp_path / "b": "two\n"}):
            assert (tmp_path / "a").read_text() == "one\n"
    finally:
        os.umask(before)

    assert {path.name: _mode(path) for path in tmp_path.iterdir()} == {"a": 0o600, "b": 0o600}


def test_what_a_process_that_was_killed_has_left_is_removed(tmp_path: Path) -> None:
    """It has private keys."""
    for name in (".a.01234567", ".b.89abcdef", ".c.01234567"):
        (tmp_path / name).write_text("key")
    with new_files({tmp_path / "a": "one", tmp_path / "b": "two"}):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", ".c.01234567"}


def test_nothing_is_written_where_one_exists(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("precious")

    with pytest.raises(ConfigurationError, match="already exists") as caught:
        with new_files({tmp_path / "a": "one", tmp_path / "b": "two"}):
            pytest.fail("the block was entered")

    assert caught.value.remedy is not None
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"b": "precious"}


def test_a_dangling_link_counts_as_existing(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(ConfigurationError, match="already exists"):
        check_new_files([tmp_path / "a"])


def test_two_files_of_one_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="two files"):
        check_new_files([tmp_path / "a", tmp_path / "." / "a"])


def test_new_files_need_an_existing_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no directory"):
        check_new_files([tmp_path / "missing" / "a"])


def test_what_fails_later_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        with new_files({tmp_path / "a": "one", tmp_path / "b": "two"}):
            raise RuntimeError

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failing", [1, 2])
def test_a_file_that_cannot_be_written_takes_the_earlier_ones_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """The Nth write fails: no file of this call is left, the half-written one among them."""
    calls = 0

    def fsync(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space"):
        with new_files({tmp_path / "a": "one", tmp_path / "b": "two"}):
            pytest.fail("the block was entered")

    assert list(tmp_path.iterdir()) == []


def test_a_file_that_appears_meanwhile_is_not_overwritten_and_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hybridrelay.administration.new_files.check_new_files", lambda paths: None)
    (tmp_path / "b").write_text("precious")

    with pytest.raises(ConfigurationError, match="already exists"):
        with new_files({tmp_path / "a": "one", tmp_path / "b": "two"}):
            pytest.fail("the block was entered")

    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"b": "precious"}
