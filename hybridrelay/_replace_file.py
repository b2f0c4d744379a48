"""Replacing the content of a file in two steps: first everything that is likely to fail, then the change itself.

An existing file keeps its owner, group, mode, access control list and other attributes, even if root replaces it. A
symbolic link stays, and the file to which it leads is replaced. Normally a complete new file is renamed over the old
one. If that is not possible (the file is a mount point, its directory is not writable, it has several hard links, or
its owner cannot be kept), it is overwritten in place, after the space for it has been reserved.
"""

# This module is long because it implements both methods.

from __future__ import annotations

import abc
import contextlib
import errno
import os
import re
import secrets
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Self

#: The mode of new files, which contain secrets.
_NEW_MODE = 0o600
#: The errors if a file cannot be renamed over another one. Overwriting that one may still be possible.
_NO_RENAME = frozenset({errno.EBUSY, errno.EXDEV, errno.EACCES, errno.EPERM, errno.EROFS, errno.ETXTBSY})
#: The errors of a file system without hard links, or one that does not allow them.
_NO_LINK = frozenset({errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
#: The errors of a file system that cannot synchronize a directory.
_NO_DIRECTORY_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM, errno.EBADF})
#: Attributes that the system computes from the content.
_COMPUTED_ATTRIBUTES = frozenset({"security.ima", "security.evm"})
_CLOEXEC = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


class Replacement(abc.ABC):
    """New content for a file, prepared so that it can replace the old content. There is enough space for it.

    A context manager: at its end, it is discarded unless it was committed.
    """

    def __init__(self, path: Path) -> None:
        #: The path that the caller gave.
        self.path = path

    @abc.abstractmethod
    def commit(self) -> None:
        """Replace the old content. When this returns, the new content is on the disk.

        Raises:
            OSError: this failed despite all preparations. The error names the file. The file is unchanged, except if
                the disk has failed: then it may have the new content, or part of it.
        """

    @abc.abstractmethod
    def discard(self) -> None:
        """Remove what was prepared. Does nothing after `commit`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()


def prepare_replacement(path: str | os.PathLike[str], text: str | bytes) -> Replacement:
    """Prepare to replace the content of a file. If it does not exist, it is created with mode 0600.

    Args:
        path: the file; a symbolic link is followed.
        text: the new content; text is written as UTF-8 with its line ends unchanged.

    Raises:
        OSError: the content cannot be written there. It names the file, which is unchanged.
    """
    path = Path(path)
    target = Path(os.path.realpath(path))
    data = text.encode("utf-8") if isinstance(text, str) else text
    with naming(path):
        old = _regular_file(target)
        if old is not None and old.st_size == len(data) and _read(target) == data:
            return _Unchanged(path)
        if old is not None:
            _check_mutable(target)
            if _must_stay(target, old):
                return _InPlace(path, target, data)
        try:
            return _Renaming(path, target, data, old)
        except (_CannotKeep, OSError) as exc:
            if old is None or (isinstance(exc, OSError) and exc.errno not in _NO_RENAME):
                raise
            return _InPlace(path, target, data)


@contextlib.contextmanager
def prepared_replacements(contents: Mapping[Path, str]) -> Iterator[list[Replacement]]:
    """Prepare to replace several files. Replacements that the block has not committed are discarded at its end.

    Raises:
        OSError: a file cannot be written. It names that file; all files are unchanged.
    """
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(prepare_replacement(path, text)) for path, text in contents.items()]


def replace_file(path: str | os.PathLike[str], text: str) -> None:
    """Replace the content of a file in one step; see `prepare_replacement`.

    Raises:
        OSError: it cannot be written. The error names the file; for its content see `Replacement.commit`.
    """
    with prepare_replacement(path, text) as replacement:
        replacement.commit()


def remove_leftovers(path: Path) -> list[Path]:
    """Remove the temporary files of processes that were killed while they replaced or created this file. Those that
    cannot be removed stay, without an error.

    No other process may be replacing the file at the same time.

    Args:
        path: the file; a symbolic link is followed.

    Returns:
        The files that were removed.
    """
    target = Path(os.path.realpath(path))
    pattern = re.compile(re.escape(_fresh_prefix(target)) + "[0-9a-f]{8}")
    removed = []
    try:
        leftovers = [sibling for sibling in target.parent.iterdir() if pattern.fullmatch(sibling.name)]
    except OSError:
        return []
    for leftover in leftovers:
        with contextlib.suppress(OSError):
            leftover.unlink()
            removed.append(leftover)
    return removed


def _fresh_prefix(target: Path) -> str:
    return f".{target.name[:200]}."


def _as_it_is(descriptor: int) -> None:
    pass


def create_file(path: Path, data: bytes, finish: Callable[[int], None] = _as_it_is) -> None:
    """Write a new file with mode 0600, and sync it to the disk. If this fails, nothing is left of it.

    Args:
        path: the file.
        data: its content.
        finish: called with the descriptor of the file before it is synced; may change its attributes.

    Raises:
        FileExistsError: the file exists.
        OSError: it cannot be written. It names the file.
        Exception: what `finish` raises.
    """
    with naming(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _CLOEXEC, _NEW_MODE)
        try:
            try:
                _write(descriptor, data)
                finish(descriptor)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def create_whole_file(path: Path, data: bytes) -> None:
    """Write a new file with mode 0600 under a temporary name, sync it to the disk, and then give it its own name.

    So there is never a part of it under its own name, even if this process is killed or the machine loses power; a
    temporary file may be left then (`remove_leftovers`). On a file system without hard links, this is `create_file`.

    Raises:
        FileExistsError: the file exists; a symbolic link counts as one.
        OSError: it cannot be written. It names the file, of which nothing is left.
    """
    temporary = path.with_name(f"{_fresh_prefix(path)}{secrets.token_hex(4)}")
    with naming(path):
        try:
            create_file(temporary, data)
            try:
                os.link(temporary, path)
            except OSError as exc:
                if exc.errno not in _NO_LINK:
                    raise
                create_file(path, data)
        finally:
            temporary.unlink(missing_ok=True)


def create_file_once(path: Path, data: bytes) -> bool:
    """Write a new file with mode 0600, unless it exists. If several processes do this at the same time, exactly one
    succeeds.

    A symbolic link to a file that does not exist is followed. No process ever sees an incomplete file, except on a
    file system without hard links.

    Returns:
        Whether it was written. False means that it exists; it may have been written just now by another process.

    Raises:
        OSError: it cannot be written. It names the file, of which nothing is left unless only its directory could not
            be synced.
    """
    target = Path(os.path.realpath(path))
    with naming(path):
        try:
            create_whole_file(target, data)
        except FileExistsError:
            return False
        sync_directory(target.parent)
    return True


def sync_directory(path: Path) -> None:
    """Sync the names in a directory to the disk, if the system supports that.

    Raises:
        OSError: the disk failed. It names the directory.
    """
    if sys.platform == "win32":
        return
    try:
        with naming(path):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    except OSError as exc:
        if exc.errno not in _NO_DIRECTORY_SYNC:
            raise


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Make an `OSError` of the block name this file: failed reads and writes name no file, or a temporary one."""
    try:
        yield
    except OSError as exc:
        if exc.errno is None or exc.filename == str(path):
            raise
        raise OSError(exc.errno, exc.strerror, str(path)) from exc


