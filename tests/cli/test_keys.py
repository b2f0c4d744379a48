"""``hybridrelay keys``: what stops working is said, and files can be given the new key."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import attrs
import pytest

from hybridrelay.relay import SQLiteStore
from hybridrelay.security import (
    ClaimKeys,
    ConnectionString,
    KeySlot,
    generate_key,
    load_connection_string,
    open_claim_untrusted,
    parse_claim_code_untrusted,
)

from .conftest import Created, Run, regenerate


def test_keys_are_shown_only_when_asked_for(run: Run, created: Created) -> None:
    keys = {created.key_text(rule, slot) for rule in ("connector", "application") for slot in KeySlot}
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
    old = created.key_text("application", KeySlot.PRIMARY)
    code, out, err = regenerate(run, created)
    new = created.key_text("application", KeySlot.PRIMARY)

    assert (code, err) == (0, "")
    assert new != old
    assert old not in out
    assert new not in out
    assert "SharedAccessKeyName=application" in out
    assert "stop working" in out
    assert "start it again with the new key" in out


def test_the_new_key_can_be_shown_and_written(run: Run, created: Created, tmp_path: Path) -> None:
    out_file = tmp_path / "new-key"
    _, out, _ = regenerate(run, created, "--show-keys", "--out", out_file)
    new = created.key_text("application", KeySlot.PRIMARY)

    assert f"SharedAccessKey={new}\n" in out
    assert out_file.read_text() == new + "\n"
    assert stat.S_IMODE(out_file.stat().st_mode) & 0o077 == 0


def test_another_relay_is_given_the_same_key(run: Run, created: Created, tmp_path: Path) -> None:
    """A connection string with several relays carries one key for all of them."""
    key_file = tmp_path / "new-key"
    new = generate_key().reveal()
    key_file.write_text(new + "\n")
    code, out, err = regenerate(run, created, "--new-key-file", key_file, key="secondary")

    assert (code, err) == (0, "")
    assert created.key_text("application", KeySlot.SECONDARY) == new
    assert new not in out


def test_files_are_given_the_new_key(run: Run, created: Created, tmp_path: Path) -> None:
    before = load_connection_string(created.application)
    code, _, _ = regenerate(run, created, "--update", created.application, created.authority)
    new = created.key("application", KeySlot.PRIMARY)
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
    assert load_connection_string(created.connector).key == created.key("connector", KeySlot.PRIMARY)


def test_only_files_that_carry_the_old_key_are_changed(run: Run, created: Created, tmp_path: Path) -> None:
    """The authority file has both keys; a string that uses the other one goes on with it."""
    other = tmp_path / "other.application"
    issue = ("connections", "issue", "orders", "--role", "application", "--authority-file", created.authority)
    assert run(*issue, "--label", "b", "--key", "secondary", "--out", other).code == 0
    text = other.read_text()
    secondary = created.key("application", KeySlot.SECONDARY)
    assert load_connection_string(other).key == secondary
    code, out, err = regenerate(run, created, "--update", other, created.application, created.authority)

    assert (code, err) == (0, "")
    assert other.read_text() == text
    assert f"{other} uses the secondary key: not changed" in out
    assert f"updated {created.application}" in out
    assert load_connection_string(created.application).key == created.key("application", KeySlot.PRIMARY)
    for slot in KeySlot:
        out_file = tmp_path / slot.value
        assert run(*issue, "--label", "c", "--key", slot.value, "--out", out_file).code == 0
        assert load_connection_string(out_file).key == created.key("application", slot)
    new_key = tmp_path / "new"
    new_key.write_text(generate_key().reveal())
    assert regenerate(run, created, "--new-key-file", new_key, "--update", created.application)[0] == 0
    again = regenerate(run, created, "--new-key-file", new_key, "--update", created.application)
    assert again[0] == 2  # it is the primary key already
    assert secondary == created.key("application", KeySlot.SECONDARY)


def test_the_other_key_is_put_into_a_string(run: Run, created: Created, tmp_path: Path) -> None:
    """The other key into a string, from the relay, from the authority file, or from a file that has only the key."""
    primary, secondary = (created.key("application", slot) for slot in KeySlot)
    before = load_connection_string(created.application)
    use = ("keys", "use", "orders", "--rule", "application")
    from_state = ("--key", "secondary", "--state", created.state, "--out", tmp_path / "key")
    result = run(*use, *from_state, "--update", created.application, created.authority)

    assert (result.code, result.err) == (0, "")
    assert load_connection_string(created.application) == attrs.evolve(before, key=secondary)
    assert {slot: created.key("application", slot) for slot in KeySlot} == dict(
        zip(KeySlot, (primary, secondary), strict=True)
    )
    assert (
        run(*use, "--key", "primary", "--authority-file", created.authority, "--update", created.application).code
        == 0
    )
    assert load_connection_string(created.application) == before
    assert run(*use, "--key-file", tmp_path / "key", "--update", created.application).code == 0
    assert load_connection_string(created.application).key == secondary
    assert secondary.reveal() not in result.out


def test_use_brings_an_authority_file_up_to_date(run: Run, created: Created, tmp_path: Path) -> None:
    regenerate(run, created, key="primary")
    regenerate(run, created, key="secondary")
    code, _, err = regenerate(run, created, "--update", created.authority)
    assert code == 2
    assert "keys use" in err
    use = ("keys", "use", "orders", "--rule", "application", "--key", "primary", "--state", created.state)
    assert run(*use, "--update", created.authority).code == 0
    for slot in KeySlot:
        issue = ("connections", "issue", "orders", "--role", "application", "--label", "x", "--key", slot.value)
        assert run(*issue, "--authority-file", created.authority, "--out", tmp_path / slot.value).code == 0
        assert load_connection_string(tmp_path / slot.value).key == created.key("application", slot)


def test_a_string_is_issued_with_the_key_that_the_relay_has(run: Run, created: Created, tmp_path: Path) -> None:
    regenerate(run, created, key="secondary")
    issue = ("connections", "issue", "orders", "--role", "application", "--label", "x", "--key", "secondary")
    authority = ("--authority-file", created.authority)

    assert run(*issue, *authority, "--state", created.state, "--out", tmp_path / "a").code == 0
    assert load_connection_string(tmp_path / "a").key == created.key("application", KeySlot.SECONDARY)
    run("keys", "revoke", "orders", "--rule", "application", "--key", "secondary", "--state", created.state)
    result = run(*issue, *authority, "--state", created.state, "--out", tmp_path / "b")
    assert (result.code, (tmp_path / "b").exists()) == (2, False)
    assert "there is no secondary key" in result.err


def test_a_revoked_key_is_reported_with_what_is_left(run: Run, created: Created) -> None:
    def revoke(key: str) -> str:
        result = run("keys", "revoke", "orders", "--rule", "connector", "--key", key, "--state", created.state)
        assert (result.code, result.err) == (0, "")
        return result.out

    first, again, last = revoke("primary"), revoke("primary"), revoke("secondary")

    assert "stop working" in first
    assert "already been revoked" in again
    assert "no key left" not in first
    assert "no key left" in last
    assert created.is_revoked("connector", KeySlot.PRIMARY)
    assert run("keys", "list", "orders", "--state", created.state).out.count("revoked") == 2


def test_a_revoked_key_can_be_regenerated_into_a_file_that_still_carries_it(run: Run, created: Created) -> None:
    run("keys", "revoke", "orders", "--rule", "application", "--key", "primary", "--state", created.state)
    code, out, _ = regenerate(run, created, "--update", created.application)

    assert code == 0
    assert "already been revoked" in out
    assert "SIGHUP" not in out  # no program uses the key yet
    assert load_connection_string(created.application).key == created.key("application", KeySlot.PRIMARY)


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


def test_a_roll_without_a_relay_is_listed_and_audited(run: Run, created: Created) -> None:
    old = created.key("application", KeySlot.PRIMARY)
    where = ("--state", created.state)
    result = run(
        "keys", "roll", "orders", "--rule", "application", "--grace", "2d", "--update", created.authority, *where
    )
    assert result.code == 0
    assert "The old key is revoked when all programs have the new one, or at 20" in result.out
    assert created.key("application", KeySlot.PRIMARY) == old
    new = created.key("application", KeySlot.SECONDARY)
    assert new.reveal() not in result.out + result.err
    listed = run("keys", "list", "orders", *where).out
    assert "Rule application: the primary key is being rolled to the secondary one (since 20" in listed
    assert "The relay has not given the new key to any program yet" in listed
    rolls = [
        entry["roll"] for entry in json.loads(run("keys", "list", "orders", "--json", *where).out) if "roll" in entry
    ]
    assert [(roll["slot"], roll["waits"], roll["programs"], roll["missing"]) for roll in rolls] == [
        ("secondary", False, 0, [])
    ]
    again = run("keys", "roll", "orders", "--rule", "application", *where)
    assert (again.code, "is already being rolled" in again.err) == (2, True)
    audit = json.loads(run("audit", "calls", "--operation", "rollKeys", "--json", *where).out)
    assert [(entry["rule"], entry["status"]) for entry in audit] == [("application", 200), ("application", 400)]
    # What is issued meanwhile gets the new key.
    claim = run(
        "claims", "create", "orders", "--role", "application", "--label", "x", "--authority-file", created.authority,
        "--json", *where,
    )  # fmt: skip
    code = parse_claim_code_untrusted(json.loads(claim.out)["code"])
    with SQLiteStore.open(created.state) as store:
        (kept,) = store.claims("orders")
    assert kept.sealed is not None
    string = open_claim_untrusted(ClaimKeys.of(code), kept.sealed)
    assert isinstance(string, ConnectionString)
    assert string.key == new
    assert run("keys", "revoke", "orders", "--rule", "application", "--key", "primary", *where).code == 0
    assert "is being rolled to" not in run("keys", "list", "orders", *where).out
