"""The checkpoints of audit logs that a relay keeps, in an SQLite file. Synchronous."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from ..checkpoints import (
    KEPT_SECONDS,
    MAX_BYTES,
    MAX_LOGS,
    MAX_ROWS,
    THINNED,
    CheckpointQuery,
    CheckpointsFull,
    KeptCheckpoint,
)
from .expendable import ExpendableFile, ExpendableFileError
from .schema import transaction

__all__ = ["CHECKPOINTS_FILE", "CheckpointFile"]

T = TypeVar("T")

CHECKPOINTS_FILE: Final = "audit-checkpoints.db"
_VERSION: Final = 1
_SCHEMA: Final = (
    """
    CREATE TABLE checkpoints (
        id INTEGER PRIMARY KEY AUTOINCREMENT, connection TEXT, log TEXT, seq INTEGER, head TEXT, at TEXT, key TEXT,
        signature TEXT, instance TEXT, address TEXT, received_at REAL
    )
    """,
    "CREATE UNIQUE INDEX once ON checkpoints (connection, log, seq, head, key)",
    "CREATE INDEX by_time ON checkpoints (received_at)",
    "CREATE INDEX by_log ON checkpoints (log, id)",
    # How many there are, so that the limits are checked without counting.
    "CREATE TABLE logs (connection TEXT, log TEXT, rows INTEGER, PRIMARY KEY (connection, log)) WITHOUT ROWID",
    """
    CREATE TRIGGER counted AFTER INSERT ON checkpoints BEGIN
        INSERT INTO logs VALUES (new.connection, new.log, 1)
        ON CONFLICT (connection, log) DO UPDATE SET rows = rows + 1;
    END
    """,
    """
    CREATE TRIGGER discounted AFTER DELETE ON checkpoints BEGIN
        UPDATE logs SET rows = rows - 1 WHERE connection = old.connection AND log = old.log;
        DELETE FROM logs WHERE connection = old.connection AND log = old.log AND rows <= 0;
    END
    """,
)
_COLUMNS: Final = "connection, log, seq, head, at, key, signature, instance, address, received_at"
_INSERT: Final = f"INSERT OR IGNORE INTO checkpoints ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608
_READ: Final = f"""
    SELECT {_COLUMNS}, id FROM checkpoints
    WHERE id > :after AND (:log = '' OR log = :log) AND (:connection = '' OR connection = :connection)
        AND substr(connection, 1, length(:prefix)) = :prefix
    ORDER BY id LIMIT :limit
    """  # noqa: S608
#: Deletes all but the first and the last of each interval.
_THIN: Final = """
    DELETE FROM checkpoints WHERE id IN (
        SELECT id FROM (
            SELECT id,
                row_number() OVER (PARTITION BY connection, log, instance, number ORDER BY id) AS forwards,
                row_number() OVER (PARTITION BY connection, log, instance, number ORDER BY id DESC) AS backwards
            FROM (
                SELECT id, connection, log, instance, CAST(received_at / :seconds AS INTEGER) AS number
                FROM checkpoints WHERE received_at >= :begin AND received_at < :end
            )
        ) WHERE forwards > 1 AND backwards > 1
    )
    """


class CheckpointFile:
    """The checkpoints in a state directory. Only one thread may use it at a time. Any method may raise
    `ExpendableFileError`.

    If the file is damaged, it is set aside, the method is repeated with a new file, and `set_aside` has the path of
    the damaged one.

    Args:
        state_dir: the state directory.
        max_bytes: the maximum size of the file.
    """

    def __init__(self, state_dir: Path, max_bytes: int = MAX_BYTES) -> None:
        self.file = ExpendableFile(
            state_dir / CHECKPOINTS_FILE, "the file of audit checkpoints", _SCHEMA, _VERSION, max_bytes
        )
        self._database: sqlite3.Connection | None = None
        #: The new path of a damaged file, and what was wrong with it. The caller resets it.
        self.set_aside: tuple[Path, str] | None = None
        #: For each interval in `THINNED`, up to when `sweep` has thinned (seconds since 1970).
        self._thinned_to = dict.fromkeys((seconds for _, seconds in THINNED), 0.0)

    def keep(self, checkpoint: KeptCheckpoint) -> None:
        """Store a checkpoint. If it is stored already, nothing changes.

        Raises:
            CheckpointsFull: a limit is reached. Nothing was changed.
        """
        try:
            self._repeated(lambda database: _keep(database, checkpoint))
        except ExpendableFileError as exc:
            if exc.is_full:
                raise CheckpointsFull(str(exc)) from exc
            raise

    def read(self, query: CheckpointQuery) -> list[KeptCheckpoint]:
        """Read a page of checkpoints."""
        return self._repeated(lambda database: _read(database, query))

    def delete(self, connection: str, log: str) -> int:
        """Delete the checkpoints of a log that are kept under the name of a hybrid connection. Returns how many."""
        return self._repeated(
            lambda database: (
                database.execute(
                    "DELETE FROM checkpoints WHERE connection = ? AND log = ?", (connection, log)
                ).rowcount
            )
        )

    def sweep(self, now: float) -> None:
        """Delete what is old, and all but the first and the last of each interval.

        Args:
            now: seconds since 1970.
        """
        self._repeated(lambda database: self._sweep(database, now))

    def _sweep(self, database: sqlite3.Connection, now: float) -> None:
        database.execute("DELETE FROM checkpoints WHERE received_at < ?", (now - KEPT_SECONDS,))
        for age, seconds in THINNED:
            end = (now - age) // seconds * seconds  # only intervals that are over
            begin = self._thinned_to[seconds]
            if end > begin:
                database.execute(_THIN, {"begin": begin, "end": end, "seconds": seconds})
                self._thinned_to[seconds] = end

    def close(self) -> None:
        """Close the file. Idempotent."""
        database, self._database = self._database, None
        if database is not None:
            database.close()

    def _repeated(self, function: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return self._once(function)
        except ExpendableFileError as exc:
            if not exc.is_damaged:
                raise
            self.set_aside = self.file.set_aside(), str(exc)
        return self._once(function)

    def _once(self, function: Callable[[sqlite3.Connection], T]) -> T:
        try:
            with self.file.errors():
                if self._database is None:
                    self._database = self.file.open()
                with transaction(self._database):
                    return function(self._database)
        except ExpendableFileError:
            self.close()  # the next attempt opens it again
            raise
        except (ValueError, TypeError) as exc:
            self.close()
            raise ExpendableFileError(
                f"the file of audit checkpoints {self.file.path} is damaged: {exc}",
                remedy="nothing needs to be done: it is renamed, and a new one is made",
                is_damaged=True,
            ) from exc


def _keep(database: sqlite3.Connection, one: KeptCheckpoint) -> None:
    known = dict(database.execute("SELECT log, rows FROM logs WHERE connection = ?", (one.connection,)).fetchall())
    if one.log not in known and len(known) >= MAX_LOGS:
        raise CheckpointsFull(f"checkpoints of {MAX_LOGS} audit logs are kept for this hybrid connection already")
    if sum(known.values()) >= MAX_ROWS:
        raise CheckpointsFull(f"{MAX_ROWS} checkpoints are kept for this hybrid connection already")
    values = (
        one.connection,
        one.log,
        one.seq,
        one.head,
        one.at,
        one.key,
        one.signature,
        one.instance,
        one.address,
        one.received_at,
    )
    database.execute(_INSERT, values)


def _read(database: sqlite3.Connection, query: CheckpointQuery) -> list[KeptCheckpoint]:
    rows = database.execute(
        _READ,
        {
            "after": query.after,
            "log": query.log,
            "connection": query.connection,
            "prefix": query.prefix,
            "limit": query.limit,
        },
    )
    return [_checkpoint(*row) for row in rows]


def _checkpoint(
    connection: object,
    log: object,
    seq: int,
    head: object,
    at: object,
    key: object,
    signature: object,
    instance: object,
    address: object,
    received_at: float,
    id_: int,
) -> KeptCheckpoint:
    texts = (str(connection), str(log), int(seq), str(head), str(at), str(key), str(signature))
    return KeptCheckpoint(*texts, str(instance), str(address), float(received_at), int(id_))
