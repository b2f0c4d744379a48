"""Reading the registry in an SQLite file. Synchronous."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

from ...errors import ConfigurationError, StateError
from ...security import ManagementToken, Rule
from ..claims import Claim, OpenClaim
from ..model import HybridConnection
from ..quotas import Editions
from ..updates import StoredUpdate
from . import claim_rows
from .change_rows import read_changes
from .changes import Changes, Mark
from .checks import SHOWN_NAMES, no_connection, no_rule
from .edition_rows import read_editions
from .failures import DAMAGED, state_errors
from .opened_file import OpenedFile
from .rows import read_connections
from .token_rows import read_scope, read_tokens
from .update_rows import read_updates

__all__ = ["EXISTS", "SQLiteReader"]

# A part of all hybrid connections, in order of their names. `_range` makes the parameters.
_NAMES = "SELECT name FROM connections WHERE name > ? AND name >= ? AND name < ? ORDER BY name LIMIT ?"
_CREATED = "SELECT name, created_at FROM connections WHERE name >= ? AND name < ? ORDER BY name"
_COUNT = "SELECT count(*) FROM connections WHERE name >= ? AND name < ?"
EXISTS = "SELECT 1 FROM connections WHERE name = ?"
_DISABLED = "SELECT name, disabled FROM connections WHERE name > ? AND name >= ? AND name < ? ORDER BY name LIMIT ?"


class SQLiteReader:
    """The methods of `Store` that change nothing, for an open file. Only one thread may use it at a time.

    Every method raises `StateError` if the file cannot be read.

    Args:
        database: the open file.
        file: its path, and which file this was when it was opened.
        clock: returns seconds since 1970.
    """

    def __init__(self, database: sqlite3.Connection, file: OpenedFile, clock: Callable[[], float]) -> None:
        self._database = database
        self._file = file
        self._path = file.path
        self._clock = clock

    def data_version(self) -> tuple[int, int]:
        """See `Store.data_version`. Costs tens of microseconds.

        Raises:
            StateError: the file cannot be read, or it was replaced or deleted (`OpenedFile`). The other methods that
                only read do not look at this.
        """
        self._file.check()
        with state_errors(self._path):
            # SQLite counts the commits of other connections and our own changes separately.
            (others,) = self._database.execute("PRAGMA data_version").fetchone()
            return others, self._database.total_changes

    def snapshot(self) -> Mapping[str, HybridConnection]:
        """See `Store.snapshot`."""
        return MappingProxyType({connection.name: connection for connection in self._read("")})

    def changes(self, since: Mark | None, limit: int) -> Changes:
        """See `Store.changes`."""
        with self._reading():
            return read_changes(self._database, since, limit)

    def list(self, *, after: str = "", prefix: str = "", limit: int | None = None) -> tuple[HybridConnection, ...]:
        """See `Store.list`."""
        return tuple(self._read(f" WHERE connections.name IN ({_NAMES})", *_range(after, prefix, limit)))

    def disabled_by_name(self, *, after: str = "", prefix: str = "", limit: int | None = None) -> Mapping[str, bool]:
        """See `Store.disabled_by_name`."""
        with self._reading():
            rows = self._database.execute(_DISABLED, _range(after, prefix, limit))
            return {name: bool(disabled) for name, disabled in rows}

    def exists(self, name: str) -> bool:
        """See `Store.exists`."""
        with self._reading():
            return self._database.execute(EXISTS, (name,)).fetchone() is not None

    def count(self, prefix: str = "") -> int:
        """See `Store.count`."""
        with self._reading():
            (count,) = self._database.execute(_COUNT, _range("", prefix, None)[1:3]).fetchone()
        return int(count)

    def created_at_by_name(self, prefix: str = "") -> Mapping[str, float]:
        """See `Store.created_at_by_name`."""
        with self._reading():
            return dict(self._database.execute(_CREATED, _range("", prefix, None)[1:3]).fetchall())

    def get(self, name: str) -> HybridConnection:
        """See `Store.get`."""
        for connection in self._read(" WHERE connections.name = ?", name):
            return connection
        raise self._unknown_connection(name)

    def rule(self, name: str, rule: str) -> Rule:
        """See `Store.rule`."""
        known = self.get(name)
        found = known.rule(rule)
        if found is None:
            raise no_rule(name, rule, [one.name for one in known.rules])
        return found

    def tokens(self) -> tuple[ManagementToken, ...]:
        """See `Store.tokens`."""
        with self._reading():
            return tuple(read_tokens(self._database))

    def token(self, id_: str) -> ManagementToken | None:
        """See `Store.token`."""
        with self._reading():
            return next(read_tokens(self._database, id_), None)

    def scope_of(self, name: str) -> str:
        """See `Store.scope_of`."""
        with self._reading():
            return read_scope(self._database, name)

    def editions(self) -> Editions:
        """See `Store.editions`."""
        with self._reading():
            return read_editions(self._database)

    def open_claims(self) -> tuple[OpenClaim, ...]:
        """See `Store.open_claims`."""
        with self._reading():
            return tuple(claim_rows.read_open_claims(self._database, self._clock()))

    def claims(self, name: str) -> tuple[Claim, ...]:
        """See `Store.claims`."""
        self.get(name)
        with self._reading():
            return tuple(claim_rows.read_claims(self._database, name))

    def updates(self, name: str | None = None) -> tuple[StoredUpdate, ...]:
        """See `Store.updates`."""
        if name is not None:
            self.get(name)
        with self._reading():
            return tuple(read_updates(self._database, None if name is None else [name]))

    def updates_of(self, names: Collection[str]) -> tuple[StoredUpdate, ...]:
        """See `Store.updates_of`."""
        with self._reading():
            return tuple(read_updates(self._database, names))

    def _read(self, where: str, *parameters: str | int) -> Iterator[HybridConnection]:
        with self._reading():
            yield from read_connections(self._database, where, *parameters)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            with state_errors(self._path):
                yield
        except ValueError as exc:
            raise StateError(f"the registry {self._path} is damaged: {exc}", remedy=DAMAGED) from exc

    def _unknown_connection(self, name: str) -> ConfigurationError:
        return no_connection(name, self.disabled_by_name(limit=SHOWN_NAMES), self.count())


def _range(after: str, prefix: str, limit: int | None) -> tuple[str | int, ...]:
    """Return the parameters of `_NAMES` and `_DISABLED` for those of `Store.list`."""
    # All characters of a name come before the last one of ASCII, and SQLite takes -1 for no limit.
    return after, prefix, f"{prefix}\x7f", -1 if limit is None else limit
