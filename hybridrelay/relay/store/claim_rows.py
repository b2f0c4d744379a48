"""Claims as rows of the registry's tables (`schema`)."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from ..claims import Claim, ClaimState, OpenClaim, to_forget

__all__ = [
    "claims_to_sweep",
    "insert_claim",
    "read_claim",
    "read_claims",
    "read_open_claims",
    "sweep_claims",
    "update_claim",
]

_COLUMNS = (
    "id, connection, proof_digest, sealed, created_at, expires_at, note, taken_at, taken_by, revoked_at, "
    "taken_again, taken_again_at, taken_again_by, taken_attempt"
)
#: With one byte in place of the content.
_WITHOUT_CONTENT = _COLUMNS.replace("sealed", "CASE WHEN sealed IS NULL THEN NULL ELSE x'00' END")


def read_claims(database: sqlite3.Connection, connection: str) -> Iterator[Claim]:
    """Read the claims of a hybrid connection, the latest first.

    Raises:
        sqlite3.Error: they cannot be read.
        ValueError: the rows are not what this program writes.
    """
    return _read(database, connection, _COLUMNS)


def read_open_claims(database: sqlite3.Connection, now: float) -> Iterator[OpenClaim]:
    """Read the open claims of all hybrid connections, without their contents, in the order in which they expire.
    Raises as `read_claims`."""
    rows = database.execute(
        "SELECT id, connection, created_at, expires_at, note FROM claims "
        "WHERE sealed IS NOT NULL AND expires_at > ? ORDER BY expires_at, id",
        (now,),
    )
    return (OpenClaim(*row) for row in rows.fetchall())


def read_claim(database: sqlite3.Connection, claim_id: str) -> tuple[Claim, bool] | None:
    """Read a claim, and whether its hybrid connection is disabled; None if there is none. Raises as
    `read_claims`."""
    row = database.execute(
        f"SELECT {_COLUMNS}, (SELECT disabled FROM connections WHERE name = connection) "  # noqa: S608
        "FROM claims WHERE id = ?",
        (claim_id,),
    ).fetchone()
    return None if row is None else (Claim(*row[:-1]), bool(row[-1]))


def insert_claim(database: sqlite3.Connection, claim: Claim) -> None:
    """Add a claim. Raises sqlite3.Error."""
    marks = ", ".join("?" * len(_COLUMNS.split(", ")))
    database.execute(f"INSERT INTO claims ({_COLUMNS}) VALUES ({marks})", _values(claim))  # noqa: S608


def update_claim(database: sqlite3.Connection, claim: Claim) -> None:
    """Replace what is stored of a claim. Raises sqlite3.Error."""
    settings = ", ".join(f"{column} = ?" for column in _COLUMNS.split(", "))
    database.execute(f"UPDATE claims SET {settings} WHERE id = ?", (*_values(claim), claim.id))  # noqa: S608


def claims_to_sweep(database: sqlite3.Connection, now: float) -> list[str]:
    """Return the hybrid connections for which `sweep_claims` has something to delete. Raises as `read_claims`."""
    names = [name for (name,) in database.execute("SELECT DISTINCT connection FROM claims").fetchall()]
    return [name for name in names if any(_to_sweep(database, name, now))]


def sweep_claims(database: sqlite3.Connection, connection: str, now: float) -> None:
    """Delete the contents of claims that have expired, and claims that are no longer kept. Raises as
    `read_claims`."""
    expired, forgotten = _to_sweep(database, connection, now)
    for claim in expired:
        update_claim(database, claim.without_content())
    database.executemany("DELETE FROM claims WHERE id = ?", [(claim.id,) for claim in forgotten])


def _to_sweep(database: sqlite3.Connection, connection: str, now: float) -> tuple[list[Claim], list[Claim]]:
    claims = tuple(_read(database, connection, _WITHOUT_CONTENT))
    expired = [one for one in claims if one.sealed is not None and one.state(now) is not ClaimState.OPEN]
    return expired, to_forget(claims, now)


def _read(database: sqlite3.Connection, connection: str, columns: str) -> Iterator[Claim]:
    rows = database.execute(
        f"SELECT {columns} FROM claims WHERE connection = ? ORDER BY created_at DESC, id",  # noqa: S608
        (connection,),
    )
    return (Claim(*row) for row in rows.fetchall())


def _values(claim: Claim) -> tuple[object, ...]:
    return tuple(getattr(claim, column) for column in _COLUMNS.split(", "))
