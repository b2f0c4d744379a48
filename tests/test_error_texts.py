"""Messages about errors of the system: an error may have no text of the system, and name no file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import hybridrelay

ROOT = Path(hybridrelay.__file__).parents[1]
#: Attributes of `OSError` that may be None.
OPTIONAL = {"strerror", "filename", "filename2", "errno"}


def unchecked(code: str) -> Iterator[str]:
    """The parts of f-strings that show such an attribute, and are used although it may be None."""
    nodes = list(ast.walk(ast.parse(code)))
    conditional = {
        shown
        for node in nodes
        if isinstance(node, ast.IfExp)
        for shown in ast.walk(node.body)
        if isinstance(shown, ast.Attribute) and ast.unparse(shown) == ast.unparse(node.test)
    }
    for node in nodes:
        value = node.value if isinstance(node, ast.FormattedValue) else None
        if isinstance(value, ast.Attribute) and value.attr in OPTIONAL and value not in conditional:
            yield ast.unparse(value)


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("f'{exc.strerror}: {exc.filename or path} {exc.strerror or exc}'", ["exc.strerror"]),
        ("f'{path}: {exc.filename}' if exc.filename else ''", []),
        ("f'{path}: {exc.filename}' if exc.strerror else ''", ["exc.filename"]),
    ],
)
def test_what_is_unchecked_is_found(code: str, found: list[str]) -> None:
    assert list(unchecked(code)) == found


def test_no_message_about_an_error_says_none() -> None:
    files = [path for name in ("hybridrelay", "transports") for path in sorted((ROOT / name).rglob("*.py"))]
    assert len(files) > 100
    found = {path.name: texts for path in files if (texts := list(unchecked(path.read_text(encoding="utf-8"))))}
    assert found == {}
