"""``hybridrelay rules``, and connection strings that carry the key of a rule of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hybridrelay.security import KeySlot, load_connection_string

from .conftest import Created, Run


def test_rules_are_set_listed_and_deleted(run: Run, created: Created) -> None:
    where = ("orders", "--rule", "reporting", "--state", created.state)
    added = run("rules", "set", *where, "--rights", "send")
    assert (added.code, added.err) == (0, "")
    assert added.out == "added rule reporting of orders, with two new keys: Send\n"
    again = run("rules", "set", *where, "--rights", "SEND")
    assert again.out == "rule reporting of orders already has these rights: Send\n"
    listed = run("rules", "list", "orders", "--state", created.state)
    assert [line.split() for line in listed.out.splitlines()[1:]] == [
        ["application", "Send", "primary,", "secondary"],
        ["connector", "Listen", "primary,", "secondary"],
        ["reporting", "Send", "primary,", "secondary"],
    ]
    changed = run("rules", "set", *where, "--rights", "listen,manage")
    assert "changed rule reporting of orders: Listen, Manage, before: Send" in changed.out
    assert "SharedAccessKeyName=reporting no longer have" in changed.out
    found = json.loads(run("rules", "list", "orders", "--state", created.state, "--json").out)
    assert found[2] == {
        "rule": "reporting",
        "rights": ["Listen", "Manage"],
        "valid_keys": ["primary", "secondary"],
    }
    deleted = run("rules", "delete", *where)
    assert "deleted rule reporting of orders" in deleted.out
    assert "SharedAccessKeyName=reporting stop working now" in deleted.out
    gone = run("rules", "delete", *where)
    assert gone.code == 2
    assert "has no rule 'reporting'" in gone.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--rule", "a/b", "--rights", "send"), "a rule's name consists of"),
        (("--rule", "a", "--rights", "sned"), "'sned' is not a right; the rights are listen, send, manage"),
        (("--rule", "a", "--rights", ""), "'' is not a right"),
        (("--rule", "a"), "--rights"),
    ],
)
def test_what_cannot_be_a_rule(run: Run, created: Created, arguments: tuple[str, ...], says: str) -> None:
    result = run("rules", "set", "orders", *arguments, "--state", created.state)
    assert result.code == 2
    assert says in result.err


def test_an_application_with_a_rule_of_its_own(run: Run, created: Created, tmp_path: Path) -> None:
    run("rules", "set", "orders", "--rule", "reporting", "--rights", "send", "--state", created.state)
    issue = ("connections", "issue", "orders", "--role", "application", "--label", "reporting", "--rule", "reporting")
    files = ("--authority-file", created.authority, "--out")
    at_relay = run(*issue, *files, tmp_path / "one", "--state", created.state)
    assert (at_relay.code, at_relay.err) == (0, "")
    key = created.key_text("reporting", KeySlot.PRIMARY)
    string = load_connection_string(tmp_path / "one")
    assert (string.key_name, string.key.reveal()) == ("reporting", key)

    (tmp_path / "key").write_text(key)
    elsewhere = run(*issue, *files, tmp_path / "two", "--key-file", tmp_path / "key")
    assert (elsewhere.code, elsewhere.err) == (0, "")
    assert load_connection_string(tmp_path / "two").key == string.key

    neither = run(*issue, *files, tmp_path / "three")
    assert neither.code == 2
    assert "take the key from the relay with --state" in neither.err
    both = run(*issue, *files, tmp_path / "three", "--state", created.state, "--key-file", tmp_path / "key")
    assert both.code == 2
    assert "not allowed with" in both.err
