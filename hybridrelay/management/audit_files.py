"""Files of the audit log: JSON lines with increasing numbers, in several files, of which the oldest are deleted.

The name of a file contains the number of its first line. Files are never renamed or changed, except that lines are
appended to the last one. So a reader that goes back in time can continue at a number, whatever was appended or
deleted in the meantime. All functions block, and have to be called in a thread.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import attrs
import msgspec

from .._value import Value

__all__ = ["AuditFiles", "Line"]

#: Lines are read from the end of a file in blocks of this size (bytes).
_BLOCK = 64 * 1024
#: The longest line (bytes). A longer one was not written by this program.
_MAX_LINE = 64 * 1024
#: Numbers are lower than this. With a million numbers for each second since 1970, they reach this limit after
#: 146,000 years.
_MAX_NUMBER = 2**62


class _Numbered(msgspec.Struct):
    number: int


@attrs.frozen
class Line(Value):
    """One line of the audit log."""

    number: int
    #: JSON.
    data: bytes


@attrs.define
class AuditFiles:
    """The files of one kind in a directory. Only one thread may use it at a time; readers use separate objects.

    Args:
        directory: the directory. It is created with mode 0700 when something is written.
        kind: the prefix of the files' names.
        max_bytes: the size at which a new file is begun.
        kept: how many files are kept.
    """

    directory: Path
    kind: str
    max_bytes: int
    kept: int

    def append(self, lines: Iterable[Line]) -> None:
        """Append lines, whose numbers increase, and wait until they are on the disk.

        Raises:
            OSError: it is not known which of the lines were written.
        """
        lines = list(lines)
        if not lines:
            return
        self.directory.mkdir(mode=0o700, exist_ok=True)
        while lines:
            path, size = self._current(lines[0].number)
            batch: list[Line] = []
            while lines and (not batch or size < self.max_bytes):
                batch.append(lines.pop(0))
                size += len(batch[-1].data) + 1
            _append(path, b"".join(line.data + b"\n" for line in batch))
            self._delete_old()

    def before(self, number: int) -> Iterator[Line]:
        """Yield the lines with lower numbers, the latest first. Damaged lines are skipped.

        Raises:
            OSError: a file cannot be read.
        """
        for path, first in reversed(self._files()):
            if first >= number:
                continue
            try:
                file = path.open("rb")
            except FileNotFoundError:  # it was deleted in the meantime, and so were all earlier ones
                return
            with file:
                yield from _lines_before(file, number)

    def last_number(self) -> int:
        """Return the number of the last line; 0 if there is none."""
        return next((line.number for line in self.before(2**63)), 0)

    def _current(self, number: int) -> tuple[Path, int]:
        """Return the file to which a line is appended, and its size."""
        files = self._files()
        if files:
            with contextlib.suppress(FileNotFoundError):
                size = files[-1][0].stat().st_size
                if size < self.max_bytes:
                    return files[-1][0], size
        return self.directory / f"{self.kind}-{number:020}.jsonl", 0

    def _delete_old(self) -> None:
        for path, _ in self._files()[: -self.kept]:
            path.unlink(missing_ok=True)

    def _files(self) -> list[tuple[Path, int]]:
        """Return the files and the numbers of their first lines, the oldest first."""
        found = []
        for path in self.directory.glob(f"{self.kind}-*.jsonl"):
            number = path.stem.removeprefix(f"{self.kind}-")
            if number.isascii() and number.isdecimal():
                found.append((path, int(number)))
        return sorted(found, key=lambda one: one[1])


def _append(path: Path, data: bytes) -> None:
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
    descriptor = os.open(path, flags, 0o600)
    with open(descriptor, "r+b", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        if end:
            file.seek(end - 1)
            if file.read(1) != b"\n":  # the relay was killed while it was writing the previous line
                data = b"\n" + data
        view = memoryview(data)
        while view:
            view = view[file.write(view) :]
        os.fsync(descriptor)


def _lines_before(file: BinaryIO, number: int) -> Iterator[Line]:
    """Yield the lines of a file with lower numbers, the last first."""
    for data in _reversed_lines(file, _end_before(file, number)):
        line = _parse(data)
        if line is not None and line.number < number:
            yield line


def _end_before(file: BinaryIO, number: int) -> int:
    """Return a position after all lines with lower numbers, and close to the last of them."""
    low, high = 0, file.seek(0, os.SEEK_END)
    while high - low > _BLOCK:
        middle = (low + high) // 2
        file.seek(middle)
        line = None
        while line is None and file.tell() < high:  # the rest of a line, and lines that are damaged
            line = _parse(file.readline(_MAX_LINE))
        if line is not None and line.number < number:
            low = middle
        else:
            high = middle
    file.seek(high)
    file.readline(_MAX_LINE)
    return file.tell()


def _reversed_lines(file: BinaryIO, end: int) -> Iterator[bytes]:
    """Yield the lines up to a position, the last first, without line feeds."""
    rest = b""
    while end > 0:
        start = max(0, end - _BLOCK)
        file.seek(start)
        block = file.read(end - start) + rest
        end = start
        rest, *lines = block.split(b"\n")
        yield from reversed(lines)
        if len(rest) > _MAX_LINE:
            rest = b""  # damaged
    yield rest


def _parse(data: bytes) -> Line | None:
    try:
        number = msgspec.json.decode(data, type=_Numbered).number
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    # No further line could have a higher number than a damaged one near the end of the range.
    return Line(number, data.rstrip(b"\n")) if 0 <= number < _MAX_NUMBER else None
