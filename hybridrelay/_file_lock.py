"""Locking a file for one process: what platforms differ in."""

from __future__ import annotations

import os
import sys

#: Where Windows, whose locks keep others from reading, locks a byte: behind everything that is written.
_FAR_BEHIND = 1 << 30


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
