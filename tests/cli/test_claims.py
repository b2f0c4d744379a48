"""``hybridrelay claims`` without a relay that runs: what is created, listed, revoked and refused."""

from __future__ import annotations

import base64
import json
import stat
import sys
from pathlib import Path

import attrs
import pytest

from hybridrelay.administration.authority_content import relays_of, with_relays
from hybridrelay.administration.connections import read_authority_file
from hybridrelay.cli import claim_taking
from hybridrelay.relay import SQLiteStore
from hybridrelay.security import (
    ClaimBundle,
    ClaimContent,
    ClaimKeys,
    ConnectionString,
    KeySlot,
    Role,
    load_connection_string,
    open_claim_untrusted,
    parse_claim_code_untrusted,
    parse_connection_string_untrusted,
    relay_pin,
)
from hybridrelay.security.pins import short_pin

from .conftest import Created, Run


def issued(created: Created, *more: str | Path) -> tuple[str | Path, ...]:
    return (
        "claims", "create", "orders", "--role", "application", "--label", "billing",
        "--authority-file", created.authority, "--state", created.state, *more,
    )  # fmt: skip


def test_a_claim_is_created_for_a_new_identity(run: Run, created: Created) -> None:
    result = run(*issued(created, "--note", "for Ann", "--expires", "2d"))
    assert result.code == 0
    (line,) = [one for one in result.out.splitlines() if one.startswith("hrc1.")]
    code = parse_claim_code_untrusted(line)
    assert code.endpoint.host == "relay.example.com"
    assert code.pin == short_pin(relay_pin(created.state / "relay.pem"))
    with SQLiteStore.open(created.state) as store:
        (claim,) = store.claims("orders")
    keys = ClaimKeys.of(code)
    assert (claim.id, claim.proof_digest, claim.note) == (keys.id, keys.proof_digest, "for Ann")
    assert claim.expires_at - claim.created_at == 2 * 86_400
    assert claim.sealed is not None
    string = open_claim_untrusted(keys, claim.sealed)
    assert isinstance(string, ConnectionString)
    identity, _ = string.require_identity()
    assert (identity.details.name.role, identity.details.name.label) == (Role.APPLICATION, "billing")
    assert string.key == created.key("application", KeySlot.PRIMARY)
    for secret in created.secrets():
        assert secret.encode() not in claim.sealed
        assert secret not in result.out + result.err


def test_a_claim_for_an_existing_file_and_the_code_in_a_file(run: Run, created: Created, tmp_path: Path) -> None:
    out = tmp_path / "code"
    arguments = ("claims", "create", "orders", "--connection-string-file", created.connector)
    result = run(*arguments, "--out", out, "--json", "--state", created.state)
    assert result.code == 0
    shown = json.loads(result.out)
    assert set(shown) == {"id", "relay", "expires_at", "has_private_key"}
    if sys.platform != "win32":
        assert stat.S_IMODE(out.stat().st_mode) == 0o600
    keys = ClaimKeys.of(parse_claim_code_untrusted(out.read_text()))
    assert shown["id"] == keys.id
    with SQLiteStore.open(created.state) as store:
        (claim,) = store.claims("orders")
    assert claim.sealed is not None
    assert open_claim_untrusted(keys, claim.sealed) == parse_connection_string_untrusted(
        created.connector.read_text()
    )

    again = run(*arguments, "--out", out, "--state", created.state)
    assert (again.code, "already exists" in again.err) == (2, True)
    with SQLiteStore.open(created.state) as store:
        assert len(store.claims("orders")) == 1


