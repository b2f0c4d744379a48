"""The tables of the history: rows by resolution, hybrid connection and interval, in SQLite. Synchronous.

There is a row for each hybrid connection and each interval in which something happened to it. The rows of longer
intervals, which contain the sums and maxima of the shorter ones, are written at the same time, so that only the last
minute is lost if the relay is killed.

Old rows are deleted. When the file has nearly reached its limit, the oldest rows of the finest resolution are
deleted, and those of a coarser one only if no finer ones are left.
"""

from __future__ import annotations

import json
import sqlite3
import time as clocks
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import attrs

from ..history import MAX_VALUE, RECENT, TOTAL, WRITTEN, Row, Subject
from .expendable import ExpendableFile
from .schema import transaction

__all__ = ["HISTORY_FILE", "KEPT_SECONDS", "HistoryTables", "ReadTooLong", "history_file", "recent_history"]

HISTORY_FILE: Final = "history.db"

#: For how long rows of each resolution are kept (seconds).
KEPT_SECONDS: Final[Mapping[int, int]] = {WRITTEN: 3 * 86400, 300: 14 * 86400, 3600: 400 * 86400}
#: The same for the table in memory.
RECENT_KEPT_SECONDS: Final[Mapping[int, int]] = {RECENT: 3600}
#: The maximum size of that table (bytes): about a million rows.
RECENT_BYTES: Final = 32 << 20

#: When this fraction of the limit is reached, rows are deleted whatever their age.
_NEARLY_FULL: Final = 0.9
#: For each transaction: how many hybrid connections are examined for old rows, and how many rows are deleted because
#: of the limit.
_PRUNED_AT_A_TIME: Final = 250
_SHRUNK_AT_A_TIME: Final = 50_000
#: Rows that are this far in the future (seconds) were written while the clock was wrong, and are deleted.
_FUTURE_SECONDS: Final = 86400
#: How long reading may take (seconds).
_READ_SECONDS: Final = 5.0
#: After this many of its steps, SQLite checks whether this time has passed.
_STEPS: Final = 10_000

_SCHEMA: Final = (
    "CREATE TABLE connections (id INTEGER PRIMARY KEY, name TEXT, created_at REAL, UNIQUE (name, created_at))",
    """
    CREATE TABLE history (
        resolution INTEGER, connection INTEGER, time INTEGER,
        listeners_max INTEGER, senders_max INTEGER, sessions_max INTEGER,
        bytes_to_listeners INTEGER, bytes_to_senders INTEGER,
        joins INTEGER, joins_failed INTEGER, disconnects INTEGER,
        PRIMARY KEY (resolution, connection, time)
    ) WITHOUT ROWID
    """,
)
_VERSION: Final = 1

_ADD: Final = """
    INSERT INTO history VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (resolution, connection, time) DO UPDATE SET
        listeners_max = max(listeners_max, excluded.listeners_max),
        senders_max = max(senders_max, excluded.senders_max),
        sessions_max = max(sessions_max, excluded.sessions_max),
        bytes_to_listeners = min(bytes_to_listeners + excluded.bytes_to_listeners, 9007199254740991),
        bytes_to_senders = min(bytes_to_senders + excluded.bytes_to_senders, 9007199254740991),
        joins = min(joins + excluded.joins, 9007199254740991),
        joins_failed = min(joins_failed + excluded.joins_failed, 9007199254740991),
        disconnects = min(disconnects + excluded.disconnects, 9007199254740991)
    """
#: The inner query adds up hybrid connections, the outer one intervals.
_READ: Final = """
    SELECT
        time - time % ?1, max(listeners_max), max(senders_max), max(sessions_max),
        sum(bytes_to_listeners), sum(bytes_to_senders), sum(joins), sum(joins_failed), sum(disconnects)
    FROM (
        SELECT
            time, sum(listeners_max) AS listeners_max, sum(senders_max) AS senders_max,
            sum(sessions_max) AS sessions_max, sum(bytes_to_listeners) AS bytes_to_listeners,
            sum(bytes_to_senders) AS bytes_to_senders, sum(joins) AS joins, sum(joins_failed) AS joins_failed,
            sum(disconnects) AS disconnects
        FROM history
        WHERE resolution = ?2 AND connection IN (SELECT value FROM json_each(?3)) AND time >= ?4 AND time < ?5
        GROUP BY time
    )
    GROUP BY 1 ORDER BY 1
    """


