"""``hybridrelay policy``, and commands that the policy of the machine refuses."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from hybridrelay.cli import exits
from hybridrelay.security import load_connection_string

from .conftest import Created, Run

NO_DATAGRAMS = "AllowUdp is not set in the policy of the machine (datagrams need AllowUdp = true)"


@pytest.fixture
def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The policy file of the machine, which has no rules yet."""
    path = tmp_path / "policy.d" / "10.toml"
    path.parent.mkdir(mode=0o755)
    path.touch(mode=0o644)
    monkeypatch.setattr("hybridrelay.policy.machine.DIRECTORY", path.parent)
    monkeypatch.setattr("hybridrelay.policy.machine.OWNER", os.getuid())
    return path


def test_the_rules_in_force_are_shown_with_their_places(run: Run, policy: Path, tmp_path: Path) -> None:
    assert run("policy", "show").out == (
        "there are no rules, so everything but datagrams (UDP) is allowed\n\n"
        f"Datagrams (UDP) are denied: {NO_DATAGRAMS}.\n\nread: {policy.parent}\n"
    )
    policy.write_text("MaxStreams = 5\nDeniedTargets = [\n  '*:22',\n  '[::1]:*',\n]\n")
    (policy.parent / "20.conf").touch()
    more = tmp_path / "more"
    more.mkdir()
    (more / "a.toml").write_text("MaxStreams = 9\n")

    result = run("policy", "show", "--policy-dir", more)

    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines() == [
        "KEY            VALUE    WHERE",
        f"DeniedTargets  *:22     {policy}:3",
        f"DeniedTargets  [::1]:*  {policy}:4",
        f"MaxStreams     5        {policy}:1",
        f"MaxStreams     9        {more}/a.toml:1",
        "",
        f"Datagrams (UDP) are denied: {NO_DATAGRAMS}.",
        "",
        f"read: {policy.parent} (not read: 20.conf)",
        f"read: {more}",
        "Only what all files allow is allowed.",
    ]
    shown = json.loads(run("policy", "show", "--json").out)
    assert shown == {
        "sources": [{"place": str(policy.parent), "exists": True, "ignored": ["20.conf"]}],
        "datagrams_allowed": False,
        "rules": [
            {"key": key, "value": value, "file": str(policy), "line": line, "place": f"{policy}:{line}"}
            for key, value, line in (
                ("DeniedTargets", "*:22", 3),
                ("DeniedTargets", "[::1]:*", 4),
                ("MaxStreams", "5", 1),
            )
        ],
    }


def test_show_says_that_there_is_no_directory(run: Run, policy: Path) -> None:
    policy.unlink()
    policy.parent.rmdir()

    assert f"read: {policy.parent} (does not exist)" in run("policy", "show").out


@pytest.mark.parametrize("command", ["show", "check db:1"])
def test_a_policy_that_cannot_be_used_is_an_error(run: Run, policy: Path, command: str) -> None:
    policy.write_text("\nDenyTargets = []\n")

    result = run("policy", *command.split())

    assert (result.code, result.out) == (exits.USAGE, "")
    assert f"{policy}:2: unknown key 'DenyTargets'" in result.err
    assert "did you mean DeniedTargets?" in result.err