class _CannotKeep(Exception):
    """A new file cannot be given the owner or the attributes of the old one."""


class _Unchanged(Replacement):
    """The file already has this content: there is nothing to write, so this also works on a full disk."""

    def commit(self) -> None:
        pass

    def discard(self) -> None:
        pass


class _Renaming(Replacement):
    """A complete new file in the same directory, with the attributes of the old one."""

    def __init__(self, path: Path, target: Path, data: bytes, old: os.stat_result | None) -> None:
        super().__init__(path)
        self._target = target
        self._data = data
        self._fresh: Path | None = target.with_name(_fresh_prefix(target) + secrets.token_hex(4))
        create_file(self._fresh, data, _as_it_is if old is None else partial(_copy_attributes, target, old))

    def commit(self) -> None:
        assert self._fresh is not None
        with naming(self.path):
            try:
                os.replace(self._fresh, self._target)
            except OSError as exc:
                if exc.errno not in _NO_RENAME or not self._target.exists():
                    raise
                # Only now is it known that no file can be renamed over this one.
                with _InPlace(self.path, self._target, self._data) as overwriting:
                    overwriting.commit()
                return
            self._fresh = None
            sync_directory(self._target.parent)

    def discard(self) -> None:
        if self._fresh is not None:
            self._fresh.unlink(missing_ok=True)
            self._fresh = None


