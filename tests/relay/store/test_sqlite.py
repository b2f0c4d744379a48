"""The registry: how commands change it, what the file keeps, and which files are refused."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import subprocess
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hybridrelay.errors import StateError
from hybridrelay.relay.claims import Claim
from hybridrelay.relay.model import Description, HybridConnection, KeyId, diff
from hybridrelay.relay.quotas import NO_QUOTA, Limits, Quota
from hybridrelay.relay.store import sqlite as registry_module
from hybridrelay.relay.store.schema import MIGRATIONS, SCHEMA_VERSION, set_journal_mode
from hybridrelay.relay.store.sqlite import SQLiteStore
from hybridrelay.relay.store.state_dir import REGISTRY_FILE
from hybridrelay.relay.store.store import StoreBusy
from hybridrelay.security import KeySlot, ManagementRole, Right, Rule, Secret, generate_management_token

PRIMARY, SECONDARY = KeySlot.PRIMARY, KeySlot.SECONDARY
Rules = tuple[Rule, ...]


def test_what_was_created_is_there_after_reopening(tmp_path: Path, rules: Rules) -> None:
    with SQLiteStore.open(tmp_path / "state", clock=lambda: 1234.5) as registry:
        created = registry.create("site/sql", ["relay.example.com"], rules)
    with SQLiteStore.open(tmp_path / "state", create=False) as registry:
        assert registry.get("site/sql") == created
        assert registry.list() == (created,)
        assert registry.snapshot() == {"site/sql": created}
    assert (created.name, created.hosts[0], created.created_at) == ("site/sql", "relay.example.com", 1234.5)
    assert created.rules == rules
    assert set(created.generations) == {(rule.name, slot) for rule in rules for slot in KeySlot}
    assert len(set(created.generations.values())) == 4


#: The tables as version 1 made them.
VERSION_1 = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE connections (
    name TEXT PRIMARY KEY, endpoint_host TEXT NOT NULL, created_at REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE rules (
    connection TEXT NOT NULL REFERENCES connections ON DELETE CASCADE, name TEXT NOT NULL, rights TEXT NOT NULL,
    PRIMARY KEY (connection, name)
) WITHOUT ROWID;
CREATE TABLE keys (
    generation INTEGER PRIMARY KEY AUTOINCREMENT,
    connection TEXT NOT NULL, rule TEXT NOT NULL, slot TEXT NOT NULL, key TEXT NOT NULL,
    UNIQUE (connection, rule, slot),
    FOREIGN KEY (connection, rule) REFERENCES rules (connection, name) ON DELETE CASCADE
);
INSERT INTO meta VALUES ('schema_version', '1');
INSERT INTO connections VALUES ('old', 'a.example.com b.example.com', 1.0);
INSERT INTO rules VALUES ('old', 'sender', 'Send');
INSERT INTO keys VALUES (7, 'old', 'sender', 'primary', 'the-key');
"""


def make_version_1(state_dir: Path) -> Path:
    path = state_dir / REGISTRY_FILE
    state_dir.mkdir(mode=0o700)
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.executescript(VERSION_1)
    path.chmod(0o600)
    return path


def test_an_earlier_version_is_migrated_and_keeps_everything(tmp_path: Path, rules: Rules) -> None:
    path = make_version_1(tmp_path / "state")
    expected = HybridConnection(
        "old",
        ("a.example.com", "b.example.com"),
        (Rule("sender", [Right.SEND], Secret("the-key")),),
        1.0,
        {("sender", PRIMARY): 7},
        updated_at=1.0,
    )
    for _ in range(2):
        with SQLiteStore.open(tmp_path / "state", create=False) as registry:
            assert registry.list() == (expected,)
    with SQLiteStore.open(tmp_path / "state") as registry:
        assert min(registry.create("new", ["a"], rules).generations.values()) > 7
    with contextlib.closing(sqlite3.connect(path)) as database:
        (version,) = database.execute("SELECT value FROM meta WHERE name = 'schema_version'").fetchone()
    assert version == str(SCHEMA_VERSION)


def test_what_a_migration_adds_can_be_changed(tmp_path: Path) -> None:
    make_version_1(tmp_path / "state")
    with SQLiteStore.open(tmp_path / "state") as registry:
        assert not registry.get("old").disabled
        assert registry.change("old", disabled=True).disabled
        assert registry.get("old").quota == NO_QUOTA
        assert len(registry.editions().by_name) == 5
        registry.change("old", quota=Quota("basic", Limits(sessions=1)))
    with SQLiteStore.open(tmp_path / "state") as registry:
        assert registry.get("old").disabled
        assert registry.get("old").quota == Quota("basic", Limits(sessions=1))


