"""The tables of the SQLite store, and the migration of files from earlier versions.

To change the schema, increase `SCHEMA_VERSION` by one, change `SCHEMA`, and add the statements that convert the
earlier schema to the new one to `MIGRATIONS`. A file of a newer version is refused, and its tables are not changed.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ...errors import StateError
from ..quotas import PRESETS
from .limit_text import dump_limits

__all__ = [
    "MIGRATIONS",
    "SCHEMA",
    "SCHEMA_VERSION",
    "check_schema_version",
    "make_schema",
    "migrate",
    "prepare_database",
    "set_journal_mode",
    "transaction",
    "truncate_log",
]

SCHEMA_VERSION: Final = 12

#: Management tokens: digest is SHA-256 of the token's text, which is not stored.
_TOKENS: Final = """
    CREATE TABLE tokens (
        id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, role TEXT NOT NULL, scope TEXT NOT NULL, digest BLOB NOT NULL,
        created_at REAL NOT NULL, expires_at REAL NOT NULL, last_used_at REAL
    ) WITHOUT ROWID
    """

#: Editions: limits is JSON. The edition that the relay uses is in ``meta``.
_EDITIONS: Final = """
    CREATE TABLE editions (
        name TEXT PRIMARY KEY, connections INTEGER, limits TEXT NOT NULL, version INTEGER NOT NULL DEFAULT 0
    ) WITHOUT ROWID
    """
_PRESETS: Final = tuple(
    f"INSERT INTO editions (name, connections, limits) VALUES "  # noqa: S608
    f"('{edition.name}', {edition.connections}, '{dump_limits(edition.limits)}')"
    for edition in PRESETS
)

#: Claims: mailbox is the id, and is renamed below. proof_digest: SHA-256 of the proof. Both are in hexadecimal.
#: sealed: NULL after the claim has ended.
_CLAIMS: Final = """
    CREATE TABLE claims (
        mailbox TEXT PRIMARY KEY, connection TEXT NOT NULL REFERENCES connections ON DELETE CASCADE,
        proof_digest TEXT NOT NULL, sealed BLOB, created_at REAL NOT NULL, expires_at REAL NOT NULL,
        note TEXT NOT NULL, taken_at REAL, taken_by TEXT NOT NULL, revoked_at REAL,
        taken_again INTEGER NOT NULL, taken_again_at REAL, taken_again_by TEXT NOT NULL
    )
    """
#: The SHA-256 of the attempt that was answered with the content, in hexadecimal; or an empty text.
_CLAIM_ATTEMPTS: Final = "ALTER TABLE claims ADD COLUMN taken_attempt TEXT NOT NULL DEFAULT ''"
_CLAIM_IDS: Final = "ALTER TABLE claims RENAME COLUMN mailbox TO id"
#: Rolls of keys: slot is that of the new key. waits: whether the old key stays valid until ends_at in any case.
_ROLLS: Final = """
    CREATE TABLE rolls (
        connection TEXT NOT NULL, rule TEXT NOT NULL, slot TEXT NOT NULL,
        old_generation INTEGER NOT NULL, new_generation INTEGER NOT NULL,
        started_at REAL NOT NULL, ends_at REAL NOT NULL, waits INTEGER NOT NULL,
        PRIMARY KEY (connection, rule),
        FOREIGN KEY (connection, rule) REFERENCES rules (connection, name) ON DELETE CASCADE
    ) WITHOUT ROWID
    """
#: Updates of connection strings. ``role`` is the side of the recipients. ``serial`` is that of the only recipient's
#: identity, or empty if the update is for all of that side.
_UPDATES: Final = """
    CREATE TABLE updates (
        connection TEXT NOT NULL REFERENCES connections ON DELETE CASCADE, role TEXT NOT NULL, serial TEXT NOT NULL,
        sequence INTEGER NOT NULL, document BLOB NOT NULL, created_at REAL NOT NULL, expires_at REAL NOT NULL,
        note TEXT NOT NULL,
        PRIMARY KEY (connection, role, serial)
    ) WITHOUT ROWID
    """
#: What readers need to find out what has changed: the names of the latest hybrid connections that were deleted, with
#: increasing numbers, and an index of the versions. The trigger also works for earlier versions of this program that
#: have the file open.
_CHANGES: Final = (
    "CREATE TABLE deletions (number INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL)",
    """
    CREATE TRIGGER connection_deleted AFTER DELETE ON connections BEGIN
        INSERT INTO deletions (name) VALUES (OLD.name);
        DELETE FROM deletions WHERE number <= (SELECT max(number) FROM deletions) - 1000;
    END
    """,
    "CREATE INDEX connections_by_version ON connections (version)",
)
_CLAIMS_BY_CONNECTION: Final = "CREATE INDEX claims_by_connection ON claims (connection)"

#: hosts: all relays that serve the hybrid connection, separated by spaces. rights: separated by spaces. metadata and
#: limits: JSON. version: the value of ``changes`` in ``meta``, which counts the changes of the whole registry, when
#: the hybrid connection was last changed.
SCHEMA: Final[Sequence[str]] = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    "INSERT INTO meta VALUES ('changes', '0')",
    """
    CREATE TABLE connections (
        name TEXT PRIMARY KEY, hosts TEXT NOT NULL, created_at REAL NOT NULL, updated_at REAL NOT NULL DEFAULT 0,
        version INTEGER NOT NULL DEFAULT 0, description TEXT NOT NULL DEFAULT '', metadata TEXT NOT NULL DEFAULT '{}',
        disabled INTEGER NOT NULL DEFAULT 0, edition TEXT NOT NULL DEFAULT '', limits TEXT NOT NULL DEFAULT '{}'
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE rules (
        connection TEXT NOT NULL REFERENCES connections ON DELETE CASCADE, name TEXT NOT NULL, rights TEXT NOT NULL,
        PRIMARY KEY (connection, name)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE keys (
        generation INTEGER PRIMARY KEY AUTOINCREMENT,
        connection TEXT NOT NULL, rule TEXT NOT NULL, slot TEXT NOT NULL, key TEXT NOT NULL,
        UNIQUE (connection, rule, slot),
        FOREIGN KEY (connection, rule) REFERENCES rules (connection, name) ON DELETE CASCADE
    )
    """,
    _TOKENS,
    _EDITIONS,
    *_PRESETS,
    _CLAIMS,
    _CLAIM_ATTEMPTS,
    _CLAIM_IDS,
    _CLAIMS_BY_CONNECTION,
    _ROLLS,
    _UPDATES,
    *_CHANGES,
)

#: By schema version: the statements that convert it to the next version.
MIGRATIONS: Final[Mapping[int, Sequence[str]]] = {
    1: ("ALTER TABLE connections RENAME COLUMN endpoint_host TO hosts",),
    2: (
        "INSERT INTO meta VALUES ('changes', '0')",
        "ALTER TABLE connections ADD COLUMN updated_at REAL NOT NULL DEFAULT 0",
        "ALTER TABLE connections ADD COLUMN version INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE connections ADD COLUMN description TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE connections ADD COLUMN metadata TEXT NOT NULL DEFAULT '{}'",
        "UPDATE connections SET updated_at = created_at",
    ),
    3: (_TOKENS,),
    4: ("ALTER TABLE connections ADD COLUMN disabled INTEGER NOT NULL DEFAULT 0",),
    5: (
        "ALTER TABLE connections ADD COLUMN edition TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE connections ADD COLUMN limits TEXT NOT NULL DEFAULT '{}'",
        _EDITIONS,
        *_PRESETS,
    ),
    6: (_CLAIMS, _CLAIMS_BY_CONNECTION),
    7: (_ROLLS,),
    8: (_CLAIM_ATTEMPTS,),
    9: (_UPDATES,),
    10: (
        _CLAIM_IDS,
        *(
            f"UPDATE {table} SET limits = replace(limits, '\"bytes_per_period\"', '\"bytes_per_month\"')"  # noqa: S608
            for table in ("connections", "editions")
        ),
    ),
    11: _CHANGES,
}


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """Execute the block as one transaction. Other processes that want to write wait."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.commit()  # may fail, because of readers, if there is no write-ahead log
    except BaseException:
        database.rollback()
        raise


def truncate_log(database: sqlite3.Connection) -> None:
    """Copy the write-ahead log into the file, and empty it. Without a log, do nothing. If a reader prevents it, copy
    what is possible, and do not empty the log."""
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def set_journal_mode(database: sqlite3.Connection, mode: str, *, seconds: float) -> None:
    """Set the journal mode of a file. If another process uses the file, wait for up to `seconds`.

    This is needed because SQLite itself does not wait for this statement, for instance when two processes create the
    same file.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            database.execute(f"PRAGMA journal_mode = {mode}").fetchall()
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise
            time.sleep(0.01)
        else:
            return


def check_schema_version(database: sqlite3.Connection, path: Path) -> int:
    """Return the schema version of a file that has tables.

    Raises:
        StateError: it was written by another program, or by a newer version of this one.
    """
    known = database.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'meta'").fetchone()
    row = known and database.execute("SELECT value FROM meta WHERE name = 'schema_version'").fetchone()
    if row is None or not str(row[0]).isdecimal() or not int(row[0]) >= 1:
        raise StateError(f"{path} is not a registry", remedy="name another state directory, or move the file away")
    if int(row[0]) > SCHEMA_VERSION:
        raise StateError(
            f"the registry {path} was written by a newer version of hybridrelay",
            remedy="upgrade hybridrelay, or restore the state directory from before the upgrade",
        )
    return int(row[0])


def make_schema(database: sqlite3.Connection) -> None:
    """Create the tables, unless another process has done so in the meantime."""
    with transaction(database):
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
            for statement in SCHEMA:
                database.execute(statement)
            database.execute("INSERT INTO meta VALUES ('schema_version', ?)", (str(SCHEMA_VERSION),))


def migrate(database: sqlite3.Connection, path: Path) -> None:
    """Migrate the tables of an earlier version, in one transaction. Does nothing if they are up to date.

    Raises:
        StateError: as `check_schema_version`.
    """
    if check_schema_version(database, path) == SCHEMA_VERSION:
        return
    with transaction(database):
        # Check again: another process may have migrated the file, even to a newer version, before we got the lock.
        for version in range(check_schema_version(database, path), SCHEMA_VERSION):
            for statement in MIGRATIONS[version]:
                database.execute(statement)
        database.execute("UPDATE meta SET value = ? WHERE name = 'schema_version'", (str(SCHEMA_VERSION),))


def prepare_database(database: sqlite3.Connection, path: Path, *, write_ahead: bool, seconds: float) -> None:
    """Check the version, set the options, and make or migrate the tables.

    A file of a newer version is not changed, except that its journal mode is set first if `write_ahead` is False.

    Args:
        database: the registry.
        path: its file.
        write_ahead: whether there can be a write-ahead log.
        seconds: how long to wait for another process that uses the file.

    Raises:
        StateError: see `check_schema_version`.
    """
    if not write_ahead:
        # First, so that a log that was written elsewhere is read without shared memory.
        database.execute("PRAGMA locking_mode = EXCLUSIVE").fetchall()
        set_journal_mode(database, "DELETE", seconds=seconds)
        database.execute("PRAGMA locking_mode = NORMAL").fetchall()
    is_new = database.execute("SELECT 1 FROM sqlite_master WHERE type = 'table'").fetchone() is None
    version = None if is_new else check_schema_version(database, path)
    # The journal mode is a property of the file, and the other settings of the connection. None is part of a
    # transaction.
    if write_ahead:
        set_journal_mode(database, "WAL", seconds=seconds)
    database.execute("PRAGMA synchronous = FULL")
    database.execute("PRAGMA foreign_keys = ON")
    database.execute("PRAGMA secure_delete = ON").fetchall()
    database.execute("PRAGMA temp_store = MEMORY").fetchall()
    if is_new:
        make_schema(database)
    migrate(database, path)
    if version != SCHEMA_VERSION:
        # If this process were killed and the file replaced by a backup, SQLite would apply the log to the backup.
        truncate_log(database)
