"""Changing the target of a hybrid connection. Only files contain it, so no relay is involved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import attrs

from ..errors import ConfigurationError
from ..security import ConnectionString, Role, Target
from .authority_content import with_target
from .changes import FilesWritten, change_files, nothing
from .files_with_keys import read_file_of


def change_target(
    name: str, target: Target, files: Sequence[Path], *, before_change: Callable[[], None] = nothing
) -> FilesWritten:
    """Write another target into the connection string files of connectors and into authority files.

    Args:
        name: the hybrid connection.
        target: what the connector is to connect to.
        files: the files to be changed; at least one.
        before_change: see `change_with_files`.

    Returns:
        Which files were updated; and the error, if not all of them could be.

    Raises:
        ConfigurationError: a file cannot be read, is for another hybrid connection, or has no target. Nothing was
            changed.
        HybridRelayError: a file cannot be written, or is being changed by another process. Nothing was changed.
    """
    return change_files(
        files, lambda path: _with_target(path, name, target), before_change=before_change, what="the new target"
    )


def _with_target(path: Path, name: str, target: Target) -> str:
    content = read_file_of(path, name)
    if not isinstance(content, ConnectionString):
        return with_target(content, target).format()
    if content.role is not Role.CONNECTOR:
        raise ConfigurationError(
            f"{path} is an application's connection string, which has no target",
            remedy="leave this file out: only the connector needs to know the target",
        )
    return attrs.evolve(content, target=target).format() + "\n"
