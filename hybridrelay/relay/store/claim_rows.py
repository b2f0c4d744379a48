"""Claims as rows of the registry's tables (`schema`)."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator

from ..claims import Claim

__all__ = ["delete_claims", "insert_claim", "read_claim", "read_claims", "update_claim"]

_COLUMNS = (
    "mailbox, connection, proof_digest, sealed, created_at, expires_at, note, taken_at, taken_by, revoked_at, "
    "taken_again, taken_again_at, taken_again_by"
)


def read_claims(database: sqlite3.Connection, connection: str) -> Iterator[Claim]:
    """Read the claims of a hybrid connection, the latest first.

    Raises:
        sqlite3.Error: they cannot be read.
        ValueError: the rows are not what this program writes.
    """
    rows = database.execute(
        f"SELECT {_COLUMNS} FROM claims WHERE connection = ? ORDER BY created_at DESC, mailbox",  # noqa: S608
        (connection,),
    )
    return (Claim(*row) for row in rows.fetchall())


def read_claim(database: sqlite3.Connection, mailbox: str) -> tuple[Claim, bool] | None:
    """Read a claim, and whether its hybrid connection is disabled; None if there is none. Raises as
    `read_claims`."""
    row = database.execute(
        f"SELECT {_COLUMNS}, (SELECT disabled FROM connections WHERE name = connection) "  # noqa: S608
        "FROM claims WHERE mailbox = ?",
        (mailbox,),
    ).fetchone()
    return None if row is None else (Claim(*row[:-1]), bool(row[-1]))


def insert_claim(database: sqlite3.Connection, claim: Claim) -> None:
    """Add a claim. Raises sqlite3.Error."""
    marks = ", ".join("?" * len(_COLUMNS.split(", ")))
    database.execute(f"INSERT INTO claims ({_COLUMNS}) VALUES ({marks})", _values(claim))  # noqa: S608


def update_claim(database: sqlite3.Connection, claim: Claim) -> None:
    """Replace what is stored of a claim. Raises sqlite3.Error."""
    settings = ", ".join(f"{column} = ?" for column in _COLUMNS.split(", "))
    database.execute(f"UPDATE claims SET {settings} WHERE mailbox = ?", (*_values(claim), claim.mailbox))  # noqa: S608


def delete_claims(database: sqlite3.Connection, claims: Iterable[Claim]) -> None:
    """Delete claims. Raises sqlite3.Error."""
    database.executemany("DELETE FROM claims WHERE mailbox = ?", [(claim.mailbox,) for claim in claims])


def _values(claim: Claim) -> tuple[object, ...]:
    return tuple(getattr(claim, column) for column in _COLUMNS.split(", "))