class _InPlace(Replacement):
    """The old file, which is open and already at least as long as the new content.

    The space is reserved by appending line feeds, which are harmless to readers.
    """

    def __init__(self, path: Path, target: Path, data: bytes) -> None:
        super().__init__(path)
        self._data = data
        self._descriptor: int | None = os.open(target, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | _CLOEXEC)
        try:
            self._old = _read_all(self._descriptor)
            if len(data) > len(self._old):
                _write(self._descriptor, b"\n" * (len(data) - len(self._old)), at=len(self._old))
                os.fsync(self._descriptor)
        except BaseException:
            self.discard()
            raise

    def commit(self) -> None:
        assert self._descriptor is not None
        with naming(self.path):
            try:
                self._put(self._data)
            except BaseException:
                self._put(self._old)
                raise
            finally:
                self._close()

    def discard(self) -> None:
        if self._descriptor is not None:
            try:
                if os.fstat(self._descriptor).st_size > len(self._old):
                    os.ftruncate(self._descriptor, len(self._old))
            finally:
                self._close()

    def _put(self, data: bytes) -> None:
        assert self._descriptor is not None
        _write(self._descriptor, data, at=0)
        os.ftruncate(self._descriptor, len(data))
        os.fsync(self._descriptor)

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _check_mutable(target: Path) -> None:
    """Raise OSError if the file is immutable or append-only (chattr(1)), so that nobody may change or replace it.

    A file without write permission (EACCES) can be replaced.
    """
    try:
        descriptor = os.open(target, os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0) | _CLOEXEC)
    except PermissionError as exc:
        if exc.errno == errno.EPERM:
            raise
    else:
        os.close(descriptor)


def _regular_file(target: Path) -> os.stat_result | None:
    """Return the status of a regular file; None if the file does not exist."""
    try:
        status = target.stat()
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(target))
    return status


def _must_stay(target: Path, status: os.stat_result) -> bool:
    """Return whether the file must be overwritten, and not replaced by another. On Windows, a new file would have
    other permissions."""
    return sys.platform == "win32" or status.st_nlink > 1 or _is_mount_point(target, status)


def _is_mount_point(target: Path, status: os.stat_result) -> bool:
    if status.st_dev != target.parent.stat().st_dev:
        return True
    try:
        mounts = Path("/proc/self/mountinfo").read_bytes()
    except OSError:
        return False
    wanted = os.fsencode(target)
    return any(_mount_path(line) == wanted for line in mounts.splitlines())


def _mount_path(line: bytes) -> bytes:
    """Return the mount path, which is the fifth field. The kernel writes spaces and backslashes in octal
    (``\\040``)."""
    fields = line.split(b" ")
    path = fields[4] if len(fields) > 4 else b""
    for code in (b"\\040", b"\\011", b"\\012", b"\\134"):
        path = path.replace(code, bytes([int(code[1:], 8)]))
    return path


def _copy_attributes(source: Path, status: os.stat_result, fresh: int) -> None:
    """Give a new file the owner, group, extended attributes (including the access control list) and mode of another.

    The new file is given as a descriptor. At its path there may already be something else, because the directory may
    belong to somebody who replaces the file by a link; root would then give that user another file.

    Raises:
        _CannotKeep: this user is not permitted to.
    """
    if sys.platform == "win32":
        return
    try:
        made = os.fstat(fresh)
        if (made.st_uid, made.st_gid) != (status.st_uid, status.st_gid):
            os.fchown(fresh, status.st_uid, status.st_gid)
        if sys.platform == "linux":
            _copy_extended_attributes(source, fresh)
        # Not the set-user-id bit, which a file with secrets does not need.
        os.fchmod(fresh, status.st_mode & 0o777)
    except OSError as exc:
        raise _CannotKeep from exc


def _copy_extended_attributes(source: Path, fresh: int) -> None:
    assert sys.platform == "linux"
    wanted, made = _extended_attributes(source), _extended_attributes(fresh)
    for name, value in wanted.items():
        if made.get(name) != value and name not in _COMPUTED_ATTRIBUTES:
            os.setxattr(fresh, name, value)
    for name in made.keys() - wanted.keys():  # these come from the directory's default access control list
        if not name.startswith("security."):
            os.removexattr(fresh, name)


def _extended_attributes(path: Path | int) -> dict[str, bytes]:
    assert sys.platform == "linux"
    try:
        return {name: os.getxattr(path, name) for name in os.listxattr(path)}
    except OSError as exc:
        if exc.errno == errno.ENOTSUP:
            return {}
        raise


def _read(target: Path) -> bytes | None:
    try:
        return target.read_bytes()
    except OSError:
        return None  # writing it raises the error


def _read_all(descriptor: int) -> bytes:
    size = os.fstat(descriptor).st_size
    pieces = []
    while size > 0 and (piece := os.read(descriptor, size)):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _write(descriptor: int, data: bytes, *, at: int = 0) -> None:
    os.lseek(descriptor, at, os.SEEK_SET)
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]
