"""``hybridrelay keys``: what stops working is said, and files can be given the new key."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from hybridrelay.relay import Registry
from hybridrelay.security import KeySlot, Secret, generate_key, load_connection_string

from .conftest import Created, Run


def _key(created: Created, rule: str, slot: KeySlot) -> Secret | None:
    with Registry.open(created.state, create=False) as registry:
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
    code, _, err = _regenerate(run, created, "--update", created.application, key="secondary")

    assert code == 2
    assert "carries another key" in err
    assert _key(created, "application", KeySlot.PRIMARY) == old == load_connection_string(created.application).key


def test_an_existing_out_file_stops_it_before_the_old_key_ends(run: Run, created: Created, tmp_path: Path) -> None:
    old = _key(created, "application", KeySlot.PRIMARY)
    (tmp_path / "new-key").write_text("precious")
    code, _, err = _regenerate(run, created, "--out", tmp_path / "new-key")

    assert code == 2
    assert "exists already" in err
    assert _key(created, "application", KeySlot.PRIMARY) == old


def test_a_file_that_cannot_be_written_says_where_the_key_is(
    run: Run, created: Created, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hybridrelay.cli.key_holders.replace_file", fail)
    code, _, err = _regenerate(run, created, "--update", created.application)

    assert code == 1
    assert "No space left on device" in err
    assert "keys list --show-keys" in err


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
