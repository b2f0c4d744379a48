"""Remembers which updates of connection strings were used on this machine, apart from the connection strings.

If a backup of a connection string is restored, the file itself no longer says which updates were used. A relay that
an attacker controls could then deliver an earlier update again. The marks, in the state directory, prevent this.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from .._file_lock import locked_files
from .._file_thread import FileThread
from .._replace_file import create_file, replace_file
from .._state_directory import own_state_directory
from ..errors import ConfigurationError, UpdateError
from ..events.endpoint import OlderStringRestored
from ..events.plain_log import plainly_logged_events
from ..security import MAX_SEQUENCE, ConnectionString, authority_key_of

__all__ = ["UpdateMarks"]

_FILE = "updates.json"
_MAX_BYTES = 1 << 20
#: How long to wait for another program that writes the file (seconds).
_LOCK_SECONDS = 5.0


class UpdateMarks:
    """The highest sequence that was used on this machine, for each authority and side.

    Args:
        directory: the directory of the file; None if there is none. Then nothing is known, and nothing is remembered.
    """

    def __init__(self, directory: Path | None) -> None:
        self._file = None if directory is None else directory / _FILE
        self._thread = FileThread(str(self._file))
        #: What `warn_if_older` has published: connection strings and sequences.
        self._warned: set[tuple[str, int, int]] = set()

    @classmethod
    def of_user(cls, environ: Mapping[str, str] = os.environ) -> UpdateMarks:
        """Return the marks of this user (of this service, under systemd)."""
        return cls(own_state_directory(environ))

    async def floor(self, string: ConnectionString) -> int:
        """See `FloorOf`."""
        try:
            return await self._thread.run(self.read, string)
        except ConfigurationError:
            return 0

    def read(self, string: ConnectionString) -> int:
        """Return the mark of a connection string; 0 if there is none."""
        try:
            return self._read().get(_name_of(string), 0)
        except UpdateError:
            return 0

    def warn_if_older(self, string: ConnectionString) -> None:
        """Publish, only to the log, that a connection string is older than the last update that was used; once."""
        used = self.read(string)
        what = string.entity_path, string.update_sequence, used
        if used > string.update_sequence and what not in self._warned:
            self._warned.add(what)
            plainly_logged_events().publish(
                OlderStringRestored(connection=string.entity_path, sequence=string.update_sequence, used=used)
            )

    def note(self, string: ConnectionString) -> None:
        """Remember that a connection string is used. Blocks.

        Raises:
            OSError: the file cannot be written.
            TimeoutError: another program keeps it locked.
            UpdateError: the connection string has no valid authority.
        """
        if self._file is None:
            return
        name = _name_of(string)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        if not self._file.exists():
            with contextlib.suppress(FileExistsError):  # another program was faster
                create_file(self._file, b"{}\n")
        with locked_files([self._file], seconds=_LOCK_SECONDS):
            marks = self._read()
            if marks.get(name, 0) < string.update_sequence:
                replace_file(self._file, json.dumps({**marks, name: string.update_sequence}, indent=1) + "\n")

    def _read(self) -> dict[str, int]:
        """Read the file. Damaged entries count as missing."""
        if self._file is None:
            return {}
        try:
            with open(self._file, "rb") as file:
                content = json.loads(file.read(_MAX_BYTES))
        except (OSError, ValueError, RecursionError):
            return {}
        if not isinstance(content, dict):
            return {}
        return {
            str(name): value for name, value in content.items() if type(value) is int and 0 <= value <= MAX_SEQUENCE
        }


def _name_of(string: ConnectionString) -> str:
    """Return what identifies the authority and the side of a connection string. Raises UpdateError if it has no
    valid authority."""
    what = b"\n".join([b"hybridrelay update mark", authority_key_of(string), string.role.value.encode()])
    return hashlib.sha256(what).hexdigest()[:32]