@pytest.mark.parametrize(
    ("text", "arguments", "code", "says"),
    [
        ("", "10.1.2.3:22", 0, "allowed: 10.1.2.3:22"),
        ("DeniedTargets = ['*:22']", "db:22", 3, 'denied: db:22: DeniedTargets "*:22" ({policy}:1) denies db:22'),
        (
            "DeniedTargets = ['10.0.0.0/8:*']",
            "10.1.2.3:22",
            3,
            'denied: 10.1.2.3:22: DeniedTargets "10.0.0.0/8:*" ({policy}:1) denies 10.1.2.3:22',
        ),
        (
            "AllowedTargets = ['127.0.0.0/8:*']",
            "127.0.0.1:1",
            0,
            "allowed: 127.0.0.1:1",
        ),
        (
            "DeniedIdentities = ['billing']",
            "10.1.2.3:1 --label billing",
            3,
            "denied: 10.1.2.3:1: DeniedIdentities: label billing ({policy}:1)",
        ),
        ("DeniedIdentities = ['billing']", "10.1.2.3:1 --label other", 0, "allowed: 10.1.2.3:1"),
        ("DeniedIdentities = ['0A']", "10.1.2.3:1 --serial 0a", 3, "serial 0A ({policy}:1)"),
        ("AllowedHours = []", "10.1.2.3:1", 3, "AllowedHours ({policy}:1) does not allow"),
        ("AllowedTargets = ['unix:/nowhere/*']", "unix:/nowhere/a", 0, "allowed: unix:/nowhere/a\n"),
        (
            "AllowedTargets = ['unix:/nowhere/*']",
            "unix:/nowhere/../x",
            3,
            "denied: unix:/nowhere/../x at /x: AllowedTargets ({policy}:1) does not allow unix:/nowhere/../x at /x",
        ),
        ("AllowedTargets = ['*:*']", "unix:/nowhere/a", 3, "AllowedTargets ({policy}:1) does not allow"),
        ("", "10.1.2.3:53/udp", 3, "denied: 10.1.2.3:53/udp: AllowUdp is not set in the policy of the machine"),
        ("", "10.1.2.3:53/tcp+udp", 3, "allowed: 10.1.2.3:53\ndenied: 10.1.2.3:53/udp: AllowUdp is not set"),
        ("AllowUdp = false", "10.1.2.3:53/udp", 3, "denied: 10.1.2.3:53/udp: AllowUdp = false ({policy}:1)"),
        ("AllowUdp = true", "10.1.2.3:53/tcp+udp", 0, "allowed: 10.1.2.3:53\nallowed: 10.1.2.3:53/udp\n"),
    ],
)
def test_a_check_says_what_would_be_decided_and_why(
    run: Run, policy: Path, text: str, arguments: str, code: int, says: str
) -> None:
    policy.write_text(f"{text}\n")

    result = run("policy", "check", *arguments.split())

    assert (result.code, result.err) == (code, "")
    assert says.format(policy=policy) in result.out


