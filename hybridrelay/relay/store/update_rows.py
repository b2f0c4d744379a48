"""Updates of connection strings as rows of the registry's tables (`schema`)."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator

from ..updates import StoredUpdate

__all__ = ["put_update", "read_updates"]

_COLUMNS = "connection, role, serial, sequence, document, created_at, expires_at, note"


def read_updates(database: sqlite3.Connection, names: Collection[str] | None = None) -> Iterator[StoredUpdate]:
    """Read the updates of these hybrid connections, or of all (None), sorted by their recipients. Those that do not
    exist have none.

    Raises:
        sqlite3.Error: they cannot be read.
        ValueError: the rows are not what this program writes.
    """
    where = "" if names is None else f" WHERE connection IN ({', '.join('?' * len(names))})"
    rows = database.execute(
        f"SELECT {_COLUMNS} FROM updates{where} ORDER BY connection, role, serial",  # noqa: S608
        tuple(names or ()),
    ).fetchall()
    try:
        yield from (StoredUpdate(*row) for row in rows)
    except TypeError as exc:  # a value has an unexpected type
        raise ValueError("a value has the wrong type") from exc


def put_update(database: sqlite3.Connection, update: StoredUpdate) -> None:
    """Add an update, in place of the one for the same recipients. Raises sqlite3.Error."""
    marks = ", ".join("?" * len(_COLUMNS.split(", ")))
    values = (
        update.connection,
        update.role.value,
        update.serial,
        update.sequence,
        update.document,
        update.created_at,
        update.expires_at,
        update.note,
    )
    database.execute(f"INSERT OR REPLACE INTO updates ({_COLUMNS}) VALUES ({marks})", values)  # noqa: S608