@pytest.mark.parametrize(
    "text", ["", "[]", '{"sessions": "1"}', '{"sessions": true}', '{"others": 1}', '{"sessions": 0}']
)
def test_limits_that_this_program_does_not_write_are_damage(tmp_path: Path, rules: Rules, text: str) -> None:
    with SQLiteStore.open(tmp_path) as registry:
        registry.create("sql", ["a"], rules)
    change(tmp_path / REGISTRY_FILE, "UPDATE connections SET limits = ?", text)
    with SQLiteStore.open(tmp_path) as registry, pytest.raises(StateError, match="damaged"):
        registry.get("sql")


def test_a_migration_keeps_claims_and_limits(tmp_path: Path, rules: Rules) -> None:
    """Version 11 has other names for the id of a claim, and for the limit of bytes per month."""
    limits, claim = Limits(bytes_per_month=5), Claim("ab" * 16, "sql", "cd" * 32, b"sealed", 1.0, 60.0)
    with SQLiteStore.open(tmp_path, clock=lambda: 1.0) as registry:
        registry.create("sql", ["a"], rules)
        registry.change("sql", quota=Quota("basic", limits))
        registry.add_claim(claim)
        editions = registry.editions()
    path = tmp_path / REGISTRY_FILE
    change(path, "ALTER TABLE claims RENAME COLUMN id TO mailbox")
    for table in ("connections", "editions"):
        change(path, f"UPDATE {table} SET limits = replace(limits, 'bytes_per_month', 'bytes_per_period')")
    for later in ("TRIGGER connection_deleted", "TABLE deletions", "INDEX connections_by_version"):
        change(path, f"DROP {later}")
    change(path, "UPDATE meta SET value = '10' WHERE name = 'schema_version'")
    with SQLiteStore.open(tmp_path) as registry:
        assert registry.get("sql").quota == Quota("basic", limits)
        assert registry.claims("sql") == (claim,)
        assert registry.editions() == editions


def test_many_may_migrate_at_the_same_moment(tmp_path: Path) -> None:
    make_version_1(tmp_path / "state")
    together = threading.Barrier(4)

    def migrate(_: int) -> int:
        together.wait()
        with SQLiteStore.open(tmp_path / "state") as registry:
            return len(registry.list())

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(migrate, range(4))) == [1] * 4


def test_a_migration_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_version_1(tmp_path / "state")
    monkeypatch.setitem(MIGRATIONS, 1, (*MIGRATIONS[1], "INSERT INTO nowhere VALUES (1)"))
    with pytest.raises(StateError, match="nowhere"):
        SQLiteStore.open(tmp_path / "state")
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT endpoint_host FROM connections").fetchall()
        assert database.execute("SELECT value FROM meta").fetchone() == ("1",)


def test_there_is_a_migration_from_every_version() -> None:
    assert set(MIGRATIONS) == set(range(1, SCHEMA_VERSION))


def test_deleting_keeps_nothing_but_the_name(tmp_path: Path, rules: Rules) -> None:
    state = tmp_path / "state"
    with SQLiteStore.open(state) as registry:
        registry.create("db", ["very-secret-host.example.com"], rules, Description("very-secret-description"))
        registry.regenerate_key("db", "sender", PRIMARY)
        registry.delete("db")
        on_disk = b"".join(path.read_bytes() for path in state.iterdir())
    assert b"very-secret" not in on_disk
    for rule in rules:
        for slot in KeySlot:
            key = rule.key(slot)
            assert key is not None
            assert key.reveal().encode() not in on_disk


def test_every_change_has_another_version(tmp_path: Path, rules: Rules) -> None:
    with SQLiteStore.open(tmp_path / "state") as ours, SQLiteStore.open(tmp_path / "state") as others:
        versions = [ours.data_version()]
        assert ours.data_version() == versions[0]
        for registry, name in ((ours, "a"), (others, "b"), (others, "c"), (ours, "d")):
            registry.create(name, ["relay.example.com"], rules)
            versions.append(ours.data_version())
        others.get("a")
        assert ours.data_version() == versions[-1]
    assert len(set(versions)) == 5


