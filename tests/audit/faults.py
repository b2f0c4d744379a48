"""A disk on which the Nth operation fails, or during which the program is killed."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hybridrelay.audit.disk import AppendedFile, Disk


class Killed(BaseException):
    """The program does not exist any more."""


class FaultyDisk(Disk):
    """A disk whose `fails_at`th change fails.

    Args:
        directory: the directory.
        fails_at: the number of the operation, from 1. None: none fails.
        how: ``error``: it fails halfway, and what follows works again. ``killed``: the program ends halfway.
            ``power``: in addition, what was not synced is lost.
    """

    def __init__(self, directory: Path, fails_at: int | None = None, how: str = "error") -> None:
        super().__init__(directory)
        self.fails_at = fails_at
        self.how = how
        #: How many operations there were.
        self.operations = 0
        #: The size up to which a file is on the disk, by its name.
        self.synced: dict[str, int] = {}
        #: Files whose names may not be on the disk.
        self.unsynced_names: set[str] = set()

    @contextmanager
    def operation(self) -> Iterator[bool]:
        """Yields whether the operation is to be done only in part."""
        self.operations += 1
        fails = self.operations == self.fails_at
        yield fails
        if fails:
            if self.how == "error":
                raise OSError(errno.ENOSPC, "No space left on device", str(self.directory))
            if self.how == "power":
                self._lose()
            raise Killed

    def _lose(self) -> None:
        for name, size in self.synced.items():
            if (path := self.directory / name).exists():
                os.truncate(path, min(size, path.stat().st_size))
        for name in self.unsynced_names:
            (self.directory / name).unlink(missing_ok=True)

    def append_to(self, name: str) -> AppendedFile:
        with self.operation() as fails:
            if not (self.directory / name).exists():
                if fails and self.how == "error":
                    raise OSError(errno.ENOSPC, "No space left on device", name)
                self.unsynced_names.add(name)
                self.synced[name] = 0
            file = super().append_to(name)
            self.synced.setdefault(name, (self.directory / name).stat().st_size)
            descriptor = os.dup(file._descriptor)
            file.close()
        return FaultyFile(self.directory / name, descriptor, self)

    def create(self, name: str, data: bytes) -> None:
        with self.operation() as fails:
            if not fails:
                super().create(name, data)
            elif self.how == "killed":
                (self.directory / name).write_bytes(data[: len(data) // 2])

    def overwrite(self, name: str) -> None:
        with self.operation() as fails:
            if not fails or self.how != "error":
                super().overwrite(name)

    def rename(self, name: str, new_name: str) -> None:
        with self.operation() as fails:
            if not fails:
                super().rename(name, new_name)

    def remove(self, name: str) -> None:
        with self.operation() as fails:
            if not fails:
                super().remove(name)

    def sync_names(self) -> None:
        with self.operation() as fails:
            if not fails:
                super().sync_names()
                self.unsynced_names.clear()

    def compress(self, name: str) -> None:
        with self.operation() as fails:
            if fails:
                (self.directory / f"{name}.gz.part").write_bytes(b"\x1f\x8b")
            else:
                super().compress(name)


class FaultyFile(AppendedFile):
    """A file of a `FaultyDisk`."""

    def __init__(self, path: Path, descriptor: int, disk: FaultyDisk) -> None:
        super().__init__(path, descriptor)
        self._disk = disk

    def write(self, data: bytes) -> None:
        with self._disk.operation() as fails:
            super().write(data[: len(data) // 2] if fails else data)

    def sync(self) -> None:
        with self._disk.operation() as fails:
            if not fails:
                super().sync()
                self._disk.synced[self.path.name] = self.path.stat().st_size

    def truncate(self, size: int) -> None:
        with self._disk.operation() as fails:
            if not fails:
                super().truncate(size)
                self._disk.synced[self.path.name] = min(size, self._disk.synced.get(self.path.name, 0))


def repeating(*, retry: bool) -> Callable[..., None]:
    """Return a function that calls another one with arguments: again and again, if `retry`, until it has no error."""

    def repeat(call: Callable[..., object], *arguments: object) -> None:
        while True:
            try:
                call(*arguments)
            except OSError:
                if not retry:
                    raise
            else:
                return

    return repeat
