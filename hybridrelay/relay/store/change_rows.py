"""Reading what has changed in the registry's tables (`schema`) since an earlier time."""

from __future__ import annotations

import sqlite3

from .changes import Changes, Mark
from .rows import read_connections

__all__ = ["read_changes"]

_CHANGED = "SELECT name, version FROM connections WHERE version > ? ORDER BY version LIMIT ?"
_DELETED = "SELECT name, number FROM deletions WHERE number > ? ORDER BY number LIMIT ?"
#: The number of the last deletion, even if that was forgotten, and of the first deletion that is remembered.
_NUMBERS = """
SELECT (SELECT seq FROM sqlite_sequence WHERE name = 'deletions'), (SELECT min(number) FROM deletions)
"""


def read_changes(database: sqlite3.Connection, since: Mark | None, limit: int) -> Changes:
    """Read what has changed since a mark, consistently; see `Store.changes`.

    Raises:
        sqlite3.Error: it cannot be read.
        ValueError: a row is not in the form in which this program writes it.
    """
    database.execute("BEGIN")  # a transaction that only reads, so that all statements see the same state
    try:
        return _read(database, since, limit)
    finally:
        database.rollback()


def _read(database: sqlite3.Connection, since: Mark | None, limit: int) -> Changes:
    (changes,) = database.execute("SELECT CAST(value AS INTEGER) FROM meta WHERE name = 'changes'").fetchone()
    last, first = database.execute(_NUMBERS).fetchone()
    now = Mark(changes, last or 0)
    if since is None or not _is_known(since, now, now.deletion + 1 if first is None else first):
        return Changes(tuple(read_connections(database)), (), now, is_everything=True)
    changed = database.execute(_CHANGED, (since.version, limit)).fetchall()
    deleted = database.execute(_DELETED, (since.deletion, limit)).fetchall()
    # A hybrid connection that was deleted may have been created again.
    names = {name for name, _ in (*changed, *deleted)}
    present = tuple(read_connections(database, f" WHERE connections.name IN ({', '.join('?' * len(names))})", *names))
    absent = names - {one.name for one in present}
    return Changes(
        present,
        tuple(sorted(absent)),
        Mark(
            changed[-1][1] if len(changed) == limit else now.version,
            deleted[-1][1] if len(deleted) == limit else now.deletion,
        ),
        has_more=limit in (len(changed), len(deleted)),
    )


def _is_known(since: Mark, now: Mark, first: int) -> bool:
    """Return whether all deletions since a mark are remembered, and the registry is not older than the mark."""
    return since.version <= now.version and first - 1 <= since.deletion <= now.deletion
