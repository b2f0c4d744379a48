"""Writing new files with secrets: private from the beginning, whole, all or none, and never in place of an existing
file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from .._replace_file import create_whole_file, naming, remove_leftovers, sync_directory
from ..errors import ConfigurationError


def check_new_files(paths: Iterable[Path]) -> None:
    """Check that all these files can be created, before doing anything whose result has to be written to them.

    Raises:
        ConfigurationError: a file exists, two are the same, or a directory is missing or not writable.
    """
    seen: set[Path] = set()
    for path in paths:
        place = path.parent.resolve() / path.name
        if place in seen:
            raise ConfigurationError(f"{path} was given for two files", remedy="give each of them a different name")
        seen.add(place)
        if path.is_symlink() or path.exists():
            raise _exists(path)
        if not path.parent.is_dir():
            raise ConfigurationError(f"there is no directory {path.parent}", remedy="create it, or name another")
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise ConfigurationError(f"the directory {path.parent} is not writable", remedy="name another")


@contextlib.contextmanager
def new_files(contents: Mapping[Path, str]) -> Iterator[None]:
    """Write new files with mode 0600. If one of them, or the block, fails, the files of this call are removed again.
    If this process is killed, each of them is whole or missing (`create_whole_file`). What earlier processes have
    left of these files when they were killed is removed.

    Raises:
        ConfigurationError: see `check_new_files`; nothing is written then.
        OSError: a file cannot be written. The error names it.
    """
    check_new_files(contents)
    made: list[Path] = []
    try:
        for path, text in contents.items():
            remove_leftovers(path)  # they have private keys
            _write_new(path, text)
            made.append(path)
        for directory in {path.parent for path in made}:
            with naming(directory):
                sync_directory(directory)
        yield
    except BaseException:
        for path in made:
            path.unlink(missing_ok=True)
        raise


def _write_new(path: Path, text: str) -> None:
    try:
        create_whole_file(path, text.encode())
    except FileExistsError:
        raise _exists(path) from None


def _exists(path: Path) -> ConfigurationError:
    return ConfigurationError(
        f"{path} already exists, and files with keys are never overwritten",
        remedy="name another file, or move that one away",
    )
