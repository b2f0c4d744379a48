"""``hybridrelay connections set-target``."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from hybridrelay.security import HostPort, UnixSocket, load_connection_string

from .conftest import Created, Run


def test_another_target_is_in_the_string_of_the_connector_and_in_later_ones(
    run: Run, created: Created, tmp_path: Path
) -> None:
    """It changes in the connector's string, and in those that are issued later. Nothing else changes."""
    before = load_connection_string(created.connector)
    target = ("connections", "set-target", "orders", "--target", "[fd00::5]:1433")
    result = run(*target, "--update", created.connector, created.authority)

    assert (result.code, result.err) == (0, "")
    assert load_connection_string(created.connector) == attrs.evolve(before, target=HostPort("fd00::5", 1433))
    issue = ("connections", "issue", "orders", "--role", "connector", "--label", "x")
    assert run(*issue, "--authority-file", created.authority, "--out", tmp_path / "x").code == 0
    assert load_connection_string(tmp_path / "x").target == HostPort("fd00::5", 1433)


def test_a_target_becomes_a_unix_socket(run: Run, created: Created, tmp_path: Path) -> None:
    target = ("connections", "set-target", "orders", "--target", "unix:/run/postgresql/.s.PGSQL.5432")
    assert run(*target, "--update", created.connector, created.authority).code == 0
    socket = UnixSocket("/run/postgresql/.s.PGSQL.5432")
    assert load_connection_string(created.connector).target == socket
    issue = ("connections", "issue", "orders", "--role", "connector", "--label", "x")
    assert run(*issue, "--authority-file", created.authority, "--out", tmp_path / "x").code == 0
    assert load_connection_string(tmp_path / "x").target == socket
    issue = ("connections", "issue", "orders", "--role", "application", "--label", "x")
    assert run(*issue, "--authority-file", created.authority, "--out", tmp_path / "y").code == 0


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("/run/db.sock", "write the path of a Unix socket as unix:/path"),
        ("unix:run/db.sock", "expected unix:/path/of/the/socket"),
        ("unix:/run/", "expected unix:/path/of/the/socket"),
        ("unix:/run/a;b", "without ; and *"),
        ("unix:/" + "x" * 1024, "at most 1024"),
    ],
)
def test_what_is_not_a_unix_socket(run: Run, created: Created, target: str, says: str) -> None:
    result = run("connections", "set-target", "orders", "--target", target, "--update", created.connector)
    assert (result.code, says in result.err) == (2, True), result.err


@pytest.mark.parametrize(
    ("name", "files", "says"),
    [
        ("orders", (), "there is no file to change"),
        ("orders", ("connector", "application"), "which has no target"),
        ("billing", ("connector",), "is for orders, not for billing"),
        ("billing", ("authority",), "is for orders, not for billing"),
    ],
)
def test_what_is_refused_changes_nothing(
    run: Run, created: Created, name: str, files: tuple[str, ...], says: str
) -> None:
    paths = [getattr(created, file) for file in files]
    before = [path.read_bytes() for path in paths]
    update = ("--update", *paths) if paths else ()
    result = run("connections", "set-target", name, "--target", "db:1", *update)

    assert (result.code, result.out) == (2, "")
    assert says in result.err
    assert [path.read_bytes() for path in paths] == before


def test_creating_it_again_points_there(run: Run, created: Created, tmp_path: Path) -> None:
    result = run(
        "connections", "create", "orders",
        "--target", "db2:5432",
        "--endpoint", "relay.example.com",
        "--connector-file", tmp_path / "c",
        "--application-file", tmp_path / "a",
        "--authority-file", tmp_path / "b",
        "--state", created.state,
    )  # fmt: skip

    assert result.code == 2
    assert "'connections issue', 'endpoints' and 'set-target'" in result.err