def test_claims_are_listed_and_revoked(run: Run, created: Created) -> None:
    where = ("--state", created.state)
    assert "There are no claims of orders" in run("claims", "list", "orders", *where).out
    assert run("claims", "list", "orders", "--json", *where).out.strip() == "[]"
    id_ = json.loads(run(*issued(created, "--json", "--note", "x")).out)["id"]
    row = run("claims", "list", "orders", *where).out.splitlines()[1].split()
    assert row[:3] == [id_, "open", "x"]
    assert run("claims", "revoke", "orders", id_[:5], *where).code == 2
    done = run("claims", "revoke", "orders", id_[:8], *where)
    assert (done.code, done.out) == (0, f"revoked claim {id_}: its content was deleted\n")
    again = run("claims", "revoke", "orders", id_, *where)
    assert (again.code, "cannot be revoked: revoked 20" in again.out) == (1, True)
    (listed,) = json.loads(run("claims", "list", "orders", "--json", *where).out)
    assert (listed["id"], listed["state"], listed["taken_at"]) == (id_, "revoked", None)
    assert "sealed" not in listed
    missing = run("claims", "revoke", "orders", "f" * 32, *where)
    assert (missing.code, "has no such claim" in missing.err) == (2, True)
    audit = json.loads(run("audit", "calls", "--json", *where).out)
    seen = [(entry["operation"], entry["status"], entry["claim"]) for entry in audit if entry["claim"]]
    expected = [
        ("createClaim", 201, id_),
        ("revokeClaim", 404, id_[:5]),
        ("revokeClaim", 204, id_),
        ("revokeClaim", 204, id_),
        ("revokeClaim", 404, "f" * 32),
    ]
    assert seen == expected


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--role", "application"), "--label is missing"),
        ((), "--role is missing"),
        (("--expires", "8d"), "at most 7d"),
        (("--expires", "0m"), "at most 7d"),
        (("--note", "x" * 129), "at most 128"),
    ],
)
def test_what_cannot_be_created(run: Run, created: Created, arguments: tuple[str, ...], says: str) -> None:
    result = run("claims", "create", "orders", *arguments, "--state", created.state)
    assert (result.code, says in result.err) == (2, True), result.err
    with SQLiteStore.open(created.state) as store:
        assert store.claims("orders") == ()


def test_files_that_do_not_fit(run: Run, created: Created) -> None:
    given = ("--connection-string-file", created.connector, "--state", created.state)
    both = run("claims", "create", "orders", "--label", "x", *given)
    assert (both.code, "cannot be used together" in both.err) == (2, True)
    other = run("claims", "create", "other", *given)
    assert (other.code, "is for orders, not for other" in other.err) == (2, True)
    elsewhere = run("claims", "create", "orders", "--endpoint", "x.example.com", *given)
    assert (elsewhere.code, "does not name the relay x.example.com" in elsewhere.err) == (2, True)


def test_codes_that_are_none(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, created: Created) -> None:
    monkeypatch.setenv("HYBRIDRELAY_CLAIM_CODE", "hrc1.relay.ca.geheim.yy")
    result = run("claims", "take", "--out", tmp_path / "out")
    assert result.code == 2
    assert "the environment variable HYBRIDRELAY_CLAIM_CODE: this is not a valid claim code" in result.err
    assert "geheim" not in result.err
    file = tmp_path / "code"
    file.write_text(base64.b64encode(b"x" * 30).decode())
    file.chmod(0o600)
    result = run("claims", "take", "--code-file", file, "--out", tmp_path / "out")
    assert (result.code, f"{file}: this is not a valid claim code" in result.err) == (2, True)
    taken = run("claims", "take", "--code-file", file, "--out", created.connector)
    assert (taken.code, "already exists" in taken.err) == (2, True)
    line = ["claims", "take", "hrc1.relay.ca.geheim.yy", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["hybridrelay", *line])
    argument = run(*line)
    assert (argument.code, "geheim" in argument.err) == (2, False)
    assert "the code of a claim was given as an argument" in argument.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["connector", "forward"])
