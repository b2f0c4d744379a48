"""Reading TOML files that people write, with the line of everything in them, for messages."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import attrs

from ._text_files import read_text
from ._toml_lines import Place, lines_of
from .errors import ConfigurationError

__all__ = ["TomlFile", "read_toml"]


@attrs.define(eq=False)
class TomlFile:
    """The content of a TOML file."""

    path: str
    content: dict[str, Any]
    _text: str = attrs.field(repr=False)
    #: See `line_of`; None until it is needed.
    _lines: Mapping[Place, int] | None = attrs.field(init=False, repr=False, default=None)

    def line_of(self, *place: str | int) -> int | None:
        """Return the number of the line in which a key, a table, or an element of a list begins.

        Args:
            place: the keys and indexes that lead to it, such as ``"connection", 2, "file"``.

        Returns:
            The line; the first one is 1. For what is in an inline table, it is the line of the nearest place around
            it. None if there is nothing at this place.

        The first call scans the file again.
        """
        if not place or not _contains(self.content, place):
            return None
        if self._lines is None:
            self._lines = lines_of(self._text)
        lines = self._lines
        return next(lines[place[:end]] for end in range(len(place), 0, -1) if place[:end] in lines)

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
    return TomlFile(str(path), content, text)


def _contains(content: Any, place: Place) -> bool:
    for key in place:
        is_there = key < len(content) if isinstance(content, list) and isinstance(key, int) else False
        if not is_there and not (isinstance(content, dict) and key in content):
            return False
        content = content[key]
    return True
