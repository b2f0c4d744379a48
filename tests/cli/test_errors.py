"""Wrong input gets a line for people, an exit code, and nothing secret is repeated."""

from __future__ import annotations

import io
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from hybridrelay.cli.commands import connector
from hybridrelay.cli.parser import build_parser
from hybridrelay.errors import ConfigurationError
from hybridrelay.relay import SQLiteStore
from hybridrelay.security import ENVIRONMENT_VARIABLE

from .conftest import Created, Run

KEY = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3I="


STRING = f"Endpoint=hr://relay.example.com/;SharedAccessKeyName=application;SharedAccessKey={KEY};EntityPath=orders"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "is empty"),
        ("hello", "it has no fields"),
        ("hello=", "field 'hello' is unknown"),
        (STRING.replace("Endpoint=hr", "Endpoint=http"), "Endpoint is wrong"),
        (STRING.replace("EntityPath=orders", ""), "EntityPath is missing"),
        (STRING.replace("SharedAccessKeyName=application;", ""), "SharedAccessKeyName is missing"),
        (STRING + ";Target=db", "Target is wrong"),
        (STRING + ";RelayPin=x", "RelayPin is wrong"),
        (STRING + ";Ports=http", "Ports is wrong"),
        (STRING + ";PrivateKey=AAAA", "Certificate is missing"),
        (STRING + ";Frobnicate=1", "'Frobnicate' is unknown"),
        (STRING + f";EntityPath={KEY}", "EntityPath appears twice"),
    ],
)
@pytest.mark.parametrize("command", ["connector", "forward", "probe"])
def test_a_malformed_connection_string_names_its_part(
    run: Run, tmp_path: Path, command: str, text: str, part: str
) -> None:
    path = tmp_path / "string"
    path.write_text(text)
    path.chmod(0o600)
    result = run(command, "--connection-string-file", path)

    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("hybridrelay: error: ")
    assert part in result.err
    assert f"error: {path}: " in result.err
    assert KEY not in result.err


@pytest.mark.parametrize("command", ["connector", "forward", "probe"])
def test_strings_come_from_the_environment_and_from_standard_input(
    run: Run, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Endpoint=x")))
    from_input = run(command, "--connection-string-file", "-")
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "Endpoint=x")
    from_environment = run(command)

    assert from_input.code == from_environment.code == 2
    for source, result in (("standard input", from_input), (ENVIRONMENT_VARIABLE, from_environment)):
        assert result.err == (
            f"hybridrelay: error: {source}: the connection string's SharedAccessKeyName is missing\n"
            "  try: use the string that 'hybridrelay connections create' or 'connections issue' wrote\n"
        )


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("garbage", "it has to hold the one line that 'hybridrelay connections create'"),
        ("./connector.txt", "it has to hold the one line that 'hybridrelay connections create'"),
        ("", "use the string that 'hybridrelay connections create'"),
        (STRING.replace("EntityPath=orders", ""), "EntityPath is the name of the hybrid connection"),
    ],
)
def test_the_advice_about_a_file_is_not_that_about_its_name(run: Run, tmp_path: Path, text: str, advice: str) -> None:
    path = tmp_path / "string"
    path.write_text(text)
    path.chmod(0o600)
    result = run("forward", "--connection-string-file", path)

    assert "\n  try: " in result.err
    assert advice in result.err
    assert "not its name" not in result.err


@pytest.mark.parametrize("command", ["connector", "forward", "probe"])
def test_no_string_at_all(run: Run, command: str) -> None:
    result = run(command)

    assert result.code == 2
    assert result.err == (
        "hybridrelay: error: no connection string was given\n"
        f"  try: name a file, or set {ENVIRONMENT_VARIABLE}, or use - for standard input\n"
    )


@pytest.mark.parametrize(
    ("text", "message", "advice"),
    [
        ("", "names no connection string", "add a table [[connection]]"),
        ('[[connections]]\nfile = "x"\n', "line 1: unknown key 'connections'", "write [[connection]]"),
        ('[[connection]]\nfile = "x"\n', "line 1: cannot read the connection string file", "directory of that file"),
    ],
)
@pytest.mark.parametrize("command", ["connector", "forward"])
def test_a_configuration_file_without_a_connection_string(
    run: Run, tmp_path: Path, command: str, text: str, message: str, advice: str
) -> None:
    (tmp_path / "file.toml").write_text(text)
    result = run(command, "--config", tmp_path / "file.toml")

    assert result.code == 2
    error, _, remedy = result.err.partition("  try: ")
    assert message in error
    assert advice in remedy


