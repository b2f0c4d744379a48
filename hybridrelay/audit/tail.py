"""Reading the end of an audit file that is being written, whose program may have been killed at any moment."""

from __future__ import annotations

from typing import Any, Final

from ..errors import ConfigurationError
from .chain import MAX_LINE, hash_of
from .disk import Disk
from .lines import content_of

__all__ = ["damaged", "end_of_lines", "line_of", "read_tail"]

#: How much one read returns at most (bytes).
_BLOCK: Final = 64 * 1024


def damaged(disk: Disk, what: str) -> ConfigurationError:
    """Return the error for a directory from which something was removed, or in which something was changed."""
    return ConfigurationError(
        f"the audit directory {disk.directory} is damaged: {what}",
        remedy="find out who has changed it; to continue, move its files to another directory, as evidence, and "
        "start with an empty one",
    )


def line_of(disk: Disk, name: str, line: bytes) -> dict[str, Any]:
    """Return the content of a line of a file.

    Raises:
        ConfigurationError: it is not a line of an audit file.
    """
    content = content_of(line)
    if not isinstance(content.get("seq"), int) or "event" not in content:
        raise damaged(disk, f"a line of {name} is not one of an audit file")
    return content


def end_of_lines(disk: Disk, name: str, size: int) -> int:
    """Return the size of a file without a last line that is not complete.

    Args:
        disk: the directory.
        name: the file.
        size: its size (bytes).
    """
    while size > 0:
        start = max(0, size - _BLOCK)
        found = disk.read(name, start, size - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        size = start
    return 0


def read_tail(disk: Disk, name: str, end: int, max_unsigned: int) -> tuple[dict[str, Any], int]:
    """Read the lines after the last signature.

    Args:
        disk: the directory.
        name: the file.
        end: where its last complete line ends (bytes).
        max_unsigned: the most lines that can be without a signature.

    Returns:
        The last line, with its hash, and how many lines are not covered by a signature.

    Raises:
        ConfigurationError: a line is not one of an audit file, or the last one is too long.
    """
    data = b""
    start = end
    while True:
        at = max(0, start - _BLOCK)
        data, start = disk.read(name, at, start - at) + data, at
        lines = data.split(b"\n")[:-1] if start == 0 else data.split(b"\n")[1:-1]
        unsigned = 0
        for line in reversed(lines):
            if line_of(disk, name, line)["event"] in ("log.checkpoint", "log.continued"):
                break
            unsigned += 1
        else:
            if start > 0 and len(data) < max_unsigned * MAX_LINE:
                continue
        if not lines:
            raise damaged(disk, f"the last line of {name} is too long")
        return {**line_of(disk, name, lines[-1]), "hash": hash_of(lines[-1] + b"\n")}, unsigned
