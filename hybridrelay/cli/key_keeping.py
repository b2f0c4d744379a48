"""Writes what a running program gets into the file with its connection string: a new key from a relay, an update that
the authority has signed, or a renewed identity from a connector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from .._file_lock import locked_files
from .._file_thread import FileThread
from .._replace_file import replace_file
from ..errors import ConfigurationError, UpdateError
from ..events.endpoint import PreviousStringNotKept, UpdateNotRemembered
from ..events.plain_log import plainly_logged_events
from ..security import ConnectionString, load_connection_string
from .update_marks import UpdateMarks

__all__ = ["keeper_of", "previous_of"]

#: How long to wait for a command that is changing the file (seconds).
_LOCK_SECONDS = 5.0


def previous_of(path: Path) -> Path:
    """Return the file that has the connection string from before the last update."""
    return path.with_name(f"{path.name}.previous")


class _Keeper:
    def __init__(self, files: Callable[[], Sequence[Path]], marks: UpdateMarks) -> None:
        self._files = files
        self._marks = marks

    async def __call__(self, before: ConnectionString, after: ConnectionString) -> str:
        """See `KeepString`. Owner, group, mode and symbolic links stay as they are (`replace_file`)."""
        unreadable, kept = "", None
        for path in self._files():
            try:
                kept = await FileThread(str(path)).run(partial(_keep, path, before, after))
            except ConfigurationError as exc:  # perhaps the file of another connection string
                unreadable = unreadable or str(exc)
                continue
            if kept is not None:
                break
        if after.update_sequence != before.update_sequence:
            await self._remember(after)
        if kept is not None:
            return kept
        return unreadable or "the connection string was not read from a file"

    async def _remember(self, string: ConnectionString) -> None:
        """Note that an update is used, also if it could not be written into the file."""
        try:
            await FileThread("the file with the marks of updates").run(self._marks.note, string)
        except (OSError, UpdateError, ConfigurationError) as exc:
            event = UpdateNotRemembered(connection=string.entity_path, detail=str(exc))
            plainly_logged_events().publish(event)


def keeper_of(files: Callable[[], Sequence[Path]], marks: UpdateMarks) -> _Keeper:
    """Return the function that writes changed connection strings into the files that `files` returns.

    Args:
        files: returns the files.
        marks: remember which updates were used.
    """
    return _Keeper(files, marks)


def _keep(path: Path, before: ConnectionString, after: ConnectionString) -> str | None:
    """Write what has changed from `before` to `after`, in a thread. Everything else in the file stays.

    Returns:
        None if the file has another connection string; an empty text; or why nothing was written.
    """
    try:
        with locked_files([path], seconds=_LOCK_SECONDS):
            current = load_connection_string(path, regular=True)
            if (current.entity_path, current.identity) != (before.entity_path, before.identity):
                return None
            changes: dict[str, Any] = {} if after.identity == before.identity else {"identity": after.identity}
            if _key_of(after) not in (_key_of(before), _key_of(current)):
                if _key_of(current) != _key_of(before):
                    return f"{path} has yet another key: somebody else has changed it"
                changes["key"] = after.key
            if before.update_sequence != after.update_sequence > current.update_sequence:
                _keep_previous(path, current)
                changes |= {
                    name: getattr(after, name) for name in ("endpoints", "relay_pins", "target", "update_sequence")
                }
            if changes:
                replace_file(path, attrs.evolve(current, **changes).format() + "\n")
    except TimeoutError:
        return f"another program is changing {path}"
    except OSError as exc:
        return f"{path} cannot be written: {exc.strerror}"
    return ""


def _key_of(string: ConnectionString) -> tuple[object, ...]:
    return string.key_name, string.key


def _keep_previous(path: Path, current: ConnectionString) -> None:
    """Keep the connection string from before an update. That this is impossible (a single file is mounted into a
    container) must not keep the update from being used."""
    previous = previous_of(path)
    try:
        replace_file(previous, current.format() + "\n")
    except OSError as exc:
        plainly_logged_events().publish(PreviousStringNotKept(file=str(previous), detail=exc.strerror or str(exc)))
