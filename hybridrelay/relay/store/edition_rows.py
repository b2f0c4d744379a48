"""Editions as rows of the registry's tables (`schema`)."""

from __future__ import annotations

import sqlite3

from ..quotas import Edition, Editions
from .limit_text import dump_limits, parse_limits

__all__ = ["read_editions", "set_edition", "set_edition_in_use"]


def read_editions(database: sqlite3.Connection) -> Editions:
    """Read all editions, and which one the relay uses.

    Raises:
        sqlite3.Error: they cannot be read.
        ValueError: a row is not in the form in which this program writes it.
    """
    # A single statement, so that the result is consistent.
    rows = database.execute(
        "SELECT editions.name, connections, limits, version, (SELECT value FROM meta WHERE meta.name = 'edition') "
        "FROM editions"
    ).fetchall()
    return Editions(
        tuple(
            Edition(name=name, connections=connections, limits=parse_limits(limits), version=version)
            for name, connections, limits, version, _ in rows
        ),
        next((in_use or "" for *_, in_use in rows), ""),
    )


def set_edition(database: sqlite3.Connection, edition: Edition) -> None:
    """Replace an edition that exists. Raises sqlite3.Error."""
    database.execute(
        "UPDATE editions SET connections = ?, limits = ?, version = ? WHERE name = ?",
        (edition.connections, dump_limits(edition.limits), edition.version, edition.name),
    )


def set_edition_in_use(database: sqlite3.Connection, name: str) -> None:
    """Set which edition the relay uses; empty: none. Raises sqlite3.Error."""
    database.execute("INSERT OR REPLACE INTO meta VALUES ('edition', ?)", (name,))
