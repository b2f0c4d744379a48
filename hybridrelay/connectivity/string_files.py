"""Storing what a running program receives in the file with its connection string: a new key from a relay, an update
that the authority has signed, or a renewed identity from a connector."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import attrs

from .._file_lock import locked_files
from .._file_thread import thread_of_file
from .._replace_file import prepare_replacement, remove_leftovers, replace_file
from ..errors import ConfigurationError
from ..events.endpoint import PreviousStringNotKept
from ..events.plain_log import plainly_logged_events
from ..security import ConnectionString, Identity, load_connection_string
from ..security.string_update import was_renewed

__all__ = ["NO_FILE", "Instead", "keep_in_own_file", "previous_of", "renewed_in_own_file", "write_changes"]

#: How long to wait for a command that is changing the file (seconds).
_LOCK_SECONDS = 5.0
#: Why something could not be stored.
NO_FILE = "the connection string was not read from a file"

#: Stores, somewhere else, the content of a file that cannot be written. The arguments are what the file has, what it
#: would have, and why it cannot be written. Returns why that is not stored either; empty if it is.
Instead: TypeAlias = Callable[[ConnectionString, ConnectionString, str], str]


def previous_of(path: Path) -> Path:
    """Return the file that contains the connection string from before the last update."""
    return path.with_name(f"{path.name}.previous")


async def keep_in_own_file(before: ConnectionString, after: ConnectionString) -> str:
    """Store what has changed in the file that the connection string was read from. See `KeepString`."""
    path = before.file
    if path is None:
        return NO_FILE
    try:
        kept = await thread_of_file(path).run(partial(write_changes, path, before, after))
    except ConfigurationError as exc:
        return str(exc)
    return f"{path} contains a different connection string now" if kept is None else kept


async def renewed_in_own_file(string: ConnectionString) -> Identity | None:
    """Return the identity in the file that a connection string was read from, if another program that uses the file
    has renewed it; otherwise None."""
    path = string.file
    if path is None:
        return None
    try:
        current = await thread_of_file(path).run(partial(load_connection_string, path, regular=True))
    except ConfigurationError:
        return None  # storing the identity reports that the file cannot be read
    return current.identity if was_renewed(current, string) else None


def write_changes(
    path: Path, before: ConnectionString, after: ConnectionString, instead: Instead | None = None
) -> str | None:
    """Write what has changed from `before` to `after`. Everything else in the file stays, as do its owner, group and
    mode, and symbolic links to it (`replace_file`). Blocks.

    Args:
        path: the file.
        before: a connection string that the file may still have.
        after: what is in use now.
        instead: called if the file cannot be written.

    Returns:
        None if the file is for another hybrid connection or has another identity; otherwise an empty text if
        everything is stored, or why it is not.

    Raises:
        ConfigurationError: the file cannot be read, or has no connection string.
    """
    try:
        with locked_files([path], seconds=_LOCK_SECONDS):
            current = load_connection_string(path, regular=True)
            if current.entity_path != before.entity_path or current.identity not in (before.identity, after.identity):
                return None
            changes: dict[str, Any] = {} if after.identity == before.identity else {"identity": after.identity}
            if _key_of(after) not in (_key_of(before), _key_of(current)):
                if _key_of(current) != _key_of(before):
                    return f"{path} contains neither the old key nor the new one: somebody else has changed it"
                changes["key"] = after.key
            if before.update_sequence != after.update_sequence > current.update_sequence:
                changes |= {
                    name: getattr(after, name) for name in ("endpoints", "relay_pins", "target", "update_sequence")
                }
            wanted = attrs.evolve(current, **changes)
            if changes:
                for one in (path, previous_of(path)):
                    remove_leftovers(one)  # they contain keys
                try:
                    with prepare_replacement(path, wanted.format() + "\n") as replacement:
                        if "update_sequence" in changes:
                            _keep_previous(path, current)
                        replacement.commit()
                except OSError as exc:
                    why = f"{path} cannot be written: {exc.strerror or exc}"
                    return why if instead is None else instead(current, wanted, why)
    except TimeoutError:
        return f"another program is changing {path}"
    return ""


def _key_of(string: ConnectionString) -> tuple[object, ...]:
    return string.key_name, string.key


def _keep_previous(path: Path, current: ConnectionString) -> None:
    """Keep the connection string from before an update. If this is impossible, for example because a single file is
    mounted into a container, the update is used anyway."""
    previous = previous_of(path)
    try:
        replace_file(previous, current.format() + "\n")
    except OSError as exc:
        plainly_logged_events().publish(PreviousStringNotKept(file=str(previous), detail=exc.strerror or str(exc)))
