"""``hybridrelay keys``: what stops working is said, and files can be given the new key."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from hybridrelay._file_lock import locked_files
from hybridrelay._replace_file import create_file
from hybridrelay.errors import StateError
from hybridrelay.relay import SQLiteStore
from hybridrelay.security import KeySlot, Secret, generate_key, load_connection_string

from .conftest import Created, Run


def _key(created: Created, rule: str, slot: KeySlot) -> Secret | None:
    with SQLiteStore.open(created.state, create=False) as registry:
        known = registry.get("orders").rule(rule)
    assert known is not None
    return known.key(slot)


def _text(created: Created, rule: str, slot: KeySlot) -> str:
    key = _key(created, rule, slot)
    assert key is not None
    return key.reveal()


def _regenerate(run: Run, created: Created, *more: str | Path, key: str = "primary") -> tuple[int, str, str]:
    result = run(
        "keys", "regenerate", "orders", "--rule", "application", "--key", key, "--state", created.state, *more
    )
    return result.code, result.out, result.err


def test_keys_are_shown_only_when_asked_for(run: Run, created: Created) -> None:
    keys = {_text(created, rule, slot) for rule in ("connector", "application") for slot in KeySlot}
    hidden = [run("keys", "list", "orders", "--state", created.state, *more).out for more in ((), ("--json",))]
    shown = [
        run("keys", "list", "orders", "--state", created.state, "--show-keys", *more).out
        for more in ((), ("--json",))
    ]

    assert not any(key in out for key in keys for out in hidden)
    assert all(key in out for key in keys for out in shown)
    assert {entry["value"] for entry in json.loads(shown[1])} == keys
    fingerprints = {entry["fingerprint"] for entry in json.loads(hidden[1])}
    assert len(fingerprints) == 4
    assert all(fingerprint in hidden[0] for fingerprint in fingerprints)


def test_regenerating_shows_no_key(run: Run, created: Created) -> None:
    old = _text(created, "application", KeySlot.PRIMARY)
    code, out, err = _regenerate(run, created)
    new = _text(created, "application", KeySlot.PRIMARY)

    assert (code, err) == (0, "")
    assert new != old
    assert old not in out
    assert new not in out
    assert "SharedAccessKeyName=application" in out
    assert "stop working" in out


def test_the_new_key_can_be_shown_and_written(run: Run, created: Created, tmp_path: Path) -> None:
    out_file = tmp_path / "new-key"
    _, out, _ = _regenerate(run, created, "--show-keys", "--out", out_file)
    new = _text(created, "application", KeySlot.PRIMARY)

    assert f"SharedAccessKey={new}\n" in out
    assert out_file.read_text() == new + "\n"
    assert stat.S_IMODE(out_file.stat().st_mode) & 0o077 == 0


def test_another_relay_is_given_the_same_key(run: Run, created: Created, tmp_path: Path) -> None:
    """A connection string with several relays carries one key for all of them."""
    key_file = tmp_path / "new-key"
    new = generate_key().reveal()
    key_file.write_text(new + "\n")
    code, out, err = _regenerate(run, created, "--new-key-file", key_file, key="secondary")

    assert (code, err) == (0, "")
    assert _text(created, "application", KeySlot.SECONDARY) == new
    assert new not in out


@pytest.mark.parametrize("key", ["primary", "secondary"])
def test_a_key_that_the_rule_has_already_is_not_taken_twice(
    run: Run, created: Created, tmp_path: Path, key: str
) -> None:
    """In the other slot, it would go on to be good when it is revoked."""
    key_file = tmp_path / "new-key"
    _regenerate(run, created, "--out", key_file)
    before = {slot: _text(created, "application", slot) for slot in KeySlot}
    code, out, err = _regenerate(run, created, "--new-key-file", key_file, key=key)

    assert (code, out) == (2, "")
    assert "already" in err
    assert {slot: _text(created, "application", slot) for slot in KeySlot} == before
    assert before[KeySlot.PRIMARY] not in err


@pytest.mark.parametrize("content", [b"", b"\xff", b"two words", b"x" * 1000, None])
def test_no_key_in_the_file_leaves_the_old_one(
    run: Run, created: Created, tmp_path: Path, content: bytes | None
) -> None:
    old = _text(created, "application", KeySlot.PRIMARY)
    key_file = tmp_path / "new-key"
    if content is not None:
        key_file.write_bytes(content)
    code, _, err = _regenerate(run, created, "--new-key-file", key_file)

    assert code == 2
    assert str(key_file) in err
    assert _text(created, "application", KeySlot.PRIMARY) == old


def test_files_are_given_the_new_key(run: Run, created: Created, tmp_path: Path) -> None:
    before = load_connection_string(created.application)
    code, _, _ = _regenerate(run, created, "--update", created.application, created.authority)
    new = _key(created, "application", KeySlot.PRIMARY)
    after = load_connection_string(created.application)

    assert code == 0
    assert after.key == new != before.key
    assert after.identity == before.identity
    issued = run(
        "connections", "issue", "orders",
        "--role", "application",
        "--label", "x",
        "--authority-file", created.authority,
        "--out", tmp_path / "x",
    )  # fmt: skip
    assert issued.code == 0
    assert load_connection_string(tmp_path / "x").key == new
    assert load_connection_string(created.connector).key == _key(created, "connector", KeySlot.PRIMARY)


def test_a_file_with_another_key_stops_it_before_the_old_key_ends(run: Run, created: Created, tmp_path: Path) -> None:
    old = _key(created, "application", KeySlot.PRIMARY)
    (tmp_path / "no-string").write_text("hello")
    wrong = {
        created.connector: "is for rule connector of orders, not for rule application",
        tmp_path / "missing": "cannot read",
        tmp_path / "no-string": "this is not a connection string",
    }
    for path, says in wrong.items():
        code, out, err = _regenerate(run, created, "--update", created.application, path)

        assert (code, out) == (2, "")
        assert says in err
    stranger = tmp_path / "stranger"
    stranger.write_text(_with_another_key(created.application))
    code, _, err = _regenerate(run, created, "--update", created.application, stranger)

    assert code == 2
    assert "stranger carries neither of the two keys" in err
    assert _key(created, "application", KeySlot.PRIMARY) == old == load_connection_string(created.application).key


def test_an_existing_out_file_stops_it_before_the_old_key_ends(run: Run, created: Created, tmp_path: Path) -> None:
    old = _key(created, "application", KeySlot.PRIMARY)
    (tmp_path / "new-key").write_text("precious")
    code, _, err = _regenerate(run, created, "--out", tmp_path / "new-key")

    assert code == 2
    assert "exists already" in err
    assert _key(created, "application", KeySlot.PRIMARY) == old


def _fail_to_commit(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    rename = os.replace

    def fail(source: str, target: str) -> None:
        if Path(target) == path:
            raise OSError(5, "Input/output error", str(target))
        rename(source, target)

    monkeypatch.setattr("hybridrelay._replace_file.os.replace", fail)


def _with_another_key(path: Path) -> str:
    return re.sub("SharedAccessKey=[^;]+", "SharedAccessKey=unknown", path.read_text())


def test_only_files_that_carry_the_old_key_are_changed(run: Run, created: Created, tmp_path: Path) -> None:
    """The authority file has both keys; a string that uses the other one goes on with it."""
    other = tmp_path / "other.application"
    issue = ("connections", "issue", "orders", "--role", "application", "--authority-file", created.authority)
    assert run(*issue, "--label", "b", "--key", "secondary", "--out", other).code == 0
    text = other.read_text()
    secondary = _key(created, "application", KeySlot.SECONDARY)
    assert load_connection_string(other).key == secondary
    code, out, err = _regenerate(run, created, "--update", other, created.application, created.authority)

    assert (code, err) == (0, "")
    assert other.read_text() == text
    assert f"{other} uses the secondary key: left as it is" in out
    assert f"updated {created.application}" in out
    assert load_connection_string(created.application).key == _key(created, "application", KeySlot.PRIMARY)
    for slot in KeySlot:
        out_file = tmp_path / slot.value
        assert run(*issue, "--label", "c", "--key", slot.value, "--out", out_file).code == 0
        assert load_connection_string(out_file).key == _key(created, "application", slot)
    new_key = tmp_path / "new"
    new_key.write_text(generate_key().reveal())
    assert _regenerate(run, created, "--new-key-file", new_key, "--update", created.application)[0] == 0
    again = _regenerate(run, created, "--new-key-file", new_key, "--update", created.application)
    assert again[0] == 2  # it is the primary key already
    assert secondary == _key(created, "application", KeySlot.SECONDARY)


def test_a_file_that_cannot_be_written_stops_it_before_the_old_key_ends(
    run: Run, created: Created, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {slot: _key(created, "application", slot) for slot in KeySlot}
    before = created.application.read_bytes(), created.authority.read_bytes()

    def fail(path: Path, data: bytes) -> None:
        if created.authority.name in path.name:
            raise OSError(28, "No space left on device", str(path))
        create_file(path, data)

    monkeypatch.setattr("hybridrelay._replace_file.create_file", fail)
    code, out, err = _regenerate(
        run, created, "--update", created.application, created.authority, "--out", tmp_path / "new"
    )

    assert (code, out) == (1, "")
    assert "nothing was changed" in err
    assert str(created.authority) in err
    assert {slot: _key(created, "application", slot) for slot in KeySlot} == keys
    assert (created.application.read_bytes(), created.authority.read_bytes()) == before
    assert not (tmp_path / "new").exists()


def test_a_registry_that_cannot_be_changed_leaves_the_files(
    run: Run, created: Created, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise StateError("the disk is full")

    monkeypatch.setattr(SQLiteStore, "regenerate_key", fail)
    before = created.application.read_bytes()
    code, out, err = _regenerate(run, created, "--update", created.application, "--out", tmp_path / "new")

    assert (code, out) == (2, "")
    assert "the disk is full" in err
    assert created.application.read_bytes() == before
    assert not (tmp_path / "new").exists()
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in attrs.astuple(created)}


def test_a_file_that_is_not_written_in_spite_of_all_is_named_and_the_key_is_not_lost(
    run: Run, created: Created, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are written nevertheless, and the command that the error names completes what is missing."""
    _fail_to_commit(monkeypatch, created.application)
    code, out, err = _regenerate(
        run, created, "--update", created.application, created.authority, "--out", tmp_path / "new"
    )

    assert code == 1
    assert f"{created.application}: Input/output error" in err
    assert f"updated {created.authority}" in out
    new = _key(created, "application", KeySlot.PRIMARY)
    assert new is not None
    assert (tmp_path / "new").read_text() == new.reveal() + "\n"
    assert load_connection_string(created.application).key != new
    monkeypatch.undo()
    command = re.search(r"run: hybridrelay (keys use .*) --update FILE", err)
    assert command is not None
    assert run(*command[1].split(" "), "--update", created.application).code == 0
    assert load_connection_string(created.application).key == new


