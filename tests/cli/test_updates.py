"""``hybridrelay updates``: what is pushed, what the authority file records, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hybridrelay.cli.not_counted import not_counted
from hybridrelay.errors import DeniedByPolicy, HybridRelayError, OutcomeUnknown, StateError
from hybridrelay.relay import SQLiteStore
from hybridrelay.relay.updates import MAX_UPDATES_PER_CONNECTION, StoredUpdate
from hybridrelay.security import (
    MAX_EXCLUDED,
    ConnectionString,
    HostPort,
    Role,
    Update,
    load_connection_string,
    open_update_untrusted,
)

from .conftest import Created, Result, Run

PIN, OTHER_PIN = (f"sha256:{'A' * 42}{end}=" for end in "AE")


class Pushing:
    def __init__(self, run: Run, created: Created) -> None:
        self._run, self.created = run, created

    def push(self, *options: str | Path, name: str = "orders") -> Result:
        where = ("--authority-file", self.created.authority, "--state", self.created.state)
        return self._run("updates", "push", name, *where, *options)

    def list(self, *options: str) -> Result:
        return self._run("updates", "list", "orders", "--state", self.created.state, *options)

    def show(self) -> dict[str, Any]:
        result = self._run("updates", "show", "orders", "--authority-file", self.created.authority, "--json")
        found = json.loads(result.out)
        assert isinstance(found, dict)
        return found

    def string(self, role: Role) -> ConnectionString:
        path = self.created.connector if role is Role.CONNECTOR else self.created.application
        return load_connection_string(path)

    def opened(self) -> dict[tuple[Role, str], Update]:
        """What the relay has, as the recipients read it."""
        with SQLiteStore.open(self.created.state) as store:
            return {
                (one.role, one.serial): open_update_untrusted(self.string(one.role), one.document)
                for one in store.updates("orders")
            }


@pytest.fixture
def pushing_(run: Run, created: Created) -> Pushing:
    return Pushing(run, created)


CONNECTORS, APPLICATIONS = (Role.CONNECTOR, ""), (Role.APPLICATION, "")


def test_what_is_issued_later_has_the_update_already(pushing_: Pushing, run: Run, tmp_path: Path) -> None:
    """So that it is not older than what other programs of that machine have used."""
    assert pushing_.push("--target", "db2.internal:5432").code == 0
    sequence = pushing_.opened()[CONNECTORS].sequence
    for role, expected in (("connector", sequence), ("application", 0)):
        out = tmp_path / f"later.{role}"
        options = ("--role", role, "--label", "later", "--authority-file", pushing_.created.authority, "--out", out)
        assert run("connections", "issue", "orders", *options).code == 0
        assert load_connection_string(out).update_sequence == expected


def test_a_target_goes_to_connectors(pushing_: Pushing, run: Run, tmp_path: Path) -> None:
    result = pushing_.push("--target", "db2.internal:5432")
    assert (result.code, result.err) == (0, "")
    assert "of orders for connectors: target; the relay delivers it until" in result.out
    found = pushing_.opened()
    assert set(found) == {CONNECTORS}
    assert (found[CONNECTORS].target, found[CONNECTORS].endpoints) == (HostPort("db2.internal", 5432), None)
    issue = ("connections", "issue", "orders", "--role", "connector", "--label", "x")
    run(*issue, "--authority-file", pushing_.created.authority, "--out", tmp_path / "x")
    assert load_connection_string(tmp_path / "x").target == HostPort("db2.internal", 5432)


def test_each_update_states_all_that_was_pushed(pushing_: Pushing) -> None:
    """Only the latest one is needed. The sequence grows, also within a second."""
    pushing_.push("--target", "db2.internal:5432")
    first = pushing_.opened()[CONNECTORS].sequence
    relays = ("--endpoint", "a.example", "--endpoint", "b.example", "--relay-pin", PIN, "--relay-pin", OTHER_PIN)
    result = pushing_.push(*relays)
    assert "Push it at each of the other relays, too" in result.out
    assert "The relay does not know a.example, b.example as a relay of orders" in result.out
    found = pushing_.opened()
    assert [one.host for one in found[CONNECTORS].endpoints or ()] == ["a.example", "b.example"]
    assert found[CONNECTORS].target == HostPort("db2.internal", 5432)
    assert (found[APPLICATIONS].target, found[APPLICATIONS].pins) == (None, (PIN, OTHER_PIN))
    assert found[CONNECTORS].sequence > first
    again = pushing_.push()
    assert again.code == 0
    later = pushing_.opened()
    assert later[APPLICATIONS].sequence > found[APPLICATIONS].sequence
    assert later[APPLICATIONS].endpoints == found[APPLICATIONS].endpoints
    assert pushing_.show() == {
        "sequence": later[CONNECTORS].sequence,
        "updates": [
            {
                "role": "connector", "serial": "", "relays": ["a.example", "b.example"], "pins": [PIN, OTHER_PIN],
                "target": "db2.internal:5432",
            },
            {"role": "application", "serial": "", "relays": ["a.example", "b.example"], "pins": [PIN, OTHER_PIN]},
        ],
    }  # fmt: skip


def test_what_other_commands_have_changed_since_is_stated(pushing_: Pushing, run: Run) -> None:
    """A target that was changed in files is not undone by a later update of the relays."""
    pushing_.push("--target", "db2:1")
    created = pushing_.created
    run("connections", "set-target", "orders", "--target", "db3:1", "--update", created.authority, created.connector)
    pushing_.push("--relay-pin", PIN)
    assert pushing_.opened()[CONNECTORS].target == HostPort("db3", 1)


def test_an_update_may_be_for_one_side_only(pushing_: Pushing) -> None:
    pushing_.push("--relay-pin", PIN, "--role", "application")
    assert set(pushing_.opened()) == {APPLICATIONS}
    assert set(pushing_.opened()) == {APPLICATIONS}
    pushing_.push("--relay-pin", OTHER_PIN)
    assert {one.pins for one in pushing_.opened().values()} == {(OTHER_PIN,)}


def test_an_update_may_be_for_a_single_identity(pushing_: Pushing) -> None:
    """It has an update of its own, which states the rest, too; the one for the others leaves it out."""
    identity, _ = pushing_.string(Role.CONNECTOR).require_identity()
    at = Role.CONNECTOR, identity.serial
    pushing_.push("--relay-pin", PIN)
    lower = ":".join(identity.serial[begin : begin + 2] for begin in range(0, 40, 2)).lower()
    result = pushing_.push("--target", "site2:1", "--serial", lower, "--role", "connector")
    assert f"for the connector {identity.serial}: pins, target" in result.out
    found = pushing_.opened()
    assert (found[at].pins, found[at].target, found[at].serial) == ((PIN,), HostPort("site2", 1), identity.serial)
    assert (found[CONNECTORS].target, found[CONNECTORS].excluded) == (None, (identity.serial,))
    string = pushing_.string(Role.CONNECTOR)
    assert (found[at].is_for(string), found[CONNECTORS].is_for(string)) == (True, False)
    pushing_.push("--target", "site1:1", "--relay-pin", OTHER_PIN)
    found = pushing_.opened()
    assert (found[at].pins, found[at].target) == ((OTHER_PIN,), HostPort("site2", 1))
    assert found[at].sequence > found[CONNECTORS].sequence
    assert found[CONNECTORS].target == HostPort("site1", 1)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "no update of orders was pushed before"),
        (("--target", "db:1", "--role", "application"), "only connectors have a target"),
        (("--target", "db:1", "--serial", "AB"), "--serial needs --role"),
        (("--serial", "xyz"), "serial number"),
        (("--public-ports", "http=8080"), "--public-ports needs --endpoint"),
        (("--endpoint", "a", "--endpoint", "a"), "twice"),
        (("--target", "db:1", "--expires", "500d"), "at most 400d"),
    ],
)
def test_what_is_refused_changes_nothing(pushing_: Pushing, options: tuple[str, ...], says: str) -> None:
    before = pushing_.created.authority.read_bytes()
    result = pushing_.push(*options)
    assert (result.code, result.out) == (2, "")
    assert says in result.err
    assert pushing_.created.authority.read_bytes() == before
    assert pushing_.opened() == {}


def test_no_update_is_pushed_for_an_unknown_hybrid_connection(pushing_: Pushing, run: Run) -> None:
    before = pushing_.created.authority.read_bytes()
    assert "is the authority file of orders, not of other" in pushing_.push("--target", "db:1", name="other").err
    run("connections", "delete", "orders", "--state", pushing_.created.state)
    assert "orders" in pushing_.push("--target", "db:1").err
    assert pushing_.created.authority.read_bytes() == before


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (StateError("the disk is full"), "the relay lacks an update: the disk is full"),
        (OutcomeUnknown("no answer"), "it is not known whether the relay has an update: no answer"),
    ],
)
def test_a_relay_that_fails_then_gets_it_with_the_next_push(
    pushing_: Pushing, monkeypatch: pytest.MonkeyPatch, error: HybridRelayError, told: str
) -> None:
    def fail(self: SQLiteStore, update: StoredUpdate) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(SQLiteStore, "put_update", fail)
        result = pushing_.push("--target", "db2:1")
    assert result.code != 0
    assert f"was changed, and {told}" in result.err
    assert "without changes" in result.err
    assert pushing_.push().code == 0
    assert pushing_.opened()[CONNECTORS].target == HostPort("db2", 1)


def test_an_authority_file_that_was_restored_from_a_backup(
    pushing_: Pushing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sequence still grows, because it also follows the clock."""
    backup = pushing_.created.authority.read_bytes()
    pushing_.push("--target", "db2:1")
    first = pushing_.opened()[CONNECTORS].sequence
    pushing_.created.authority.write_bytes(backup)
    monkeypatch.setattr("hybridrelay.cli.commands.updates.time.time", lambda: float(first + 60))
    assert pushing_.push("--target", "db3:1").code == 0
    assert pushing_.opened()[CONNECTORS].sequence == first + 60


