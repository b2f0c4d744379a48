"""The local name, in every command that writes connection strings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hybridrelay.relay import SQLiteStore
from hybridrelay.security import (
    ClaimKeys,
    ConnectionString,
    HostPort,
    HostTarget,
    load_connection_string,
    open_claim_untrusted,
    parse_claim_code_untrusted,
)

from .conftest import Created, Run

NAME = HostPort("sql01.corp.example", 1433)


def local_name(path: Path) -> HostTarget | None:
    return load_connection_string(path).local_name


def create(run: Run, directory: Path, *more: str, target: str = "db.internal:5432") -> int:
    return run(
        "connections", "create", "orders",
        "--target", target,
        "--endpoint", "relay.example.com",
        "--connector-file", directory / "c",
        "--application-file", directory / "a",
        "--authority-file", directory / "authority",
        "--relay-file", directory / "r",
        *more,
    ).code  # fmt: skip


@pytest.mark.parametrize(
    ("target", "more", "expected"),
    [
        ("db.internal:5432", (), HostPort("db.internal", 5432)),
        ("10.1.2.3:5432", (), HostPort("10.1.2.3", 5432)),
        (r"sql01.corp.example\SQLEXPRESS", (), NAME),
        ("127.0.0.1:5432", (), None),
        ("localhost:5432", (), None),
        ("db.internal:5432", ("--local-name", "SQL01.corp.example.:1433"), NAME),
        ("127.0.0.1:5432", ("--local-name", "sql01.corp.example:1433"), NAME),
        ("db.internal:5432", ("--local-name", "none"), None),
    ],
)
def test_only_strings_of_applications_get_the_local_name(
    run: Run, tmp_path: Path, target: str, more: tuple[str, ...], expected: HostPort | None
) -> None:
    assert create(run, tmp_path, *more, target=target) == 0
    assert local_name(tmp_path / "a") == expected
    assert local_name(tmp_path / "c") is None
    if expected is not None:
        assert expected.host not in (tmp_path / "r").read_text(), "the relay does not get it"
    issue = ("connections", "issue", "orders", "--authority-file", tmp_path / "authority", "--label", "x")
    assert run(*issue, "--role", "application", "--out", tmp_path / "x").code == 0
    assert local_name(tmp_path / "x") == expected
    assert run(*issue, "--role", "connector", "--out", tmp_path / "y").code == 0
    assert local_name(tmp_path / "y") is None


def test_an_impossible_name_creates_nothing(run: Run, tmp_path: Path) -> None:
    assert create(run, tmp_path, "--local-name", "localhost:5432") == 2
    assert not list(tmp_path.iterdir())


def test_an_authority_file_from_before_there_were_local_names(run: Run, tmp_path: Path) -> None:
    assert create(run, tmp_path) == 0
    content = json.loads((tmp_path / "authority").read_text())
    del content["extra"]["local_name"]
    (tmp_path / "authority").write_text(json.dumps(content))
    issue = ("connections", "issue", "orders", "--authority-file", tmp_path / "authority", "--label", "x")
    assert run(*issue, "--role", "application", "--out", tmp_path / "x").code == 0
    assert local_name(tmp_path / "x") == HostPort("db.internal", 5432)
    content["extra"]["local_name"] = "localhost:1"
    (tmp_path / "authority").write_text(json.dumps(content))
    result = run(*issue, "--role", "application", "--out", tmp_path / "y")
    assert result.code == 2
    assert "authority file is damaged" in result.err


def test_issuing_with_another_one(run: Run, created: Created, tmp_path: Path) -> None:
    issue = ("connections", "issue", "orders", "--authority-file", created.authority, "--label", "x")
    name = ("--local-name", str(NAME))
    assert run(*issue, "--role", "application", "--out", tmp_path / "x", *name).code == 0
    assert local_name(tmp_path / "x") == NAME
    result = run(*issue, "--role", "connector", "--out", tmp_path / "y", *name)
    assert result.code == 2
    assert "a local name is for applications" in result.err
    assert not (tmp_path / "y").exists()


def test_a_claim_has_it(run: Run, created: Created) -> None:
    result = run(
        "claims", "create", "orders", "--role", "application", "--label", "billing", "--json",
        "--authority-file", created.authority, "--state", created.state, "--local-name", str(NAME),
    )  # fmt: skip
    code = parse_claim_code_untrusted(json.loads(result.out)["code"])
    with SQLiteStore.open(created.state) as store:
        (claim,) = store.claims("orders")
    assert claim.sealed is not None
    assert NAME.host.encode() not in claim.sealed
    content = open_claim_untrusted(ClaimKeys.of(code), claim.sealed)
    assert isinstance(content, ConnectionString)
    assert content.local_name == NAME
    existing = (
        "claims",
        "create",
        "orders",
        "--connection-string-file",
        created.application,
        "--state",
        created.state,
    )
    result = run(*existing, "--local-name", str(NAME))
    assert result.code == 2
    assert "--local-name and --connection-string-file" in result.err


def test_a_changed_local_name_is_in_the_files_that_are_named(run: Run, created: Created, tmp_path: Path) -> None:
    before = load_connection_string(created.application)
    change = ("connections", "set-local-name", "orders", "--local-name")
    result = run(*change, str(NAME), "--update", created.application, created.authority)
    assert (result.code, result.err) == (0, "")
    after = load_connection_string(created.application)
    assert (after.local_name, after.key, after.identity) == (NAME, before.key, before.identity)
    issue = ("connections", "issue", "orders", "--authority-file", created.authority, "--label", "x")
    assert run(*issue, "--role", "application", "--out", tmp_path / "x").code == 0
    assert local_name(tmp_path / "x") == NAME
    assert run(*change, "none", "--update", created.application).code == 0
    assert local_name(created.application) is None


@pytest.mark.parametrize(
    ("name", "files", "says"),
    [
        ("orders", (), "there is no file to change"),
        ("orders", ("application", "connector"), "which has no local name"),
        ("billing", ("application",), "is for orders, not for billing"),
        ("billing", ("authority",), "is for orders, not for billing"),
    ],
)
def test_what_is_refused_changes_nothing(
    run: Run, created: Created, name: str, files: tuple[str, ...], says: str
) -> None:
    paths = [getattr(created, file) for file in files]
    before = [path.read_bytes() for path in paths]
    result = run(
        "connections", "set-local-name", name, "--local-name", "db:1", *(("--update", *paths) if paths else ())
    )
    assert (result.code, result.out) == (2, "")
    assert says in result.err
    assert [path.read_bytes() for path in paths] == before


def test_another_target_does_not_change_it(run: Run, created: Created) -> None:
    target = (
        "connections",
        "set-target",
        "orders",
        "--target",
        "db2:1",
        "--update",
        created.connector,
        created.authority,
    )
    assert run(*target).code == 0
    change = ("connections", "set-local-name", "orders", "--local-name")
    assert run(*change, "none", "--update", created.application).code == 0
    issue = ("connections", "issue", "orders", "--authority-file", created.authority, "--label", "x")
    out = created.application.with_name("x")
    assert run(*issue, "--role", "application", "--out", out).code == 0
    assert local_name(out) == HostPort("db.internal", 5432)


def test_a_declared_local_name_is_applied(run: Run, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    out, file = tmp_path / "out", tmp_path / "databases.toml"
    application = '[[connection.application]]\nlabel = "x"\n'

    def apply(declared: str, more: str = "") -> str:
        file.write_text(
            f'endpoint = "relay.example"\n[[connection]]\nname = "a"\ntarget = "db.internal:1"\n{declared}{more}'
        )
        result = run("connections", "apply", file, "--out", out, "--state", tmp_path / "state")
        assert result.code == 0, result.err
        return result.out

    def names() -> list[HostTarget | None]:
        return [local_name(path) for path in sorted(out.glob("*.application"))]

    apply("")
    assert names() == [HostPort("db.internal", 1)]
    assert "nothing was changed" in apply(f'local-name = "{HostPort("db.internal", 1)}"\n')
    assert f"change the local name of a to {NAME}" in apply(f'local-name = "{NAME}"\n', application)
    assert names() == [NAME, NAME]
    assert "nothing was changed" in apply("", application), "what is not declared stays as it is"
    assert "change the local name of a to none" in apply('local-name = "none"\n', application)
    assert names() == [None, None]
