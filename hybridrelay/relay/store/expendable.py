"""Expendable files: SQLite files in the state directory that the relay can do without, such as its history.

The registry is not one of them. The rules for these files:

1. Losing such a file affects nothing else. A file that is damaged is renamed, and a new one is created. A file of an
   earlier version is changed to the current one (`ExpendableFile.migrations`); if it cannot be changed, or is of a
   later version, it is treated like a damaged one.
2. Every other failure (a full disk, a read-only or locked file) is an error with a remedy, and the next attempt may
   succeed. The content of the file is not lost.
3. A file never becomes larger than its limit, except that what a migration adds is not limited.

All functions are synchronous: call them in a thread.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

import attrs

from ..._descriptors import is_descriptor_shortage, missing_descriptors
from ..._shortage import OUT_OF_DESCRIPTORS
from ..._value import Value
from ...errors import StateError
from .schema import set_journal_mode, transaction
from .state_dir import can_share_memory, ensure_private_file

__all__ = ["SET_ASIDE_SUFFIX", "ExpendableDatabase", "ExpendableFile", "ExpendableFileError"]

T = TypeVar("T")

#: How long a change waits for another process that has locked the file (seconds). There should be none.
_BUSY_TIMEOUT_SECONDS: Final = 2.0
#: How many descriptors an open file needs: for the database, its log, the index of the log, and the directory.
_DESCRIPTORS: Final = 4
#: The suffix for the name of a file that is set aside. A file that was set aside earlier is overwritten.
SET_ASIDE_SUFFIX: Final = ".damaged"

_DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_LOCKED: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_UNWRITABLE: Final = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH)


class ExpendableFileError(StateError):
    """The file cannot be read or written at the moment.

    Args:
        message: see `StateError`.
        remedy: see `StateError`.
        is_damaged: see the attribute.
        is_full: see the attribute.
    """

    def __init__(self, message: str, *, remedy: str, is_damaged: bool = False, is_full: bool = False) -> None:
        super().__init__(message, remedy=remedy)
        #: Whether it can never be used again, and has to be set aside (`ExpendableFile.set_aside`).
        self.is_damaged = is_damaged
        #: Whether it has reached its limit, or the disk is full.
        self.is_full = is_full


@attrs.frozen
class ExpendableFile(Value):
    """An expendable file: its path and its schema."""

    path: Path
    #: Its name in messages, such as ``the history``.
    what: str
    #: The statements that create its tables.
    schema: Sequence[str]
    #: The version of the schema, to be changed with it.
    version: int
    #: The maximum size (bytes); None: no limit. Changes that need more fail with `ExpendableFileError.is_full`.
    max_bytes: int | None = None
    #: By an earlier version: the statements that change its tables to those of the version after it.
    migrations: Mapping[int, Sequence[str]] = attrs.field(factory=dict)

    def open(self) -> sqlite3.Connection:
        """Open the file, or create it (mode 0600). The caller begins transactions (`schema.transaction`).

        Raises:
            ExpendableFileError: it cannot be used.
        """
        with self.errors():
            ensure_private_file(self.path, create=True)
            database = sqlite3.connect(
                self.path, timeout=_BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False
            )
            try:
                self._prepare(database)
            except BaseException:
                database.close()
                raise
            return database

    def set_aside(self) -> Path:
        """Rename a damaged file, so that `open` makes a new one. No connection to it may be used afterwards.

        Returns:
            The new path.

        Raises:
            ExpendableFileError: it cannot be renamed.
        """
        aside = self.path.with_name(self.path.name + SET_ASIDE_SUFFIX)
        with self.errors():
            # The log belongs to the damaged file, and must not be applied to the new one.
            for suffix in ("-wal", "-shm", "-journal"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f"{self.path}{suffix}")
            with contextlib.suppress(FileNotFoundError):
                self.path.replace(aside)
        return aside

    def damaged(self, exc: Exception) -> ExpendableFileError:
        """Return the error for a file in which something is not valid."""
        return self._unusable(f"is damaged: {exc}")

    def _unusable(self, why: str) -> ExpendableFileError:
        return ExpendableFileError(
            f"{self.what} {self.path} {why}",
            remedy="nothing needs to be done: it is renamed, and a new one is made",
            is_damaged=True,
        )

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Translate the errors of SQLite and of the system in the block to `ExpendableFileError`."""
        try:
            yield
        except sqlite3.Error as exc:
            raise self._translated(exc) from exc
        except OSError as exc:
            if is_descriptor_shortage(exc):
                raise self._out_of_descriptors() from exc
            raise ExpendableFileError(
                f"{self.what} {self.path} cannot be used: {exc.strerror or exc}",
                remedy=f"check the permissions and the disk, or remove {self.path}",
            ) from exc

    def _prepare(self, database: sqlite3.Connection) -> None:
        # This is the first statement that reads the file.
        database.execute("BEGIN")  # so that both statements below see the same state
        (version,) = database.execute("PRAGMA user_version").fetchone()
        is_new = database.execute("SELECT 1 FROM sqlite_master").fetchone() is None
        database.execute("COMMIT")
        if not is_new and not (version <= self.version and self.migrations.keys() >= {*range(version, self.version)}):
            raise self._unusable("was written by another version of hybridrelay, or by another program")
        mode = "WAL" if can_share_memory(self.path.parent) else "DELETE"
        set_journal_mode(database, mode, seconds=_BUSY_TIMEOUT_SECONDS)
        # After a power failure, the last changes may be lost.
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute("PRAGMA secure_delete = OFF").fetchall()
        database.execute("PRAGMA temp_store = MEMORY")
        if is_new:
            with transaction(database):
                # Check again: another thread may have created the tables before this one got the lock.
                if database.execute("SELECT 1 FROM sqlite_master").fetchone() is None:
                    for statement in self.schema:
                        database.execute(statement)
                    database.execute(f"PRAGMA user_version = {self.version}")
        elif version != self.version:
            with transaction(database):
                (version,) = database.execute("PRAGMA user_version").fetchone()  # another thread may have been first
                for earlier in range(version, self.version):
                    for statement in self.migrations[earlier]:
                        database.execute(statement)
                database.execute(f"PRAGMA user_version = {self.version}")
        if self.max_bytes is not None:
            (page_size,) = database.execute("PRAGMA page_size").fetchone()
            # SQLite does not set a limit below the current size.
            database.execute(f"PRAGMA max_page_count = {max(1, self.max_bytes // page_size)}").fetchall()

    def _translated(self, exc: sqlite3.Error) -> ExpendableFileError:
        code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
        if code in _DAMAGED:
            return self.damaged(exc)
        if code in _LOCKED:
            return ExpendableFileError(
                f"{self.what} {self.path} is locked by another process",
                remedy="end the program that has it open, such as a database tool; `fuser` or `lsof` shows which",
            )
        if code == sqlite3.SQLITE_FULL:
            return ExpendableFileError(
                f"{self.what} {self.path} cannot grow: its limit is reached, or the disk is full",
                remedy="free disk space",
                is_full=True,
            )
        if code in _UNWRITABLE:
            return ExpendableFileError(
                f"{self.what} {self.path} cannot be written: {exc}",
                remedy=f"chmod 600 {self.path}, and check that the file system is mounted for writing",
            )
        shortage = missing_descriptors(_DESCRIPTORS)
        if shortage is not None:  # SQLite itself says only that it cannot open a file
            return self._out_of_descriptors()
        return ExpendableFileError(
            f"{self.what} {self.path} cannot be used: {exc}",
            remedy=f"check the disk and its space; if that does not help, stop the relay and remove {self.path}",
        )

    def _out_of_descriptors(self) -> ExpendableFileError:
        return ExpendableFileError(
            f"{self.what} {self.path} cannot be used: this machine {OUT_OF_DESCRIPTORS.text}",
            remedy=OUT_OF_DESCRIPTORS.remedy,
        )


