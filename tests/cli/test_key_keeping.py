"""The new key in the file of a program: what stays as it was, and when the file is not touched."""

from __future__ import annotations

import os
import stat
import sys
import threading
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from hybridrelay.cli import key_keeping
from hybridrelay.cli.key_keeping import keeper_of
from hybridrelay.cli.string_copies import StringCopies
from hybridrelay.cli.update_marks import UpdateMarks
from hybridrelay.connectivity import string_files
from hybridrelay.connectivity.string_files import write_changes
from hybridrelay.security import ConnectionString, Secret, load_connection_string

from ..waiting import patience
from .conftest import Created

NO_MARKS = UpdateMarks(None)
NO_COPIES = StringCopies(None)
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="modes, symbolic links")


def strings(file: Path) -> tuple[ConnectionString, ConnectionString]:
    before = load_connection_string(file)
    return before, attrs.evolve(before, key=Secret("new"))


async def test_the_right_file_gets_the_key_and_keeps_its_mode(created: Created) -> None:
    created.application.chmod(0o640)
    before, after = strings(created.application)
    connector = created.connector.read_text()
    keep = keeper_of(lambda: [created.connector, created.application], NO_MARKS, NO_COPIES)
    assert await keep(before, after) == ""
    assert load_connection_string(created.application) == after
    assert stat.S_IMODE(created.application.stat().st_mode) == 0o640
    assert created.connector.read_text() == connector
    assert await keep(before, after) == ""  # it has it already


async def test_a_symbolic_link_stays(created: Created, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(created.application)
    before, after = strings(created.application)
    assert await keeper_of(lambda: [link], NO_MARKS, NO_COPIES)(before, after) == ""
    assert link.is_symlink()
    assert load_connection_string(created.application) == after


async def test_a_file_with_yet_another_key_is_not_touched(created: Created) -> None:
    before, after = strings(created.application)
    other = attrs.evolve(before, key=Secret("third"))
    created.application.write_text(other.format())
    why = await keeper_of(lambda: [created.application], NO_MARKS, NO_COPIES)(before, after)
    assert "contains neither the old key nor the new one" in why
    assert load_connection_string(created.application) == other


async def test_a_damaged_file_before_the_right_one(created: Created, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    damaged.write_text("garbage")
    before, after = strings(created.application)
    assert await keeper_of(lambda: [damaged, created.application], NO_MARKS, NO_COPIES)(before, after) == ""
    assert load_connection_string(created.application) == after
    assert str(damaged) in await keeper_of(lambda: [damaged], NO_MARKS, NO_COPIES)(before, after)


async def test_no_other_file_is_waited_for(created: Created, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file system of another one may hang."""
    tried: list[Path] = []

    def write(path: Path, before: ConnectionString, after: ConnectionString) -> str | None:
        tried.append(path)
        return write_changes(path, before, after)

    monkeypatch.setattr(key_keeping, "write_changes", write)
    monkeypatch.chdir(created.application.parent)
    others = [tmp_path / str(number) for number in range(3)]
    before, after = strings(created.application)
    relative = Path(created.application.name)
    assert await keeper_of(lambda: [*others, relative], NO_MARKS, NO_COPIES)(before, after) == ""
    assert tried == [relative]


async def test_what_was_not_read_from_a_file(created: Created) -> None:
    before, after = strings(created.application)
    assert (
        await keeper_of(list, NO_MARKS, NO_COPIES)(before, after) == "the connection string was not read from a file"
    )
    assert await keeper_of(lambda: [created.connector], NO_MARKS, NO_COPIES)(before, after) != ""


async def test_files_that_cannot_be_written_or_read(created: Created, monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = strings(created.application)
    text = created.application.read_text()

    def refuse(path: Path, text: str) -> None:
        raise OSError(30, os.strerror(30), str(path))

    monkeypatch.setattr(string_files, "prepare_replacement", refuse)
    keep = keeper_of(lambda: [created.application], NO_MARKS, NO_COPIES)
    assert await keep(before, after) == f"{created.application} cannot be written: Read-only file system"
    assert created.application.read_text() == text
    created.application.unlink()
    assert "cannot read" in await keep(before, after)


async def test_a_file_system_that_does_not_answer_keeps_one_thread(
    created: Created, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """However often a relay repeats the key."""
    before, after = strings(created.application)
    keep = keeper_of(lambda: [created.application], NO_MARKS, NO_COPIES)
    answers, has_begun, begun = threading.Event(), threading.Event(), list[Path]()

    def write(path: Path, *_: object) -> str:
        begun.append(path)
        has_begun.set()
        answers.wait(patience(20))
        return ""

    monkeypatch.setattr(key_keeping, "write_changes", write)
    try:
        for _ in range(5):
            assert "did not answer" in await keep(before, after)
            assert await trio.to_thread.run_sync(has_begun.wait, patience(20))
        assert begun == [created.application]
    finally:
        answers.set()
