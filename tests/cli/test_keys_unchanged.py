"""``hybridrelay keys``: what stops a change of keys leaves the old key and the files; no two commands interfere."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from hybridrelay._file_lock import locked_files
from hybridrelay._replace_file import create_file
from hybridrelay.errors import StateError
from hybridrelay.relay import SQLiteStore
from hybridrelay.security import KeySlot, Secret, load_connection_string

from .conftest import Created, Run, regenerate


@pytest.mark.parametrize("key", ["primary", "secondary"])
def test_a_key_that_the_rule_has_already_is_not_taken_twice(
    run: Run, created: Created, tmp_path: Path, key: str
) -> None:
    """In the other slot, it would stay valid when it is revoked."""
    key_file = tmp_path / "new-key"
    regenerate(run, created, "--out", key_file)
    before = {slot: created.key_text("application", slot) for slot in KeySlot}
    code, out, err = regenerate(run, created, "--new-key-file", key_file, key=key)

    assert (code, out) == (2, "")
    assert "already" in err
    assert {slot: created.key_text("application", slot) for slot in KeySlot} == before
    assert before[KeySlot.PRIMARY] not in err


@pytest.mark.parametrize("content", [b"", b"\xff", b"two words", b"x" * 1000, None])
def test_no_key_in_the_file_leaves_the_old_one(
    run: Run, created: Created, tmp_path: Path, content: bytes | None
) -> None:
    old = created.key_text("application", KeySlot.PRIMARY)
    key_file = tmp_path / "new-key"
    if content is not None:
        key_file.write_bytes(content)
    code, _, err = regenerate(run, created, "--new-key-file", key_file)

    assert code == 2
    assert str(key_file) in err
    assert created.key_text("application", KeySlot.PRIMARY) == old


def test_a_file_with_another_key_stops_it_before_the_old_key_ends(run: Run, created: Created, tmp_path: Path) -> None:
    old = created.key("application", KeySlot.PRIMARY)
    (tmp_path / "no-string").write_text("hello")
    wrong = {
        created.connector: "is for rule connector of orders, not for rule application",
        tmp_path / "missing": "cannot read",
        tmp_path / "no-string": "this is not a connection string",
    }
    for path, says in wrong.items():
        code, out, err = regenerate(run, created, "--update", created.application, path)

        assert (code, out) == (2, "")
        assert says in err
    stranger = tmp_path / "stranger"
    stranger.write_text(_with_another_key(created.application))
    code, _, err = regenerate(run, created, "--update", created.application, stranger)

    assert code == 2
    assert "stranger contains neither of the two keys" in err
    assert created.key("application", KeySlot.PRIMARY) == old == load_connection_string(created.application).key


def test_an_existing_out_file_stops_it_before_the_old_key_ends(run: Run, created: Created, tmp_path: Path) -> None:
    old = created.key("application", KeySlot.PRIMARY)
    (tmp_path / "new-key").write_text("precious")
    code, _, err = regenerate(run, created, "--out", tmp_path / "new-key")

    assert code == 2
    assert "already exists" in err
    assert created.key("application", KeySlot.PRIMARY) == old


def _with_another_key(path: Path) -> str:
    return re.sub("SharedAccessKey=[^;]+", "SharedAccessKey=unknown", path.read_text())


def _fail_to_commit(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    rename = os.replace

    def fail(source: str, target: str) -> None:
        if Path(target) == path:
            raise OSError(5, "Input/output error", str(target))
        rename(source, target)

    monkeypatch.setattr("hybridrelay._replace_file.os.replace", fail)


def test_a_file_that_cannot_be_written_stops_it_before_the_old_key_ends(
    run: Run, created: Created, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {slot: created.key("application", slot) for slot in KeySlot}
    before = created.application.read_bytes(), created.authority.read_bytes()

    def fail(path: Path, data: bytes, *finish: Callable[[int], None]) -> None:
        if created.authority.name in path.name:
            raise OSError(28, "No space left on device", str(path))
        create_file(path, data, *finish)

    monkeypatch.setattr("hybridrelay._replace_file.create_file", fail)
    code, out, err = regenerate(
        run, created, "--update", created.application, created.authority, "--out", tmp_path / "new"
    )

    assert (code, out) == (1, "")
    assert "nothing was changed" in err
    assert str(created.authority) in err
    assert {slot: created.key("application", slot) for slot in KeySlot} == keys
    assert (created.application.read_bytes(), created.authority.read_bytes()) == before
    assert not (tmp_path / "new").exists()


def test_a_registry_that_cannot_be_changed_leaves_the_files(
    run: Run, created: Created, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise StateError("the disk is full")

    monkeypatch.setattr(SQLiteStore, "regenerate_key", fail)
    before = created.application.read_bytes()
    code, out, err = regenerate(run, created, "--update", created.application, "--out", tmp_path / "new")

    assert (code, out) == (2, "")
    assert "the disk is full" in err
    assert created.application.read_bytes() == before
    assert not (tmp_path / "new").exists()
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in attrs.astuple(created)}


def test_a_file_that_is_not_written_in_spite_of_all_is_named_and_the_key_is_not_lost(
    run: Run, created: Created, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are still written, and the command that the error names completes what is missing."""
    _fail_to_commit(monkeypatch, created.application)
    code, out, err = regenerate(
        run, created, "--update", created.application, created.authority, "--out", tmp_path / "new"
    )

    assert code == 1
    assert f"{created.application}: Input/output error" in err
    assert f"updated {created.authority}" in out
    new = created.key("application", KeySlot.PRIMARY)
    assert (tmp_path / "new").read_text() == new.reveal() + "\n"
    assert load_connection_string(created.application).key != new
    monkeypatch.undo()
    command = re.search(r"run: hybridrelay (keys use .*) --update FILE", err)
    assert command is not None
    assert run(*command[1].split(" "), "--update", created.application).code == 0
    assert load_connection_string(created.application).key == new


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--key", "primary", "--state", "{state}"), "there is no file to write"),
        (("--state", "{state}", "--update", "{application}"), "exactly one of --key and --key-file"),
        (
            ("--key", "primary", "--key-file", "{key}", "--update", "{application}"),
            "exactly one of --key and --key-file",
        ),
        (("--key-file", "{key}", "--update", "{authority}"), "contains both keys"),
        (("--key", "primary", "--state", "{state}", "--update", "{connector}"), "is for rule connector"),
        (
            ("--key", "primary", "--authority-file", "{connector}", "--update", "{application}"),
            "is for rule connector",
        ),
        (
            ("--key", "primary", "--authority-file", "{application}", "--update", "{application}"),
            "a connection string",
        ),
        (("--key", "secondary", "--state", "{state}", "--update", "{application}"), "is revoked"),
    ],
)
def test_use_is_refused(run: Run, created: Created, tmp_path: Path, more: tuple[str, ...], says: str) -> None:
    run("keys", "revoke", "orders", "--rule", "application", "--key", "secondary", "--state", created.state)
    (tmp_path / "key").write_text("key")
    names = {**attrs.asdict(created), "key": tmp_path / "key", "new": tmp_path / "new"}
    before = {path: path.read_bytes() for path in (created.application, created.connector, created.authority)}
    result = run("keys", "use", "orders", "--rule", "application", *(one.format(**names) for one in more))

    assert (result.code, result.out) == (2, "")
    assert says in result.err
    assert {path: path.read_bytes() for path in before} == before
    assert not (tmp_path / "new").exists()


