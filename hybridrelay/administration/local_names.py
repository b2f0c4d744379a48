"""Changing the local name of a hybrid connection. Only files contain it, so no relay is involved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import attrs

from ..errors import ConfigurationError
from ..security import ConnectionString, HostTarget, Role
from .authority_content import with_local_name
from .changes import FilesWritten, change_files, nothing
from .files_with_keys import read_file_of


def change_local_name(
    name: str, local_name: HostTarget | None, files: Sequence[Path], *, before_change: Callable[[], None] = nothing
) -> FilesWritten:
    """Write another local name into the connection string files of applications and into authority files.

    Args:
        name: the hybrid connection.
        local_name: the name and ports under which applications are to know the target; None for no local name.
        files: the files to be changed; at least one.
        before_change: see `change_with_files`.

    Returns:
        Which files were updated; and the error, if not all of them could be.

    Raises:
        ConfigurationError: a file cannot be read, is for another hybrid connection, or is a connector's. Nothing was
            changed.
        HybridRelayError: a file cannot be written, or is being changed by another process. Nothing was changed.
    """
    return change_files(
        files,
        lambda path: _with_local_name(path, name, local_name),
        before_change=before_change,
        what="the new local name",
    )


def _with_local_name(path: Path, name: str, local_name: HostTarget | None) -> str:
    content = read_file_of(path, name)
    if not isinstance(content, ConnectionString):
        return with_local_name(content, local_name).format()
    if content.role is not Role.APPLICATION:
        raise ConfigurationError(
            f"{path} is a connector's connection string, which has no local name",
            remedy="leave this file out: local names are for the machines of applications",
        )
    return attrs.evolve(content, local_name=local_name).format() + "\n"
