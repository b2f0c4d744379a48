"""The few file operations with which an audit directory is read and written. Tests replace them with ones that fail.

All of them block. Errors name the file.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import shutil
import zlib
from pathlib import Path

from .._file_lock import lock_file
from .._replace_file import create_file, naming, sync_directory

__all__ = ["AppendedFile", "Disk"]

_CLOEXEC = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
#: The ending of a compressed file that is not complete.
PART = ".part"


class AppendedFile:
    """A file to which lines are appended."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    def write(self, data: bytes) -> None:
        """Append data.

        Raises:
            OSError: any part of it may have been written.
        """
        view = memoryview(data)
        with naming(self.path):
            while view:
                view = view[os.write(self._descriptor, view) :]

    def sync(self) -> None:
        """Wait until everything that was appended is on the disk."""
        with naming(self.path):
            getattr(os, "fdatasync", os.fsync)(self._descriptor)

    def is_in_place(self, size: int) -> bool:
        """Return whether the path leads to this file, which may have been deleted, moved or replaced, and whether the
        file was not shortened. Takes microseconds.

        Args:
            size: how many bytes the file has at least, if nobody else has changed it.

        Raises:
            OSError: the path cannot be examined.
        """
        try:
            found = self.path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        own = os.fstat(self._descriptor)
        return os.path.samestat(found, own) and own.st_size >= size

    def truncate(self, size: int) -> None:
        """Cut the file off after this many bytes."""
        with naming(self.path):
            os.ftruncate(self._descriptor, size)

    def close(self) -> None:
        """Close the file."""
        with naming(self.path):
            os.close(self._descriptor)


class Disk:
    """The operations in one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock: int | None = None

    def make_directory(self) -> None:
        """Create the directory with mode 0700, unless it exists.

        Directories above it are not created: if one is missing, perhaps because its file system is not mounted, a
        new log must not begin somewhere else.
        """
        self.directory.mkdir(mode=0o700, exist_ok=True)

    def lock(self) -> bool:
        """Keep other processes from using the directory. Returns False if another one already uses it.

        On a file system without locks, nothing is locked, and the result is True.
        """
        if self._lock is None:
            descriptor = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | _CLOEXEC, 0o600)
            try:
                if not lock_file(descriptor):
                    os.close(descriptor)
                    return False
            except OSError:
                pass
            self._lock = descriptor
        return True

    def unlock(self) -> None:
        """End the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def names(self) -> list[str]:
        """Return the names of all files, sorted."""
        return sorted(os.listdir(self.directory))

    def size(self, name: str) -> int:
        """Return the size of a file in bytes."""
        return (self.directory / name).stat().st_size

    def read(self, name: str, start: int = 0, size: int = -1) -> bytes:
        """Return a part of a file's content, or all of it."""
        path = self.directory / name
        with naming(path), path.open("rb") as file:
            file.seek(start)
            return file.read(size)

    def first_line(self, name: str, limit: int) -> bytes:
        """Return the first line of a file, which may be compressed; at most `limit` bytes of it. Empty if the file
        is damaged."""
        path = self.directory / name
        try:
            with naming(path), gzip.open(path) if name.endswith(".gz") else path.open("rb") as file:
                return file.readline(limit)
        except (EOFError, gzip.BadGzipFile, zlib.error):
            return b""

    def last_line(self, name: str, limit: int) -> bytes:
        """Return the last line of a file, which may be compressed; at most the last `limit` + 1 bytes of it. Empty if
        the file is damaged, or does not end with a line end."""
        path = self.directory / name
        tail = b""
        try:
            with naming(path), gzip.open(path) if name.endswith(".gz") else path.open("rb") as file:
                if not name.endswith(".gz"):
                    file.seek(max(0, path.stat().st_size - limit - 1))
                while block := file.read(1 << 20):
                    tail = (tail + block)[-limit - 1 :]
        except (EOFError, gzip.BadGzipFile, zlib.error):
            return b""
        if not tail.endswith(b"\n"):
            return b""
        return tail[tail.rfind(b"\n", 0, -1) + 1 :]

    def create(self, name: str, data: bytes) -> None:
        """Create a file with this content and mode 0600, and wait until it is on the disk."""
        create_file(self.directory / name, data)
        sync_directory(self.directory)

    def append_to(self, name: str) -> AppendedFile:
        """Open a file in order to append to it. If it does not exist, it is created with mode 0600."""
        path = self.directory / name
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | _CLOEXEC
        with naming(path):
            return AppendedFile(path, os.open(path, flags, 0o600))

    def overwrite(self, name: str) -> None:
        """Overwrite the content of a file with zeros, and wait until they are on the disk. Its length stays."""
        path = self.directory / name
        with naming(path):
            descriptor = os.open(path, os.O_WRONLY | _CLOEXEC)
            try:
                view = memoryview(bytes(os.fstat(descriptor).st_size))
                while view:
                    view = view[os.write(descriptor, view) :]
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def rename(self, name: str, new_name: str) -> None:
        """Rename a file. If there is one with the new name, it is replaced."""
        os.replace(self.directory / name, self.directory / new_name)

    def remove(self, name: str) -> None:
        """Remove a file, if it exists."""
        (self.directory / name).unlink(missing_ok=True)

    def sync_names(self) -> None:
        """Wait until the names of the files are on the disk."""
        sync_directory(self.directory)

    def compress(self, name: str) -> None:
        """Write a compressed copy of a file beside it, with the ending ``.gz.part``, and wait until it is on the
        disk."""
        part = self.directory / f"{name}.gz{PART}"
        with contextlib.suppress(FileNotFoundError):
            part.unlink()
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _CLOEXEC, 0o600)
        with open(descriptor, "wb") as target, naming(part):
            with (
                (self.directory / name).open("rb") as source,
                gzip.GzipFile(fileobj=target, mode="wb", compresslevel=6) as zipped,
            ):
                shutil.copyfileobj(source, zipped, 1 << 18)
            target.flush()
            os.fsync(target.fileno())
