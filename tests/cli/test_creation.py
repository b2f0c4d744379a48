"""``hybridrelay connections create``: what is written, what is said, and what is never said."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path

import pytest

from hybridrelay.relay import SQLiteStore, load_public_ports
from hybridrelay.relay.store.public_ports import save_public_ports
from hybridrelay.security import (
    ConnectionString,
    Role,
    load_connection_string,
    relay_pin,
)

from .conftest import Created, Run

PIN = "sha256:" + "A" * 43 + "="


def _create(run: Run, tmp_path: Path, *more: str | Path, name: str = "orders") -> tuple[int, str, str]:
    result = run(
        "connections", "create", name,
        "--target", "[fd00::5]:5432",
        "--endpoint", "relay.example.com",
        "--connector-file", tmp_path / "c",
        "--application-file", tmp_path / "a",
        *more,
    )  # fmt: skip
    return result.code, result.out, result.err


def _strings(tmp_path: Path) -> tuple[ConnectionString, ConnectionString]:
    return load_connection_string(tmp_path / "c"), load_connection_string(tmp_path / "a")


def test_on_the_relays_machine(created: Created) -> None:
    connector = load_connection_string(created.connector)
    application = load_connection_string(created.application)
    with SQLiteStore.open(created.state, create=False) as registry:
        known = registry.get("orders")

    assert (connector.role, application.role) == (Role.CONNECTOR, Role.APPLICATION)
    assert str(connector.require_target()) == "db.internal:5432"
    assert connector.hosts == application.hosts == known.hosts == ("relay.example.com",)
    assert connector.relay_pins == application.relay_pins == (relay_pin(created.state / "relay.pem"),)
    assert [one.ports for one in (*connector.endpoints, *application.endpoints)] == [{}, {}]
    for string in (connector, application):
        rule = known.rule(string.key_name)
        assert rule is not None
        assert rule.primary == string.key
        assert string.require_identity()[0].role is string.role


@pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX")
def test_all_files_are_private(created: Created) -> None:
    files = (created.connector, created.application, created.authority)

    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_elsewhere_and_brought_to_the_relay(run: Run, tmp_path: Path) -> None:
    more = ("--relay-pin", PIN, "--relay-pin", PIN, "--public-ports", "http=8080,probe=off")
    code, out, err = _create(run, tmp_path, "--relay-file", tmp_path / "r", *more)

    assert (code, err) == (0, "")
    assert str(tmp_path / "orders.authority") in out
    for string in _strings(tmp_path):
        assert string.relay_pins == (PIN, PIN)
        assert string.endpoints[0].ports == {"http": 8080, "probe": None}
    assert "PRIVATE" not in (tmp_path / "r").read_text().upper(), "the relay has no use for it"

    state = tmp_path / "state"
    result = run("connections", "import", tmp_path / "r", "--state", state)

    assert (result.code, result.err) == (0, "")
    with SQLiteStore.open(state, create=False) as registry:
        known = registry.get("orders")
    assert {rule.name: rule.primary for rule in known.rules} == {s.key_name: s.key for s in _strings(tmp_path)}


TWO = ("--endpoint", "b.example.com", "--relay-pin", PIN, "--relay-pin", "sha256:" + "B" * 42 + "A=")


def test_a_hybrid_connection_may_have_several_relays(run: Run, tmp_path: Path) -> None:
    ports = ("--public-ports", "", "--public-ports", "http=8080")
    code, out, err = _create(run, tmp_path, "--relay-file", tmp_path / "r", *TWO, *ports)

    assert (code, err) == (0, "")
    assert "relays relay.example.com, b.example.com" in out
    assert "each relay" in out
    hosts = ("relay.example.com", "b.example.com")
    for string in _strings(tmp_path):
        assert string.hosts == hosts
        assert [endpoint.ports for endpoint in string.endpoints] == [{}, {"http": 8080}]
        assert string.relay_pins == (PIN, "sha256:" + "B" * 42 + "A=")

    for state in (tmp_path / "state-1", tmp_path / "state-2"):
        result = run("connections", "import", tmp_path / "r", "--state", state)

        assert (result.code, result.err) == (0, "")
        assert "at those of these relays that do not have it yet" in result.out
        with SQLiteStore.open(state, create=False) as registry:
            assert registry.get("orders").hosts == hosts
        shown = json.loads(run("connections", "show", "orders", "--state", state, "--json").out)
        assert (shown["endpoint"], shown["endpoints"]) == (hosts[0], list(hosts))
        assert ", ".join(hosts) in run("connections", "list", "--state", state).out

    rule = ("orders", "--rule", "application", "--key", "primary", "--state", tmp_path / "state-1")
    for command, says in (
        ("regenerate", "give the other relays the same key"),
        ("revoke", "until it is revoked there"),
    ):
        assert f"Its relays are {', '.join(hosts)}" in (told := run("keys", command, *rule).out)
        assert says in told

    out_file = tmp_path / "further"
    result = run(
        "connections", "issue", "orders", "--role", "application", "--label", "x",
        "--authority-file", tmp_path / "orders.authority", "--out", out_file,
    )  # fmt: skip
    assert (result.code, result.err) == (0, "")
    assert load_connection_string(out_file).endpoints == _strings(tmp_path)[1].endpoints


def test_one_list_of_ports_is_for_all_relays(run: Run, tmp_path: Path) -> None:
    _create(run, tmp_path, "--relay-file", tmp_path / "r", *TWO, "--public-ports", "https=8443")

    for string in _strings(tmp_path):
        assert [endpoint.ports for endpoint in string.endpoints] == [{"https": 8443}] * 2


def test_a_pin_that_may_be_missing_is_reported(run: Run, tmp_path: Path) -> None:
    code, out, _ = _create(run, tmp_path, "--relay-file", tmp_path / "r", *TWO[:4])

    assert code == 0
    assert "2 relays, but only 1 --relay-pin" in out


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--endpoint", "RELAY.example.com."), "appears twice"),
        (tuple(part for number in range(8) for part in ("--endpoint", f"h{number}")), "1 to 8 relays"),
        (("--endpoint", "b", *("--public-ports", "http=1") * 3), "3 lists of ports for 2 relays"),
        (("--public-ports", "http=1", "--public-ports", "http=2"), "2 lists of ports for 1 relay:"),
    ],
)
def test_relays_that_cannot_be(run: Run, tmp_path: Path, more: tuple[str, ...], says: str) -> None:
    code, out, err = _create(run, tmp_path, "--relay-file", tmp_path / "r", *more)

    assert (code, out) == (2, "")
    assert says in err
    assert not list(tmp_path.iterdir())


def test_one_state_directory_is_one_relay(run: Run, tmp_path: Path) -> None:
    code, _, err = _create(run, tmp_path, "--state", tmp_path / "state", "--endpoint", "b.example.com")

    assert code == 2
    assert "--relay-file" in err
    assert not list(tmp_path.iterdir())


def test_without_a_pin_it_says_what_that_means(run: Run, tmp_path: Path) -> None:
    code, out, _ = _create(run, tmp_path, "--relay-file", tmp_path / "r")

    assert code == 0
    assert "certificate from a CA" in out
    assert all(string.relay_pins == () for string in _strings(tmp_path))


def test_what_the_state_directory_means_for_trust_is_said(run: Run, tmp_path: Path) -> None:
    code, out, _ = _create(run, tmp_path, "--state", tmp_path / "state")

    assert code == 0
    assert "can impersonate either side" in out


def test_strings_carry_the_ports_that_the_relay_has_left(run: Run, tmp_path: Path) -> None:
    with SQLiteStore.open(tmp_path / "state"):
        save_public_ports(tmp_path / "state", {"http": 8080, "data": None})
    _create(run, tmp_path, "--state", tmp_path / "state")

    assert all(string.endpoints[0].ports == {"http": 8080, "data": None} for string in _strings(tmp_path))


def test_ports_of_the_command_line_win(run: Run, tmp_path: Path) -> None:
    with SQLiteStore.open(tmp_path / "state"):
        save_public_ports(tmp_path / "state", {"http": 8080})
    _create(run, tmp_path, "--state", tmp_path / "state", "--public-ports", "https=8443")

    assert all(string.endpoints[0].ports == {"https": 8443} for string in _strings(tmp_path))
    assert load_public_ports(tmp_path / "state") == {"http": 8080}


def test_a_name_with_a_slash_makes_no_directory(run: Run, tmp_path: Path) -> None:
    code, _, _ = _create(run, tmp_path, "--state", tmp_path / "state", name="shop/orders")

    assert code == 0
    assert (tmp_path / "shop-orders.authority").exists()


@pytest.mark.parametrize("existing", ["c", "a", "orders.authority", "r"])
def test_an_existing_file_stops_it_before_anything_is_written(run: Run, tmp_path: Path, existing: str) -> None:
    (tmp_path / existing).write_text("precious")
    code, out, err = _create(run, tmp_path, "--relay-file", tmp_path / "r")

    assert (code, out) == (2, "")
    assert f"{existing} already exists" in err
    assert "  try: " in err
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {existing: "precious"}


def test_after_an_interrupted_creation_it_says_which_files_to_remove(run: Run, tmp_path: Path) -> None:
    """Files are written before the registry is changed: without an entry there, they are of no use."""
    for name in ("c", "a", "orders.authority"):
        (tmp_path / name).write_text("of the interrupted one")
    code, _, err = _create(run, tmp_path, "--state", tmp_path / "state")

    assert code == 2
    assert "has no hybrid connection 'orders'" in err
    assert all(f"{tmp_path / name}" in err for name in ("c", "a", "orders.authority"))
    for name in ("c", "a", "orders.authority"):
        (tmp_path / name).unlink()
    assert _create(run, tmp_path, "--state", tmp_path / "state")[0] == 0


def test_a_name_that_is_taken_leaves_no_files(run: Run, created: Created, tmp_path: Path) -> None:
    before = created.secrets()
    code, out, err = _create(
        run, tmp_path, "--state", created.state, "--authority-file", tmp_path / "another.authority"
    )

    assert (code, out) == (2, "")
    assert "there is already a hybrid connection 'orders'" in err
    assert not any((tmp_path / name).exists() for name in ("c", "a", "another.authority"))
    assert created.secrets() == before


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ((), "one of --state, --relay-file, --management is needed"),
        (("--relay-file", "r", "--management", "http://127.0.0.1:1"), "cannot be used together"),
        (("--management", "https://r", "--token-file", "t", "--relay-pin", PIN), "cannot be used with --management"),
        (("--state", "s", "--relay-file", "r"), "not allowed with"),
        (("--state", "s", "--relay-pin", PIN), "--relay-pin cannot be used with --state"),
        (("--relay-file", "r", "--relay-pin", "md5:abc"), "a pin begins with sha256:"),
        (("--relay-file", "r", "--public-ports", "http=x"), "a port is a number from"),
        (("--relay-file", "r", "--valid-years", "0"), "at most 100 years"),
    ],
)
def test_wrong_options_create_no_file(run: Run, tmp_path: Path, more: tuple[str, ...], says: str) -> None:
    code, out, err = _create(run, tmp_path, *more)

    assert (code, out) == (2, "")
    assert err.startswith("hybridrelay: error: ")
    assert says in err
    assert list(tmp_path.iterdir()) == []


def test_without_public_ports_the_default_ports_are_printed(run: Run, tmp_path: Path) -> None:
    _, out, _ = _create(run, tmp_path, "--relay-file", tmp_path / "r", "--relay-pin", PIN)

    assert "the defaults (9350, 5671, 9352, 80, 443)" in out
    assert "--public-ports" in out


def test_a_state_directory_that_no_relay_has_used_is_reported(run: Run, tmp_path: Path) -> None:
    state = tmp_path / "stat"
    _, out, _ = _create(run, tmp_path, "--state", state)

    assert f"No relay has been started with the state directory {state}" in out
    assert "default ports (9350, 5671, 9352, 80, 443)" in out

    for file in ("c", "a", "orders.authority"):
        (tmp_path / file).unlink()
    save_public_ports(state, {})
    _, out, _ = _create(run, tmp_path, "--state", state, name="other")
    assert "No relay" not in out


def test_a_misspelled_public_port_causes_a_warning(run: Run, tmp_path: Path) -> None:
    code, _, err = _create(run, tmp_path, "--relay-file", tmp_path / "r", "--public-ports", "htp=8080,https=443")

    assert code == 0
    assert "a port named htp;" in err
    assert "https" in err.partition("the known names are: ")[2]
    assert err.count("a port named") == 1

    result = run(
        "connections", "endpoints", "orders", "--endpoint", "relay.example.com",
        "--public-ports", "htp=8080", "--update", tmp_path / "a",
    )  # fmt: skip
    assert result.code == 0
    assert "a port named htp;" in result.err


def test_a_name_that_exists_is_said_to_exist(run: Run, tmp_path: Path) -> None:
    _create(run, tmp_path, "--state", tmp_path / "state")
    code, _, err = _create(run, tmp_path, "--state", tmp_path / "state")

    assert code == 2
    assert "there is already a hybrid connection 'orders'" in err
    assert "move" not in err

    code, _, err = _create(run, tmp_path, "--relay-file", tmp_path / "r")

    assert code == 2
    assert "perhaps to orders" in err
    assert "keep that file" in err


def test_files_that_were_mixed_up(run: Run, tmp_path: Path) -> None:
    _create(run, tmp_path, "--relay-file", tmp_path / "r", "--relay-pin", PIN)
    authority, application = tmp_path / "orders.authority", tmp_path / "a"
    imports = {authority: "this is an authority file, which must never be on a relay", application: "this is a conn"}
    for path, says in imports.items():
        result = run("connections", "import", path, "--state", tmp_path / "state")

        assert result.code == 2
        assert f"error: {path}: {says}" in result.err
        assert "--relay-file" in result.err
    issue = ("connections", "issue", "orders", "--role", "application", "--label", "x", "--out", tmp_path / "out")
    for path, says in {tmp_path / "r": "not an authority file", application: "this is a connection string"}.items():
        result = run(*issue, "--authority-file", path)

        assert result.code == 2
        assert f"error: {path}: " in result.err
        assert says in result.err
        assert "NAME.authority" in result.err


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--target", "db.internal"),
        ("--target", "::1:5432"),
        ("--target", "db:0"),
        ("--endpoint", "a b"),
        ("NAME", "a//b"),
    ],
)
def test_wrong_names_and_addresses(run: Run, tmp_path: Path, option: str, value: str) -> None:
    given = {"NAME": "orders", "--target": "db:5432", "--endpoint": "relay.example.com", option: value}
    result = run(
        "connections", "create", given["NAME"],
        "--target", given["--target"],
        "--endpoint", given["--endpoint"],
        "--connector-file", tmp_path / "c",
        "--application-file", tmp_path / "a",
        "--relay-file", tmp_path / "r",
    )  # fmt: skip

    assert result.code == 2
    assert f"argument {option}: " in result.err
    assert list(tmp_path.iterdir()) == []
