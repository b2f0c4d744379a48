"""Parsing a policy file: TOML with keys at the top level only, and the line of each key and list element. Pure.

The standard library's parser gives no line numbers. A text that it has accepted is scanned a second time, only to
find the lines, which needs no more than the tokens of TOML. The values always come from the standard library.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import attrs

from ..errors import ConfigurationError
from .document import Place, Restrictions, Setting, make_restrictions

__all__ = ["parse_policy_file"]

_TOKEN = re.compile(
    r'(?P<text>"""(?:[^\\]|\\.)*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\')'
    r"|(?P<comment>\#[^\n]*)|(?P<newline>\n)|(?P<mark>[\[\]{}=,.])|(?P<blank>[ \t]+)"
    r"|(?P<word>[^\s\[\]{}=,.\"'\#]+)",
    re.DOTALL,
)
_DEPTH = {"[": 1, "{": 1, "]": -1, "}": -1}
_SYNTAX = re.compile(r"(?P<what>.*?) \(at line (?P<line>\d+), column \d+\)")


@attrs.define
class _Statement:
    """The lines of a key and of the elements of its list."""

    line: int
    #: Whether the statement is ``KEY = value``: not a table, and without a dot in the key.
    is_simple: bool = True
    elements: list[int] = attrs.field(factory=list[int])


def parse_policy_file(file: str, text: str) -> Restrictions:
    """Parse a policy file.

    Args:
        file: its name, for messages and decisions.
        text: its content, with line feeds at the ends of lines.

    Raises:
        ConfigurationError: it is not TOML, has an unknown key, or a value that is not valid; the message begins with
            file and line.
    """
    import tomllib  # imported here, because most machines have no policy

    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise _syntax_error(file, text, str(exc)) from None
    except (ValueError, RecursionError):
        raise ConfigurationError(f"{file}: a number has too many digits, or the file is nested too deeply") from None
    statements = list(_statements(text))
    for statement in statements:
        if not statement.is_simple:
            raise ConfigurationError(
                f"{file}:{statement.line}: a policy has no tables and no keys with dots: write KEY = value"
            )
    settings = [
        Setting(key, value, Place(file, one.line), _item_places(file, value, one))
        for (key, value), one in zip(content.items(), statements, strict=True)
    ]
    return make_restrictions(file, settings)


def _item_places(file: str, value: object, statement: _Statement) -> list[Place]:
    if not isinstance(value, list) or len(value) != len(statement.elements):
        return []  # an element is not a text, which is an error of the whole value
    return [Place(file, line) for line in statement.elements]


def _syntax_error(file: str, text: str, message: str) -> ConfigurationError:
    found = _SYNTAX.fullmatch(message)
    line, what = (found["line"], found["what"]) if found else (text.count("\n") + 1, message.partition(" (at")[0])
    return ConfigurationError(f"{file}:{line}: this is not TOML: {what}")


def _statements(text: str) -> Iterator[_Statement]:
    """Yield the statements at the top level of a valid TOML text."""
    line, depth = 1, 0
    statement: _Statement | None = None
    after_equals = False
    for token in _TOKEN.finditer(text):
        kind, content = token.lastgroup, token[0]
        if kind == "newline" and depth == 0 and statement is not None:
            yield statement
            statement = None
        elif kind in ("text", "word", "mark"):
            if statement is None:
                statement, after_equals = _Statement(line), False
            if not after_equals:
                # A table begins with a bracket, and a dotted key contains a dot.
                statement.is_simple = statement.is_simple and content not in ("[", ".")
                after_equals = content == "="
            else:
                depth += _DEPTH.get(content, 0)
                if kind == "text" and depth == 1:
                    statement.elements.append(line)
        line += content.count("\n")
    if statement is not None:
        yield statement
