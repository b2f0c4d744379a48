"""Which instance a connector was before it was restarted, so that its successor can say that it is dead."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from .._file_lock import lock_file
from ..connectivity.instance import OwnInstance, new_instance
from ..errors import ConfigurationError


class InstanceFile:
    """A file that a connector keeps locked while it runs, with the secret of its instance in it.

    The lock ends with the process, however that ends, so a connector that gets it knows that the instance in the file
    is dead. If another connector holds the lock, both run beside each other, and neither says anything about the
    other.

    Args:
        path: of the file, which belongs to one connector. It is created if it is missing, and gets mode 0600.

    Raises:
        ConfigurationError: the file cannot be opened or written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        #: The instance of this process.
        self.instance = new_instance()
        #: The instance before this one, if it is known to be dead.
        self.previous: OwnInstance | None = None
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
            try:
                self._take_over()
            except BaseException:
                os.close(self._file)
                raise
        except OSError as exc:
            raise ConfigurationError(
                f"cannot use the instance file {self.path}: {exc.strerror or exc}",
                remedy="name a file in a directory that this user may write to",
            ) from exc

    def _take_over(self) -> None:
        if not lock_file(self._file):
            return
        text = os.read(self._file, 128).decode("ascii", "replace").strip()
        with contextlib.suppress(ValueError):  # empty, or not written by this version
            self.previous = OwnInstance(text)
        if sys.platform != "win32":
            os.fchmod(self._file, 0o600)
        # Written over the old content before the file is cut: a full disk must not leave it empty. It stays the same
        # file, because this process holds its lock.
        content = f"{self.instance.secret}\n".encode()
        os.lseek(self._file, 0, os.SEEK_SET)
        os.write(self._file, content)
        os.ftruncate(self._file, len(content))
        os.fsync(self._file)

    def close(self) -> None:
        """Let go of the file; the instance in it is dead from now on."""
        os.close(self._file)