def test_use(run: Run, created: Created, tmp_path: Path) -> None:
    """The other key into a string, from the relay, from the authority file, or from a file that has only the key."""
    primary, secondary = (_key(created, "application", slot) for slot in KeySlot)
    before = load_connection_string(created.application)
    use = ("keys", "use", "orders", "--rule", "application")
    from_state = ("--key", "secondary", "--state", created.state, "--out", tmp_path / "key")
    result = run(*use, *from_state, "--update", created.application, created.authority)

    assert (result.code, result.err) == (0, "")
    assert load_connection_string(created.application) == attrs.evolve(before, key=secondary)
    assert {slot: _key(created, "application", slot) for slot in KeySlot} == dict(
        zip(KeySlot, (primary, secondary), strict=True)
    )
    assert (
        run(*use, "--key", "primary", "--authority-file", created.authority, "--update", created.application).code
        == 0
    )
    assert load_connection_string(created.application) == before
    assert run(*use, "--key-file", tmp_path / "key", "--update", created.application).code == 0
    assert load_connection_string(created.application).key == secondary
    assert secondary is not None
    assert secondary.reveal() not in result.out


def test_use_brings_an_authority_file_up_to_date(run: Run, created: Created, tmp_path: Path) -> None:
    _regenerate(run, created, key="primary")
    _regenerate(run, created, key="secondary")
    code, _, err = _regenerate(run, created, "--update", created.authority)
    assert code == 2
    assert "keys use" in err
    use = ("keys", "use", "orders", "--rule", "application", "--key", "primary", "--state", created.state)
    assert run(*use, "--update", created.authority).code == 0
    for slot in KeySlot:
        issue = ("connections", "issue", "orders", "--role", "application", "--label", "x", "--key", slot.value)
        assert run(*issue, "--authority-file", created.authority, "--out", tmp_path / slot.value).code == 0
        assert load_connection_string(tmp_path / slot.value).key == _key(created, "application", slot)


