"""Noticing that files have changed: connection strings, and configuration files.

The files are polled, because that also notices what notifications of the system miss: files on network file systems,
a symbolic link in a directory above that leads elsewhere now (``..data`` of Kubernetes), and a file that systemd
replaces among the credentials of a service.

All files are checked in one thread, one after the other. If one of them is on a file system that does not answer,
it and those after it are checked in a thread each, so that it holds up none of the others.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path

import attrs
import trio

from ..._file_thread import FileThread
from ...errors import ConfigurationError
from ..file_stamps import POLL_SECONDS, Stamp, stamp_of
from ..reloading import publish_not_reloaded

__all__ = ["Changes", "FileWatch"]


class Changes:
    """Decides when a file counts as changed. Pure.

    A file counts as changed once it differs from what was last noted, and is the same at two looks in a row. It is
    thus not read in the middle of being written.
    """

    def __init__(self) -> None:
        self._noted: dict[Path, Stamp] = {}
        self._last: dict[Path, Stamp] = {}

    def knows(self, path: Path) -> bool:
        """Whether a stamp of the file was noted."""
        return path in self._noted

    def note(self, stamps: Mapping[Path, Stamp]) -> None:
        """Note the stamps of files that are about to be read, unless a stamp of the file was noted before."""
        for path, stamp in stamps.items():
            self._noted.setdefault(path, stamp)

    def look(self, stamps: Mapping[Path, Stamp], *, silent: Iterable[Path] = ()) -> frozenset[Path]:
        """Take the current stamps of all files.

        Files that are missing in `stamps` are forgotten, except those in `silent`: these could not be checked, and
        count as they were.

        Returns:
            The files that have changed.
        """
        last = {path: stamp for path in silent if (stamp := self._last.get(path)) is not None}
        noted = {path: stamp for path in silent if (stamp := self._noted.get(path)) is not None}
        self._noted = noted | {path: self._noted.get(path, stamp) for path, stamp in stamps.items()}
        changed = frozenset(
            path for path, stamp in stamps.items() if self._noted[path] != stamp == self._last.get(path)
        )
        self._noted.update({path: stamps[path] for path in changed})
        self._last = last | dict(stamps)
        return changed


@attrs.define(eq=False)
class _Round:
    """One look at several files, in a thread. What it has found so far can be read while it hangs."""

    paths: tuple[Path, ...]
    stamps: dict[Path, Stamp] = attrs.field(factory=dict)

    def look(self) -> None:
        for path in self.paths:
            self.stamps[path] = stamp_of(path)


@attrs.define(eq=False)
class _Apart:
    """A file that is checked in a thread of its own."""

    thread: FileThread
    #: What the last look has found; None while the file system does not answer.
    stamp: Stamp | None = None
    is_looking: bool = False
    #: Whether the file system has ever failed to answer. Then the file stays apart, as it may do so again.
    has_hung: bool = False


class FileWatch:
    """Watches files.

    Args:
        paths: returns the files to watch. It is called before each look, and may return other files each time.
    """

    def __init__(self, paths: Callable[[], Iterable[Path]]) -> None:
        self._paths = paths
        self._changes = Changes()
        self._thread = FileThread("a connection string or configuration file")
        self._apart: dict[Path, _Apart] = {}

    def note(self, paths: Iterable[Path]) -> None:
        """Note the state of files that are about to be read for the first time.

        This may take a long time if a file system does not answer.
        """
        self._changes.note({path: stamp_of(path) for path in paths if not self._changes.knows(path)})

    async def run(self, changed: Callable[[], Awaitable[None]]) -> None:
        """Call `changed` whenever a file has changed, until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(POLL_SECONDS)
                paths = tuple(dict.fromkeys(self._paths()))
                stamps = await self._look(paths, nursery)
                if self._changes.look(stamps, silent=set(paths) - stamps.keys()):
                    await changed()

    async def _look(self, paths: tuple[Path, ...], nursery: trio.Nursery) -> Mapping[Path, Stamp]:
        """Return the current stamps of the files that can be checked without waiting for a file that hangs."""
        watched = set(paths)
        # One that is no longer watched is forgotten, but not while its thread hangs.
        self._apart = {path: apart for path, apart in self._apart.items() if path in watched or apart.is_looking}
        together = _Round(tuple(path for path in paths if path not in self._apart))
        try:
            await self._thread.run(together.look)
        except ConfigurationError:
            # The thread is left to the file that hangs. That is reported by the look in the file's own thread.
            self._thread = FileThread("a connection string or configuration file")
            for path in together.paths:
                if path not in together.stamps:
                    self._apart[path] = _Apart(FileThread(str(path)))
        stamps = dict(together.stamps)
        for path in paths:
            if (apart := self._apart.get(path)) is None:
                continue
            if apart.stamp is not None:
                stamps[path] = apart.stamp
            if not apart.is_looking:
                apart.is_looking = True
                nursery.start_soon(self._look_apart, path, apart)
        return stamps

    async def _look_apart(self, path: Path, apart: _Apart) -> None:
        try:
            apart.stamp = await apart.thread.run(stamp_of, path)
        except ConfigurationError as exc:
            if apart.stamp is not None or not apart.has_hung:
                publish_not_reloaded(exc)
            apart.stamp, apart.has_hung = None, True
        else:
            if not apart.has_hung:
                del self._apart[path]
        finally:
            apart.is_looking = False
