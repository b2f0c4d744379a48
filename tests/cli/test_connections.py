"""``hybridrelay connections``: issue, list, show, delete, import; `test_creation` is about create."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hybridrelay.relay import SQLiteStore
from hybridrelay.security import (
    AuthorityFile,
    Role,
    load_connection_string,
    relay_pin,
)

from .conftest import Created, Run


@pytest.mark.parametrize("role", [Role.CONNECTOR, Role.APPLICATION])
def test_a_further_string_needs_the_authority_file_alone(
    run: Run, created: Created, tmp_path: Path, role: Role
) -> None:
    out = tmp_path / "further"
    result = run(
        "connections", "issue", "orders",
        "--role", role.value,
        "--label", "reporting",
        "--authority-file", created.authority,
        "--out", out,
    )  # fmt: skip
    first = load_connection_string(created.connector if role is Role.CONNECTOR else created.application)
    further = load_connection_string(out)
    identity, authority = further.require_identity()

    assert (result.code, result.err) == (0, "")
    assert (identity.label, identity.role) == ("reporting", role)
    assert identity.serial in result.out
    assert authority == first.authority
    for attribute in ("endpoints", "key_name", "key", "entity_path", "target", "relay_pins"):
        assert getattr(further, attribute) == getattr(first, attribute)


def test_issuing_with_another_connections_authority(run: Run, created: Created, tmp_path: Path) -> None:
    result = run(
        "connections", "issue", "billing",
        "--role", "application",
        "--label", "x",
        "--authority-file", created.authority,
        "--out", tmp_path / "out",
    )  # fmt: skip

    assert result.code == 2
    assert "is the authority file of orders, not of billing" in result.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", ["endpoint", "target", "relay_pins", "ports", "rules"])
def test_a_damaged_authority_file_names_the_part(run: Run, created: Created, tmp_path: Path, damage: str) -> None:
    file = AuthorityFile.parse_untrusted(created.authority.read_text())
    extra = {key: value for key, value in file.extra.items() if key != damage}
    created.authority.write_text(AuthorityFile(file.authority, extra).format())
    result = run(
        "connections", "issue", "orders",
        "--role", "connector",
        "--label", "x",
        "--authority-file", created.authority,
        "--out", tmp_path / "out",
    )  # fmt: skip

    assert result.code == 2
    assert f"the authority file is damaged: {damage}" in result.err
    assert not (tmp_path / "out").exists()


def test_an_authority_file_with_a_host_or_a_version_of_another_type_is_refused(
    run: Run, created: Created, tmp_path: Path
) -> None:
    text = created.authority.read_text()
    for change, says in (
        ({"extra": {"endpoint": [None]}}, "damaged: endpoint"),
        ({"version": True}, "unknown format version"),
    ):
        content = json.loads(text)
        content["extra"].update(change.pop("extra", {}))
        created.authority.write_text(json.dumps({**content, **change}))
        result = run(
            "connections", "issue", "orders", "--role", "connector", "--label", "x",
            "--authority-file", created.authority, "--out", tmp_path / "out",
        )  # fmt: skip

        assert result.code == 2
        assert says in result.err
        assert not (tmp_path / "out").exists()


def test_list_and_show_hide_the_keys(run: Run, created: Created) -> None:
    results = [
        run("connections", *command, "--state", created.state, *json_option)
        for command in (("list",), ("show", "orders"))
        for json_option in ((), ("--json",))
    ]

    for result in results:
        assert (result.code, result.err) == (0, "")
        assert "orders" in result.out
        assert "relay.example.com" in result.out
        assert not any(secret in result.out for secret in created.secrets())
    assert [entry["name"] for entry in json.loads(results[1].out)] == ["orders"]
    shown = json.loads(results[3].out)
    assert shown["relay_pin"] == relay_pin(created.state / "relay.pem")
    assert {(key["rule"], key["key"]) for key in shown["keys"]} == {
        (rule, slot) for rule in ("connector", "application") for slot in ("primary", "secondary")
    }


def test_an_empty_list_says_so(run: Run, tmp_path: Path) -> None:
    with SQLiteStore.open(tmp_path / "state"):
        pass

    assert "there are no hybrid connections yet" in run("connections", "list", "--state", tmp_path / "state").out
    assert json.loads(run("connections", "list", "--state", tmp_path / "state", "--json").out) == []


def test_a_hybrid_connection_is_deleted_once(run: Run, created: Created) -> None:
    assert run("connections", "delete", "orders", "--state", created.state).code == 0

    again = run("connections", "delete", "orders", "--state", created.state)

    assert again.code == 2
    assert "there is no hybrid connection 'orders'" in again.err


def test_a_state_directory_that_is_not_there_is_not_made(run: Run, tmp_path: Path) -> None:
    for command in (("list",), ("show", "x"), ("delete", "x")):
        result = run("connections", *command, "--state", tmp_path / "state")

        assert result.code == 2
        assert "does not exist" in result.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "{}", "not json", '{"format": "another"}'])
def test_importing_what_is_not_a_relay_file(run: Run, tmp_path: Path, text: str) -> None:
    (tmp_path / "r").write_text(text)
    result = run("connections", "import", tmp_path / "r", "--state", tmp_path / "state")

    assert (result.code, result.out) == (2, "")
    assert "is not" in result.err
    assert "relay file" in result.err
