"""The rendezvous that are joined, in an SQLite file, so that the next main process can report the ends of those that
were lost together with the main process that wrote it. Synchronous."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import attrs

from ..._value import Value
from ..joined import MAX_KEEP, Batch, Entry
from .expendable import ExpendableDatabase, ExpendableFile

__all__ = ["JOINED_FILE", "JoinedFile", "SavedRendezvous"]

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
class SavedRendezvous(Value):
    """What earlier main processes have left."""

    entries: Sequence[Entry]
    #: The time of the latest write to the file (seconds since 1970).
    seen_at: float


class JoinedFile(ExpendableDatabase):
    """The file of a state directory. Any method may raise `ExpendableFileError`."""

    def __init__(self, state_dir: Path) -> None:
        file = state_dir / JOINED_FILE
        super().__init__(ExpendableFile(file, "the list of joined rendezvous", _SCHEMA, _VERSION, _MAX_BYTES))

    def load(self) -> SavedRendezvous:
        """Read what earlier main processes have left."""
        return self.use(_load)

    def save(self, batch: Batch, now: float) -> None:
        """Make changes, and note that the relay was running at this time."""
        self.use(lambda database: _save(database, batch, now))


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
