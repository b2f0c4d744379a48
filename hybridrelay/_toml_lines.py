"""The lines of keys, tables and list elements in a TOML text. Pure.

The standard library's parser gives no line numbers. A text that it has accepted is scanned a second time, only to
find the lines, which needs no more than the tokens of TOML. The values always come from the standard library.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from typing import Any

import attrs

__all__ = ["Place", "Statement", "StatementKind", "lines_of", "statements"]

#: Where something is in a document: keys of tables, and indexes in lists and arrays of tables.
Place = tuple[str | int, ...]

_TOKEN = re.compile(
    r'(?P<text>"""(?:[^\\]|\\.)*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\')'
    r"|(?P<comment>\#[^\n]*)|(?P<newline>\n)|(?P<mark>[\[\]{}=,.])|(?P<blank>[ \t]+)"
    r"|(?P<word>[^\s\[\]{}=,.\"'\#]+)",
    re.DOTALL,
)
_DEPTH = {"[": 1, "{": 1, "]": -1, "}": -1}


class StatementKind(enum.Enum):
    """The kinds of statements."""

    #: ``key = value``.
    KEY = enum.auto()
    #: ``[key]``.
    TABLE = enum.auto()
    #: ``[[key]]``: an element of an array of tables.
    ELEMENT = enum.auto()


@attrs.define
class Statement:
    """A statement at the top level of a text."""

    line: int
    kind: StatementKind = StatementKind.KEY
    #: The tokens of the key, without blanks.
    _key: list[str] = attrs.field(factory=list[str])
    #: The line of each element, if the value is a list.
    elements: list[int] = attrs.field(factory=list[int])

    @property
    def has_dots(self) -> bool:
        """Whether the key is dotted: several keys joined by dots."""
        return "." in self._key

    @property
    def path(self) -> tuple[str, ...]:
        """The parts of the key; one, unless it is a dotted key."""
        import tomllib  # imported here, because most programs have no such file

        value: Any = tomllib.loads(f"{''.join(self._key)} = 0")
        path = []
        while isinstance(value, dict):
            ((key, value),) = value.items()
            path.append(key)
        return tuple(path)


class _Scanner:
    """Finds the parts of one statement in its tokens."""

    def __init__(self, line: int) -> None:
        self.statement = Statement(line)
        #: How many brackets and braces of the value are open.
        self.depth = 0
        self._is_in_value = False
        #: Whether the value is a list whose next element has not begun.
        self._expects_element = False

    def add(self, symbol: str, line: int) -> None:
        if self._is_in_value:
            self._add_to_value(symbol, line)
        elif symbol == "=" and self.statement.kind is StatementKind.KEY:
            self._is_in_value = True
        elif symbol == "[":
            is_first = self.statement.kind is StatementKind.KEY
            self.statement.kind = StatementKind.TABLE if is_first else StatementKind.ELEMENT
        elif symbol != "]":
            self.statement._key.append(symbol)

    def _add_to_value(self, symbol: str, line: int) -> None:
        is_end = symbol in ("]", "}")
        if self._expects_element and not is_end and self.depth == 1:
            self.statement.elements.append(line)
            self._expects_element = False
        elif (symbol == "," and self.depth == 1 and self.statement.elements) or (symbol == "[" and self.depth == 0):
            self._expects_element = True
        self.depth += _DEPTH.get(symbol, 0)


def statements(text: str) -> Iterator[Statement]:
    """Yield the statements of a text that is valid TOML. Its lines have to end with line feeds."""
    line = 1
    scanner: _Scanner | None = None
    for token in _TOKEN.finditer(text):
        kind, content = token.lastgroup, token[0]
        if kind == "newline" and scanner is not None and scanner.depth == 0:
            yield scanner.statement
            scanner = None
        elif kind in ("text", "word", "mark"):
            if scanner is None:
                scanner = _Scanner(line)
            scanner.add(content, line)
        line += content.count("\n")
    if scanner is not None:
        yield scanner.statement


def lines_of(text: str) -> dict[Place, int]:
    """Return the first line of each key, table and list element of a text that is valid TOML.

    What is inside the elements of lists, and inside inline tables, is left out.
    """
    lines: dict[Place, int] = {}
    # The number of elements of each array of tables so far.
    counts: dict[Place, int] = {}

    def enter(place: Place, path: tuple[str, ...], line: int) -> Place:
        """Note that a path below a place occurs on a line. Returns the place to which the path leads."""
        for key in path:
            if place in counts:
                place = (*place, counts[place] - 1)
            place = (*place, key)
            lines.setdefault(place, line)
        return place

    table: Place = ()
    for statement in statements(text):
        line, path = statement.line, statement.path
        match statement.kind:
            case StatementKind.KEY:
                place = enter(table, path, line)
                lines.update({(*place, number): found for number, found in enumerate(statement.elements)})
            case StatementKind.TABLE:
                table = enter((), path, line)
            case StatementKind.ELEMENT:
                place = enter((), path, line)
                table = (*place, counts.setdefault(place, 0))
                counts[place] += 1
                lines[table] = line
    return lines