def test_every_address_of_a_name_is_checked(run: Run, policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connector does the same: it dials the addresses that are allowed."""
    policy.write_text("AllowedTargets = ['10.0.0.0/8:*']\n")

    def resolve(host: str, port: int, **options: object) -> list[tuple[object, ...]]:
        if host == "unknown":
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [(2, 1, 6, "", (address, port)) for address in ("11.0.0.1", "10.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    result = run("policy", "check", "db:1", "--json")
    assert (result.code, json.loads(result.out)) == (
        0,
        {
            "allowed": True,
            "target": "db:1",
            "results": [
                {
                    "target": "db:1",
                    "address": "11.0.0.1",
                    "allowed": False,
                    "rule": f"AllowedTargets ({policy}:1) does not allow db:1 at 11.0.0.1",
                },
                {"target": "db:1", "address": "10.0.0.1", "allowed": True, "rule": ""},
            ],
            "relays": [],
            "authority": None,
        },
    )
    assert "allowed: db:1 at 10.0.0.1" in run("policy", "check", "db:1").out
    policy.write_text("AllowedTargets = ['10.0.0.0/8:1-3']\n")
    result = run("policy", "check", "db:2-5,1")
    assert result.code == exits.DENIED, "not every port is allowed"
    assert result.out.splitlines() == [
        f"denied: db:2-3,1 at 11.0.0.1: AllowedTargets ({policy}:1) does not allow db:2 at 11.0.0.1",
        "allowed: db:2-3,1 at 10.0.0.1",
        f"denied: db:4-5: AllowedTargets ({policy}:1) does not allow db:4",
    ]
    assert run("policy", "check", "db:1-3").code == 0
    policy.write_text("AllowedTargets = ['10.0.0.0/8:*']\n")
    result = run("policy", "check", "unknown:1")
    assert result.code == exits.FAILED
    assert "unknown cannot be resolved here, and the policy has rules about addresses" in result.err
    policy.write_text("AllowedTargets = ['unknown:*']\n")
    assert run("policy", "check", "unknown:1").code == 0


def test_a_connection_string_is_checked_and_shown(run: Run, policy: Path, created: Created) -> None:
    check = ("policy", "check", "--connection-string-file")
    policy.write_text("DeniedTargets = ['*:1']\n")
    shown = run(*check, created.application).out
    authority = next(line.split()[1] for line in shown.splitlines() if line.startswith("authority: "))
    (host,) = load_connection_string(created.application).hosts
    assert f"relay: {host}\n" in shown
    assert "allowed: orders\n" in shown

    policy.write_text(f"AllowedAuthorities = ['{authority}']\nAllowedRelays = ['{host}']\n")
    assert run(*check, created.application).code == 0
    policy.write_text("AllowedRelays = ['other']\n")
    result = run(*check, created.connector)
    assert (result.code, result.err) == (exits.DENIED, "")
    assert f"AllowedRelays ({policy}:1) does not allow {host}" in result.out


def test_there_has_to_be_something_to_check(run: Run, policy: Path) -> None:
    result = run("policy", "check")

    assert result.code == exits.USAGE
    assert "name a target, or a connection string file" in result.err


@pytest.mark.parametrize("name", ["toml", "admx", "adml", "mobileconfig"])
def test_there_is_a_template_in_each_format(run: Run, name: str) -> None:
    result = run("policy", "template", name)

    assert (result.code, result.err) == (0, "")
    assert "AllowedTargets" in result.out


def test_what_is_denied_is_not_created(run: Run, policy: Path, tmp_path: Path) -> None:
    policy.write_text("DeniedTargets = ['*:22']\n")
    files = [tmp_path / name for name in ("c", "a", "b", "r")]
    options = ("--connector-file", "--application-file", "--authority-file", "--relay-file")
    paths = [part for pair in zip(options, files, strict=True) for part in pair]
    create = ("connections", "create", "orders", "--endpoint", "relay.example.com", *paths, "--target")

    result = run(*create, "db:22")

    assert (result.code, result.out) == (exits.DENIED, "")
    assert f'orders is denied by policy: DeniedTargets "*:22" ({policy}:1) denies db:22' in result.err
    assert not any(path.exists() for path in files)
    assert run(*create, "db:5432").code == 0


def test_a_target_that_is_denied_is_not_written(run: Run, policy: Path, created: Created) -> None:
    policy.write_text("DeniedTargets = ['*:22']\n")
    before = created.connector.read_bytes()

    result = run("connections", "set-target", "orders", "--target", "db:22", "--update", created.connector)

    assert result.code == exits.DENIED
    assert created.connector.read_bytes() == before


def test_what_is_denied_is_not_applied(run: Run, policy: Path, tmp_path: Path) -> None:
    policy.write_text("DeniedTargets = ['*:22']\n")
    declared = tmp_path / "connections.toml"
    tables = "[[connection]]\nname = '{}'\ntarget = 'db:{}'\nendpoint = 'relay.example.com'\n"
    declared.write_text(tables.format("orders", 5432) + tables.format("shell", 22))

    result = run("connections", "apply", declared, "--out", tmp_path / "out", "--state", tmp_path / "state")

    assert (result.code, result.out) == (exits.DENIED, "")
    assert f"{declared}: line 5: shell is denied by policy: DeniedTargets" in result.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["connector", "forward"])
@pytest.mark.parametrize("where", ["machine", "--policy-dir"])
def test_a_program_that_is_denied_does_not_start(
    run: Run, policy: Path, created: Created, tmp_path: Path, command: str, where: str
) -> None:
    options: tuple[str | Path, ...] = ()
    file = policy
    if where == "--policy-dir":
        file = tmp_path / "more" / "x.toml"
        file.parent.mkdir()
        options = ("--policy-dir", file.parent)
    file.write_text("AllowHybridConnections = false\n")
    string = created.connector if command == "connector" else created.application

    result = run(command, "--connection-string-file", string, *options)

    assert (result.code, result.out) == (exits.DENIED, "")
    assert f"orders is denied by policy: AllowHybridConnections = false ({file}:1)" in result.err