def test_a_change_that_fails_changes_nothing(registry: SQLiteStore, rules: Rules) -> None:
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
    SQLiteStore.open(tmp_path).close()
    path = tmp_path / REGISTRY_FILE
    change(path, "UPDATE meta SET value = ?", str(SCHEMA_VERSION + 1))
    before = path.read_bytes()
    with pytest.raises(StateError, match="newer") as caught:
        SQLiteStore.open(tmp_path)
    assert "upgrade" in str(caught.value.remedy)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "statement",
    ["UPDATE meta SET value = 'x'", "DELETE FROM meta", "DROP TABLE meta"],
)
def test_another_programs_file_is_left_alone(tmp_path: Path, statement: str) -> None:
    SQLiteStore.open(tmp_path).close()
    change(tmp_path / REGISTRY_FILE, statement)
    with pytest.raises(StateError, match="not a registry"):
        SQLiteStore.open(tmp_path)


def test_garbage_is_not_a_registry(tmp_path: Path) -> None:
    (tmp_path / REGISTRY_FILE).write_bytes(b"garbage" * 1000)
    with pytest.raises(StateError) as caught:
        SQLiteStore.open(tmp_path)
    assert caught.value.remedy


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE connections SET metadata = '[]'",
        "UPDATE connections SET metadata = '{\"a\": 1}'",
        "UPDATE connections SET metadata = '{'",
        "UPDATE rules SET rights = 'Fly'",
        "UPDATE rules SET rights = ''",
        "UPDATE keys SET slot = 'third'",
    ],
)
def test_damaged_content_is_reported_as_such(registry: SQLiteStore, rules: Rules, statement: str) -> None:
    registry.create("sql", ["relay.example.com"], rules[:1])
    registry.revoke_key("sql", "listener", SECONDARY)
    registry._database.execute(statement)
    with pytest.raises(StateError, match="damaged"):
        registry.snapshot()


@pytest.mark.parametrize("statement", ["digest = 'text'", "digest = 2147483647", "role = 'king'"])
def test_a_damaged_token_is_reported_as_such(registry: SQLiteStore, statement: str) -> None:
    token, _ = generate_management_token("ops", ManagementRole.VIEWER, now=0.0)
    registry.add_token(token)
    registry._database.execute(f"UPDATE tokens SET {statement}")
    with pytest.raises(StateError, match="damaged"):
        registry.tokens()
    with pytest.raises(StateError, match="damaged"):
        registry.token(token.id)


def test_an_error_does_not_quote_a_damaged_key(registry: SQLiteStore, rules: Rules) -> None:
    registry.create("sql", ["relay.example.com"], rules[:1])
    key = rules[0].primary
    assert key is not None
    damaged = b"\xff" + key.reveal().encode()[1:]
    registry._database.execute("UPDATE keys SET key = CAST(? AS TEXT) WHERE slot = 'primary'", (damaged,))
    with pytest.raises(StateError, match="Could not decode to UTF-8 column 'key'") as caught:
        registry.snapshot()
    shown = "".join(traceback.format_exception(caught.value)) + str(caught.value.remedy)
    assert key.reveal()[1:] not in shown
    assert key.reveal()[8:24] not in shown


class Refusing(sqlite3.Connection):
    """An empty database in memory that refuses the first statements, with these error codes."""

    def __init__(self, *codes: int) -> None:
        super().__init__(":memory:")
        self.codes = list(codes)

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        if self.codes:
            error = sqlite3.OperationalError("no")
            error.sqlite_errorcode = self.codes.pop(0)
            raise error
        return super().execute(sql, *parameters)


def test_a_lock_that_sqlite_does_not_wait_for_is_waited_for() -> None:
    with contextlib.closing(Refusing(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_BUSY_RECOVERY)) as busy:
        set_journal_mode(busy, "WAL", seconds=20)
        assert busy.codes == []

    with contextlib.closing(Refusing(sqlite3.SQLITE_FULL)) as full, pytest.raises(sqlite3.OperationalError):
        set_journal_mode(full, "WAL", seconds=20)
    with contextlib.closing(Refusing(sqlite3.SQLITE_BUSY)) as busy, pytest.raises(sqlite3.OperationalError):
        set_journal_mode(busy, "WAL", seconds=0)


