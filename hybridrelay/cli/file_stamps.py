"""What tells whether a file has changed."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TypeAlias

__all__ = ["POLL_SECONDS", "Stamp", "stamp_of"]

#: How often the files are checked (seconds). A change counts once the file is the same in two checks in a row.
POLL_SECONDS = 0.5

#: What distinguishes a file from another one, or from the same file with another content: device, inode, times and
#: size. If there is no file, the error number. Empty for what cannot be read twice, such as a pipe.
Stamp: TypeAlias = tuple[int, ...]


def stamp_of(path: Path) -> Stamp:
    """Return the current stamp of a file. Links are followed."""
    try:
        found = path.stat()
    except OSError as exc:
        return (exc.errno or 0,)
    if not stat.S_ISREG(found.st_mode):
        return ()
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size
