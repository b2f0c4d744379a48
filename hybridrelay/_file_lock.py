"""Locks files against other processes."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

#: The position of the byte that is locked on Windows: beyond all content, because a lock there prevents others from
#: reading.
_FAR_BEHIND = 1 << 30
#: How often `locked_files` tries to lock a file (seconds).
_POLL_SECONDS = 0.05


def lock_file(descriptor: int) -> bool:
    """Lock an open file without waiting. Returns False if it is already locked.

    The lock ends when the file is closed, and therefore when the process ends for whatever reason. It also excludes
    other descriptors of the same process.

    Raises:
        OSError: the file system does not support locks.
    """
    if sys.platform == "win32":
        import msvcrt

        position = os.lseek(descriptor, 0, os.SEEK_CUR)
        os.lseek(descriptor, _FAR_BEHIND, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        finally:
            os.lseek(descriptor, position, os.SEEK_SET)
    else:
        import fcntl

        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


@contextlib.contextmanager
def locked_files(paths: Iterable[Path], *, seconds: float) -> Iterator[None]:
    """Keep other processes that use this function from changing the same files during the block. Blocks.

    Read the files inside the block. Files that do not exist, or cannot be opened, are not locked; reading or writing
    them later raises the error. Files on a file system without locks are not locked either.

    Args:
        paths: the files; symbolic links are followed.
        seconds: how long to wait for another process.

    Raises:
        TimeoutError: another process held the lock of a file, which `filename` names, for that time.
    """
    deadline = time.monotonic() + seconds
    with contextlib.ExitStack() as held:
        # Sorted, so that two processes never wait for each other.
        for path in sorted({os.path.realpath(path) for path in paths}):
            descriptor = _lock_path(path, deadline)
            if descriptor is not None:
                held.callback(os.close, descriptor)
        yield


def _lock_path(path: str, deadline: float) -> int | None:
    """Return a descriptor that holds the lock of the file at `path`; None if the file cannot be locked."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
        except OSError:
            return None
        try:
            # Another process may have replaced the file before we got the lock.
            if lock_file(descriptor) and os.path.samestat(os.fstat(descriptor), os.stat(path)):
                locked, descriptor = descriptor, -1
                return locked
        except OSError:
            return None
        finally:
            if descriptor >= 0:
                os.close(descriptor)
        if time.monotonic() >= deadline:
            raise TimeoutError(0, "another command is changing it", path)
        time.sleep(_POLL_SECONDS)
