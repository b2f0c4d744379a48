"""Commands that administer a relay do the same in three ways: with its store, its socket, and over the network."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hybridrelay.administration import StoreRegistry, read_relay_record
from hybridrelay.management.audit_entries import AuditFilter, read_audit
from hybridrelay.relay import HybridConnection, SQLiteStore
from hybridrelay.relay.store.public_ports import save_public_ports
from hybridrelay.security import KeySlot, Secret, key_fingerprint, load_connection_string, relay_pin
from hybridrelay.streams.unix_sockets import short_path

from .conftest import Result, Run
from .served_relay import Access, served

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets")

PRIMARY, SECONDARY = KeySlot
WAYS = ("store", "socket", "https")
FILES = ("orders.connector", "orders.application", "orders.authority")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """The state directory of a relay that has run, and has no hybrid connection yet."""
    state = tmp_path / "state"
    with StoreRegistry(state_dir=state, create=True) as registry:
        registry.prepare(now=1_700_000_000)
    save_public_ports(state, {"http": 8080})
    return state


@pytest.fixture(params=WAYS)
def access(request: pytest.FixtureRequest, state: Path) -> Iterator[Access]:
    """How commands reach that relay."""
    if request.param == "store":
        yield Access("store", state, ("--state", state))
    else:
        with served(state, over_tcp=request.param == "https") as access:
            yield access


def create(run: Run, access: Access, name: str = "orders") -> Result:
    directory = access.state.parent
    return run(
        "connections", "create", name, "--target", "db.internal:5432", "--endpoint", "relay.example.com",
        "--connector-file", directory / f"{name}.connector", "--application-file", directory / f"{name}.application",
        *access.options,
    )  # fmt: skip


@pytest.fixture
def orders(run: Run, access: Access) -> Access:
    """The same, with the hybrid connection ``orders``."""
    assert create(run, access).code == 0
    return access


def stored(access: Access, name: str = "orders") -> HybridConnection:
    with SQLiteStore.open(access.state, create=False) as store:
        return store.get(name)


def key(access: Access, rule: str, slot: KeySlot = PRIMARY) -> Secret | None:
    found = stored(access).rule(rule)
    assert found is not None
    return found.key(slot)


def is_audited(access: Access, operation: str, status: int = 200) -> bool:
    """Whether the change is in the audit log."""
    if access.name == "store":
        entries = read_audit(access.state, AuditFilter(), 100).entries
        assert {(entry.caller, entry.peer) for entry in entries} == {(f"local uid {os.getuid()}", "local")}
        return (operation, status) in [(entry.operation, entry.status) for entry in entries]
    caller = "token" if access.name == "https" else "local"
    return (operation, caller, status) in access.audited


def test_a_hybrid_connection_is_created_and_audited(run: Run, access: Access) -> None:
    done = create(run, access)
    assert (done.code, done.err) == (0, "")
    directory = access.state.parent
    connector, application = (load_connection_string(directory / name) for name in FILES[:2])
    for string in (connector, application):
        assert string.relay_pins == (relay_pin(access.state / "relay.pem"),)
        assert string.endpoints[0].ports == {"http": 8080}
        assert string.key == key(access, string.key_name)
    assert is_audited(access, "putHybridConnection", 201)
    assert ("Trust: " in done.out) == (access.name != "https")
    private = re.findall(r'"private_key": "([^"]+)"', (directory / "orders.authority").read_text())
    assert private
    assert private[0].encode() not in (access.state / "registry.db").read_bytes()


@pytest.mark.parametrize("has_files", [True, False])
def test_a_name_that_is_taken(run: Run, orders: Access, has_files: bool) -> None:
    paths = [orders.state.parent / name for name in FILES]
    for path in () if has_files else paths:
        path.unlink()
    before = stored(orders), [path.exists() and path.read_bytes() for path in paths]
    again = create(run, orders)
    assert (again.code, again.out) == (2, "")
    assert "there is already a hybrid connection 'orders'" in again.err
    assert (stored(orders), [path.exists() and path.read_bytes() for path in paths]) == before
    assert is_audited(orders, "putHybridConnection", 409 if orders.name == "store" else 412)


def test_a_hybrid_connection_is_imported_and_audited(run: Run, access: Access, tmp_path: Path) -> None:
    record = tmp_path / "elsewhere.relay"
    made = run(
        "connections", "create", "elsewhere", "--target", "db:1", "--endpoint", "a.example", "--relay-file", record,
        "--connector-file", tmp_path / "c", "--application-file", tmp_path / "a",
    )  # fmt: skip
    assert made.code == 0
    done = run("connections", "import", record, *access.options)
    assert (done.code, done.err) == (0, "")
    assert "imported elsewhere (endpoint a.example)" in done.out
    assert f"relay pin {relay_pin(access.state / 'relay.pem')}, ports http=8080" in done.out
    assert set(stored(access, "elsewhere").rules) == set(read_relay_record(record).rules)
    again = run("connections", "import", record, *access.options)
    assert (again.code, "nothing was changed" in again.out) == (0, True)
    assert run("keys", "revoke", "elsewhere", "--rule", "application", "--key", "primary", *access.options).code == 0
    other = run("connections", "import", record, *access.options)
    assert other.code == 2
    assert "not the same as in" in other.err
    assert "(keys)" in other.err
    assert is_audited(access, "putHybridConnection", 409 if access.name == "store" else 412)


def test_imported_without_a_key(run: Run, orders: Access, tmp_path: Path) -> None:
    """A slot that is empty in the file is empty at the relay, and gets no key that nobody knows."""
    for slot in KeySlot:
        assert run("keys", "revoke", "orders", "--rule", "application", "--key", slot, *orders.options).code == 0
    record = tmp_path / "new.relay"
    endpoints = ("--endpoint", "relay.example.com", "--endpoint", "b.example", "--relay-file", record)
    assert run("connections", "endpoints", "orders", *endpoints, *orders.options).code == 0
    assert stored(orders).hosts == ("relay.example.com", "b.example")
    assert set(read_relay_record(record).rules) == set(stored(orders).rules)
    assert run("connections", "delete", "orders", *orders.options).code == 0
    assert run("connections", "import", record, *orders.options).code == 0
    assert [key(orders, "application", slot) for slot in KeySlot] == [None, None]


def test_lists_and_details_agree(run: Run, orders: Access) -> None:
    listed = run("connections", "list", *orders.options)
    assert (listed.code, listed.out.split()[4:7]) == (0, ["orders", "relay.example.com", "application,"])
    (found,) = json.loads(run("connections", "list", "--json", *orders.options).out)
    shown = json.loads(run("connections", "show", "orders", "--json", *orders.options).out)
    assert shown == {**found, "relay_pin": relay_pin(orders.state / "relay.pem"), "public_ports": {"http": 8080}}
    known = key(orders, "application")
    assert known is not None
    assert found["keys"][0]["fingerprint"] == key_fingerprint(known)
    assert (
        f"relay pin {shown['relay_pin']}, ports http=8080"
        in run("connections", "show", "orders", *orders.options).out
    )
    unknown = run("connections", "show", "others", *orders.options)
    assert (unknown.code, unknown.out) == (2, "")
    assert "there is no hybrid connection 'others'" in unknown.err
    assert "orders" in unknown.err


def test_more_than_a_page_is_listed(run: Run, access: Access) -> None:
    with SQLiteStore.open(access.state) as store:
        for number in range(3):
            store.create(f"n{number}", ["relay.example.com"], [])
    found = json.loads(run("connections", "list", "--json", *access.options).out)
    assert [one["name"] for one in found] == ["n0", "n1", "n2"]


def test_a_hybrid_connection_is_disabled_and_enabled(run: Run, orders: Access) -> None:
    for command, disabled in (("disable", True), ("enable", False)):
        done = run("connections", command, "orders", *orders.options)
        assert (done.code, done.err) == (0, "")
        assert done.out.startswith(f"{command}d orders")
        assert stored(orders).disabled == disabled
        assert is_audited(orders, "patchHybridConnection")


def test_a_hybrid_connection_is_deleted_and_audited(run: Run, orders: Access) -> None:
    done = run("connections", "delete", "orders", *orders.options)
    assert (done.code, done.out) == (0, "deleted orders: its connection strings no longer work\n")
    assert is_audited(orders, "deleteHybridConnection", 204)
    again = run("connections", "delete", "orders", *orders.options)
    assert (again.code, "there is no hybrid connection 'orders'" in again.err) == (2, True)


@pytest.mark.parametrize(
    ("command", "operation"),
    [
        (("connections", "delete", "nothing"), "deleteHybridConnection"),
        (("connections", "disable", "nothing"), "patchHybridConnection"),
        (("connections", "endpoints", "nothing", "--endpoint", "b.example"), "patchHybridConnection"),
        (("connections", "limits", "nothing", "--sessions", "3"), "patchHybridConnection"),
        (("editions", "set", "nothing", "--sessions", "3"), "putEdition"),
        (("editions", "use", "nothing"), "putEditionOfRelay"),
        (("rules", "set", "nothing", "--rule", "r", "--rights", "send"), "putAuthorizationRule"),
        (("rules", "delete", "nothing", "--rule", "r"), "deleteAuthorizationRule"),
        (("rules", "delete", "orders", "--rule", "nothing"), "deleteAuthorizationRule"),
        (("keys", "revoke", "nothing", "--rule", "r", "--key", "primary"), "revokeKeys"),
        (("keys", "revoke", "orders", "--rule", "nothing", "--key", "primary"), "revokeKeys"),
        (("keys", "regenerate", "nothing", "--rule", "r", "--key", "primary"), "regenerateKeys"),
        (("keys", "regenerate", "orders", "--rule", "nothing", "--key", "primary"), "regenerateKeys"),
        (("tokens", "revoke", "nothing"), "deleteToken"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_an_attempt_to_change_what_does_not_exist_is_audited(
    run: Run, orders: Access, command: tuple[str, ...], operation: str
) -> None:
    before = stored(orders)
    done = run(*command, *orders.options)
    assert (done.code, done.out) == (2, "")
    assert "nothing" in done.err.replace("nothing was changed", "")
    statuses = (404,) if orders.name == "store" else (404, 412)
    assert any(is_audited(orders, operation, status) for status in statuses)
    assert stored(orders) == before


def test_a_failure_to_show_limits_is_not_recorded_as_a_change(run: Run, orders: Access) -> None:
    done = run("connections", "limits", "nothing", *orders.options)
    assert (done.code, "there is no hybrid connection 'nothing'" in done.err) == (2, True)
    assert not any(is_audited(orders, "patchHybridConnection", status) for status in (404, 412))


def test_endpoints_keep_the_description(run: Run, orders: Access) -> None:
    with SQLiteStore.open(orders.state) as store:
        from hybridrelay.relay.model import Description

        store.change("orders", description=Description("what it is for", {"owner": "Ann"}))
    update = ("--update", orders.state.parent / "orders.application")
    done = run("connections", "endpoints", "orders", "--endpoint", "b.example", *update, *orders.options)
    assert (done.code, done.err) == (0, "")
    assert "orders: endpoint relay.example.com is now b.example" in done.out
    known = stored(orders)
    assert (known.hosts, known.description.text) == (("b.example",), "what it is for")
    assert load_connection_string(update[1]).hosts == ("b.example",)


def test_issued_with_a_key_of_the_relay(run: Run, orders: Access, tmp_path: Path) -> None:
    rule = ("--rule", "reporting")
    assert run("rules", "set", "orders", *rule, "--rights", "send", *orders.options).code == 0
    out = tmp_path / "reporting.application"
    done = run(
        "connections", "issue", "orders", "--role", "application", "--label", "reporting", *rule,
        "--authority-file", tmp_path / "orders.authority", "--out", out, *orders.options,
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    string = load_connection_string(out)
    assert (string.key_name, string.key) == ("reporting", key(orders, "reporting"))
    assert is_audited(orders, "listKeys")


def test_an_attempt_to_use_the_key_of_a_rule_that_does_not_exist_is_audited(
    run: Run, orders: Access, tmp_path: Path
) -> None:
    out = tmp_path / "key"
    done = run("keys", "use", "orders", "--rule", "others", "--key", "primary", "--out", out, *orders.options)
    assert (done.code, "has no rule 'others'" in done.err, out.exists()) == (2, True, False)
    assert is_audited(orders, "listKeys", 404)


def test_rules_are_changed_and_audited(run: Run, orders: Access) -> None:
    where = ("orders", "--rule", "reporting")
    added = run("rules", "set", *where, "--rights", "send", *orders.options)
    assert added.out == "added rule reporting of orders, with two new keys: Send\n"
    assert is_audited(orders, "putAuthorizationRule", 201)
    again = run("rules", "set", *where, "--rights", "send", *orders.options)
    assert again.out == "rule reporting of orders already has these rights: Send\n"
    changed = run("rules", "set", *where, "--rights", "listen", *orders.options)
    assert "changed rule reporting of orders: Listen, before: Send" in changed.out
    found = json.loads(run("rules", "list", "orders", "--json", *orders.options).out)
    assert found[2] == {"rule": "reporting", "rights": ["Listen"], "valid_keys": ["primary", "secondary"]}
    for number in range(9):
        assert run("rules", "set", "orders", "--rule", f"r{number}", "--rights", "send", *orders.options).code == 0
    many = run("rules", "set", "orders", "--rule", "more", "--rights", "send", *orders.options)
    assert (many.code, "at most 12 are allowed" in many.err) == (2, True)
    deleted = run("rules", "delete", *where, *orders.options)
    assert "deleted rule reporting of orders" in deleted.out
    gone = run("rules", "delete", *where, *orders.options)
    assert (gone.code, "has no rule 'reporting'" in gone.err) == (2, True)


def test_keys_are_changed_and_audited(run: Run, orders: Access, tmp_path: Path) -> None:
    rule = ("orders", "--rule", "application")
    old, application = key(orders, "application"), tmp_path / "orders.application"
    used = run("keys", "use", *rule, "--key", "secondary", "--update", application, *orders.options)
    assert (used.code, used.err) == (0, "")
    assert load_connection_string(application).key == key(orders, "application", SECONDARY)
    done = run(
        "keys", "regenerate", *rule, "--key", "primary", "--out", tmp_path / "new-key",
        "--update", application, tmp_path / "orders.authority", *orders.options,
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    assert old is not None
    assert f"the old key (fingerprint {key_fingerprint(old)}) stop working" in done.out
    assert f"{application} uses the secondary key: not changed" in done.out
    new = key(orders, "application")
    assert new is not None
    assert (tmp_path / "new-key").read_text().strip() == new.reveal()
    assert (
        json.loads((tmp_path / "orders.authority").read_text())["extra"]["rules"]["application"]["primary"]
        == new.reveal()
    )
    assert is_audited(orders, "regenerateKeys")
    same = run(
        "keys", "regenerate", *rule, "--key", "secondary", "--new-key-file", tmp_path / "new-key", *orders.options
    )
    assert (same.code, "this is already the primary key of rule application" in same.err) == (2, True)
    found = json.loads(run("keys", "list", "orders", "--json", "--show-keys", *orders.options).out)
    assert found[0]["value"] == new.reveal()
    assert "value" not in json.loads(run("keys", "list", "orders", "--json", *orders.options).out)[0]
    revoked = run("keys", "revoke", *rule, "--key", "primary", *orders.options)
    assert revoked.code == 0
    assert "revoked the primary key" in revoked.out
    again = run("keys", "revoke", *rule, "--key", "primary", *orders.options)
    assert (again.code, "had already been revoked" in again.out) == (0, True)
    assert key(orders, "application") is None
    gone = run("keys", "use", *rule, "--key", "primary", "--update", application, *orders.options)
    assert (gone.code, "is revoked" in gone.err) == (2, True)


def test_tokens_are_created_and_revoked(run: Run, access: Access, tmp_path: Path) -> None:
    out = tmp_path / "ci.secret"
    made = run("tokens", "create", "ci", "--role", "viewer", "--expires", "12h", "--out", out, *access.options)
    assert (made.code, made.err) == (0, "")
    assert out.read_text().strip() not in made.out
    with SQLiteStore.open(access.state) as store:
        (token,) = (one for one in store.tokens() if one.name == "ci")
    assert token.matches(out.read_text().strip())
    assert round(token.expires_at - token.created_at) == 12 * 3600
    listed = json.loads(run("tokens", "list", "--json", *access.options).out)
    assert [(one["id"], one["role"]) for one in listed if one["name"] == "ci"] == [(token.id, "viewer")]
    taken = run("tokens", "create", "ci", "--role", "admin", "--out", tmp_path / "x", *access.options)
    assert (taken.code, "there is already a token 'ci'" in taken.err) == (2, True)
    assert not (tmp_path / "x").exists()
    assert run("tokens", "revoke", "ci", *access.options).out == f"revoked token ci ({token.id})\n"
    gone = run("tokens", "revoke", "ci", *access.options)
    assert (gone.code, "there is no token ci" in gone.err) == (2, True)


def test_a_socket_on_which_nothing_listens(run: Run, state: Path) -> None:
    """A relay that was killed leaves its socket behind."""
    with socket.socket(socket.AF_UNIX) as left, short_path(state / "management.sock") as name:
        left.bind(name)
    assert create(run, Access("store", state, ("--state", state))).code == 0