def test_a_locked_registry_is_not_called_damaged_and_can_be_read(
    tmp_path: Path, rules: Rules, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry_module, "BUSY_TIMEOUT_SECONDS", 0.01)
    with SQLiteStore.open(tmp_path) as registry:
        registry.create("sql", ["relay.example.com"], rules)
        with contextlib.closing(sqlite3.connect(tmp_path / REGISTRY_FILE, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreBusy, match="locked") as caught:
                registry.delete("sql")
            assert (caught.value.remedy or "").startswith("try again")
            assert registry.get("sql").rules == rules
        registry.delete("sql")


def test_a_change_that_has_waited_too_long_for_a_reader_can_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without shared memory, and so without a write-ahead log, a change cannot be committed beside a reader."""
    monkeypatch.setattr(registry_module, "BUSY_TIMEOUT_SECONDS", 0.01)
    monkeypatch.setattr(registry_module, "can_share_memory", lambda directory: False)
    with SQLiteStore.open(tmp_path) as registry:
        with contextlib.closing(sqlite3.connect(tmp_path / REGISTRY_FILE, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM connections").fetchall()
            with pytest.raises(StoreBusy):
                registry.create("sql", ["relay.example.com"], [])
        assert registry.list() == ()
        registry.create("sql", ["relay.example.com"], [])


def test_many_may_make_it_at_the_same_moment(tmp_path: Path) -> None:
    start = threading.Barrier(6)

    def make(number: int) -> None:
        start.wait()
        with SQLiteStore.open(tmp_path / "state") as registry:
            registry.create(f"c{number}", ["relay.example.com"], [])

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(make, range(6)))
    with SQLiteStore.open(tmp_path / "state") as registry:
        assert len(registry.list()) == 6


def test_using_it_after_closing_is_an_error(registry: SQLiteStore) -> None:
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
def test_a_key_ends_when_its_generation_changes_or_it_is_gone(
    new: dict[str, HybridConnection], ended: list[tuple[KeySlot, int]]
) -> None:
    old = {"sql": connection(ONE)}
    assert diff(old, new) == {KeyId("sql", "one", slot, generation) for slot, generation in ended}
    assert diff({}, old) == frozenset()


@pytest.mark.parametrize("end", ["revoke", "regenerate", "delete"])
def test_nothing_is_left_of_a_key_that_has_ended(tmp_path: Path, rules: Rules, end: str) -> None:
    with SQLiteStore.open(tmp_path / "state") as registry:
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
    with SQLiteStore.open(tmp_path / "state") as reading, SQLiteStore.open(tmp_path / "state") as writing:
        before = reading.data_version()
        writing.create("db", ["relay.example.com"], rules)
        assert reading.data_version() != before, "a running relay notices"
        assert "db" in reading.snapshot()
        assert not {path.name for path in (tmp_path / "state").iterdir()} & {"registry.db-wal", "registry.db-shm"}
    assert _journal_mode(tmp_path / "state") == "delete"


def test_a_registry_from_elsewhere_can_be_used_without_shared_memory(
    tmp_path: Path, rules: tuple[Rule, ...], request: pytest.FixtureRequest
) -> None:
    with SQLiteStore.open(tmp_path / "state") as registry:
        registry.create("db", ["relay.example.com"], rules)
    assert _journal_mode(tmp_path / "state") == "wal"
    request.getfixturevalue("no_shared_memory")
    for _ in range(2):
        with SQLiteStore.open(tmp_path / "state") as registry:
            assert "db" in registry.snapshot()
            registry.regenerate_key("db", rules[0].name, KeySlot.PRIMARY)
    assert _journal_mode(tmp_path / "state") == "delete"


def test_where_it_cannot_be_found_out_the_log_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with SQLiteStore.open(tmp_path / "state"):
        pass
    assert _journal_mode(tmp_path / "state") == "wal"


def test_two_stores_of_one_process_see_what_other_processes_change(tmp_path: Path, rules: Rules) -> None:
    """SQLite's locks belong to the process: if it opened the file once more, closing that would release them."""
    program = (
        "import sys; from pathlib import Path; from hybridrelay.relay.store.sqlite import SQLiteStore\n"
        "with SQLiteStore.open(Path(sys.argv[1])) as store: store.create(sys.argv[2], ['relay'], [])"
    )
    with SQLiteStore.open(tmp_path) as first:
        first.create("own", ["relay"], rules)
        with SQLiteStore.open(tmp_path) as second:
            for number in range(3):
                before = first.data_version(), second.data_version()
                subprocess.run(
                    [sys.executable, "-c", program, str(tmp_path), f"other{number}"], check=True, timeout=60
                )
                assert (first.data_version(), second.data_version()) != before
                for store in (first, second):
                    assert f"other{number}" in store.snapshot()
