"""Locking files for one process."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

#: Where Windows, whose locks keep others from reading, locks a byte: behind everything that is written.
_FAR_BEHIND = 1 << 30
#: How often `locked_files` looks whether a file is free (seconds).
_POLL_SECONDS = 0.05


def lock_file(descriptor: int) -> bool:
    """Lock an open file without waiting; False where somebody else has it.

    The lock goes with the open file, and so with the process, however that dies. A second descriptor of the same
    process is somebody else, too.

    Raises:
        OSError: the file system knows no locks.
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

    Read the files inside the block. Files that do not exist, or that cannot be opened, are left out: whatever reads
    or writes them will say why. So are those on a file system without locks.

    Args:
        paths: the files; symbolic links are followed.
        seconds: how long to wait for another process.

    Raises:
        TimeoutError: another process has had one of them locked for that time; its `filename` says which.
    """
    deadline = time.monotonic() + seconds
    with contextlib.ExitStack() as held:
        # In order, so that two processes never wait for each other.
        for path in sorted({os.path.realpath(path) for path in paths}):
            descriptor = _lock_path(path, deadline)
            if descriptor is not None:
                held.callback(os.close, descriptor)
        yield


def _lock_path(path: str, deadline: float) -> int | None:
    """A descriptor that holds the lock of the file that is at `path` now, or None where there can be none."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
        except OSError:
            return None
        try:
            # Another process may have put a new file in its place before we had the lock.
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