class ExpendableDatabase:
    """The database in an expendable file, which is opened when it is first used, and stays open. Only one thread may
    use it at a time.

    If the file is damaged, it is set aside, what was being done is repeated with a new file, and `set_aside` has the
    path of the damaged one.

    Args:
        file: the file.
        make_room: deletes what matters least. It is called once when a change has no room, which is then repeated.
            None: the change fails.
    """

    def __init__(self, file: ExpendableFile, make_room: Callable[[sqlite3.Connection], None] | None = None) -> None:
        self.file = file
        self._make_room = make_room
        self._database: sqlite3.Connection | None = None
        #: The new path of a damaged file, and what was wrong with it. The caller resets it.
        self.set_aside: tuple[Path, str] | None = None

    def use(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Call a function with the open database, in one transaction.

        Args:
            function: may be called twice. If what it reads is not valid, it raises `ValueError` or `TypeError`.

        Raises:
            ExpendableFileError: the file cannot be used. The next call opens it again.
        """
        try:
            return self._use_once(function)
        except ExpendableFileError as exc:
            if exc.is_full and self._make_room is not None:
                self._use_once(self._make_room)
            elif exc.is_damaged:
                self.set_aside = self.file.set_aside(), str(exc)
            else:
                raise
        return self._use_once(function)

    def close(self) -> None:
        """Close the file. Idempotent."""
        database, self._database = self._database, None
        if database is not None:
            database.close()

    def _use_once(self, function: Callable[[sqlite3.Connection], T]) -> T:
        try:
            with self.file.errors():
                if self._database is None:
                    self._database = self.file.open()
                with transaction(self._database):
                    return function(self._database)
        except ExpendableFileError:
            self.close()
            raise
        except (ValueError, TypeError) as exc:
            self.close()
            raise self.file.damaged(exc) from exc