def test_two_commands_on_one_file_do_not_undo_each_other(run: Run, created: Created) -> None:
    """The second waits for the first, and reads what it has written."""
    command = [sys.executable, "-m", "hybridrelay", "keys", "regenerate", "orders", "--state", str(created.state)]
    running = [
        subprocess.Popen([*command, "--rule", rule, "--key", slot, "--update", str(created.authority)])
        for rule in ("application", "connector")
        for slot in KeySlot
    ]
    assert [process.wait() for process in running] == [0] * 4
    has = json.loads(created.authority.read_text())["extra"]["rules"]
    for rule in ("application", "connector"):
        for slot in KeySlot:
            assert has[rule][slot] == created.key_text(rule, slot)


def test_a_key_that_another_command_has_changed_meanwhile_is_left_alone(
    run: Run, created: Created, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It works on other files, so nothing makes it wait."""
    regenerate_key = SQLiteStore.regenerate_key

    def too_late(
        self: SQLiteStore,
        name: str,
        rule: str,
        slot: KeySlot,
        key: Secret | None = None,
        *,
        generation: int | None = None,
    ) -> Secret:
        with SQLiteStore.open(created.state, create=False) as other:
            regenerate_key(other, name, rule, slot)
        return regenerate_key(self, name, rule, slot, key, generation=generation)

    monkeypatch.setattr(SQLiteStore, "regenerate_key", too_late)
    before = created.application.read_bytes()
    code, out, err = regenerate(run, created, "--update", created.application)
    assert (code, out) == (2, "")
    assert "has generation" in err
    assert created.application.read_bytes() == before


@pytest.mark.parametrize(
    "command",
    [
        ("keys", "regenerate", "orders", "--rule", "application", "--key", "primary", "--state"),
        ("keys", "use", "orders", "--rule", "application", "--key", "secondary", "--state"),
        ("connections", "endpoints", "orders", "--endpoint", "b.example.com", "--state"),
        ("connections", "set-target", "orders", "--target", "db2.internal:5432"),
    ],
)
def test_a_command_that_waits_too_long_says_for_what(
    run: Run, created: Created, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setattr("hybridrelay.administration.changes._LOCK_SECONDS", 0)
    arguments = [*command, created.state] if command[-1] == "--state" else command
    with locked_files([created.application], seconds=0):
        code, out, err = attrs.astuple(run(*arguments, "--update", created.application))
    assert (code, out) == (1, "")
    assert "nothing was changed, because another command is changing" in err
    assert str(created.application) in err


def test_what_a_killed_command_left_is_removed(run: Run, created: Created) -> None:
    left = created.application.with_name(f".{created.application.name}.0123abcd")
    left.write_text("a key")
    code, _, err = regenerate(run, created, "--update", created.application)
    assert code == 0
    assert f"was removed: file={left}" in err
    assert not left.exists()
