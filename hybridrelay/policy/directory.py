"""Reading the policy files in a directory. Synchronous.

Files are read in the order of their names. Only names that end in ``.toml`` and do not begin with a dot are read.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import attrs

from .._text_files import read_text
from .._value import Value
from ..errors import ConfigurationError
from .document import Restrictions
from .toml_files import parse_policy_file

__all__ = ["MAX_FILES", "PolicyDirectory", "Stamp", "check_owner"]

#: The most files in one directory, and the largest file (bytes).
MAX_FILES = 1000
MAX_FILE_BYTES = 1 << 20
#: The most symbolic links on the way to a file, as in Linux.
_MAX_LINKS = 40

#: A value that differs after a file or directory has changed. Empty: there is no directory.
Stamp: TypeAlias = tuple[tuple[object, ...], ...]


@attrs.frozen
class PolicyDirectory(Value):
    """A directory with policy files.

    Args:
        path: the directory.
        owner: the user who must own it, and everything in it and above it, so that nobody else can change it (root
            may own it, too). None: it is not checked.
        is_optional: whether there may be no such directory.
    """

    path: Path
    owner: int | None = None
    is_optional: bool = False

    def stamp(self) -> Stamp:
        """Return a value that changes when the directory or a file in it changes.

        Raises:
            ConfigurationError: the directory cannot be listed.
        """
        if (names := self._names()) is None:
            return ()
        return (_stamp_of(self.path), *(_stamp_of(self.path / name) for name in names))

    def read(self) -> tuple[Restrictions, ...]:
        """Read all files, in the order of their names.

        Raises:
            ConfigurationError: the directory or a file cannot be read, somebody other than the owner could change it,
                or it is not valid. Nothing is skipped.
        """
        if (names := self._names()) is None:
            return ()
        if self.owner is not None:
            check_owner(self.path, self.owner)
        return tuple(self._read(self.path / name) for name in names)

    def ignored(self) -> tuple[str, ...]:
        """Return the names of other files in the directory, which are not read."""
        names = self._names()
        return () if names is None else tuple(sorted(set(os.listdir(self.path)).difference(names)))

    def describe(self) -> str:
        """Return the directory, for people."""
        return str(self.path)

    def _names(self) -> list[str] | None:
        try:
            names = sorted(name for name in os.listdir(self.path) if name.endswith(".toml") and name[0] != ".")
        except OSError as exc:
            if self.is_optional and isinstance(exc, FileNotFoundError) and not _has_dangling_link(self.path):
                return None
            raise ConfigurationError(
                f"cannot read the policy in {self.path}: {exc.strerror or exc}",
                remedy="let this user list the directory and read the files in it",
            ) from exc
        if len(names) > MAX_FILES:
            raise ConfigurationError(f"{self.path} has more than {MAX_FILES} policy files")
        return names

    def _read(self, path: Path) -> Restrictions:
        if self.owner is not None:
            check_owner(path, self.owner)
        text = read_text(path, what="the policy file", limit=MAX_FILE_BYTES, regular=True)
        return attrs.evolve(parse_policy_file(str(path), text), is_further=self.owner is None)


def check_owner(path: Path, owner: int) -> None:
    """Check that nobody but root and one user can change a file or directory, or anything that leads to it.

    Args:
        path: the file or directory. Symbolic links are followed, and checked as well: a user who can change one of
            them can change what is read.
        owner: the id of that user.

    Raises:
        ConfigurationError: somebody else can change it, or the path does not exist.
    """
    try:
        *above, named = _steps(path)
        for one in above:
            _check_owner(one, os.lstat(one), owner, is_named=False)
        _check_owner(named, os.lstat(named), owner, is_named=True)
    except OSError as exc:
        raise ConfigurationError(f"cannot read the policy file {path}: {exc.strerror or exc}") from exc


def _has_dangling_link(path: Path) -> bool:
    """Return whether a path does not exist because a symbolic link on the way leads nowhere.

    Such a path does not count as missing: perhaps a file system is not mounted yet.
    """
    return any(one.is_symlink() and not one.exists() for one in (path, *path.parents))


def _steps(path: Path) -> Iterator[Path]:
    """Yield everything that the system looks at when a path is opened: directories, symbolic links, and finally what
    the path leads to.

    Raises:
        OSError: something does not exist, or there are too many links.
    """
    parts = list(reversed((Path.cwd() / path).parts))
    at = Path(parts.pop())
    links = 0
    yield at
    while parts:
        part = parts.pop()
        if part == "..":
            at = at.parent  # `at` contains no link
            continue
        one = at / part
        yield one
        if not stat.S_ISLNK(os.lstat(one).st_mode):
            at = one
            continue
        links += 1
        if links > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        target = Path(os.readlink(one))
        if target.is_absolute():
            at = Path(target.anchor)
        parts += reversed(target.parts[1:] if target.is_absolute() else target.parts)
    yield at


def _check_owner(path: Path, status: os.stat_result, owner: int, *, is_named: bool) -> None:
    """Check that nobody but root and `owner` can change a file or directory, or replace what is in it.

    Args:
        path: the file, directory or symbolic link.
        status: its status.
        owner: a user id.
        is_named: whether it is part of the policy. Otherwise it is a directory above it. In such a directory, the
            sticky bit prevents others from replacing what they do not own.
    """
    if status.st_uid not in (0, owner):
        raise ConfigurationError(
            f"the policy is not used, because {path} does not belong to root",
            remedy=f"check what it contains, then run: chown root {path}",
        )
    # The mode of a symbolic link lets everybody write it, but only those who can write its directory can replace it.
    is_safe = stat.S_ISLNK(status.st_mode) or (not is_named and status.st_mode & stat.S_ISVTX)
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not is_safe:
        raise ConfigurationError(
            f"the policy is not used, because users other than root can write {path}",
            remedy=f"check what it contains, then run: chmod go-w {path}",
        )


def _stamp_of(path: Path) -> tuple[object, ...]:
    try:
        status = os.stat(path)
    except OSError as exc:
        return str(path), exc.errno
    return str(path), status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_mode