class ReadTooLong(Exception):
    """Reading took too long and was given up."""


def history_file(state_dir: Path, max_bytes: int) -> ExpendableFile:
    """Return the history file of a state directory."""
    return ExpendableFile(state_dir / HISTORY_FILE, "the history", _SCHEMA, _VERSION, max_bytes)


def recent_history() -> HistoryTables:
    """Make tables in memory, for the shortest intervals.

    Raises:
        sqlite3.Error: there is no memory.
    """
    database = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    for statement in _SCHEMA:
        database.execute(statement)
    (page_size,) = database.execute("PRAGMA page_size").fetchone()
    database.execute(f"PRAGMA max_page_count = {RECENT_BYTES // page_size}").fetchall()
    return HistoryTables(database, RECENT_KEPT_SECONDS, RECENT_BYTES)


@attrs.define(eq=False)
class HistoryTables:
    """The tables in an open database. Only one thread may use it at a time. Every method may raise
    `sqlite3.Error`."""

    _database: sqlite3.Connection
    #: For how long rows are kept (seconds), by resolution.
    kept: Mapping[int, int]
    max_bytes: int
    _ids: dict[Subject, int] = attrs.field(factory=dict, init=False)
    #: Where `_prune` and `_shrink` continue.
    _pruned_to: int = attrs.field(default=-1, init=False)
    _shrunk_to: int = attrs.field(default=-1, init=False)
    #: All hybrid connections, while there may still be rows of others; otherwise None.
    _existing: Collection[Subject] | None = attrs.field(default=None, init=False)

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def write(
        self,
        rows: Sequence[tuple[int, Mapping[Subject, Row]]],
        now: float | None,
        existing: Collection[Subject] | None = None,
    ) -> None:
        """Add rows to the existing ones, and delete some of the old ones, in one transaction.

        Args:
            rows: the rows, grouped by the beginning of their interval, whose length is the shortest resolution.
            now: seconds since 1970. Rows that are old at that time are deleted; None: delete no rows because of their
                age.
            existing: all hybrid connections, if they may have changed. The rows of others are deleted.
        """
        if existing is not None:
            self._existing = existing
        try:
            with transaction(self._database):
                if now is not None:
                    self._prune(int(now))
                self._shrink()
                for resolution in self.kept:
                    self._database.executemany(_ADD, self._values(resolution, rows))
                is_clean = self._existing is None or self._forget_others(self._existing)
        except BaseException:
            self._ids.clear()  # after a rollback, new ids are not in the file
            raise
        if is_clean:
            self._existing = None

    def _values(
        self, resolution: int, rows: Sequence[tuple[int, Mapping[Subject, Row]]]
    ) -> Iterable[tuple[int, ...]]:
        for time, by_subject in rows:
            begin = time // resolution * resolution
            for subject, row in by_subject.items():
                yield (resolution, self._id(subject), begin, *row)

    def _id(self, subject: Subject) -> int:
        known = self._ids.get(subject)
        if known is None:
            if subject == TOTAL:
                self._database.execute("INSERT OR IGNORE INTO connections VALUES (0, ?, ?)", subject)
            else:
                self._database.execute("INSERT OR IGNORE INTO connections (name, created_at) VALUES (?, ?)", subject)
            select = "SELECT id FROM connections WHERE name = ? AND created_at = ?"
            (known,) = self._database.execute(select, subject).fetchone()
            self._ids[subject] = known
        return int(known)

    # --- deleting

    def _forget_others(self, existing: Collection[Subject]) -> bool:
        """Delete some of the hybrid connections that no longer exist. Returns True if none of them are left."""
        deleted = 0
        for number, name, created_at in self._database.execute("SELECT * FROM connections WHERE id != 0").fetchall():
            subject = Subject(name, created_at)
            if subject in existing:
                continue
            for resolution in self.kept:
                deleted += self._delete(resolution, number)
            self._database.execute("DELETE FROM connections WHERE id = ?", (number,))
            self._ids.pop(subject, None)
            if deleted >= _SHRUNK_AT_A_TIME:
                return False
        return True

    def _prune(self, now: int) -> None:
        ids = self._ids_after(self._pruned_to, _PRUNED_AT_A_TIME)
        for number in ids:
            for resolution, seconds in self.kept.items():
                self._delete(resolution, number, before=now - seconds)
                self._delete(resolution, number, since=now + _FUTURE_SECONDS)
        self._pruned_to = ids[-1] if len(ids) == _PRUNED_AT_A_TIME else -1

    def _shrink(self) -> None:
        """Delete the oldest rows of the finest resolution that has any, until there is room again, or enough rows
        were deleted for one transaction."""
        if self._used() < _NEARLY_FULL * self.max_bytes:
            return
        ids = self._ids_after(self._shrunk_to)
        ids += [number for number in self._ids_after(-1) if number <= self._shrunk_to]
        deleted = 0
        for resolution in sorted(self.kept):
            found = True
            while found:  # one pass over all hybrid connections
                found = False
                for number in ids:
                    removed = self._delete_oldest(resolution, number)
                    deleted, found = deleted + removed, found or removed > 0
                    self._shrunk_to = number
                    if removed and (deleted >= _SHRUNK_AT_A_TIME or self._used() < _NEARLY_FULL * self.max_bytes):
                        return

    def _ids_after(self, after: int, limit: int = -1) -> list[int]:
        select = "SELECT id FROM connections WHERE id > ? ORDER BY id LIMIT ?"
        return [number for (number,) in self._database.execute(select, (after, limit))]

    def _delete_oldest(self, resolution: int, connection: int) -> int:
        """Delete the rows of a hybrid connection in the oldest eighth of the time that its rows span. Returns how
        many rows were deleted."""
        oldest, newest = self._database.execute(
            "SELECT min(time), max(time) FROM history WHERE resolution = ? AND connection = ?",
            (resolution, connection),
        ).fetchone()
        if oldest is None:
            return 0
        return self._delete(resolution, connection, before=oldest + max(1, (newest - oldest) // 8))

    def _delete(
        self, resolution: int, connection: int, *, before: int | None = None, since: int | None = None
    ) -> int:
        where, values = "resolution = ? AND connection = ?", [resolution, connection]
        if before is not None:
            where, values = f"{where} AND time < ?", [*values, before]
        if since is not None:
            where, values = f"{where} AND time >= ?", [*values, since]
        return self._database.execute(f"DELETE FROM history WHERE {where}", values).rowcount  # noqa: S608

    def _used(self) -> int:
        """Return the size of the pages that are in use (bytes)."""
        page_size, pages, free = (
            self._database.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_size", "page_count", "freelist_count")
        )
        return int(page_size * (pages - free))

    # --- reading

    def read(
        self, stored: int, resolution: int, subjects: Collection[Subject], begin: int, end: int
    ) -> list[tuple[int, Row]]:
        """Read the rows of some hybrid connections, added up, in order of time.

        Args:
            stored: the resolution of the rows that are read (seconds).
            resolution: the resolution of the rows that are returned: a multiple of `stored`.
            subjects: the hybrid connections, or `TOTAL`.
            begin: only intervals that begin at or after this time (seconds since 1970).
            end: only intervals that begin before this time.

        Raises:
            ReadTooLong: reading took more than five seconds.
        """
        deadline = clocks.monotonic() + _READ_SECONDS
        self._database.set_progress_handler(lambda: clocks.monotonic() >= deadline, _STEPS)
        try:
            values = (resolution, stored, json.dumps(self._known_ids(subjects)), begin, end)
            found = self._database.execute(_READ, values)
            return [(time, Row(*(min(number, MAX_VALUE) for number in numbers))) for time, *numbers in found]
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode & 0xFF == sqlite3.SQLITE_INTERRUPT:
                raise ReadTooLong from exc
            raise
        finally:
            self._database.set_progress_handler(None, 0)

    def _known_ids(self, subjects: Collection[Subject]) -> list[int]:
        if len(subjects) == 1:
            select = "SELECT id FROM connections WHERE name = ? AND created_at = ?"
            return [number for one in subjects for (number,) in self._database.execute(select, one)]
        found = self._database.execute("SELECT id, name, created_at FROM connections")
        return [number for number, name, created_at in found if Subject(name, created_at) in subjects]
