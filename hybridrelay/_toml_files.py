"""Reading TOML files that people write, with the line of everything in them, for messages."""

from __future__ import annotations

import itertools
import os
from typing import Any, TypeAlias

import attrs

from ._text_files import read_text
from .errors import ConfigurationError

__all__ = ["TomlFile", "read_toml"]

#: Where something is in a file: keys of tables, and indexes in arrays of tables.
Place: TypeAlias = tuple[str | int, ...]


@attrs.frozen
class TomlFile:
    """The content of a TOML file."""

    path: str
    content: dict[str, Any]
    _lines: tuple[str, ...] = attrs.field(repr=False)

    def line_of(self, *place: str | int) -> int | None:
        """Return the number of the line in which a key, or a table of an array of tables, begins.

        Args:
            place: the keys and indexes that lead to it, such as ``"connection", 2, "file"``.

        Returns:
            The line; the first one is 1. None if there is nothing at this place.

        This takes the time of about twenty parses of the file. It is meant for messages about errors.
        """
        if not _contains(self.content, place):
            return None
        # Lines only add keys and tables to a document, so that the place is missing in every prefix that ends before
        # its line. A prefix that ends inside a value is not TOML; the nearest one that is takes its place.
        without, present = 0, len(self._lines)
        while True:
            middle = (without + present) // 2
            ends = itertools.chain(range(middle, without, -1), range(middle + 1, present))
            prefixes = ((end, _parse("".join(self._lines[:end]))) for end in ends)
            end, found = next(((end, found) for end, found in prefixes if found is not None), (0, None))
            if found is None:
                return without + 1
            if _contains(found, place):
                present = end
            else:
                without = end

    def at(self, *place: str | int) -> str:
        """Return the file and the line of something in it, for messages: ``connector.toml: line 3``."""
        while place and (line := self.line_of(*place)) is None:
            place = place[:-1]
        return f"{self.path}: line {line}" if place else self.path


def read_toml(path: str | os.PathLike[str], *, what: str, limit: int, regular: bool = False) -> TomlFile:
    """Read a TOML file.

    Args:
        path, what, limit, regular: see `read_text`.

    Raises:
        ConfigurationError: it cannot be read, or is not TOML. The message names the file and, if possible, the line.
    """
    import tomllib  # imported here, because most programs have no such file

    text = read_text(path, what=what, limit=limit, regular=regular)
    try:
        content = tomllib.loads(f"{text}\n")  # with the line feed, more errors have a line number
    except tomllib.TOMLDecodeError as exc:
        raise ConfigurationError(f"{path} is not TOML: {exc}") from None
    except (ValueError, RecursionError):
        raise ConfigurationError(f"{path} has a number with too many digits, or is nested too deeply") from None
    return TomlFile(str(path), content, tuple(f"{line}\n" for line in text.split("\n")))


def _parse(text: str) -> dict[str, Any] | None:
    import tomllib

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


def _contains(content: Any, place: Place) -> bool:
    for key in place:
        is_there = key < len(content) if isinstance(content, list) and isinstance(key, int) else False
        if not is_there and not (isinstance(content, dict) and key in content):
            return False
        content = content[key]
    return True
