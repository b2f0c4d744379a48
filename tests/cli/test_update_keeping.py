"""An update in the file of a program: what is written, what stays, and what a kill at any moment leaves behind."""

from __future__ import annotations

import os
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from hybridrelay.cli.key_keeping import keeper_of
from hybridrelay.cli.string_copies import StringCopies
from hybridrelay.cli.update_marks import UpdateMarks
from hybridrelay.connectivity import string_files
from hybridrelay.connectivity.string_files import previous_of
from hybridrelay.security import ConnectionString, Endpoint, HostPort, Secret, load_connection_string

from .conftest import Created

NO_COPIES = StringCopies(None)
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="modes, links, fork")


def updated(before: ConnectionString, sequence: int = 5) -> ConnectionString:
    return attrs.evolve(
        before,
        endpoints=(Endpoint("new.example"),),
        relay_pins=(),
        target=HostPort(f"db{sequence}", 1),
        update_sequence=sequence,
    )


@pytest.fixture
def marks(tmp_path: Path) -> UpdateMarks:
    return UpdateMarks(tmp_path / "marks")


async def test_what_is_written_and_kept(created: Created, marks: UpdateMarks, tmp_path: Path) -> None:
    """The mode stays, a link stays a link, the previous content is beside it, and the sequence is remembered."""
    created.connector.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to(created.connector)
    before = load_connection_string(created.connector)
    keep = keeper_of(lambda: [created.application, link], marks, NO_COPIES)
    assert await keep(before, updated(before)) == ""
    assert load_connection_string(created.connector) == updated(before)
    assert stat.S_IMODE(created.connector.stat().st_mode) == 0o640
    assert link.is_symlink()
    assert load_connection_string(previous_of(link)) == before
    assert stat.S_IMODE(previous_of(link).stat().st_mode) == 0o600
    assert (marks.read(before), await marks.floor(before)) == (5, 5)
    assert marks.read(load_connection_string(created.application)) == 0  # another side has marks of its own
    assert await keep(before, updated(before)) == ""  # it has it already
    assert load_connection_string(previous_of(link)) == before


async def test_another_program_has_written_a_later_one(created: Created, marks: UpdateMarks) -> None:
    before = load_connection_string(created.connector)
    created.connector.write_text(updated(before, 7).format())
    assert await keeper_of(lambda: [created.connector], marks, NO_COPIES)(before, updated(before, 5)) == ""
    assert load_connection_string(created.connector) == updated(before, 7)
    assert not previous_of(created.connector).exists()


async def test_a_key_that_was_rolled_meanwhile_stays(created: Created, marks: UpdateMarks) -> None:
    before = load_connection_string(created.connector)
    rolled = attrs.evolve(before, key=Secret("rolled"))
    created.connector.write_text(rolled.format())
    assert await keeper_of(lambda: [created.connector], marks, NO_COPIES)(before, updated(before)) == ""
    assert load_connection_string(created.connector) == updated(rolled)
    # And the other way round.
    assert (
        await keeper_of(lambda: [created.connector], marks, NO_COPIES)(rolled, attrs.evolve(rolled, key=Secret("n")))
        == ""
    )
    assert load_connection_string(created.connector) == attrs.evolve(updated(rolled), key=Secret("n"))


async def test_a_file_that_cannot_be_written(
    created: Created, marks: UpdateMarks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sequence is still remembered, because the program uses the update."""
    before = load_connection_string(created.connector)

    def refuse(path: Path, text: str) -> None:
        raise OSError(30, os.strerror(30), str(path))

    monkeypatch.setattr(string_files, "prepare_replacement", refuse)
    why = await keeper_of(lambda: [created.connector], marks, NO_COPIES)(before, updated(before))
    assert why == f"{created.connector} cannot be written: Read-only file system"
    assert marks.read(before) == 5
    assert load_connection_string(created.connector) == before


async def test_a_previous_one_that_cannot_be_kept(
    created: Created, marks: UpdateMarks, caplog: pytest.LogCaptureFixture
) -> None:
    """This is so if a single file is mounted into a container."""
    previous_of(created.connector).mkdir()
    before = load_connection_string(created.connector)
    assert await keeper_of(lambda: [created.connector], marks, NO_COPIES)(before, updated(before)) == ""
    assert load_connection_string(created.connector) == updated(before)
    assert "The connection string from before an update cannot be saved" in caplog.text


async def test_marks_that_cannot_be_written(
    created: Created, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    marks = UpdateMarks(tmp_path / "file" / "directory")
    before = load_connection_string(created.connector)
    assert await keeper_of(lambda: [created.connector], marks, NO_COPIES)(before, updated(before)) == ""
    assert "It cannot be recorded that an update was used" in caplog.text
    assert await marks.floor(before) == 0


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b'{"a": -1, "b": "x", "c": 1e400}', b"[" * 100_000])
async def test_marks_that_are_damaged(created: Created, tmp_path: Path, content: bytes) -> None:
    marks = UpdateMarks(tmp_path)
    (tmp_path / "updates.json").write_bytes(content)
    before = load_connection_string(created.connector)
    assert await marks.floor(before) == 0
    marks.note(updated(before))
    assert await marks.floor(before) == 5
    marks.note(updated(before, 3))
    assert await marks.floor(before) == 5


def killed_at(number: int, work: Callable[[], object]) -> bool:
    """Do the work in another process, which is killed at its Nth operation on a file. Returns whether it was."""
    child = os.fork()
    if child == 0:
        left = number

        def count(event: str, _: tuple[object, ...]) -> None:
            nonlocal left
            if event in {"open", "os.rename", "os.remove", "os.link", "os.mkdir", "os.chmod", "os.chown", "os.utime"}:
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(count)
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def test_a_file_whose_identity_was_replaced_is_left_alone(created: Created) -> None:
    """The key belongs to the connection string that the program uses, and the file has another one."""
    before = load_connection_string(created.connector)
    assert string_files.write_changes(created.connector, before, updated(before)) == ""
    application = load_connection_string(created.application)
    other = attrs.evolve(before, identity=application.identity)
    now = created.connector.read_bytes()
    assert string_files.write_changes(created.connector, other, attrs.evolve(other, key=application.key)) is None
    assert created.connector.read_bytes() == now


def test_killed_at_every_write(created: Created, marks: UpdateMarks) -> None:
    """The file has the content from before or after. If it has that from after, the previous one is beside it. The
    next attempt completes it."""
    text = created.connector.read_text()
    before = load_connection_string(created.connector)
    after = updated(before)

    def work() -> None:
        assert string_files.write_changes(created.connector, before, after) == ""
        marks.note(after)

    number = 0
    while True:
        number += 1
        created.connector.write_text(text)
        previous_of(created.connector).unlink(missing_ok=True)
        was_killed = killed_at(number, work)
        found = load_connection_string(created.connector)
        assert found in (before, after)
        if found == after:
            assert load_connection_string(previous_of(created.connector)) == before
        assert marks.read(before) in (0, 5)
        if not was_killed:
            break
        assert string_files.write_changes(created.connector, before, after) == ""
        assert load_connection_string(created.connector) == after
    assert number > 8, "the hook has seen few operations"
    assert found == after


def test_an_older_connection_string_is_reported_once(
    created: Created, marks: UpdateMarks, caplog: pytest.LogCaptureFixture
) -> None:
    before = load_connection_string(created.connector)
    marks.note(updated(before))
    for _ in range(3):
        marks.warn_if_older(before)
    assert caplog.text.count("The connection string is older than the last update") == 1
