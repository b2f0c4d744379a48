"""The rendezvous that are joined, in an SQLite file, so that the next relay can report the ends of those that were
lost together with this one. Synchronous."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

import attrs

from ..joined import MAX_KEEP, Batch, Entry
from .expendable import ExpendableFile, ExpendableFileError
from .schema import transaction

__all__ = ["JOINED_FILE", "JoinedFile", "SavedRendezvous"]

T = TypeVar("T")

JOINED_FILE: Final = "rendezvous.db"
_VERSION: Final = 1
#: The maximum size of the file (bytes): about 150,000 rows with the longest names.
_MAX_BYTES: Final = 64 << 20
_MAX_NAME: Final = 260
_ID: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)

_SCHEMA: Final = (
    "CREATE TABLE joined (id TEXT PRIMARY KEY, connection TEXT, joined_at REAL, keep REAL) WITHOUT ROWID",
    "CREATE TABLE relay (is_only INTEGER PRIMARY KEY CHECK (is_only = 1), seen_at REAL)",
)


@attrs.frozen
class SavedRendezvous:
    """What an earlier relay has left."""

    entries: Sequence[Entry]
    #: When it last wrote to the file (seconds since 1970).
    seen_at: float


class JoinedFile:
    """The file of a state directory. Only one thread may use it at a time. Any method may raise
    `ExpendableFileError`.

    If the file is damaged, it is set aside, the method is repeated with a new file, and `set_aside` has the path of
    the damaged one.
    """

    def __init__(self, state_dir: Path) -> None:
        self.file = ExpendableFile(
            state_dir / JOINED_FILE, "the list of joined rendezvous", _SCHEMA, _VERSION, _MAX_BYTES
        )
        self._database: sqlite3.Connection | None = None
        #: The new path of a damaged file, and what was wrong with it. The caller resets it.
        self.set_aside: tuple[Path, str] | None = None

    def load(self) -> SavedRendezvous:
        """Read what an earlier relay has left."""
        return self._repeated(_load)

    def save(self, batch: Batch, now: float) -> None:
        """Make changes, and note that the relay was running at this time."""
        self._repeated(lambda database: _save(database, batch, now))

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
        except (ExpendableFileError, ValueError) as exc:
            self.close()  # the next attempt opens it again
            if isinstance(exc, ExpendableFileError):
                raise
            raise ExpendableFileError(
                f"{self.file.what} {self.file.path} is damaged: {exc}",
                remedy="nothing needs to be done: it is renamed, and a new one is made",
                is_damaged=True,
            ) from exc


def _load(database: sqlite3.Connection) -> SavedRendezvous:
    rows = database.execute("SELECT id, connection, joined_at, keep FROM joined").fetchall()
    seen = database.execute("SELECT seen_at FROM relay").fetchone()
    return SavedRendezvous([_entry(*row) for row in rows], 0.0 if seen is None else _number(seen[0]))


def _save(database: sqlite3.Connection, batch: Batch, now: float) -> None:
    if batch.is_whole:
        database.execute("DELETE FROM joined")
    database.executemany("DELETE FROM joined WHERE id = ?", [(one,) for one in batch.delete])
    database.executemany(
        "INSERT OR REPLACE INTO joined VALUES (?, ?, ?, ?)",
        [(one.id, one.connection, one.joined_at, one.keep) for one in batch.put],
    )
    database.execute("INSERT OR REPLACE INTO relay VALUES (1, ?)", (now,))


def _entry(id_: object, connection: object, joined_at: object, keep: object) -> Entry:
    if not isinstance(id_, str) or _ID.fullmatch(id_) is None:
        raise ValueError("an id is not valid")
    if not isinstance(connection, str) or not 0 < len(connection) <= _MAX_NAME:
        raise ValueError("a name is not valid")
    return Entry(id_, connection, _number(joined_at), min(_number(keep), MAX_KEEP))


def _number(value: object) -> float:
    if not isinstance(value, float) or not value >= 0:
        raise ValueError("a number is not valid")
    return value