@pytest.mark.parametrize("command", ["connector", "forward", "probe"])
def test_a_missing_file_is_named(run: Run, tmp_path: Path, command: str) -> None:
    result = run(command, "--connection-string-file", tmp_path / "missing")

    assert result.code == 2
    assert f"cannot read the connection string file {tmp_path / 'missing'}: No such file" in result.err


def test_of_several_files_the_wrong_one_is_named(run: Run, created: Created, tmp_path: Path) -> None:
    (tmp_path / "bad").write_text("Endpoint=x")
    result = run("connector", "--connection-string-file", created.connector, tmp_path / "bad")

    assert result.code == 2
    assert f"{tmp_path / 'bad'}: the connection string's SharedAccessKeyName is missing" in result.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("forward", STRING),
        ("forward", "--connection-string", STRING),
        ("connector", "--connection-string-file", STRING),
        ("probe", "--connection-string-file", STRING),
        (STRING,),
        ("connections", "create", STRING),
    ],
)
def test_a_connection_string_in_argv_is_refused_and_not_repeated(arguments: tuple[str, ...]) -> None:
    """It runs as a process, because that is where arguments come from."""
    done = subprocess.run(
        [sys.executable, "-m", "hybridrelay", *arguments], check=False, capture_output=True, text=True, timeout=60
    )

    assert (done.returncode, done.stdout) == (2, "")
    assert "a connection string was given" in done.stderr
    assert KEY not in done.stderr


@pytest.mark.parametrize(
    ("command", "role"), [("connector", "application"), ("forward", "connector")], ids=["connector", "forward"]
)
def test_the_other_sides_string(run: Run, created: Created, command: str, role: str) -> None:
    path = getattr(created, role)
    result = run(command, "--connection-string-file", path)

    assert result.code == 2
    assert f"error: {path}: " in result.err
    assert "  try: " in result.err


@pytest.mark.parametrize("command", ["connector", "forward"])
def test_a_string_without_an_identity(run: Run, tmp_path: Path, command: str) -> None:
    path = tmp_path / "string"
    path.write_text(STRING + (";Target=db:5432" if command == "connector" else ""))
    path.chmod(0o600)
    result = run(command, "--connection-string-file", path)

    assert result.code == 2
    assert f"error: {path}: the connection string has no PrivateKey" in result.err


def test_a_string_with_the_other_sides_identity(run: Run, created: Created, tmp_path: Path) -> None:
    fields = [path.read_text().strip().split(";") for path in (created.application, created.connector)]
    application, connector = (dict(field.split("=", 1) for field in side) for side in fields)
    mixed = {**application, **{name: connector[name] for name in ("PrivateKey", "Certificate")}}
    path = tmp_path / "mixed"
    path.write_text(";".join(f"{name}={value}" for name, value in mixed.items()))
    path.chmod(0o600)
    result = run("forward", "--connection-string-file", path)

    assert result.code == 2
    assert f"error: {path}: the connection string is an application's for orders, and the identity" in result.err
    assert "is a connector's for orders\n" in result.err


@pytest.mark.parametrize("command", ["connector", "forward", "probe"])
def test_an_unknown_mode_is_refused_with_the_known_ones(run: Run, created: Created, command: str) -> None:
    path = created.connector if command == "connector" else created.application
    result = run(command, "--connection-string-file", path, "--mode", "pigeon")

    assert result.code == 2
    assert "unknown mode 'pigeon'" in result.err
    assert "auto, exec, tcp, websocket" in result.err


def test_pairs_that_do_not_match(run: Run, created: Created) -> None:
    result = run(
        "forward",
        "--connection-string-file", created.application, created.application,
        "--listen", "127.0.0.1:0", "--listen", "127.0.0.1:0", "--listen", "127.0.0.1:0",
    )  # fmt: skip

    assert result.code == 2
    assert "3 times --listen for 2 connection strings\n" in result.err
    assert "--config" in result.err


