"""Writes the new key that a relay gives a program into the file with its connection string."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import attrs

from .._file_lock import locked_files
from .._file_thread import FileThread
from .._replace_file import replace_file
from ..errors import ConfigurationError
from ..security import ConnectionString, load_connection_string

__all__ = ["keeper_of"]

#: How long to wait for a command that is changing the file (seconds).
_LOCK_SECONDS = 5.0


class _Keeper:
    def __init__(self, files: Callable[[], Sequence[Path]]) -> None:
        self._files = files

    async def __call__(self, before: ConnectionString, after: ConnectionString) -> str:
        """See `KeepString`. Owner, group, mode and symbolic links stay as they are (`replace_file`)."""
        unreadable = ""
        for path in self._files():
            try:
                why = await FileThread(str(path)).run(partial(_keep, path, before, after))
            except ConfigurationError as exc:  # perhaps the file of another connection string
                unreadable = unreadable or str(exc)
                continue
            if why is not None:
                return why
        return unreadable or "the connection string was not read from a file"


def keeper_of(files: Callable[[], Sequence[Path]]) -> _Keeper:
    """Return the function that writes changed connection strings into the files that `files` returns."""
    return _Keeper(files)


def _keep(path: Path, before: ConnectionString, after: ConnectionString) -> str | None:
    """Write the new key, in a thread. Returns None if the file has another connection string."""
    try:
        with locked_files([path], seconds=_LOCK_SECONDS):
            current = load_connection_string(path, regular=True)
            if (current.entity_path, current.identity) != (before.entity_path, before.identity):
                return None
            if (current.key_name, current.key) == (after.key_name, after.key):
                return ""
            if (current.key_name, current.key) != (before.key_name, before.key):
                return f"{path} has yet another key: somebody else has changed it"
            replace_file(path, attrs.evolve(current, key=after.key).format() + "\n")
    except TimeoutError:
        return f"another program is changing {path}"
    except OSError as exc:
        return f"{path} cannot be written: {exc.strerror}"
    return ""
