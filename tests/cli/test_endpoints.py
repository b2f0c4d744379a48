"""``hybridrelay connections endpoints``, and what ``connections import`` says of what is there already."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from hybridrelay.relay import SQLiteStore
from hybridrelay.security import AuthorityFile, ConnectionString, load_connection_string

from .conftest import Created, Result, Run

PINS = ["sha256:" + letter * 42 + "A=" for letter in "AB"]
BOTH = ("--endpoint", "relay.example.com", "--endpoint", "b.example.com")


def _endpoints(run: Run, *more: str | Path) -> Result:
    return run("connections", "endpoints", "orders", *more)


def _files(created: Created) -> tuple[Path, Path, Path]:
    return created.connector, created.application, created.authority


def _issued(run: Run, created: Created, out: Path) -> ConnectionString:
    result = run(
        "connections", "issue", "orders", "--role", "application", "--label", "x",
        "--authority-file", created.authority, "--out", out,
    )  # fmt: skip
    assert result.code == 0
    return load_connection_string(out)


def test_a_second_relay_with_the_same_keys(run: Run, created: Created, tmp_path: Path) -> None:
    record, second = tmp_path / "record", tmp_path / "second"
    secrets = created.secrets()
    before = [load_connection_string(path) for path in (created.connector, created.application)]
    told = _endpoints(run, *BOTH, "--state", created.state, "--relay-file", record)
    imported = run("connections", "import", record, "--state", second)
    pins = [part for pin in PINS for part in ("--relay-pin", pin)]
    ports = ("--public-ports", "", "--public-ports", "http=8080")
    updated = _endpoints(run, *BOTH, *pins, *ports, "--update", *_files(created))

    for result in (told, imported, updated):
        assert (result.code, result.err) == (0, "")
        assert not any(secret in result.out for secret in secrets)
    assert f"import {record} at those of these relays that do not have it yet" in imported.out
    assert "Ports of" not in updated.out
    assert stat.S_IMODE(record.stat().st_mode) == 0o600
    hosts = ("relay.example.com", "b.example.com")
    with SQLiteStore.open(created.state) as one, SQLiteStore.open(second) as another:
        assert one.get("orders").hosts == another.get("orders").hosts == hosts
        assert one.get("orders").rules == another.get("orders").rules
    after = [load_connection_string(path) for path in (created.connector, created.application)]
    for old, new in zip(before, after, strict=True):
        assert (new.key, new.identity, new.target) == (old.key, old.identity, old.target)
        assert (new.hosts, new.relay_pins) == (hosts, tuple(PINS))
        assert [one.ports for one in new.endpoints] == [{}, {"http": 8080}]
    assert _issued(run, created, tmp_path / "issued").endpoints == after[1].endpoints
    assert created.secrets() == secrets


def test_without_ports_and_pins_files_keep_what_they_have(run: Run, created: Created) -> None:
    (pin,) = load_connection_string(created.connector).relay_pins
    _endpoints(run, "--endpoint", "relay.example.com", "--public-ports", "http=1", "--update", *_files(created))
    result = _endpoints(run, "--endpoint", "b", "--endpoint", "RELAY.example.com", "--update", *_files(created))

    assert result.code == 0
    assert "2 relays, but only 1 --relay-pin" in result.out
    assert "Ports of b: the defaults." in result.out
    string = load_connection_string(created.application)
    assert [one.ports for one in string.endpoints] == [{}, {"http": 1}]
    assert string.relay_pins == (pin,)

    result = _endpoints(run, "--endpoint", "b", "--update", *_files(created))
    assert "The pins were not changed" in result.out
    assert "Ports of" not in result.out
    assert load_connection_string(created.application).hosts == ("b",)


def test_other_relays_that_know_it_already_are_mentioned(run: Run, created: Created) -> None:
    first = _endpoints(run, *BOTH, "--state", created.state)
    second = _endpoints(run, *BOTH, "--endpoint", "c.example.com", "--state", created.state)
    third = _endpoints(run, "--endpoint", "c.example.com", "--state", created.state)

    assert (first.code, second.code, third.code) == (0, 0, 0)
    assert [
        "Run this command with --state or --management for each" in result.out for result in (first, second, third)
    ] == [
        False,
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--endpoint", "b"), "there is nothing to change"),
        (("--endpoint", "b", "--relay-file", "r", "--update", "CONNECTOR"), "--relay-file needs --state"),
        (("--endpoint", "b", "--relay-pin", PINS[0], "--state", "STATE"), "need --update"),
        (("--endpoint", "b", "--endpoint", "B.", "--state", "STATE"), "appears twice"),
        ((*BOTH, *("--public-ports", "http=1") * 3, "--update", "CONNECTOR"), "3 lists of ports for 2 relays"),
        (("--endpoint", "b", "--state", "STATE", "--relay-file", "CONNECTOR"), "already exists"),
        (("--endpoint", "b", "--state", "STATE", "--update", "MISSING"), "cannot read"),
        (("--endpoint", "b", *("--relay-pin", PINS[0]) * 99, "--update", "CONNECTOR"), "orders.connector: at most"),
    ],
)
def test_what_cannot_be_changes_nothing(
    run: Run, created: Created, tmp_path: Path, more: tuple[str, ...], says: str
) -> None:
    named = {"CONNECTOR": created.connector, "STATE": created.state, "MISSING": tmp_path / "missing"}
    before = [path.read_bytes() for path in _files(created)]
    result = _endpoints(run, *(named.get(part, part) for part in more))

    assert (result.code, result.out) == (2, "")
    assert says in result.err
    assert [path.read_bytes() for path in _files(created)] == before
    with SQLiteStore.open(created.state) as registry:
        assert registry.get("orders").hosts == ("relay.example.com",)


def test_the_file_of_another_hybrid_connection_is_refused(run: Run, created: Created) -> None:
    result = run("connections", "endpoints", "shop", "--endpoint", "b", "--update", created.authority)

    assert result.code == 2
    assert f"{created.authority} is for orders, not for shop" in result.err


def test_a_damaged_authority_file_is_named(run: Run, created: Created) -> None:
    file = AuthorityFile.parse_untrusted(created.authority.read_text())
    created.authority.write_text(AuthorityFile(file.authority, {**file.extra, "ports": "x"}).format())
    result = _endpoints(run, "--endpoint", "b", "--update", created.authority)

    assert result.code == 2
    assert f"error: {created.authority}: the authority file is damaged" in result.err


def test_a_file_that_cannot_be_written_stops_it_before_the_registry_is_changed(
    run: Run, created: Created, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *_: object) -> None:
        raise OSError(28, "No space left on device", str(path))

    before = created.connector.read_bytes()
    relay_file = tmp_path / "record"
    monkeypatch.setattr("hybridrelay._replace_file.create_file", full)
    result = _endpoints(
        run, "--endpoint", "b", "--state", created.state, "--relay-file", relay_file, "--update", created.connector
    )

    assert (result.code, result.out) == (1, "")
    assert f"nothing was changed, because {created.connector} cannot be written: No space left" in result.err
    assert created.connector.read_bytes() == before
    assert not relay_file.exists()
    with SQLiteStore.open(created.state) as registry:
        assert registry.get("orders").hosts == ("relay.example.com",)


# --- importing what is there already


@pytest.fixture
def record(run: Run, created: Created, tmp_path: Path) -> Path:
    """A relay file of ``orders`` as it is."""
    path = tmp_path / "record"
    assert (
        _endpoints(run, "--endpoint", "relay.example.com", "--state", created.state, "--relay-file", path).code == 0
    )
    return path


def test_importing_again_changes_nothing(run: Run, created: Created, record: Path) -> None:
    with SQLiteStore.open(created.state) as registry:
        before = registry.get("orders")
    result = run("connections", "import", record, "--state", created.state)

    assert (result.code, result.err) == (0, "")
    assert f"orders is already here, and is the same as in {record}: nothing was changed" in result.out
    with SQLiteStore.open(created.state) as registry:
        assert registry.get("orders") == before


@pytest.mark.parametrize(
    ("change", "says", "remedy"),
    [
        ("endpoint", "(endpoint)", "connections endpoints --help"),
        ("keys", "(keys)", "connections delete orders"),
        ("rules", "(rules)", "connections delete orders"),
        ("both", "(endpoint, keys)", "connections delete orders"),
    ],
)
def test_importing_another_one_of_the_same_name(
    run: Run, created: Created, record: Path, change: str, says: str, remedy: str
) -> None:
    content = json.loads(record.read_text())
    if change in {"endpoint", "both"}:
        content["endpoint"] = "b.example.com"
    if change in {"keys", "both"}:
        content["rules"][0]["primary"] = "another-key"
    if change == "rules":
        content["rules"].pop()
    record.write_text(json.dumps(content))
    with SQLiteStore.open(created.state) as registry:
        before = registry.get("orders")
    result = run("connections", "import", record, "--state", created.state)

    assert (result.code, result.out) == (2, "")
    assert f"not the same as in {record} {says}; nothing was changed" in result.err
    assert remedy in result.err
    assert not any(secret in result.err for secret in (*created.secrets(), "another-key"))
    with SQLiteStore.open(created.state) as registry:
        assert registry.get("orders") == before
