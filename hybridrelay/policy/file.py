"""A deny list as a policy: it is read from a file, and read again whenever the file changes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import attrs
import trio

from .._file_thread import FileThread
from .._text_files import read_text
from .._value import Value
from ..errors import ConfigurationError
from ..events.base import Event
from ..events.policy import DenyListAmbiguous, DenyListLoaded
from .decision import Policy
from .deny_list import DenyList, parse_deny_list, shorten
from .document import Entry, IdentityList, Place, Restrictions

__all__ = ["PolicyFile", "PolicyReading"]

#: How often to look whether the file has changed (seconds).
POLL_SECONDS = 0.5
#: The largest deny list (bytes). It is limited because the file may be read often.
MAX_FILE_SIZE = 1 << 20


@attrs.frozen
class PolicyReading(Value):
    """The content of a deny list at one reading, and at the previous one."""

    path: Path
    deny_list: DenyList
    #: The content at the previous reading; None at the first one.
    before: DenyList | None = None

    @property
    def policy(self) -> Policy:
        """The policy that is in force from now on."""
        file = str(self.path)
        identities = IdentityList(
            Place(file),
            tuple(Entry(names, text, Place(file, line)) for line, text, names in self.deny_list.lines),
        )
        return Policy(files=(Restrictions(file=file, is_deny_list=True, denied_identities=identities),))

    def events(self) -> list[Event]:
        """The events about this reading: first the changes, then one event for each line that may be a mistake."""
        now = self.deny_list.entries
        before = frozenset[str]() if self.before is None else self.before.entries
        loaded = DenyListLoaded(
            file=str(self.path),
            entries=len(now),
            denied=shorten(now - before),
            no_longer_denied=shorten(before - now),
        )
        return [loaded, *(DenyListAmbiguous(file=str(self.path), detail=text) for text in self.deny_list.warnings)]


class PolicyFile:
    """A deny list, which is read again when its file changes.

    Args:
        path: the deny list.

    Raises:
        ConfigurationError: the file cannot be read or parsed.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._stamp: tuple[int, int, int] | None = None
        self._reading = trio.Lock()
        self._files = FileThread(str(self.path))
        #: Why the last attempt to read the file failed; None if it succeeded.
        self._error: str | None = None
        #: The last successful reading.
        self.reading = PolicyReading(self.path, self._read())

    @property
    def policy(self) -> Policy:
        """The policy of the last reading."""
        return self.reading.policy

    def _read(self) -> DenyList:
        try:
            stat = self.path.stat()
        except OSError as exc:
            raise ConfigurationError(
                f"cannot read the deny list {self.path}: {exc.strerror or exc}",
                remedy="name a file with a label or serial on each line; it may be empty",
            ) from exc
        text = read_text(self.path, what="the deny list", limit=MAX_FILE_SIZE, regular=True)
        try:
            found = parse_deny_list(text)
        except ConfigurationError as exc:
            raise ConfigurationError(f"the deny list {self.path}: {exc}", remedy=exc.remedy) from None
        self._stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        return found

    def _changed(self) -> bool:
        try:
            stat = self.path.stat()
        except OSError:
            return True  # reading the file will raise an error that says why
        return (stat.st_mtime_ns, stat.st_size, stat.st_ino) != self._stamp

    async def reload(self) -> PolicyReading:
        """Read the file now, whether it has changed or not.

        Raises:
            ConfigurationError: it cannot be read or parsed; `reading` stays as it is.

        If cancelled, `reading` stays as it is, too.
        """
        async with self._reading:  # without the lock, an earlier reading could replace a later one
            self.reading = PolicyReading(self.path, await self._files.run(self._read), self.reading.deny_list)
            self._error = None
            return self.reading

    async def watch(
        self, changed: Callable[[PolicyReading], None], failed: Callable[[ConfigurationError], None]
    ) -> None:
        """Poll the file until cancelled. If the file cannot be read, the last policy stays in force.

        Args:
            changed: called when the file was read again.
            failed: called with the error when the file cannot be read, but only once for the same error.
        """
        while True:
            await trio.sleep(POLL_SECONDS)
            try:
                # After an error, read in any case: a file that was restored may have the same time, size and inode.
                if not await self._files.run(self._changed) and self._error is None:
                    continue
                reading = await self.reload()
            except ConfigurationError as exc:
                if str(exc) != self._error:
                    failed(exc)
                self._error = str(exc)
            else:
                changed(reading)
