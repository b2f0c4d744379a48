"""Noticing that files have changed: connection strings, and configuration files.

The files are polled, because that also notices what notifications of the system miss: files on network file systems,
a symbolic link in a directory above that leads elsewhere now (``..data`` of Kubernetes), and a file that systemd
replaces among the credentials of a service.
"""

from __future__ import annotations

import stat
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeAlias

import trio

from ..._file_thread import FileThread
from ...errors import ConfigurationError
from ..reloading import publish_not_reloaded

__all__ = ["Changes", "FileWatch", "Stamp", "stamp_of"]

#: How often the files are looked at (seconds). A change counts once the file is the same at two looks in a row.
POLL_SECONDS = 0.5

#: What distinguishes a file from another one, or from the same file with another content: device, inode, times and
#: size. If there is no file, the error number. Empty for what cannot be read twice, such as a pipe.
Stamp: TypeAlias = tuple[int, ...]


class Changes:
    """Decides when a file counts as changed. Pure.

    A file counts as changed once it differs from what was last noted, and is the same at two looks in a row. It is
    thus not read in the middle of being written.
    """

    def __init__(self) -> None:
        self._noted: dict[Path, Stamp] = {}
        self._last: dict[Path, Stamp] = {}

    def note(self, stamps: Mapping[Path, Stamp]) -> None:
        """Note the stamps of files that are about to be read, unless a stamp of the file was noted before."""
        for path, stamp in stamps.items():
            self._noted.setdefault(path, stamp)

    def look(self, stamps: Mapping[Path, Stamp]) -> frozenset[Path]:
        """Take the present stamps of all files. Files that are missing in `stamps` are forgotten.

        Returns:
            The files that have changed.
        """
        self._noted = {path: self._noted.get(path, stamp) for path, stamp in stamps.items()}
        changed = frozenset(
            path for path, stamp in stamps.items() if self._noted[path] != stamp == self._last.get(path)
        )
        self._noted.update({path: stamps[path] for path in changed})
        self._last = dict(stamps)
        return changed


class FileWatch:
    """Watches files.

    Args:
        paths: returns the files to watch. It is called before each look, and may return other files each time.
    """

    def __init__(self, paths: Callable[[], Iterable[Path]]) -> None:
        self._paths = paths
        self._changes = Changes()
        self._thread = FileThread("a connection string or configuration file")

    def note(self, paths: Iterable[Path]) -> None:
        """Note the state of files that are about to be read. This may take long if a file system does not answer."""
        self._changes.note({path: stamp_of(path) for path in paths})

    async def run(self, changed: Callable[[], Awaitable[None]]) -> None:
        """Call `changed` whenever a file has changed, until cancelled."""
        error: str | None = None
        while True:
            await trio.sleep(POLL_SECONDS)
            paths = tuple(self._paths())
            try:
                stamps = await self._thread.run(_stamps_of, paths)
            except ConfigurationError as exc:
                if str(exc) != error:
                    publish_not_reloaded(exc)
                error = str(exc)
                continue
            error = None
            if self._changes.look(stamps):
                await changed()


def _stamps_of(paths: Iterable[Path]) -> dict[Path, Stamp]:
    return {path: stamp_of(path) for path in paths}


def stamp_of(path: Path) -> Stamp:
    """Return the present stamp of a file. Links are followed."""
    try:
        found = path.stat()
    except OSError as exc:
        return (exc.errno or 0,)
    if not stat.S_ISREG(found.st_mode):
        return ()
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size
