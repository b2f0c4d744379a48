"""The checkpoints of audit logs that a relay keeps, in an SQLite file. Synchronous."""

from __future__ import annotations

import math
import sqlite3
from pathlib import Path
from typing import Final

import attrs

from ..._counted_time import EARLIEST, counted
from ..checkpoints import (
    CLIENT_LOGS,
    CLIENT_PART,
    CLIENT_ROWS,
    FEW_PART,
    FEW_ROWS,
    FREE_PART,
    KEPT_SECONDS,
    LEAST_ROWS,
    MAX_BYTES,
    MAX_LOGS,
    MAX_ROWS,
    PRESS_ROWS,
    PRESS_SECONDS,
    PRESSED,
    REPLACING_PART,
    RESERVED_PART,
    THINNED,
    CheckpointQuery,
    CheckpointsFull,
    KeptCheckpoint,
    least_needed,
    row_bytes,
)
from .expendable import ExpendableDatabase, ExpendableFile, ExpendableFileError

__all__ = ["CHECKPOINTS_FILE", "CheckpointFile"]

CHECKPOINTS_FILE: Final = "audit-checkpoints.db"
_VERSION: Final = 3
_SCHEMA: Final = (
    """
    CREATE TABLE checkpoints (
        id INTEGER PRIMARY KEY AUTOINCREMENT, connection TEXT, log TEXT, seq INTEGER, head TEXT, at TEXT, key TEXT,
        signature TEXT, instance TEXT, address TEXT, received_at REAL, for_client INTEGER
    )
    """,
    "CREATE UNIQUE INDEX once ON checkpoints (connection, log, seq, head, key)",
    "CREATE INDEX by_time ON checkpoints (received_at)",
    "CREATE INDEX by_log ON checkpoints (log, id)",
    "CREATE INDEX by_connection ON checkpoints (connection, id)",
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
#: The file is evidence, so a change of the version comes with an entry here.
_MIGRATIONS: Final = {2: ("CREATE INDEX by_connection ON checkpoints (connection, id)",)}
_COLUMNS: Final = "connection, log, seq, head, at, key, signature, instance, address, received_at"
_INSERT: Final = f"""
    INSERT OR IGNORE INTO checkpoints ({_COLUMNS}, for_client) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    """  # noqa: S608
_READ: Final = f"SELECT {_COLUMNS}, id FROM checkpoints {{}} WHERE id > :after{{}} ORDER BY id LIMIT :limit"  # noqa: S608
#: The condition for each field of a query, if it is not empty. They use indexes, so that rows of others are not read
#: in vain.
_CONDITIONS: Final = {
    "log": " AND log = :log",
    "connection": " AND connection = :connection",
    "prefix": """ AND connection IN (
        SELECT connection FROM logs WHERE connection >= :prefix AND connection < :prefix || char(1114111)
    )""",
}
#: Deletes all but the first and the last checkpoint of each interval, log and key. The numbers of records are
#: compared, and not when they arrived, so that repeating an earlier checkpoint does not make it the last one.
_THIN_WHERE: Final = """
    DELETE FROM checkpoints WHERE id IN (
        SELECT id FROM (
            SELECT id,
                row_number() OVER (PARTITION BY connection, log, key, number ORDER BY seq, id) AS forwards,
                row_number() OVER (PARTITION BY connection, log, key, number ORDER BY seq DESC, id DESC) AS backwards
            FROM (
                SELECT id, seq, connection, log, key, CAST(received_at / :seconds AS INTEGER) AS number
                FROM checkpoints WHERE {}
            )
        ) WHERE forwards > 1 AND backwards > 1
    )
    """
_THIN: Final = _THIN_WHERE.format("received_at >= :begin AND received_at < :end")
_THIN_LOG: Final = _THIN_WHERE.format(
    "connection = :connection AND log = :log AND instance = :instance AND for_client = :for_client"
    " AND +received_at < :end"
)
_STORED: Final = "SELECT 1 FROM checkpoints WHERE connection = ? AND log = ? AND seq = ? AND head = ? AND key = ?"
_LATEST: Final = """
    SELECT ifnull(max(seq), -1) FROM checkpoints WHERE connection = ? AND log = ? AND key = ? AND for_client = ?
    """
#: The checkpoints of which one may be replaced; see rule 7.
_REPLACEABLE: Final = """
    SELECT id, received_at FROM checkpoints
    WHERE connection = ? AND log = ? AND for_client = ? AND (key = ? OR (? AND instance = ?)) ORDER BY id LIMIT ?
    """
#: Only this many of them are considered, those that were stored first.
_MAX_REPLACEABLE: Final = 256


#: When the first checkpoint of each part of a day was stored, in the order in which they were.
_READINGS: Final = """
    SELECT received_at FROM checkpoints
    WHERE id IN (SELECT min(id) FROM checkpoints GROUP BY CAST(received_at / ? AS INTEGER)) ORDER BY id
    """
_READING_SECONDS: Final = 43_200.0
#: The times of this many earlier sweeps are remembered: those of a month.
_MAX_READINGS: Final = 60


class CheckpointFile(ExpendableDatabase):
    """The checkpoints in a state directory. Any method may raise `ExpendableFileError`.

    Args:
        state_dir: the state directory.
        max_bytes: the maximum size of all checkpoints. The file may become larger by `REPLACING_PART`.
    """

    def __init__(self, state_dir: Path, max_bytes: int = MAX_BYTES) -> None:
        file, what = state_dir / CHECKPOINTS_FILE, "the file of audit checkpoints"
        file_bytes = int(max_bytes * (1 + REPLACING_PART))
        super().__init__(ExpendableFile(file, what, _SCHEMA, _VERSION, file_bytes, _MIGRATIONS))
        self._max_bytes = max_bytes
        #: For each interval in `THINNED`, up to when `sweep` has thinned (seconds since 1970).
        self._thinned_to = dict.fromkeys((seconds for _, seconds in THINNED), 0.0)
        #: When `sweep` was called, twice a day.
        self._swept_at: list[float] = []
        #: When logs have made room for themselves, by hybrid connection and log (seconds since 1970).
        self._pressed_at: dict[tuple[str, str], float] = {}

    def keep(self, checkpoint: KeptCheckpoint, *, for_client: bool = False) -> None:
        """Store a checkpoint. If it is already stored, nothing changes.

        Args:
            checkpoint: the checkpoint.
            for_client: False if it is certain that a connector has sent it, which has proved that the instance is its
                own. A part of the room is reserved for such connectors, and only they make room among the checkpoints
                of connectors.

        Raises:
            CheckpointsFull: a limit is reached.
        """
        try:
            if full := self.use(lambda database: self._keep(database, checkpoint, for_client=for_client)):
                raise CheckpointsFull(full)
        except ExpendableFileError as exc:
            if exc.is_full:
                raise CheckpointsFull(str(exc)) from exc
            raise

    def read(self, query: CheckpointQuery) -> list[KeptCheckpoint]:
        """Read a page of checkpoints."""
        return self.use(lambda database: _read(database, query))

    def delete(self, connection: str, log: str) -> int:
        """Delete the checkpoints of a log that are kept under the name of a hybrid connection. Returns how many."""
        return self.use(
            lambda database: (
                database.execute(
                    "DELETE FROM checkpoints WHERE connection = ? AND log = ?", (connection, log)
                ).rowcount
            )
        )

    def sweep(self, now: float) -> None:
        """Delete what is old, and all but the first and the last one of each interval, log and key.

        A clock that is wrong for less than a week deletes nothing; see `counted`.

        Args:
            now: seconds since 1970.
        """
        self.use(lambda database: self._sweep(database, now))

    def _keep(self, database: sqlite3.Connection, one: KeptCheckpoint, *, for_client: bool) -> str:
        """Do what `keep` does, in a transaction. Returns which limit is reached; empty if none is."""
        if database.execute(_STORED, (one.connection, one.log_id, one.seq, one.head, one.key)).fetchone():
            return ""
        max_logs, max_rows = (CLIENT_LOGS, CLIENT_ROWS) if for_client else (MAX_LOGS, MAX_ROWS)
        rest = "; the rest is reserved for connectors" if for_client else ""
        known = dict(
            database.execute("SELECT log, rows FROM logs WHERE connection = ?", (one.connection,)).fetchall()
        )
        if one.log_id not in known and len(known) >= max_logs:
            return f"checkpoints of {max_logs} audit logs are kept for this hybrid connection already{rest}"
        rows = sum(known.values())
        part, is_short = self._part(database, one.connection, for_client=for_client)
        allowed = min(max_rows, part)
        missing = rows - allowed + min(PRESS_ROWS, allowed // 4)
        if rows <= allowed and missing > 0 and one.log_id in known:
            rows -= self._press(database, one, missing, for_client=for_client)
        any_key = is_short and not for_client
        if rows >= allowed and not self._make_way(database, one, for_client=for_client, any_key=any_key):
            if rows >= max_rows:
                return f"{max_rows} checkpoints are kept for this hybrid connection already{rest}"
            return f"{rows} checkpoints are already kept for this hybrid connection, and no room is left{rest}"
        database.execute(_INSERT, (*attrs.astuple(one)[:-1], for_client))
        return ""

    def _part(self, database: sqlite3.Connection, connection: str, *, for_client: bool) -> tuple[int, bool]:
        """Return how many checkpoints a hybrid connection may have now, and whether others have left no room for
        `FEW_ROWS`; see rules 5 to 8."""
        (pages,), (unused,), (size,) = (
            database.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "freelist_count", "page_size")
        )
        free = max(0, self._max_bytes - (pages - unused) * size)
        unreserved = max(0.0, free - self._max_bytes * RESERVED_PART)
        row = row_bytes(connection)
        few = free * FEW_PART / row
        part = max(unreserved * FREE_PART / row, min(FEW_ROWS, few), LEAST_ROWS)
        return max(1, int(part * (CLIENT_PART if for_client else 1))), few < FEW_ROWS

    def _make_way(
        self, database: sqlite3.Connection, one: KeptCheckpoint, *, for_client: bool, any_key: bool
    ) -> bool:
        """Delete a checkpoint of the log to which a later one is to be added; see rule 7.

        Args:
            database: the file.
            one: the later one.
            for_client: see `keep`. Only those that were stored with the same value are replaced.
            any_key: whether those of its instance may be replaced, whatever their key.

        Returns:
            Whether there was one.
        """
        (latest,) = database.execute(_LATEST, (one.connection, one.log_id, one.key, for_client)).fetchone()
        if one.seq <= latest:  # anybody who has seen an earlier one can repeat it
            return False
        values = (one.connection, one.log_id, for_client, one.key, any_key, one.instance, _MAX_REPLACEABLE)
        found = database.execute(_REPLACEABLE, values).fetchall()
        index = least_needed([received_at for _, received_at in found], one.received_at)
        if index is None:
            return False
        database.execute("DELETE FROM checkpoints WHERE id = ?", (found[index][0],))
        return True

    def _press(self, database: sqlite3.Connection, one: KeptCheckpoint, wanted: int, *, for_client: bool) -> int:
        """Delete checkpoints of the log to which one is to be added; see `PRESSED`. Returns how many."""
        log, now = (one.connection, one.log_id), one.received_at
        if abs(now - self._pressed_at.get(log, -math.inf)) < PRESS_SECONDS:
            return 0
        self._pressed_at[log] = now
        deleted = 0
        for age, seconds in PRESSED:
            end = (now - age) // seconds * seconds  # only intervals that are over
            values = {
                "connection": one.connection,
                "log": one.log_id,
                "instance": one.instance,
                "for_client": for_client,
                "end": end,
                "seconds": seconds,
            }
            deleted += database.execute(_THIN_LOG, values).rowcount
            if deleted >= wanted:
                break
        return deleted

    def _sweep(self, database: sqlite3.Connection, now: float) -> None:
        self._pressed_at.clear()
        stored = [at for (at,) in database.execute(_READINGS, (_READING_SECONDS,))]
        if not self._swept_at or not 0 <= now - self._swept_at[-1] < _READING_SECONDS:
            self._swept_at = [*self._swept_at[1 - _MAX_READINGS :], now]
        now = counted([*stored, *self._swept_at, now])[-1]
        # It is not known when those with a time before `EARLIEST` were received, so they are only thinned.
        old = "DELETE FROM checkpoints WHERE received_at >= ? AND received_at < ?"
        database.execute(old, (EARLIEST, now - KEPT_SECONDS))
        for age, seconds in THINNED:
            end = (now - age) // seconds * seconds  # only intervals that are over
            begin = self._thinned_to[seconds]
            if end > begin:
                database.execute(_THIN, {"begin": begin, "end": end, "seconds": seconds})
                self._thinned_to[seconds] = end


def _read(database: sqlite3.Connection, query: CheckpointQuery) -> list[KeptCheckpoint]:
    values = {"log": query.log_id, "connection": query.connection, "prefix": query.prefix}
    conditions = "".join(_CONDITIONS[name] for name, value in values.items() if value)
    # By itself, SQLite may read all rows in the order of their ids, to save the sorting.
    index = "INDEXED BY by_connection" if query.prefix and not (query.log_id or query.connection) else ""
    rows = database.execute(_READ.format(index, conditions), {**values, "after": query.after, "limit": query.limit})
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
