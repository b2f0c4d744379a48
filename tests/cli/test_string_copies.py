"""Copies of connection strings whose files cannot be written: which content is used, and when the copy goes away."""

from __future__ import annotations

import logging
import os
import stat
import sys
from pathlib import Path

import attrs
import pytest

from hybridrelay._file_lock import lock_file
from hybridrelay._replace_file import prepare_replacement
from hybridrelay.cli import string_copies
from hybridrelay.cli.key_keeping import keeper_of
from hybridrelay.cli.string_copies import StringCopies
from hybridrelay.cli.update_marks import UpdateMarks
from hybridrelay.connectivity import string_files
from hybridrelay.connectivity.string_files import previous_of
from hybridrelay.security import ConnectionString, Endpoint, Secret, load_connection_string

from .conftest import Created

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="modes")
NO_MARKS = UpdateMarks(None)


@attrs.frozen
class Scene:
    """A connection string file that cannot be written until `writable` is called."""

    file: Path
    copies: StringCopies
    other: ConnectionString

    @property
    def copy(self) -> Path:
        found = self.copies.copy_of(self.file)
        assert found is not None
        return found

    def stored(self) -> ConnectionString:
        return load_connection_string(self.file)

    def newest(self) -> ConnectionString:
        return self.copies.newest(self.stored())

    async def keep(self, before: ConnectionString, after: ConnectionString) -> str:
        return await keeper_of(lambda: [self.file], NO_MARKS, self.copies)(before, after)


