"""Reads the connection strings of a command, when it starts and again while it runs."""

from __future__ import annotations

from collections.abc import Sequence

from ..connectivity.data import EndToEnd
from ..errors import ConfigurationError
from ..security import ConnectionString, Role, load_connection_string
from ..security.loading import describe_source, naming


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


def load_again(file: str, role: Role) -> ConnectionString:
    """Read a connection string again while the program runs.

    This may take a long time if the file system does not answer.

    Raises:
        ConfigurationError: see `load_all`; or this is not a regular file.
    """
    return _load(file, role, regular=True)


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
