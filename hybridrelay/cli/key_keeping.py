"""Stores what a running program receives for its connection strings, and remembers which updates were used.

It is stored in the files that the program's command names (`connectivity/string_files.py`), or in their copies if
they cannot be written (`string_copies`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from .._file_thread import FileThread, thread_of_file
from ..connectivity.string_files import NO_FILE, write_changes
from ..errors import ConfigurationError, UpdateError
from ..events.endpoint import UpdateNotRemembered
from ..events.plain_log import plainly_logged_events
from ..security import ConnectionString, load_connection_string
from .string_copies import StringCopies
from .update_marks import UpdateMarks

__all__ = ["keeper_of"]


class _Keeper:
    def __init__(self, files: Callable[[], Sequence[Path]], marks: UpdateMarks, copies: StringCopies) -> None:
        self._files = files
        self._marks = marks
        self._copies = copies
        self._marks_thread = FileThread("the file with the marks of updates")

    async def __call__(self, before: ConnectionString, after: ConnectionString) -> str:
        """See `KeepString`. Owner, group, mode and symbolic links stay as they are (`replace_file`)."""
        unreadable, kept = "", None
        # The right file comes first, so that no other one, whose file system may hang, is waited for.
        for path in sorted(self._files(), key=lambda path: path.absolute() != before.file):
            try:
                kept = await thread_of_file(path).run(partial(self._write, path, before, after))
            except ConfigurationError as exc:  # perhaps the file of another connection string
                unreadable = unreadable or str(exc)
                continue
            if kept is not None:
                break
        if after.update_sequence != before.update_sequence:
            await self._remember(after)
        if kept is not None:
            return kept
        return unreadable or NO_FILE

    def _write(self, path: Path, before: ConnectionString, after: ConnectionString) -> str | None:
        """See `write_changes`. What cannot be written into the file is written into its copy."""
        copy = self._copies.copy_of(path)
        if copy is None:
            return write_changes(path, before, after)
        before = self._copies.base_of(load_connection_string(path, regular=True), before)
        why = write_changes(path, before, after, self._copies.write)
        if why == "" and copy.exists():
            self._copies.tidy(load_connection_string(path, regular=True))
        return why

    async def _remember(self, string: ConnectionString) -> None:
        """Note that an update is used, even if it could not be written into the file."""
        try:
            await self._marks_thread.run(self._marks.note, string)
        except (OSError, UpdateError, ConfigurationError) as exc:
            event = UpdateNotRemembered(connection=string.entity_path, detail=str(exc))
            plainly_logged_events().publish(event)


def keeper_of(files: Callable[[], Sequence[Path]], marks: UpdateMarks, copies: StringCopies) -> _Keeper:
    """Return the function that writes changed connection strings into the files that `files` returns.

    Args:
        files: returns the files.
        marks: remember which updates were used.
        copies: take what cannot be written into a file.
    """
    return _Keeper(files, marks, copies)
