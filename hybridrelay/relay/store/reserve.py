"""Disk space that is reserved for operations that must work on a full disk: revoking keys and deleting hybrid
connections.

SQLite needs some space for every change, including deletions, and even to open its file, because the write-ahead log
and its index are two more files. Therefore the state directory contains a file that only reserves space, and an empty
one that reserves an inode, because a file system can run out of these too. When the disk is full, both are deleted,
and the operation is repeated. Afterwards they are created again, as large as before, if the disk allows.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Final

__all__ = ["RESERVE_BYTES", "RESERVE_FILE", "SECOND_FILE", "Reserve", "is_disk_full"]

RESERVE_FILE: Final = "reserve"
#: An empty file that reserves an inode. The first file also has one.
SECOND_FILE: Final = "reserve.2"
#: A change needs about 20 KiB, and opening the registry 64 KiB. The rest is for other programs that write to the same
#: disk at that moment, such as the one that has filled it.
RESERVE_BYTES: Final = 1 << 20
#: Space that the reserve leaves free when it grows. Space that it has released before is taken back in any case,
#: because the disk is then not fuller than before.
_LEFT_FREE = 64 * 1024

#: The errors that SQLite reports when there is no space, even while it opens or extends its files.
_SQLITE_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)


def is_disk_full(error: BaseException | None) -> bool:
    """Return whether the cause of an error of SQLite or of the system may be a full disk."""
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", 0) & 0xFF in _SQLITE_FULL
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


class Reserve:
    """The reserved files in a state directory."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / RESERVE_FILE
        self._second = state_dir / SECOND_FILE
        #: The largest size that the first file had when it was released.
        self._size_before = 0
        self._is_released = False

    def release(self) -> bool:
        """Release the space and the inode. Returns whether there were any."""
        found = self._release_space()
        with contextlib.suppress(OSError):
            self._second.unlink()
            found = True
        self._is_released = self._is_released or found
        return found

    def _release_space(self) -> bool:
        try:
            descriptor = os.open(self._path, os.O_WRONLY | getattr(os, "O_CLOEXEC", 0))
        except OSError:
            return False
        try:
            size = os.fstat(descriptor).st_size
            # Some full file systems can truncate a file but not delete it.
            os.ftruncate(descriptor, 0)
        except OSError:
            return False
        finally:
            os.close(descriptor)
        self._size_before = max(self._size_before, size)
        with contextlib.suppress(OSError):
            self._path.unlink()
        return True

    def restore(self) -> None:
        """Create or extend the files to their full size, or as far as the disk allows. Never fails."""
        self._is_released = not self._make_again()

    def restore_released(self) -> None:
        """Create the files again if `release` has deleted them and they are not complete yet."""
        if self._is_released:
            self.restore()

    def _make_again(self) -> bool:
        """Create the files, and return whether both exist and the first one is not smaller than before."""
        flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
        try:
            descriptor = os.open(self._path, flags, 0o600)
            try:
                self._extend(descriptor)
            finally:
                os.close(descriptor)
            os.close(os.open(self._second, flags, 0o600))
        except OSError:
            return False
        return True

    def _extend(self, descriptor: int) -> None:
        size = os.lseek(descriptor, 0, os.SEEK_END)
        free = shutil.disk_usage(self._path.parent).free
        wanted = min(RESERVE_BYTES, max(self._size_before, size + free - _LEFT_FREE))
        try:
            while size < wanted:
                # Write zeros, because a file system may not allocate space for a hole.
                size += os.write(descriptor, bytes(min(wanted - size, 65536)))
        finally:
            os.fsync(descriptor)
