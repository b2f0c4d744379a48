"""Which instance a connector was before it was restarted, so that its successor can say that it is dead."""

from __future__ import annotations

import os
import re
from pathlib import Path

from .._file_lock import lock_file
from ..connectivity.link import new_instance
from ..errors import ConfigurationError

_INSTANCE = re.compile(r"[0-9a-f]{32}")


class InstanceFile:
    """A file that one connector holds as long as it lives, with its instance in it.

    The lock goes with the process, however it dies: who gets it knows that the instance in the file is dead. Where
    another connector holds it, both run beside each other, and neither says anything about the other.

    Args:
        path: made with mode 0600 where it is missing; for one connector.

    Raises:
        ConfigurationError: the file cannot be opened or written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        #: Ours.
        self.instance = new_instance()
        #: The instance before us, if it is known to be dead.
        self.previous: str | None = None
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
        text = os.read(self._file, 64).decode("ascii", "replace").strip()
        self.previous = text if _INSTANCE.fullmatch(text) else None
        os.ftruncate(self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)
        os.write(self._file, f"{self.instance}\n".encode())
        os.fsync(self._file)

    def close(self) -> None:
        """Let go of the file; the instance in it is dead from now on."""
        os.close(self._file)