@pytest.mark.parametrize(
    "record", [5, {}, {"sequence": "1", "sides": {}, "identities": []}, {"sequence": 1, "sides": []}]
)
def test_a_damaged_record_of_updates_is_an_error(pushing_: Pushing, record: object) -> None:
    content = json.loads(pushing_.created.authority.read_text())
    content["extra"]["updates"] = record
    pushing_.created.authority.write_text(json.dumps(content))
    result = pushing_.push("--target", "db:1")
    assert (result.code, "the authority file is damaged: updates" in result.err) == (2, True)


def test_the_list_shows_what_each_update_changes_and_who_has_it(pushing_: Pushing) -> None:
    assert "There are no updates of orders" in pushing_.list().out
    assert json.loads(pushing_.list("--json").out) == []
    pushing_.push("--target", "db2:1")
    shown = pushing_.list().out
    assert "connectors  target" in shown
    assert "0 of 0" in shown
    (one,) = json.loads(pushing_.list("--json").out)
    assert (one["role"], one["note"], one["kept"], one["missing"]) == ("connector", "target", 0, [])


def test_the_policy_of_this_machine(pushing_: Pushing, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise DeniedByPolicy("denied by policy")

    monkeypatch.setattr("hybridrelay.cli.commands.updates.refuse_denied", refuse)
    assert pushing_.push("--target", "db:1").code == 3
    assert pushing_.opened() == {}


def test_a_relay_keeps_as_many_as_an_authority_can_push() -> None:
    assert MAX_UPDATES_PER_CONNECTION >= 2 + 2 * (MAX_EXCLUDED // 2)


@pytest.mark.parametrize(
    ("seen_since", "says"), [(None, "No relay runs"), (100.0, ""), (101.0, "started at 1970-01-01T00:01:41Z")]
)
def test_which_programs_are_not_counted(seen_since: float | None, says: str) -> None:
    text = not_counted(100.0, seen_since, is_crowded=False)
    assert (says in text, bool(text)) == (True, bool(says))


def test_programs_for_which_there_was_no_room_are_not_counted() -> None:
    text = not_counted(100.0, 101.0, is_crowded=True)
    assert "started at 1970-01-01T00:01:41Z" in text
    assert "no room to note more programs" in text
    assert "no room" not in not_counted(100.0, None, is_crowded=True), "no relay has said so"


def test_the_list_says_that_nothing_is_known_without_a_relay(pushing_: Pushing) -> None:
    pushing_.push("--target", "db2:1")
    listed = pushing_.list().out
    assert "0 of 0" in listed
    assert "No relay runs with this state directory, so it is not known which programs have it." in listed