@pytest.fixture
def scene(created: Created, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    real = prepare_replacement

    def prepare(path: Path, text: str) -> object:
        if Path(path) == created.application and read_only:
            raise OSError(30, os.strerror(30), str(path))
        return real(path, text)

    read_only = [True]
    monkeypatch.setattr(string_files, "prepare_replacement", prepare)
    monkeypatch.setattr(Scene, "read_only", read_only, raising=False)
    return Scene(created.application, StringCopies(tmp_path / "state"), load_connection_string(created.connector))


def writable() -> None:
    Scene.read_only.clear()  # type: ignore[attr-defined]


def rolled(string: ConnectionString, key: str = "new") -> ConnectionString:
    return attrs.evolve(string, key=Secret(key))


def updated(string: ConnectionString, sequence: int = 5) -> ConnectionString:
    return attrs.evolve(string, endpoints=(Endpoint(f"relay{sequence}.example"),), update_sequence=sequence)


def renewed(scene: Scene, string: ConnectionString) -> ConnectionString:
    return attrs.evolve(string, identity=scene.other.identity)


async def test_what_cannot_be_written_is_in_a_copy_which_the_next_start_uses(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    before = scene.stored()
    assert scene.newest() == before
    assert await scene.keep(before, rolled(before)) == ""
    assert scene.stored() == before
    assert scene.newest() == rolled(before)
    assert scene.newest().file == scene.file
    assert stat.S_IMODE(scene.copy.stat().st_mode) == 0o600
    assert stat.S_IMODE(scene.copy.parent.stat().st_mode) == 0o700
    events = [getattr(one, "event", "") for one in caplog.records]
    assert events.count("connection-string.copy-written") == 1
    assert "connection-string.copy-used" in events
    assert "new" not in caplog.text.split("connection-string")  # the key is in no line


async def test_a_copy_contains_only_what_differs(scene: Scene) -> None:
    before = scene.stored()
    assert before.identity is not None
    await scene.keep(before, rolled(before))
    text = scene.copy.read_text()
    assert before.identity.private_key.reveal() not in text
    await scene.keep(before, updated(before))
    text = scene.copy.read_text()
    assert before.key.reveal() not in text
    assert before.identity.private_key.reveal() not in text


async def test_changes_add_up(scene: Scene) -> None:
    """Each step begins with what is in use, which has the earlier ones."""
    string = before = scene.stored()
    for after in (rolled(string), updated(rolled(string)), renewed(scene, updated(rolled(string)))):
        assert await scene.keep(string, after) == ""
        string = after
        assert scene.newest() == string
    again = rolled(updated(string, 7), "newer")
    assert await scene.keep(string, again) == ""
    assert scene.newest() == again
    assert scene.stored() == before


async def test_a_copy_is_removed_when_the_file_contains_everything(scene: Scene) -> None:
    before = scene.stored()
    after = updated(rolled(before))
    await scene.keep(before, after)
    scene.file.write_text(rolled(before).format())
    assert scene.newest() == after  # the rest still counts
    assert scene.copy.exists()
    scene.file.write_text(after.format())
    assert scene.newest() == after
    assert not scene.copy.exists()


async def test_a_copy_that_another_program_is_changing_is_removed_later(
    scene: Scene, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(string_copies, "_LOCK_SECONDS", 0.0)
    before = scene.stored()
    await scene.keep(before, rolled(before))
    scene.file.write_text(rolled(before).format())
    with scene.copy.open("rb") as locked:
        assert lock_file(locked.fileno())
        assert scene.newest() == rolled(before)
    (record,) = [one for one in caplog.records if getattr(one, "event", "") == "connection-string.copy-not-used"]
    assert "it cannot be removed: another command is changing it" in record.getMessage()
    assert scene.copy.exists()
    assert scene.newest() == rolled(before)
    assert not scene.copy.exists()


async def test_what_somebody_writes_into_the_file_replaces_what_the_copy_has(scene: Scene) -> None:
    before = scene.stored()
    await scene.keep(before, updated(rolled(before)))
    third = rolled(before, "third")
    scene.file.write_text(third.format())
    assert scene.newest() == updated(third)
    scene.file.write_text(updated(third, 3).format())
    assert scene.newest() == updated(third, 3)
    assert not scene.copy.exists()


async def test_a_key_that_somebody_has_written_meanwhile_stays(scene: Scene) -> None:
    before = scene.stored()
    await scene.keep(before, rolled(before))
    scene.file.write_text(rolled(before, "third").format())
    why = await scene.keep(rolled(before), rolled(before, "fourth"))
    assert "contains neither the old key nor the new one" in why
    assert scene.newest() == rolled(before, "third")


async def test_when_the_file_can_be_written_again_it_gets_everything(scene: Scene) -> None:
    before = scene.stored()
    await scene.keep(before, renewed(scene, rolled(before)))
    writable()
    after = updated(renewed(scene, rolled(before)))
    assert await scene.keep(renewed(scene, rolled(before)), after) == ""
    assert scene.stored() == after
    assert not scene.copy.exists()


async def test_another_connection_string_at_the_same_path_gets_nothing(scene: Scene) -> None:
    before = scene.stored()
    await scene.keep(before, rolled(before))
    other = attrs.evolve(before, entity_path="other", identity=None, authority=None)
    scene.file.write_text(other.format())
    assert scene.newest() == other
    assert not scene.copy.exists()


async def test_another_authority_gets_nothing(scene: Scene) -> None:
    before = scene.stored()
    await scene.keep(before, rolled(before))
    other = attrs.evolve(before, authority=before.require_identity()[0].certificate)
    scene.file.write_text(other.format())
    assert scene.newest() == other


async def test_without_a_directory_for_state(scene: Scene) -> None:
    none = StringCopies.of_service({"XDG_STATE_HOME": str(scene.copy.parent)})
    before = scene.stored()
    why = await keeper_of(lambda: [scene.file], NO_MARKS, none)(before, rolled(before))
    assert why == f"{scene.file} cannot be written: Read-only file system"
    assert none.newest(before) == before


def test_the_first_of_several_directories_is_used(tmp_path: Path) -> None:
    copies = StringCopies.of_service({"STATE_DIRECTORY": f"{tmp_path}:/other"})
    copy = copies.copy_of(tmp_path / "orders")
    assert copy is not None
    assert copy.parent == tmp_path / "strings"
    assert copies.copy_of(tmp_path / "shop") != copy


async def test_a_copy_that_cannot_be_written(scene: Scene) -> None:
    scene.copy.parent.parent.mkdir(exist_ok=True)
    scene.copy.parent.write_text("a file")
    before = scene.stored()
    why = await scene.keep(before, rolled(before))
    assert f"{scene.file} cannot be written: Read-only file system; its copy {scene.copy} cannot be written" in why


@pytest.mark.parametrize(
    "content",
    [
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b'{"format": "hybridrelay-string-copy", "version": 2}',
        b'{"format": "hybridrelay-string-copy", "version": 1, "before": {"x": ""}, "connectionString": ""}',
        b'{"format": "hybridrelay-string-copy", "version": 1, "authority": "", "before": {}, "connectionString": 1}',
        b" " * 1_000_000,
    ],
)
async def test_a_damaged_copy_is_reported_and_written_again(
    scene: Scene, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    before = scene.stored()
    scene.copy.parent.mkdir(parents=True)
    scene.copy.write_bytes(content)
    assert scene.newest() == before
    assert "The copy of a connection string file cannot be used" in caplog.text
    assert await scene.keep(before, rolled(before)) == ""
    assert scene.newest() == rolled(before)


async def test_a_copy_of_another_version_is_reported_as_such(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    scene.copy.parent.mkdir(parents=True)
    scene.copy.write_bytes(b'{"format": "hybridrelay-string-copy", "version": 2}')
    assert scene.newest() == scene.stored()
    assert "it was written by another version" in caplog.text
    assert "it is damaged" not in caplog.text


@pytest.mark.parametrize("content", ["", "{}\n"])
async def test_a_copy_that_was_only_begun_is_not_damaged(
    scene: Scene, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The program was killed before it had written the copy."""
    scene.copy.parent.mkdir(parents=True)
    scene.copy.write_text(content)
    assert scene.newest() == scene.stored()
    assert not caplog.records


@pytest.mark.parametrize("after", ["it is written again", "it is removed"])
async def test_what_a_killed_program_has_left_beside_a_copy_is_removed(scene: Scene, after: str) -> None:
    """What is left contains a key, or the private key of an identity."""
    before = scene.stored()
    assert await scene.keep(before, rolled(before, "first")) == ""
    prepare_replacement(scene.copy, "a key")  # and never finished
    assert len(list(scene.copy.parent.iterdir())) == 2
    if after == "it is written again":
        assert await scene.keep(rolled(before, "first"), rolled(before, "second")) == ""
        assert list(scene.copy.parent.iterdir()) == [scene.copy]
    else:
        writable()
        scene.file.write_text(rolled(before, "other").format())
        scene.newest()
        assert list(scene.copy.parent.iterdir()) == []


async def test_what_a_killed_program_has_left_beside_the_file_is_removed(scene: Scene) -> None:
    writable()
    before = scene.stored()
    files = set(scene.file.parent.iterdir())
    for path in (scene.file, previous_of(scene.file)):
        prepare_replacement(path, "a key")
    assert await scene.keep(before, rolled(before)) == ""
    assert scene.stored() == rolled(before)
    assert set(scene.file.parent.iterdir()) == files
