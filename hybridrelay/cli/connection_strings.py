"""Reads the connection strings of a command, when it starts and again at SIGHUP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from .._file_thread import FileThread
from ..connectivity.data import EndToEnd
from ..errors import ConfigurationError
from ..events.plain_log import plainly_logged_events
from ..events.program import ConnectionStringReloaded, ReloadSkipped, RestartNeeded
from ..security import ConnectionString, Role, StringUpdate, load_connection_string
from ..security.loading import describe_source, naming
from .reloading import publish_not_reloaded


def load_all(files: Sequence[str], role: Role | None = None) -> list[ConnectionString]:
    """Read all connection strings; if no files are given, read the one in the environment.

    Args:
        files: paths, or - for standard input.
        role: the side that the connection strings have to be for, with an identity of that side; None accepts both.

    Raises:
        ConfigurationError: a connection string cannot be read, is malformed, or is for the other side. The message
            names the file.
    """
    if len([file for file in files if file == "-"]) > 1:
        raise ConfigurationError("standard input (-) holds one connection string", remedy="use files for the others")
    return [_load(file, role) for file in files or (None,)]


async def reload_each(files: Sequence[str], role: Role, use: Callable[[int, ConnectionString], StringUpdate]) -> None:
    """Read the files again and use each one that is valid. For each file, an event reports the result.

    If cancelled, the connection strings that were applied stay applied.

    Args:
        files: as for `load_all`. Standard input and the environment cannot be read again.
        role: the side that the connection strings have to be for.
        use: applies a connection string; gets its index among the files and the string. Raises `ConfigurationError`
            if it cannot be applied.
    """
    events = plainly_logged_events()
    for number, file in enumerate(files or (None,)):
        if file is None or file == "-":
            detail = f"{describe_source(file)} cannot be read again: a change needs a restart"
            events.publish(ReloadSkipped(detail=detail))
            continue
        try:
            string = await FileThread(file).run(partial(_load, file, role, regular=True))
            with naming(file):
                update = use(number, string)
        except ConfigurationError as exc:
            publish_not_reloaded(exc)
        else:
            if update.taken_up or not update.needs_restart:
                events.publish(ConnectionStringReloaded(file=file, changed=update.taken_up))
            if update.needs_restart:
                events.publish(RestartNeeded(file=file, changed=update.needs_restart))


def _load(file: str | None, role: Role | None, *, regular: bool = False) -> ConnectionString:
    string = load_connection_string(file, regular=regular)
    # Client and connector check this too, but their errors cannot name the file.
    with naming(describe_source(file)):
        if role is Role.CONNECTOR:
            string.require_target()
        elif role is Role.APPLICATION:
            string.require_application()
        if role is not None:
            EndToEnd.from_connection_string(string)
    return string