def test_standard_input_has_only_one_connection_string(run: Run) -> None:
    result = run("connector", "--connection-string-file", "-", "-")

    assert result.code == 2
    assert "standard input (-) holds one connection string" in result.err


def test_a_deny_list_that_is_not_there(run: Run, created: Created, tmp_path: Path) -> None:
    result = run("connector", "--connection-string-file", created.connector, "--deny-list", tmp_path / "missing")

    assert result.code == 2
    assert "cannot read the deny list" in result.err


# --- the relay


def test_a_relay_without_a_state_directory(run: Run) -> None:
    result = run("relay")

    assert result.code == 2
    assert "no state directory was given" in result.err


def test_an_unknown_port_is_refused_with_the_known_ones(run: Run, tmp_path: Path) -> None:
    result = run("relay", "--state", tmp_path / "state", "--ports", "pigeons=1")

    assert result.code == 2
    assert "unknown port 'pigeons'" in result.err
    assert "control, data, http, https, probe" in result.err


def test_a_key_without_its_certificate(run: Run, tmp_path: Path) -> None:
    result = run("relay", "--state", tmp_path / "state", "--tls-key", tmp_path / "key")

    assert result.code == 2
    assert "--tls-key needs --tls-certificate" in result.err


@pytest.mark.parametrize(
    "command",
    [("relay",), ("connections", "list"), ("connections", "show", "x"), ("keys", "list", "x")],
    ids=" ".join,
)
def test_a_state_directory_that_cannot_be_one(run: Run, tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "file").write_text("")
    result = run(*command, "--state", tmp_path / "file" / "state")

    assert (result.code, result.out) == (2, "")
    assert "  try: " in result.err


@pytest.mark.parametrize(
    "command",
    [("relay",), ("connections", "list"), ("connections", "delete", "orders"), ("keys", "list", "orders")],
    ids=" ".join,
)
def test_a_state_directory_of_a_newer_version(run: Run, tmp_path: Path, command: tuple[str, ...]) -> None:
    state = tmp_path / "state"
    with SQLiteStore.open(state):
        pass
    database = sqlite3.connect(state / "registry.db")
    with database:
        database.execute("UPDATE meta SET value = '999' WHERE name = 'schema_version'")
    database.close()
    result = run(*command, "--state", state)

    assert (result.code, result.out) == (2, "")
    assert "was written by a newer version" in result.err
    assert "upgrade hybridrelay" in result.err


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize(
    "command",
    [
        ("relay",),
        ("connections", "list"),
        ("connections", "delete", "orders"),
        ("keys", "regenerate", "orders", "--rule", "application", "--key", "primary"),
    ],
    ids=" ".join,
)
def test_commands_as_another_user_are_refused(run: Run, created: Created, command: tuple[str, ...]) -> None:
    os.chown(created.state, 12345, 12345)
    result = run(*command, "--state", created.state)

    assert (result.code, result.out) == (2, "")
    assert "belongs to the user" in result.err
    assert "sudo -u" in result.err


def test_the_address_to_listen_on(run: Run) -> None:
    assert "unknown argument --port; did you mean --listen?" in run("forward", "--port", "15433").err
    assert "expected host:port, such as 127.0.0.1:5432" in run("forward", "--listen", "15433").err


@pytest.mark.parametrize(
    ("command", "what"),
    [
        (("forward", "--connection-string-file"), "the connection string file"),
        (("relay", "--config"), "the configuration file"),
    ],
)
def test_a_missing_file_has_a_remedy(run: Run, tmp_path: Path, command: tuple[str, ...], what: str) -> None:
    missing = run(*command, tmp_path / "missing")
    directory = run(*command, tmp_path)

    assert missing.code == directory.code == 2
    assert f"cannot read {what}" in missing.err
    assert "  try: check the path" in missing.err
    assert "  try: name a file, not a directory" in directory.err


def test_a_policy_file_is_read_before_anything_starts(created: Created, tmp_path: Path) -> None:
    (tmp_path / "deny-list").write_bytes(b"\xff\xfe\xff")
    files = ["--connection-string-file", str(created.connector), "--deny-list", str(tmp_path / "deny-list")]
    args = build_parser().parse_args(["connector", *files])

    with pytest.raises(ConfigurationError, match="deny-list"):
        connector.run(args)
