"""What is done when SQLite cannot use the registry: translating its errors, and using reserved disk space."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from ..._descriptors import missing_descriptors
from ..._shortage import OUT_OF_DESCRIPTORS
from ...errors import StateError
from ...events.relay_resources import StoreDiskFull
from ...events.stream import EventStream
from .reserve import Reserve, is_disk_full
from .store import StoreBusy

__all__ = ["BUSY_TIMEOUT_SECONDS", "DAMAGED", "state_errors", "with_reserve"]

T = TypeVar("T")

#: How long a change waits for the change of another process (seconds). A change takes milliseconds, or longer on a
#: busy disk.
BUSY_TIMEOUT_SECONDS = 5.0

#: The most files that SQLite has open at a time: the registry, its log, the index of the log, and the directory.
_DESCRIPTORS = 4

_LOCKED = (
    "try again; if it stays locked, another program keeps it open in the middle of a change: a database tool or a "
    "command that was stopped, for example. `fuser` or `lsof` shows which"
)
DAMAGED = (
    "check the disk's space and the permissions, and that the directory is on a local file system; if the file is "
    "damaged, restore it from a backup"
)


def with_reserve(reserve: Reserve, change: Callable[[], T], path: Path, events: EventStream) -> T:
    """Do something that must work on a full disk. If it fails because the disk may be full, release the
    reserved space and try again."""
    try:
        return change()
    except StateError as exc:
        if not is_disk_full(exc.__cause__) or not reserve.release():
            raise
    events.publish(StoreDiskFull(file=str(path), detail="trying again with the space that was reserved for this"))
    try:
        return change()
    except BaseException:
        reserve.restore()
        raise


@contextmanager
def state_errors(path: Path) -> Iterator[None]:
    """Translate SQLite's errors to `StoreBusy` and `StateError`. Their texts contain names of tables and columns, but
    no values."""
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as exc:
        if getattr(exc, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
            raise StoreBusy(
                f"the registry {path} is locked: another process has been changing it for "
                f"{BUSY_TIMEOUT_SECONDS:g} seconds; nothing was changed",
                remedy=_LOCKED,
            ) from exc
        shortage = missing_descriptors(_DESCRIPTORS)
        if shortage is not None:  # SQLite says only that it cannot open a file, or that reading it failed
            raise StateError(
                f"the registry {path} cannot be used: this machine {OUT_OF_DESCRIPTORS.text}",
                remedy=OUT_OF_DESCRIPTORS.remedy,
            ) from shortage
        # The message "Could not decode to UTF-8 column 'key' with text '...'" quotes what is damaged, such as a key.
        text, quotes, _ = str(exc).partition(" with text ")
        raise StateError(f"the registry {path} cannot be used: {text}", remedy=DAMAGED) from (None if quotes else exc)
