"""Parsing a policy file: TOML with keys at the top level only, and the line of each key and list element. Pure."""

from __future__ import annotations

import re

from .._toml_lines import Statement, StatementKind, statements
from ..errors import ConfigurationError
from .document import Place, Restrictions, Setting, make_restrictions

__all__ = ["parse_policy_file"]

_SYNTAX = re.compile(r"(?P<what>.*?) \(at line (?P<line>\d+), column \d+\)")


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
    found = list(statements(text))
    for statement in found:
        if statement.kind is not StatementKind.KEY or statement.has_dots:
            raise ConfigurationError(
                f"{file}:{statement.line}: a policy has no tables and no keys with dots: write KEY = value"
            )
    settings = [
        Setting(key, value, Place(file, one.line), _item_places(file, value, one))
        for (key, value), one in zip(content.items(), found, strict=True)
    ]
    return make_restrictions(file, settings)


def _item_places(file: str, value: object, statement: Statement) -> list[Place]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        return []  # an element is not a text, which is an error of the whole value
    return [Place(file, line) for line in statement.elements]


def _syntax_error(file: str, text: str, message: str) -> ConfigurationError:
    found = _SYNTAX.fullmatch(message)
    line, what = (found["line"], found["what"]) if found else (text.count("\n") + 1, message.partition(" (at")[0])
    return ConfigurationError(f"{file}:{line}: this is not TOML: {what}")