def test_a_string_is_issued_with_the_key_that_the_relay_has(run: Run, created: Created, tmp_path: Path) -> None:
    _regenerate(run, created, key="secondary")
    issue = ("connections", "issue", "orders", "--role", "application", "--label", "x", "--key", "secondary")
    authority = ("--authority-file", created.authority)

    assert run(*issue, *authority, "--state", created.state, "--out", tmp_path / "a").code == 0
    assert load_connection_string(tmp_path / "a").key == _key(created, "application", KeySlot.SECONDARY)
    run("keys", "revoke", "orders", "--rule", "application", "--key", "secondary", "--state", created.state)
    result = run(*issue, *authority, "--state", created.state, "--out", tmp_path / "b")
    assert (result.code, (tmp_path / "b").exists()) == (2, False)
    assert "there is no secondary key" in result.err


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--key", "primary", "--state", "{state}"), "no file is to be written"),
        (("--state", "{state}", "--update", "{application}"), "--key says which"),
        (("--key", "primary", "--key-file", "{key}", "--update", "{application}"), "--key says which"),
        (("--key-file", "{key}", "--update", "{authority}"), "has both keys"),
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


def test_revoke(run: Run, created: Created) -> None:
    def revoke(key: str) -> str:
        result = run("keys", "revoke", "orders", "--rule", "connector", "--key", key, "--state", created.state)
        assert (result.code, result.err) == (0, "")
        return result.out

    first, again, last = revoke("primary"), revoke("primary"), revoke("secondary")

    assert "stop working" in first
    assert "revoked before" in again
    assert "no key left" not in first
    assert "no key left" in last
    assert _key(created, "connector", KeySlot.PRIMARY) is None
    assert run("keys", "list", "orders", "--state", created.state).out.count("revoked") == 2


