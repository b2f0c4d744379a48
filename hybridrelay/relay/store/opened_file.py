"""Whether a path still leads to the file that was opened there."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import attrs

from ..._value import Value
from ...errors import StateError

__all__ = ["OpenedFile"]


@attrs.frozen
class OpenedFile(Value):
    """The path of the registry, and which file it led to.

    A file that is replaced or deleted stays usable for those who have it open: they notice nothing, and what they
    write is gone when they close it. While it is open, no other file gets its number, so comparing the numbers is
    reliable.
    """

    #: Absolute, because the process may change its working directory.
    path: Path
    #: Both as `os.stat` returns them.
    device: int
    inode: int

    @classmethod
    def at(cls, path: Path) -> Self:
        """Return what is at a path now. Use it before the file is opened, and call `check` after.

        Raises:
            OSError: there is nothing, or it cannot be examined.
        """
        path = path.absolute()
        status = path.stat()
        return cls(path, status.st_dev, status.st_ino)

    def check(self) -> None:
        """Check that the path still leads to this file. Takes microseconds.

        Raises:
            StateError: it leads to another file or to none, or cannot be examined.
        """
        try:
            now = type(self).at(self.path)
        except (FileNotFoundError, NotADirectoryError):
            raise StateError(
                f"the registry {self.path} was deleted or moved while it was open",
                remedy="stop the relay, and put the file back or restore a backup; without a file, the relay starts "
                "with an empty registry",
            ) from None
        except OSError as exc:
            raise StateError(
                f"the registry {self.path} cannot be examined: {exc.strerror or exc}",
                remedy="check the permissions of the state directory",
            ) from exc
        if now != self:
            raise StateError(
                f"the registry {self.path} was replaced while it was open",
                remedy="restart the relay, which then uses the new file; a command has only to be run again",
            )
