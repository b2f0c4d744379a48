"""The usage of hybrid connections by period, and when keys were last used, in an SQLite file. Synchronous."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

import attrs

from ..._value import Value
from ...security import KeySlot
from ..model import KeyId
from ..usage import MAX_USAGE, TOTAL, Batch, PastUsage, Period, Usage
from .expendable import ExpendableDatabase, ExpendableFile

__all__ = ["USAGE_FILE", "SavedUsage", "UsageFile"]

USAGE_FILE: Final = "usage.db"
_VERSION: Final = 1
#: The maximum size of the file (bytes): about 100,000 rows.
_MAX_BYTES: Final = 16 << 20
#: How many periods are kept.
_KEPT: Final = 24

#: The period comes first, so that deleting one frees whole pages.
_SCHEMA: Final = (
    """
    CREATE TABLE usage (
        connection TEXT, period TEXT, to_client INTEGER, to_connector INTEGER, joins INTEGER,
        PRIMARY KEY (period, connection)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE keys (
        connection TEXT, rule TEXT, slot TEXT, generation INTEGER, used_at REAL, PRIMARY KEY (connection, rule, slot)
    ) WITHOUT ROWID
    """,
)
_ADD: Final = f"""
    INSERT INTO usage VALUES (?, ?, ?, ?, ?) ON CONFLICT (period, connection) DO UPDATE SET
        to_client = min(to_client + excluded.to_client, {MAX_USAGE}),
        to_connector = min(to_connector + excluded.to_connector, {MAX_USAGE}),
        joins = min(joins + excluded.joins, {MAX_USAGE})
    """  # noqa: S608


@attrs.frozen
class SavedUsage(Value):
    """The content of a file: its last period, the usage in it by hybrid connection, and when keys were last used."""

    period: Period | None
    usage: Mapping[str, Usage]
    keys: Mapping[KeyId, float]


class UsageFile(ExpendableDatabase):
    """The usage file of a state directory. Any method may raise `ExpendableFileError`.

    When the file is full, the oldest period is deleted, except for the total of all hybrid connections.
    """

    def __init__(self, state_dir: Path) -> None:
        file = state_dir / USAGE_FILE
        super().__init__(ExpendableFile(file, "the usage", _SCHEMA, _VERSION, _MAX_BYTES), make_room=_shrink)

    def load(self) -> SavedUsage:
        """Read what an earlier run has saved."""
        return self.use(_load)

    def save(self, batch: Batch, existing: Collection[str] | None) -> None:
        """Add a batch.

        Args:
            batch: what to add.
            existing: the names of all hybrid connections. For others, the times at which keys were last used are
                deleted. None: delete nothing.
        """
        self.use(lambda database: _save(database, batch, existing))

    def past(self, connection: str) -> list[PastUsage]:
        """Read the usage of all periods that are kept, the latest first."""
        return self.use(lambda database: _past(database, connection))


def _load(database: sqlite3.Connection) -> SavedUsage:
    (latest,) = database.execute("SELECT max(period) FROM usage").fetchone()
    rows = database.execute(
        "SELECT connection, to_client, to_connector, joins FROM usage WHERE period = ?", (latest,)
    ).fetchall()
    keys = {
        KeyId(connection, rule, KeySlot(slot), generation): _time(at)
        for connection, rule, slot, generation, at in database.execute("SELECT * FROM keys")
    }
    usage = {name: _usage(*numbers) for name, *numbers in rows}
    return SavedUsage(None if latest is None else Period.parse(latest), usage, keys)


def _save(database: sqlite3.Connection, batch: Batch, existing: Collection[str] | None) -> None:
    database.executemany(
        _ADD,
        [
            (name, str(period), one.to_client, one.to_connector, one.joins)
            for (period, name), one in batch.usage.items()
        ],
    )
    database.executemany(
        "INSERT OR REPLACE INTO keys VALUES (?, ?, ?, ?, ?)",
        [(key.connection, key.rule, key.slot.value, key.generation, at) for key, at in batch.keys.items()],
    )
    periods = [row[0] for row in database.execute("SELECT DISTINCT period FROM usage ORDER BY period DESC")]
    for period in periods[_KEPT:]:
        database.execute("DELETE FROM usage WHERE period = ?", (period,))
    if existing is not None:
        for (name,) in database.execute("SELECT DISTINCT connection FROM keys").fetchall():
            if name not in existing:
                database.execute("DELETE FROM keys WHERE connection = ?", (name,))


def _shrink(database: sqlite3.Connection) -> None:
    """Delete the oldest period, except for the total of all hybrid connections."""
    database.execute(
        "DELETE FROM usage WHERE connection != ? AND period = (SELECT min(period) FROM usage WHERE connection != ?)",
        (TOTAL, TOTAL),
    )


def _past(database: sqlite3.Connection, connection: str) -> list[PastUsage]:
    rows = database.execute(
        "SELECT period, to_client, to_connector, joins FROM usage WHERE connection = ? ORDER BY period DESC LIMIT ?",
        (connection, _KEPT),
    ).fetchall()
    return [PastUsage(Period.parse(period), _usage(*numbers)) for period, *numbers in rows]


def _usage(*numbers: object) -> Usage:
    if not all(isinstance(one, int) and 0 <= one <= MAX_USAGE for one in numbers):
        raise ValueError("a number is not valid")
    to_client, to_connector, joins = numbers
    assert isinstance(to_client, int)
    assert isinstance(to_connector, int)
    assert isinstance(joins, int)
    return Usage(to_client, to_connector, joins)


def _time(value: object) -> float:
    if not isinstance(value, float):
        raise ValueError("a time is not valid")
    return value
