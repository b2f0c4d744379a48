"""``hybridrelay hosts``, and the addresses on which ``forward --listen own`` listens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hybridrelay._own_address import own_addresses

from .conftest import Created, Run

NAME = "db.internal"


@pytest.fixture
def hosts(tmp_path: Path) -> Path:
    path = tmp_path / "hosts"
    path.write_text("127.0.0.1 localhost\n")
    return path


def test_addresses_are_stable_and_differ() -> None:
    names = [f"host{number}.corp.example" for number in range(3000)]
    found = own_addresses(names)
    assert len(set(found.values())) == len(names)
    assert own_addresses(reversed(names)) == found
    assert own_addresses([NAME]) == {NAME: "127.104.143.33"}, "programs that run rely on it: it must never change"
    for address in found.values():
        first, second, _, last = map(int, address.split("."))
        assert first == 127
        assert 64 <= second < 128
        assert 1 <= last <= 254


def test_apply_show_and_remove(run: Run, created: Created, hosts: Path) -> None:
    before = hosts.read_bytes()
    apply = ("hosts", "apply", "--connection-string-file", created.application, "--hosts-file", hosts)
    result = run(*apply, "--dry-run")
    assert (result.code, result.err) == (0, "")
    assert f"would change {hosts}" in result.out
    assert hosts.read_bytes() == before
    result = run(*apply)
    assert result.code == 0
    assert f"updated {hosts}" in result.out
    address = own_addresses([NAME])[NAME]
    assert f"{address}\t{NAME}\t# hybridrelay\n" in hosts.read_text()
    assert "nothing was changed" in run(*apply).out
    assert json.loads(run("hosts", "show", "--json", "--hosts-file", hosts).out) == [
        {"address": address, "name": NAME}
    ]
    assert NAME in run("hosts", "show", "--hosts-file", hosts).out
    assert f"updated {hosts}" in run("hosts", "remove", "--hosts-file", hosts).out
    assert hosts.read_bytes() == before
    assert "has no names" in run("hosts", "show", "--hosts-file", hosts).out


def test_names_of_a_configuration_file(run: Run, created: Created, hosts: Path, tmp_path: Path) -> None:
    other, third = tmp_path / "other", tmp_path / "third"
    issue = ("connections", "issue", "orders", "--authority-file", created.authority, "--role", "application")
    for path, name in ((other, "web.corp.example:80"), (third, f"{NAME}:5433")):
        assert run(*issue, "--label", path.name, "--out", path, "--local-name", name).code == 0
    config = tmp_path / "forward.toml"
    config.write_text(
        'listen = "own"\ngrace = 3\nlog-level = "error"\nstatus = "127.0.0.1:0"\n'
        f'[[connection]]\nfile = "{created.application}"\n'
        f'[[connection]]\nfile = "{other}"\nlisten = ["0.0.0.0:8080", "unix:/run/x", "[::1]:80"]\n'
        f'[[connection]]\nfile = "{third}"\nlisten = "own"\n'
    )
    result = run("hosts", "apply", "--config", config, "--hosts-file", hosts)
    assert (result.code, result.err) == (0, "")
    shown = json.loads(run("hosts", "show", "--json", "--hosts-file", hosts).out)
    assert shown == [
        {"address": own_addresses([NAME])[NAME], "name": NAME},
        {"address": "127.0.0.1", "name": "web.corp.example"},
        {"address": "::1", "name": "web.corp.example"},
    ]


def test_a_name_that_another_line_has_is_reported(run: Run, created: Created, hosts: Path) -> None:
    hosts.write_text(f"127.0.0.1 localhost\n10.0.0.1 {NAME}\n")
    result = run("hosts", "apply", "--connection-string-file", created.application, "--hosts-file", hosts)
    assert result.code == 0
    assert f"line 2 of {hosts} already has {NAME}" in result.out


def test_strings_without_a_local_name(run: Run, created: Created, hosts: Path) -> None:
    change = ("connections", "set-local-name", "orders", "--local-name")
    apply = ("hosts", "apply", "--connection-string-file", created.application, "--hosts-file", hosts)
    assert run(*change, "10.1.2.3:5432", "--update", created.application).code == 0
    result = run(*apply)
    assert result.code == 2
    assert "no hybrid connection has both a local name" in result.err
    assert run(*change, "none", "--update", created.application).code == 0
    result = run(*apply)
    assert result.code == 2
    assert "has no local name, from which the ports are taken" in result.err
    assert "connections set-local-name orders" in result.err


def test_a_port_that_differs_in_every_run_gets_no_name(
    run: Run, created: Created, hosts: Path, tmp_path: Path
) -> None:
    config = tmp_path / "forward.toml"
    config.write_text(f'[[connection]]\nfile = "{created.application}"\n')
    result = run("hosts", "apply", "--config", config, "--hosts-file", hosts)
    assert result.code == 2
    assert "let forward use --listen own" in result.err


def test_names_that_fronts_need(run: Run, created: Created) -> None:
    forward = ("forward", "--socks", "127.0.0.1:0", "--connection-string-file", created.application)
    result = run(*forward, created.application)
    assert result.code == 2
    assert f"have the same local name, {NAME}:5432" in result.err
    change = ("connections", "set-local-name", "orders", "--local-name", "none")
    assert run(*change, "--update", created.application).code == 0
    result = run(*forward)
    assert result.code == 2
    assert "cannot be reached by --socks or --http-proxy" in result.err
    assert "connections set-local-name orders --local-name HOST:PORT" in result.err


def test_two_with_the_same_local_name(run: Run, created: Created, hosts: Path, tmp_path: Path) -> None:
    files = ("--connection-string-file", created.application, created.application)
    result = run("forward", *files, "--listen", "own")
    assert result.code == 2
    assert f"this one has {NAME}:5432" in result.err
