"""The registry: hybrid connections and their keys in an SQLite file, shared by the relay and the commands.

The rules:

1. One process changes at a time, in one transaction for each change; readers never wait for it (write-ahead log).
2. A key's generation is an AUTOINCREMENT row id: SQLite never gives it to another key, so that a key which is
   replaced, or deleted and made again, can be told from its successor.
3. What is deleted is overwritten (`secure_delete`), in the log as well.
   A file system without shared memory (some network and emulated ones) cannot have that log. There, SQLite keeps the
   pages that a change replaces in a file which it deletes afterwards, and readers wait for a change.
4. Ending a key or a hybrid connection works on a full disk, too, out of space that is kept for it (`Reserve`).

All methods are synchronous: the relay calls them in a worker thread.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Final, Self, TypeVar

from ..._descriptors import missing_descriptors
from ..._shortage import OUT_OF_DESCRIPTORS
from ...errors import ConfigurationError, StateError
from ...security import KeySlot, Right, Rule, Secret, check_hosts, generate_key
from ..model import HybridConnection, RelayRecord
from .reserve import Reserve, is_disk_full
from .state_dir import REGISTRY_FILE, can_share_memory, prepare_state_directory, private_file

__all__ = ["SCHEMA_VERSION", "Registry"]

logger = logging.getLogger("hybridrelay.relay")

T = TypeVar("T")

#: Raised by one with every change of the schema; what an older version of the program finds newer, it leaves alone.
SCHEMA_VERSION: Final = 1

#: How long a change waits for that of another process. A change takes milliseconds; a busy disk may take longer.
_BUSY_TIMEOUT_SECONDS = 5.0

#: How many files SQLite opens at a time, at most: the registry, its log, the index of that, and the directory.
_DESCRIPTORS = 4

#: endpoint_host: the hosts of all relays, separated by spaces (the name is from when there was one).
_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE connections (
    name TEXT PRIMARY KEY, endpoint_host TEXT NOT NULL, created_at REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE rules (
    connection TEXT NOT NULL REFERENCES connections ON DELETE CASCADE, name TEXT NOT NULL, rights TEXT NOT NULL,
    PRIMARY KEY (connection, name)
) WITHOUT ROWID;
CREATE TABLE keys (
    generation INTEGER PRIMARY KEY AUTOINCREMENT,
    connection TEXT NOT NULL, rule TEXT NOT NULL, slot TEXT NOT NULL, key TEXT NOT NULL,
    UNIQUE (connection, rule, slot),
    FOREIGN KEY (connection, rule) REFERENCES rules (connection, name) ON DELETE CASCADE
);
"""

_DAMAGED = (
    "check the disk's space and the permissions, and that the directory is on a local file system; if the file is "
    "damaged, restore it from a backup"
)

# One statement, so that what it returns is one moment's truth.
_READ = """
SELECT connections.name, endpoint_host, created_at, rules.name, rights, slot, generation, key
FROM connections
LEFT JOIN rules ON rules.connection = connections.name
LEFT JOIN keys ON keys.connection = connections.name AND keys.rule = rules.name
"""
_ORDER = " ORDER BY connections.name, rules.name, slot"


