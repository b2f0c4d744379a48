"""New files with secrets in them: private from the first moment, never over an existing one, all or none."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ..errors import ConfigurationError


def check_new_files(paths: Iterable[Path]) -> None:
    """Make sure that all these files can be made, before anything is done that would be lost otherwise.

    Raises:
        ConfigurationError: one exists, two are the same, or a directory is missing or not writable.
    """
    seen: set[Path] = set()
    for path in paths:
        place = path.parent.resolve() / path.name
        if place in seen:
            raise ConfigurationError(f"{path} was given for two files", remedy="give each a name of its own")
        seen.add(place)
        if path.is_symlink() or path.exists():
            raise _exists(path)
        if not path.parent.is_dir():
            raise ConfigurationError(f"there is no directory {path.parent}", remedy="make it, or name another")
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise ConfigurationError(f"the directory {path.parent} is not writable", remedy="name another")


@contextlib.contextmanager
def new_files(contents: Mapping[Path, str]) -> Iterator[None]:
    """Write new files of mode 0600. Where a later one, or the block, fails, those of this call are removed again.

    Raises:
        ConfigurationError: see `check_new_files`; nothing is written then.
    """
    check_new_files(contents)
    made: list[Path] = []
    try:
        for path, text in contents.items():
            _write_new(path, text, made)
        yield
    except BaseException:
        for path in made:
            path.unlink(missing_ok=True)
        raise


def replace_private_file(path: Path, text: str) -> None:
    """Put `text` in the place of what a file held: all of it or nothing, mode 0600.

    Raises:
        OSError: it cannot be written; the file is as it was.
    """
    path = path.resolve()  # where it is a link, what it leads to is replaced
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    made: list[Path] = []
    try:
        _write_new(fresh, text, made)
        os.replace(fresh, path)
    except BaseException:
        for leftover in made:
            leftover.unlink(missing_ok=True)
        raise


def _write_new(path: Path, text: str, made: list[Path]) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise _exists(path) from None
    made.append(path)
    with open(descriptor, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _exists(path: Path) -> ConfigurationError:
    return ConfigurationError(
        f"{path} exists already, and files with keys are never overwritten",
        remedy="name another file, or move that one away",
    )
