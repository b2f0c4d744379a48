"""The policy in a file, which is read again when it changes."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import trio

from ..._file_thread import FileThread
from ..._text_files import read_text
from ...errors import ConfigurationError
from .decision import Policy
from .deny_list import DenyList, describe, parse_deny_list

logger = logging.getLogger("hybridrelay.connector")

#: How soon a changed file takes effect (seconds).
POLL_SECONDS = 0.5
#: Bounds what is read again and again.
MAX_FILE_SIZE = 1 << 20


class PolicyFile:
    """The policy in a file, read again when the file changes. The log says what was read, with warnings.

    Raises:
        ConfigurationError: the file cannot be read or understood.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._stamp: tuple[int, int, int] | None = None
        self._reading = trio.Lock()
        self._files = FileThread(str(self.path))
        #: Why the file could not be read the last time.
        self._error: str | None = None
        self._list = self._read()
        self._log(f"the deny list {self.path}", None)

    @property
    def policy(self) -> Policy:
        """What the file said when it could last be read."""
        return Policy(self._list.names)

    def _log(self, what: str, before: DenyList | None) -> None:
        logger.info("%s: %s", what, describe(before, self._list))
        for warning in self._list.warnings:
            logger.warning("the deny list %s: %s", self.path, warning)

    def _read(self) -> DenyList:
        try:
            stat = self.path.stat()
        except OSError as exc:
            raise ConfigurationError(
                f"cannot read the deny list {self.path}: {exc.strerror}",
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
            return True  # reading it will say why
        return (stat.st_mtime_ns, stat.st_size, stat.st_ino) != self._stamp

    async def reload(self) -> Policy:
        """Read the file now, changed or not, and return the policy that is in it.

        Raises:
            ConfigurationError: it cannot be read or understood; the last policy stays in `policy`.
        """
        async with self._reading:  # so that what was read earlier is never kept later
            before, self._list = self._list, await self._files.run(self._read)
            self._error = None
            self._log(f"reloaded the deny list {self.path}", before)
            return self.policy

    async def watch(self, changed: Callable[[Policy], None], failed: Callable[[ConfigurationError], None]) -> None:
        """Poll until cancelled. A file that cannot be read leaves the last policy in force.

        Args:
            changed: called with the policy of a file that was read again.
            failed: called with the reason why the file cannot be read, once for each reason in a row.
        """
        while True:
            await trio.sleep(POLL_SECONDS)
            try:
                # After an error, the file may be put back just as it was.
                if not await self._files.run(self._changed) and self._error is None:
                    continue
                policy = await self.reload()
            except ConfigurationError as exc:
                if str(exc) != self._error:
                    failed(exc)
                self._error = str(exc)
            else:
                changed(policy)