class Registry:
    """An open registry. For one thread at a time; close it, or use it with `with`.

    Every method raises `StateError` where the file cannot be read or written.
    """

    def __init__(
        self, database: sqlite3.Connection, path: Path, clock: Callable[[], float], reserve: Reserve
    ) -> None:
        """For `open`, which is how to get one."""
        self._database = database
        self._path = path
        self._clock = clock
        self._reserve = reserve

    @classmethod
    def open(cls, state_dir: Path, *, create: bool = True, clock: Callable[[], float] = time.time) -> Self:
        """Open the registry of a state directory.

        Args:
            state_dir: the directory; made with mode 0700, the file in it with 0600.
            create: whether to make both where they are missing.
            clock: seconds since 1970.

        Raises:
            StateError: missing, unusable, of another owner, damaged, or from a newer version; with a remedy.
        """
        prepare_state_directory(state_dir, create=create)
        reserve = Reserve(state_dir)
        registry = _with_reserve(reserve, lambda: cls._open(state_dir, create, clock, reserve))
        if create:
            reserve.restore()
        return registry

    @classmethod
    def _open(cls, state_dir: Path, create: bool, clock: Callable[[], float], reserve: Reserve) -> Self:
        path = state_dir / REGISTRY_FILE
        try:
            private_file(path, create=create)
        except FileNotFoundError:
            raise StateError(
                f"there is no registry in {state_dir}",
                remedy="name the directory that the relay uses, or create a hybrid connection first",
            ) from None
        except OSError as exc:
            raise StateError(
                f"the registry {path} cannot be opened: {exc.strerror}",
                remedy="run the command as the user who owns the state directory",
            ) from exc
        with _state_errors(path):
            # Autocommit: transactions are begun by `_change`. The relay's worker thread is not always the same one.
            database = sqlite3.connect(
                path, timeout=_BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False
            )
            try:
                _prepare(database, path, write_ahead=can_share_memory(state_dir))
            except BaseException:
                database.close()
                raise
        return cls(database, path, clock, reserve)

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._database.close()
        # Only now: the last process that closes the file deletes the log and its index, which had used the space.
        self._reserve.restore_released()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # --- reading

    def data_version(self) -> tuple[int, int]:
        """Something that is different after every change, whoever made it. Costs tens of microseconds."""
        with _state_errors(self._path):
            # SQLite counts what others committed, and what we did, each on its own.
            (others,) = self._database.execute("PRAGMA data_version").fetchone()
            return others, self._database.total_changes

    def snapshot(self) -> Mapping[str, HybridConnection]:
        """All hybrid connections at one moment, by name; immutable."""
        return MappingProxyType({connection.name: connection for connection in self._read("")})

    def list(self) -> tuple[HybridConnection, ...]:
        """All hybrid connections, by name in order."""
        return tuple(self._read(""))

    def get(self, name: str) -> HybridConnection:
        """One hybrid connection.

        Raises:
            ConfigurationError: there is none of this name; says which there are.
        """
        for connection in self._read(" WHERE connections.name = ?", name):
            return connection
        raise self._unknown_connection(name)

    def rule(self, name: str, rule: str) -> Rule:
        """One rule of a hybrid connection.

        Raises:
            ConfigurationError: there is no such hybrid connection or rule; says which there are.
        """
        known = self.get(name)
        found = known.rule(rule)
        if found is None:
            raise ConfigurationError(
                f"the hybrid connection {name!r} has no rule {rule!r}",
                remedy=f"its rules are: {', '.join(one.name for one in known.rules) or 'none'}",
            )
        return found

    # --- changing

    def create(self, name: str, hosts: Iterable[str], rules: Iterable[Rule]) -> HybridConnection:
        """Add a hybrid connection.

        Raises:
            ConfigurationError: the name is taken or impossible, a host is impossible, or the rules are.
        """
        try:
            record = RelayRecord(name, hosts, rules)
        except ValueError as exc:
            raise ConfigurationError(str(exc)) from None
        return self.import_(record)

    def import_(self, record: RelayRecord) -> HybridConnection:
        """Add a hybrid connection that was made on another machine.

        Raises:
            ConfigurationError: the name is taken.
        """
        with self._change() as database:
            if database.execute("SELECT 1 FROM connections WHERE name = ?", (record.name,)).fetchone():
                raise ConfigurationError(
                    f"there is a hybrid connection {record.name!r} already",
                    remedy="choose another name; to change the relays or the target of the existing one, see "
                    "'hybridrelay connections endpoints --help' and 'connections target --help'",
                )
            hosts = " ".join(record.hosts)
            database.execute("INSERT INTO connections VALUES (?, ?, ?)", (record.name, hosts, self._clock()))
            for rule in record.rules:
                rights = " ".join(sorted(rule.rights))
                database.execute("INSERT INTO rules VALUES (?, ?, ?)", (record.name, rule.name, rights))
                for slot in KeySlot:
                    _insert_key(database, record.name, rule.name, slot, rule.key(slot))
        return self.get(record.name)

    def change_hosts(self, name: str, hosts: Iterable[str]) -> HybridConnection:
        """Change which relays serve a hybrid connection. Its keys, and everything that uses it, stay.

        Raises:
            ConfigurationError: there is none of this name, or a host is impossible.
        """
        try:
            checked = check_hosts(tuple(hosts))
        except ValueError as exc:
            raise ConfigurationError(str(exc)) from None
        with self._change() as database:
            change = "UPDATE connections SET endpoint_host = ? WHERE name = ?"
            if not database.execute(change, (" ".join(checked), name)).rowcount:
                raise self._unknown_connection(name)
        return self.get(name)

    def delete(self, name: str) -> None:
        """Remove a hybrid connection and all that was known about it. Works on a full disk, too.

        Raises:
            ConfigurationError: there is none of this name; says which there are.
        """
        _with_reserve(self._reserve, lambda: self._delete(name))

    def _delete(self, name: str) -> None:
        with self._change() as database:
            if not database.execute("DELETE FROM connections WHERE name = ?", (name,)).rowcount:
                raise self._unknown_connection(name)

    def regenerate_key(
        self, name: str, rule: str, slot: KeySlot, key: Secret | None = None, *, known: Rule | None = None
    ) -> Secret:
        """Put a new key into a slot, revoked or not, and return it. The old one ends at once.

        Args:
            name: the hybrid connection.
            rule: one of its rules.
            slot: which of the rule's keys.
            key: the one that another relay has made; None makes one.
            known: the rule as the caller has read it; None accepts any.

        Raises:
            ConfigurationError: no such hybrid connection or rule; says which there are. Or the rule has that key
                already: in the other slot, where it would outlive its own revocation. Or the rule is not as it is
                `known` any more. Nothing was changed.
        """
        key = generate_key() if key is None else key
        _with_reserve(self._reserve, lambda: self._replace_key(name, rule, slot, key, known))
        return key

    def revoke_key(self, name: str, rule: str, slot: KeySlot) -> None:
        """Take the key out of a slot. What it authorized ends at once. Harmless when it is revoked already.

        Works on a full disk, too.

        Raises:
            ConfigurationError: no such hybrid connection or rule; says which there are.
        """
        _with_reserve(self._reserve, lambda: self._replace_key(name, rule, slot, None))

    # --- how

    def _replace_key(
        self, name: str, rule: str, slot: KeySlot, key: Secret | None, known: Rule | None = None
    ) -> None:
        with self._change() as database:
            of_rule = self.rule(name, rule)
            if known is not None and of_rule != known:
                raise ConfigurationError(
                    f"another command has changed the keys of rule {rule} of {name}; nothing was changed",
                    remedy="look at them with 'keys list', and run the command again if it is still needed",
                )
            for taken in KeySlot:
                if key is not None and of_rule.key(taken) == key:
                    raise ConfigurationError(
                        f"this is the {taken} key of rule {rule} of {name} already; nothing was changed",
                        remedy="compare the fingerprints of the relays with: keys list",
                    )
            where = (name, rule, slot.value)
            database.execute("DELETE FROM keys WHERE connection = ? AND rule = ? AND slot = ?", where)
            _insert_key(database, name, rule, slot, key)

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of the block, or nothing of it."""
        with _state_errors(self._path):
            with _transaction(self._database):
                yield self._database
            # The log still has the pages as they were, with deleted keys. A reader may be in the way; then the next
            # change, or the last one to close, does it.
            try:
                self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            except sqlite3.Error as exc:
                if not is_disk_full(exc):
                    raise
                # The change is made, and nothing is lost: the log has it.
                logger.warning(
                    "the disk of %s is full: deleted keys stay in its log until the next change", self._path
                )
        self._reserve.restore()

    def _read(self, where: str, *parameters: str) -> Iterator[HybridConnection]:
        with _state_errors(self._path):
            rows = self._database.execute(_READ + where + _ORDER, parameters).fetchall()
        try:
            yield from _connections(rows)
        except ValueError as exc:
            raise StateError(f"the registry {self._path} is damaged: {exc}", remedy=_DAMAGED) from exc

    def _unknown_connection(self, name: str) -> ConfigurationError:
        names = ", ".join(connection.name for connection in self.list())
        return ConfigurationError(
            f"there is no hybrid connection {name!r}",
            remedy=f"the hybrid connections of this relay are: {names}" if names else "this relay has none yet",
        )


def _connections(rows: Iterable[tuple[Any, ...]]) -> Iterator[HybridConnection]:
    """Put the rows of `_READ` together. Raises ValueError where they are not what this program writes."""
    for (name, hosts, created_at), of_connection in groupby(rows, key=lambda row: row[:3]):
        rules = []
        generations = {}
        for (rule, rights), of_rule in groupby(of_connection, key=lambda row: row[3:5]):
            if rule is None:
                continue
            keys = {KeySlot(slot): (generation, Secret(key)) for *_, slot, generation, key in of_rule if slot}
            generations.update({(rule, slot): generation for slot, (generation, _) in keys.items()})
            secrets = {slot.value: key for slot, (_, key) in keys.items()}
            rules.append(Rule(rule, map(Right, rights.split()), **secrets))
        yield HybridConnection(name, tuple(hosts.split()), tuple(rules), created_at, generations)


def _prepare(database: sqlite3.Connection, path: Path, *, write_ahead: bool) -> None:
    """Check the version before anything is changed, make the schema where there is none, and set the options."""
    if not write_ahead:
        # Before anything else, so that a log from elsewhere is read without shared memory.
        database.execute("PRAGMA locking_mode = EXCLUSIVE").fetchall()
        _set_journal_mode(database, "DELETE")
        database.execute("PRAGMA locking_mode = NORMAL").fetchall()
    tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if tables:
        _check_version(database, path, tables)
    # These are remembered by the file (the log) or by the connection (the rest), and are no part of a transaction.
    if write_ahead:
        _set_journal_mode(database, "WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.execute("PRAGMA foreign_keys = ON")
    database.execute("PRAGMA secure_delete = ON").fetchall()
    database.execute("PRAGMA temp_store = MEMORY").fetchall()
    if not tables:
        with _transaction(database):
            if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
                for statement in _SCHEMA.split(";"):
                    database.execute(statement)
                database.execute("INSERT INTO meta VALUES ('schema_version', ?)", (str(SCHEMA_VERSION),))


def _set_journal_mode(database: sqlite3.Connection, mode: str) -> None:
    # The one statement for which SQLite does not wait: two processes that make the same registry at the same moment.
    deadline = time.monotonic() + _BUSY_TIMEOUT_SECONDS
    while True:
        try:
            database.execute(f"PRAGMA journal_mode = {mode}").fetchall()
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _check_version(database: sqlite3.Connection, path: Path, tables: set[str]) -> None:
    row = (
        database.execute("SELECT value FROM meta WHERE name = 'schema_version'").fetchone()
        if "meta" in tables
        else None
    )
    if row is None or not str(row[0]).isdecimal():
        raise StateError(f"{path} is not a registry", remedy="name another state directory, or move the file away")
    if int(row[0]) > SCHEMA_VERSION:
        raise StateError(
            f"the registry {path} was written by a newer version of hybridrelay",
            remedy="upgrade hybridrelay, or restore the state directory from before the upgrade",
        )


def _insert_key(database: sqlite3.Connection, connection: str, rule: str, slot: KeySlot, key: Secret | None) -> None:
    if key is not None:
        database.execute(
            "INSERT INTO keys (connection, rule, slot, key) VALUES (?, ?, ?, ?)",
            (connection, rule, slot.value, key.reveal()),
        )


@contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[None]:
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        database.rollback()
        raise
    database.commit()


def _with_reserve(reserve: Reserve, change: Callable[[], T]) -> T:
    """Do something that must work on a full disk. If it does not, it is tried again with the reserved space."""
    try:
        return change()
    except StateError as exc:
        if not is_disk_full(exc.__cause__) or not reserve.release():
            raise
    logger.warning("the disk seems to be full: trying again with the space that was reserved for this")
    try:
        return change()
    except BaseException:
        reserve.restore()
        raise


@contextmanager
def _state_errors(path: Path) -> Iterator[None]:
    """Translate SQLite's errors, which name tables and columns, and never values."""
    try:
        yield
    except sqlite3.Error as exc:
        shortage = missing_descriptors(_DESCRIPTORS)
        if shortage is not None:  # SQLite says only that it cannot open a file, or that reading it failed
            raise StateError(
                f"the registry {path} cannot be used: this machine {OUT_OF_DESCRIPTORS.text}",
                remedy=OUT_OF_DESCRIPTORS.remedy,
            ) from shortage
        raise StateError(f"the registry {path} cannot be used: {exc}", remedy=_DAMAGED) from exc