def test_a_revoked_key_can_be_regenerated_into_a_file_that_still_carries_it(run: Run, created: Created) -> None:
    run("keys", "revoke", "orders", "--rule", "application", "--key", "primary", "--state", created.state)
    code, out, _ = _regenerate(run, created, "--update", created.application)

    assert code == 0
    assert "revoked before" in out
    assert load_connection_string(created.application).key == _key(created, "application", KeySlot.PRIMARY)


@pytest.mark.parametrize(
    ("name", "rule", "says"),
    [
        ("billing", "application", "there is no hybrid connection 'billing'"),
        ("orders", "nobody", "has no rule 'nobody'"),
    ],
)
@pytest.mark.parametrize("command", ["regenerate", "revoke"])
def test_what_is_not_there(run: Run, created: Created, command: str, name: str, rule: str, says: str) -> None:
    result = run("keys", command, name, "--rule", rule, "--key", "primary", "--state", created.state)

    assert (result.code, result.out) == (2, "")
    assert says in result.err


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
            assert has[rule][slot] == _text(created, rule, slot)


def test_a_key_that_another_command_has_changed_meanwhile_is_left_alone(
    run: Run, created: Created, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It works on other files, so nothing makes it wait."""
    regenerate_key = SQLiteStore.regenerate_key

    def too_late(self: SQLiteStore, *args: object, **options: object) -> object:
        with SQLiteStore.open(created.state, create=False) as other:
            regenerate_key(other, "orders", "application", KeySlot.PRIMARY)
        return regenerate_key(self, *args, **options)

    monkeypatch.setattr(SQLiteStore, "regenerate_key", too_late)
    before = created.application.read_bytes()
    code, out, err = _regenerate(run, created, "--update", created.application)
    assert (code, out) == (2, "")
    assert "another command has changed" in err
    assert created.application.read_bytes() == before


@pytest.mark.parametrize(
    "command",
    [
        ("keys", "regenerate", "orders", "--rule", "application", "--key", "primary", "--state"),
        ("keys", "use", "orders", "--rule", "application", "--key", "secondary", "--state"),
        ("connections", "endpoints", "orders", "--endpoint", "b.example.com", "--state"),
        ("connections", "target", "orders", "--target", "db2.internal:5432"),
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
    code, _, err = _regenerate(run, created, "--update", created.application)
    assert code == 0
    assert f"removed {left}" in err
    assert not left.exists()
