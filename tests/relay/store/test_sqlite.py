"""The registry: what commands do to it, what it keeps, and how it refuses."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hybridrelay.errors import ConfigurationError, StateError
from hybridrelay.relay.model import HybridConnection, KeyId, diff
from hybridrelay.relay.store import sqlite as registry_module
from hybridrelay.relay.store.sqlite import SCHEMA_VERSION, Registry
from hybridrelay.relay.store.state_dir import REGISTRY_FILE
from hybridrelay.security import KeySlot, Right, Rule, Secret, generate_key

PRIMARY, SECONDARY = KeySlot.PRIMARY, KeySlot.SECONDARY
Rules = tuple[Rule, ...]


def test_what_was_created_is_there_after_reopening(tmp_path: Path, rules: Rules) -> None:
    with Registry.open(tmp_path / "state", clock=lambda: 1234.5) as registry:
        created = registry.create("site/sql", ["relay.example.com"], rules)
    with Registry.open(tmp_path / "state", create=False) as registry:
        assert registry.get("site/sql") == created
        assert registry.list() == (created,)
        assert registry.snapshot() == {"site/sql": created}
    assert (created.name, created.hosts[0], created.created_at) == ("site/sql", "relay.example.com", 1234.5)
    assert created.rules == rules
    assert set(created.generations) == {(rule.name, slot) for rule in rules for slot in KeySlot}
    assert len(set(created.generations.values())) == 4


def test_connections_come_in_order_of_name_with_or_without_rules_and_keys(registry: Registry) -> None:
    manage = Rule("all", [Right.MANAGE, Right.SEND], secondary=generate_key())
    for name, rules in (("b", [manage]), ("a", []), ("c", [Rule("none", [Right.SEND])])):
        registry.create(name, ["192.0.2.1"], rules)
    listed = registry.list()
    assert [one.name for one in listed] == ["a", "b", "c"]
    assert [one.rules for one in listed] == [(), (manage,), (Rule("none", [Right.SEND]),)]
    assert listed[1].key_id("all", PRIMARY) is None
    assert listed[1].key_id("all", SECONDARY) is not None
    assert listed[1].rule("other") is None


def test_a_name_is_taken_once(registry: Registry, rules: Rules) -> None:
    first = registry.create("sql", ["relay.example.com"], rules)
    with pytest.raises(ConfigurationError, match="already") as caught:
        registry.create("sql", ["other.example.com"], [])
    assert caught.value.remedy
    assert registry.list() == (first,)


@pytest.mark.parametrize(
    ("name", "host", "names"),
    [("", "relay.example.com", "ab"), ("a//b", "h", "ab"), ("sql", "not a host", "ab"), ("sql", "h", "aa")],
)
def test_the_impossible_is_refused(registry: Registry, name: str, host: str, names: str) -> None:
    with pytest.raises(ConfigurationError):
        registry.create(name, [host], [Rule(rule, [Right.SEND]) for rule in names])
    assert registry.list() == ()


def test_all_hosts_are_kept_in_the_column_that_had_one(registry: Registry, rules: Rules, tmp_path: Path) -> None:
    created = registry.create("sql", ["b.example.com", "2001:db8::1"], rules)
    assert created.hosts == registry.get("sql").hosts == ("b.example.com", "2001:db8::1")
    with contextlib.closing(sqlite3.connect(tmp_path / "state" / REGISTRY_FILE)) as database, database:
        database.execute("INSERT INTO connections VALUES ('old', 'relay.example.com', 1.0)")
    assert registry.get("old").hosts == ("relay.example.com",)


def test_an_unknown_name_is_answered_with_the_known_ones(registry: Registry, rules: Rules) -> None:
    for operate in (registry.get, registry.delete, lambda name: registry.revoke_key(name, "sender", PRIMARY)):
        with pytest.raises(ConfigurationError, match="no hybrid connection 'nowhere'") as caught:
            operate("nowhere")
        assert caught.value.remedy == "this relay has none yet"
    registry.create("web", ["relay.example.com"], rules)
    registry.create("sql", ["relay.example.com"], rules)
    with pytest.raises(ConfigurationError) as caught:
        registry.delete("nowhere")
    assert str(caught.value.remedy).endswith("sql, web")


def test_an_unknown_rule_is_answered_with_the_known_ones(registry: Registry, rules: Rules) -> None:
    registry.create("sql", ["relay.example.com"], rules)
    registry.create("bare", ["relay.example.com"], [])
    for name, known in (("sql", "listener, sender"), ("bare", "none")):
        with pytest.raises(ConfigurationError, match="no rule 'admin'") as caught:
            registry.regenerate_key(name, "admin", PRIMARY)
        assert str(caught.value.remedy).endswith(known)


def test_keys_are_regenerated_and_revoked_one_by_one(registry: Registry, rules: Rules) -> None:
    before = registry.create("sql", ["relay.example.com"], rules)

    key = registry.regenerate_key("sql", "sender", PRIMARY)
    registry.revoke_key("sql", "listener", SECONDARY)
    registry.revoke_key("sql", "listener", SECONDARY)

    after = registry.get("sql")
    assert after.rule("sender") == rules[1].with_key(PRIMARY, key)
    assert after.rule("listener") == rules[0].with_key(SECONDARY, None)
    assert after.generations["sender", PRIMARY] > max(before.generations.values())
    assert diff({"sql": before}, {"sql": after}) == {
        before.key_id("sender", PRIMARY),
        before.key_id("listener", SECONDARY),
    }
    revived = registry.regenerate_key("sql", "listener", SECONDARY)
    assert registry.get("sql").rule("listener") == rules[0].with_key(SECONDARY, revived)


def test_deleted_and_created_again_with_the_same_keys_are_other_keys(registry: Registry, rules: Rules) -> None:
    registry.create("sql", ["relay.example.com"], rules)
    before = registry.snapshot()
    registry.delete("sql")
    registry.create("sql", ["relay.example.com"], rules)
    assert len(diff(before, registry.snapshot())) == 4


def test_deleting_keeps_nothing(tmp_path: Path, rules: Rules) -> None:
    state = tmp_path / "state"
    with Registry.open(state) as registry:
        registry.create("very-secret-name", ["relay.example.com"], rules)
        registry.regenerate_key("very-secret-name", "sender", PRIMARY)
        registry.delete("very-secret-name")
        on_disk = b"".join(path.read_bytes() for path in state.iterdir())
    assert b"very-secret-name" not in on_disk
    for rule in rules:
        for slot in KeySlot:
            key = rule.key(slot)
            assert key is not None
            assert key.reveal().encode() not in on_disk


def test_keys_do_not_print(registry: Registry, rules: Rules) -> None:
    shown = repr(registry.create("sql", ["relay.example.com"], rules)) + repr(registry.snapshot())
    with pytest.raises(ConfigurationError) as caught:
        registry.create("sql", ["relay.example.com"], rules)
    shown += repr(caught.value) + str(caught.value)
    for rule in rules:
        for key in (rule.primary, rule.secondary):
            assert key is not None
            assert key.reveal() not in shown


def test_the_version_tells_every_change_apart(tmp_path: Path, rules: Rules) -> None:
    with Registry.open(tmp_path / "state") as ours, Registry.open(tmp_path / "state") as others:
        versions = [ours.data_version()]
        assert ours.data_version() == versions[0]
        for registry, name in ((ours, "a"), (others, "b"), (others, "c"), (ours, "d")):
            registry.create(name, ["relay.example.com"], rules)
            versions.append(ours.data_version())
        others.get("a")
        assert ours.data_version() == versions[-1]
    assert len(set(versions)) == 5


def test_a_change_that_fails_changes_nothing(registry: Registry, rules: Rules) -> None:
    registry.create("sql", ["relay.example.com"], rules)
    before = registry.get("sql")
    # What fails at the last step: there is a key in the slot that was not seen.
    registry._database.execute("CREATE TRIGGER no_keys BEFORE INSERT ON keys BEGIN SELECT RAISE(ABORT, 'no'); END")
    with pytest.raises(StateError):
        registry.regenerate_key("sql", "sender", PRIMARY)
    with pytest.raises(StateError):
        registry.create("web", ["relay.example.com"], rules)
    assert registry.list() == (before,)


def test_a_newer_registry_is_left_alone(tmp_path: Path) -> None:
    Registry.open(tmp_path).close()
    path = tmp_path / REGISTRY_FILE
    change(path, "UPDATE meta SET value = ?", str(SCHEMA_VERSION + 1))
    before = path.read_bytes()
    with pytest.raises(StateError, match="newer") as caught:
        Registry.open(tmp_path)
    assert "upgrade" in str(caught.value.remedy)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "statement",
    ["UPDATE meta SET value = 'x'", "DELETE FROM meta", "DROP TABLE meta"],
)
def test_another_programs_file_is_left_alone(tmp_path: Path, statement: str) -> None:
    Registry.open(tmp_path).close()
    change(tmp_path / REGISTRY_FILE, statement)
    with pytest.raises(StateError, match="not a registry"):
        Registry.open(tmp_path)


def test_garbage_is_no_registry(tmp_path: Path) -> None:
    (tmp_path / REGISTRY_FILE).write_bytes(b"garbage" * 1000)
    with pytest.raises(StateError) as caught:
        Registry.open(tmp_path)
    assert caught.value.remedy


@pytest.mark.parametrize(
    "statement",
    ["UPDATE rules SET rights = 'Fly'", "UPDATE rules SET rights = ''", "UPDATE keys SET slot = 'third'"],
)
def test_damaged_content_is_reported_as_such(registry: Registry, rules: Rules, statement: str) -> None:
    registry.create("sql", ["relay.example.com"], rules[:1])
    registry.revoke_key("sql", "listener", SECONDARY)
    registry._database.execute(statement)
    with pytest.raises(StateError, match="damaged"):
        registry.snapshot()


class Refusing:
    """A database that refuses the first calls."""

    def __init__(self, *codes: int) -> None:
        self.codes = list(codes)

    def execute(self, statement: str) -> Refusing:
        if self.codes:
            error = sqlite3.OperationalError("no")
            error.sqlite_errorcode = self.codes.pop(0)
            raise error
        return self

    def fetchall(self) -> None:
        pass


def test_a_lock_that_sqlite_does_not_wait_for_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = Refusing(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_BUSY_RECOVERY)
    registry_module._set_journal_mode(busy, "WAL")  # type: ignore[arg-type]
    assert busy.codes == []

    with pytest.raises(sqlite3.OperationalError):
        registry_module._set_journal_mode(Refusing(sqlite3.SQLITE_FULL), "WAL")  # type: ignore[arg-type]
    monkeypatch.setattr(registry_module, "_BUSY_TIMEOUT_SECONDS", 0.0)
    with pytest.raises(sqlite3.OperationalError):
        registry_module._set_journal_mode(Refusing(sqlite3.SQLITE_BUSY), "WAL")  # type: ignore[arg-type]


def test_many_may_make_it_at_the_same_moment(tmp_path: Path) -> None:
    start = threading.Barrier(6)

    def make(number: int) -> None:
        start.wait()
        with Registry.open(tmp_path / "state") as registry:
            registry.create(f"c{number}", ["relay.example.com"], [])

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(make, range(6)))
    with Registry.open(tmp_path / "state") as registry:
        assert len(registry.list()) == 6


def test_used_after_closing(registry: Registry) -> None:
    registry.close()
    registry.close()
    with pytest.raises(StateError):
        registry.list()


def change(path: Path, statement: str, *parameters: str) -> None:
    database = sqlite3.connect(path)
    with database:
        database.execute(statement, parameters)
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    database.close()


def connection(*rules: Rule, name: str = "sql", first: int = 1) -> HybridConnection:
    keys = [(rule.name, slot) for rule in rules for slot in KeySlot if rule.key(slot)]
    return HybridConnection(name, ("h",), rules, 0.0, {key: first + number for number, key in enumerate(keys)})


ONE = Rule("one", [Right.SEND, Right.LISTEN], Secret("p"), Secret("s"))


@pytest.mark.parametrize(
    ("new", "ended"),
    [
        ({"sql": connection(ONE)}, []),
        ({"sql": connection(ONE), "web": connection(ONE, name="web")}, []),
        ({}, [(PRIMARY, 1), (SECONDARY, 2)]),
        ({"sql": connection()}, [(PRIMARY, 1), (SECONDARY, 2)]),
        ({"sql": connection(ONE.with_key(SECONDARY, None))}, [(SECONDARY, 2)]),
        ({"sql": connection(ONE, first=2)}, [(PRIMARY, 1), (SECONDARY, 2)]),
        ({"sql": connection(Rule("one", [Right.SEND], ONE.primary, ONE.secondary))}, [(PRIMARY, 1), (SECONDARY, 2)]),
        ({"sql": connection(Rule("one", list(Right), ONE.primary, ONE.secondary))}, []),
    ],
    ids=["same", "added", "deleted", "rule gone", "revoked", "other keys", "fewer rights", "more rights"],
)
def test_what_ended(new: dict[str, HybridConnection], ended: list[tuple[KeySlot, int]]) -> None:
    old = {"sql": connection(ONE)}
    assert diff(old, new) == {KeyId("sql", "one", slot, generation) for slot, generation in ended}
    assert diff({}, old) == frozenset()


def test_other_hosts_end_no_key(registry: Registry, rules: Rules) -> None:
    before = registry.create("sql", ["a.example.com"], rules)
    other = registry.create("other", ["a.example.com"], [])
    after = registry.change_hosts("sql", ["a.example.com", "b.example.com"])

    assert after.hosts == ("a.example.com", "b.example.com")
    assert (after.rules, after.generations, after.created_at) == (before.rules, before.generations, before.created_at)
    assert registry.get("other") == other
    assert not diff({"sql": before}, {"sql": after})


@pytest.mark.parametrize(("name", "hosts"), [("missing", ["a"]), ("sql", []), ("sql", ["a", "A."]), ("sql", ["a b"])])
def test_hosts_that_cannot_be(registry: Registry, rules: Rules, name: str, hosts: list[str]) -> None:
    before = registry.create("sql", ["a.example.com"], rules)
    with pytest.raises(ConfigurationError):
        registry.change_hosts(name, hosts)
    assert registry.list() == (before,)


@pytest.mark.parametrize("end", ["revoke", "regenerate", "delete"])
def test_nothing_is_left_of_a_key_that_has_ended(tmp_path: Path, rules: Rules, end: str) -> None:
    with Registry.open(tmp_path / "state") as registry:
        (secure,) = registry._database.execute("PRAGMA secure_delete").fetchone()
        assert secure == 1
        registry.create("db", ["relay.example.com"], rules)
        keys = [rule.key(slot) for rule in rules for slot in KeySlot]
        texts = [key.reveal().encode() for key in keys if key is not None]
        assert all(any(text in path.read_bytes() for path in (tmp_path / "state").iterdir()) for text in texts)
        for rule in rules:
            for slot in KeySlot:
                if end == "revoke":
                    registry.revoke_key("db", rule.name, slot)
                elif end == "regenerate":
                    registry.regenerate_key("db", rule.name, slot)
        if end == "delete":
            registry.delete("db")
        for path in (tmp_path / "state").iterdir():
            assert not any(text in path.read_bytes() for text in texts), path
    for path in (tmp_path / "state").iterdir():
        assert not any(text in path.read_bytes() for text in texts), path


# --- a file system on which processes cannot share memory


@pytest.fixture
def no_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    monkeypatch.setattr("mmap.mmap", refuse)


def _journal_mode(state_dir: Path) -> str:
    with contextlib.closing(sqlite3.connect(state_dir / "registry.db")) as database:
        (mode,) = database.execute("PRAGMA journal_mode").fetchone()
    return str(mode)


def test_without_shared_memory_there_is_no_write_ahead_log(
    tmp_path: Path, rules: tuple[Rule, ...], no_shared_memory: None
) -> None:
    with Registry.open(tmp_path / "state") as reading, Registry.open(tmp_path / "state") as writing:
        before = reading.data_version()
        writing.create("db", ["relay.example.com"], rules)
        assert reading.data_version() != before, "a running relay notices"
        assert "db" in reading.snapshot()
        assert not {path.name for path in (tmp_path / "state").iterdir()} & {"registry.db-wal", "registry.db-shm"}
    assert _journal_mode(tmp_path / "state") == "delete"


def test_a_registry_from_elsewhere_can_be_used_without_shared_memory(
    tmp_path: Path, rules: tuple[Rule, ...], request: pytest.FixtureRequest
) -> None:
    with Registry.open(tmp_path / "state") as registry:
        registry.create("db", ["relay.example.com"], rules)
    assert _journal_mode(tmp_path / "state") == "wal"
    request.getfixturevalue("no_shared_memory")
    for _ in range(2):
        with Registry.open(tmp_path / "state") as registry:
            assert "db" in registry.snapshot()
            registry.regenerate_key("db", rules[0].name, KeySlot.PRIMARY)
    assert _journal_mode(tmp_path / "state") == "delete"


def test_where_it_cannot_be_found_out_the_log_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with Registry.open(tmp_path / "state"):
        pass
    assert _journal_mode(tmp_path / "state") == "wal"