def test_a_claim_file_needs_one_file_to_write(
    run: Run, tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for files in ((), ("-",), ("a", "b")):
        given = ("--connection-string-file", *files) if files else ()
        result = run(command, "--claim-file", tmp_path / "code", *given)
        assert (result.code, "exactly one --connection-string-file" in result.err) == (2, True), result.err


def test_a_qr_code_holds_the_code(run: Run, created: Created) -> None:
    segno = pytest.importorskip("segno")
    result = run(*issued(created, "--qr"))
    assert result.code == 0
    (code,) = [one for one in result.out.splitlines() if one.startswith("hrc1.")]
    drawn = [one for one in result.out.splitlines() if set(one) <= set(" █▀▄") and one.strip()]
    matrix = segno.make(code.upper(), error="l", micro=False).matrix
    size, border = len(matrix), 4
    assert len(drawn) >= (size + 2 * border) // 2
    for row in range(size):
        line = drawn[(row + border) // 2]
        for column in range(size):
            character = line[column + border]
            light = character == "█" or character == ("▀" if (row + border) % 2 == 0 else "▄")
            assert light is not bool(matrix[row][column])


def test_a_qr_code_is_not_shown_among_json(run: Run, created: Created) -> None:
    result = run(*issued(created, "--qr", "--json"))
    assert (result.code, result.out, "cannot be used together" in result.err) == (2, "", True)
    with SQLiteStore.open(created.state) as store:
        assert store.claims("orders") == ()


def test_a_qr_code_without_its_package(run: Run, created: Created, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "segno", None)
    result = run(*issued(created, "--qr"))
    assert (result.code, "pip install 'hybridrelay[qr]'" in result.err) == (2, True)
    with SQLiteStore.open(created.state) as store:
        assert store.claims("orders") == ()


def test_with_an_issuer_a_claim_contains_no_private_key(run: Run, created: Created) -> None:
    done = run(
        "connections", "issuer", "orders", "--authority-file", created.authority, "--update", created.connector
    )
    assert done.code == 0
    assert "is valid until" in done.out
    assert load_connection_string(created.connector).issuer is not None

    def content(*more: str) -> ClaimContent:
        result = run(*issued(created, "--json", *more))
        assert result.code == 0
        shown = json.loads(result.out)
        keys = ClaimKeys.of(parse_claim_code_untrusted(shown["code"]))
        with SQLiteStore.open(created.state) as store:
            (sealed,) = [one.sealed for one in store.claims("orders") if one.id == keys.id]
        assert sealed is not None
        found = open_claim_untrusted(keys, sealed)
        assert shown["has_private_key"] is isinstance(found, ConnectionString)
        return found

    bundle = content()
    assert isinstance(bundle, ClaimBundle)
    assert bundle.string.identity is None
    assert isinstance(content("--with-private-key"), ConnectionString)
    text = run(*issued(created)).out
    assert "The claim contains no private key" in text
    # A connector's claim is what it was: there is nobody who could issue its identity.
    result = run(
        "claims", "create", "orders", "--role", "connector", "--label", "second", "--json",
        "--authority-file", created.authority, "--state", created.state,
    )  # fmt: skip
    assert json.loads(result.out)["has_private_key"] is True


def test_a_private_key_in_a_file_and_without_one(run: Run, created: Created) -> None:
    result = run(
        "claims", "create", "orders", "--connection-string-file", created.connector, "--with-private-key",
        "--state", created.state,
    )  # fmt: skip
    assert (result.code, "--with-private-key and" in result.err) == (2, True)


def test_an_issuer_without_a_connector_file_says_what_to_do(run: Run, created: Created) -> None:
    done = run("connections", "issuer", "orders", "--authority-file", created.authority)
    assert (done.code, "No connector has it yet" in done.out) == (0, True)


@pytest.mark.parametrize(
    ("command", "wrong", "says"),
    [
        ("connector", ["--audit-required", "file"], "--audit-required needs --audit-dir or --audit-to"),
        ("connector", ["--deny-list", "missing"], "missing"),
        ("connector", ["--policy-dir", "missing"], "missing"),
        ("forward", ["--policy-dir", "missing"], "missing"),
        ("forward", ["--socks", "127.0.0.1:0", "--front-users-file", "missing"], "missing"),
    ],
    ids=str,
)
def test_options_are_checked_before_a_claim_is_taken(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, wrong: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(claim_taking, "take_at_first_start", None)  # is not called
    result = run(command, "--claim-file", "code", "--connection-string-file", "new", *wrong)
    assert result.code == 2
    assert says in result.err


def test_ports_that_the_relay_has_left_are_a_warning(run: Run, created: Created, tmp_path: Path) -> None:
    """What is issued gets those of the authority file."""
    assert run(*issued(created)).err == ""
    file = read_authority_file(created.authority, "orders")
    endpoints, pins = relays_of(file)
    moved = [attrs.evolve(one, ports={"http": 28080}) for one in endpoints]
    created.authority.write_text(with_relays(file, moved, pins).format())
    issue = ("connections", "issue", "orders", "--role", "application", "--label", "later")
    where = ("--authority-file", created.authority, "--state", created.state, "--out", tmp_path / "later")
    for result in (run(*issued(created)), run(*issue, *where)):
        assert result.code == 0
        assert "has http=28080 for its relay, and this relay has the default ports" in result.err
        assert "updates push orders" in result.err
