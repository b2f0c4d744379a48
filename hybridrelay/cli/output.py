"""What the commands print on standard output."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TextIO


def say(text: str = "", *, end: str = "\n") -> None:
    """Print and flush. Where nobody reads any more (``| head``), the rest of the output is dropped in silence."""
    try:
        print(text, end=end, flush=True)
    except BrokenPipeError:
        silence(sys.stdout)


def say_json(value: object) -> None:
    """Print `value` as JSON for programs."""
    say(json.dumps(value, indent=2))


def say_ready(role: str, fields: Iterable[tuple[str, str]]) -> None:
    """The line that tells programs and people that a long-running command serves now, and what."""
    say(" ".join(["ready", role, *(f"{name}={value}" for name, value in fields)]))


def flush() -> None:
    """Flush what argparse printed: a closed pipe must not surface when the interpreter shuts down."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(ValueError):  # closed
            try:
                stream.flush()
            except BrokenPipeError:
                silence(stream)


def silence(stream: TextIO) -> None:
    """Send all that is still printed to `stream` nowhere."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, right: frozenset[int] = frozenset()) -> str:
    """Aligned columns of plain text.

    Args:
        header: above the columns.
        rows: as long as the header.
        right: indices of columns of numbers.
    """
    lines = [tuple(header), *map(tuple, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


class Palette:
    """Colors where they help: on a terminal, unless NO_COLOR is set (https://no-color.org)."""

    def __init__(self, stream: TextIO, environ: Mapping[str, str] = os.environ) -> None:
        self.enabled = stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"

    def bold(self, text: str) -> str:
        return self._paint("1", text)

    def green(self, text: str) -> str:
        return self._paint("32", text)

    def red(self, text: str) -> str:
        return self._paint("31", text)

    def dim(self, text: str) -> str:
        return self._paint("2", text)

    def _paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.enabled else text
