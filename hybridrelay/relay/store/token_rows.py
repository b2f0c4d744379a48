"""Tokens of the management API as rows of the registry's tables (`schema`)."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping

from ...security import ManagementRole, ManagementToken

__all__ = ["delete_token", "insert_token", "read_scope", "read_tokens", "set_last_use"]

_COLUMNS = "id, name, role, scope, digest, created_at, expires_at, last_used_at"


def read_tokens(database: sqlite3.Connection, id_: str | None = None) -> Iterator[ManagementToken]:
    """Read all tokens in order of their names, or the one with this id.

    Raises:
        sqlite3.Error: they cannot be read.
        ValueError: the rows are not what this program writes.
    """
    where, parameters = ("", ()) if id_ is None else (" WHERE id = ?", (id_,))
    rows = database.execute(f"SELECT {_COLUMNS} FROM tokens{where} ORDER BY name", parameters).fetchall()  # noqa: S608
    for found, name, role, scope, digest, created_at, expires_at, last_used_at in rows:
        try:
            known = ManagementRole[str(role).upper()]
        except KeyError:
            raise ValueError("a token has a role that does not exist") from None
        if not isinstance(digest, bytes):
            raise ValueError("the digest of a token is not a BLOB")
        yield ManagementToken(found, name, known, scope, digest, created_at, expires_at, last_used_at)


def read_scope(database: sqlite3.Connection, name: str) -> str:
    """Return the longest scope that covers a name; empty if none does. Raises sqlite3.Error."""
    (scope,) = database.execute(
        "SELECT ifnull((SELECT scope FROM tokens WHERE scope = substr(?, 1, length(scope))"
        " ORDER BY length(scope) DESC LIMIT 1), '')",
        (name,),
    ).fetchone()
    return str(scope)


def insert_token(database: sqlite3.Connection, token: ManagementToken) -> None:
    """Add a token. Raises sqlite3.Error."""
    database.execute(
        f"INSERT INTO tokens ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
        (
            token.id,
            token.name,
            token.role.name.lower(),
            token.scope,
            token.digest,
            token.created_at,
            token.expires_at,
            token.last_used_at,
        ),
    )


def delete_token(database: sqlite3.Connection, id_: str) -> bool:
    """Delete a token. Returns whether there was one. Raises sqlite3.Error."""
    return database.execute("DELETE FROM tokens WHERE id = ?", (id_,)).rowcount > 0


def set_last_use(database: sqlite3.Connection, uses: Mapping[str, float]) -> None:
    """Write when tokens were last used: seconds since 1970 by id. Unknown ids are ignored. Raises sqlite3.Error."""
    database.executemany(
        "UPDATE tokens SET last_used_at = max(ifnull(last_used_at, 0), ?) WHERE id = ?",
        [(at, id_) for id_, at in uses.items()],
    )
