"""Disk space that is kept for what must work on a full disk: ending keys and hybrid connections.

SQLite needs some space for every change, also for one that deletes (its write-ahead log and the index of it). So the
state directory holds a file whose only content is space. When the disk is full, the file is deleted, and the change
is tried again; afterwards the file is made again, as large as the disk allows.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Final

__all__ = ["RESERVE_BYTES", "RESERVE_FILE", "Reserve", "is_disk_full"]

RESERVE_FILE: Final = "reserve"
#: A change takes some 20 KiB, and opening the registry 64 KiB. The rest is for other programs that write to the same
#: disk at that moment, such as whatever has filled it.
RESERVE_BYTES: Final = 1 << 20
#: Space that the reserve leaves to others.
_LEFT_FREE = 64 * 1024

#: What SQLite reports when there is no space: also while it opens or extends its files.
_SQLITE_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error of SQLite or of the system may be due to a disk without space."""
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", 0) & 0xFF in _SQLITE_FULL
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


class Reserve:
    """The file in one state directory."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / RESERVE_FILE

    def release(self) -> bool:
        """Give the space back to the disk. Whether there was any."""
        try:
            descriptor = os.open(self._path, os.O_WRONLY | getattr(os, "O_CLOEXEC", 0))
        except OSError:
            return False
        try:
            size = os.fstat(descriptor).st_size
            # Some file systems cannot delete a file when they are full, and can make it shorter.
            os.ftruncate(descriptor, 0)
        except OSError:
            return False
        finally:
            os.close(descriptor)
        with contextlib.suppress(OSError):
            self._path.unlink()
        return size > 0

    def restore(self) -> None:
        """Make the file as large as it should be, or as the disk allows. Never fails, and never fills the disk."""
        with contextlib.suppress(OSError):
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
            try:
                self._extend(descriptor)
            finally:
                os.close(descriptor)

    def _extend(self, descriptor: int) -> None:
        size = os.lseek(descriptor, 0, os.SEEK_END)
        free = shutil.disk_usage(self._path.parent).free
        wanted = min(RESERVE_BYTES, size + max(0, free - _LEFT_FREE))
        while size < wanted:
            # Written, because a file system may give no space to a hole.
            size += os.write(descriptor, bytes(min(wanted - size, 65536)))
        os.fsync(descriptor)
