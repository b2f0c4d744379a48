"""Prints to standard output.

Printing never raises: a command that has changed something must be able to finish even if its output is lost. The
error is remembered, and determines the command's exit code at the end. Output that has no reader (``| head``,
``>&-``) is discarded silently.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TextIO

from .._printable import printable

logger = logging.getLogger("hybridrelay.cli")

#: How many lines of a table are formatted at a time.
_LINES = 1000
#: Line feeds, tabs, and the colors of `Palette`.
_KEPT = re.compile("(\n|\t|\x1b\\[[0-9]{1,2}m)")


class _State:
    """The state of standard output."""

    #: The first error of a write, other than that the reader has closed the pipe; None if there was none.
    failure: OSError | None = None
    #: Whether all further output is discarded.
    is_lost = False


def open_standard_streams() -> None:
    """Make sure that the standard streams exist, before anything else is opened.

    A standard stream that was closed when the program started (``>&-``) is opened on the null device. Otherwise, a
    socket or the registry would get its descriptor number, and ``sys.stdout`` would be None.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            with contextlib.suppress(OSError):
                os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Printing a character that the terminal's encoding lacks must not fail.
        sys.stdout.reconfigure(errors="backslashreplace")
    _State.failure, _State.is_lost = None, False


def say(text: str = "", *, end: str = "\n") -> None:
    """Print and flush.

    Parts of the text may come from a relay, so characters that could control the terminal are replaced. Colors, tabs
    and line feeds are kept; for text that must stay in one line, the caller uses `printable`.
    """
    remember(_write(without_controls(text) + end))


def without_controls(text: str) -> str:
    """Return `text` with all unprintable characters replaced, except colors, tabs and line feeds."""
    parts = _KEPT.split(text)
    # The parts with odd indexes are the matches of the expression.
    return "".join(part if index % 2 else printable(part) for index, part in enumerate(parts))


def say_json(value: object) -> None:
    """Print `value` as JSON for programs."""
    say(json.dumps(value, indent=2))


def ready_line(role: str, fields: Iterable[tuple[str, str]]) -> str:
    """Return the line with which a long-running command reports that it is ready, and what it serves."""
    return " ".join(["ready", role, *(f"{name}={value}" for name, value in fields)])


def remember(failure: OSError | None) -> None:
    """Let the final exit code report that some output could not be written."""
    _State.failure = _State.failure or failure


def give_up(error: OSError) -> OSError | None:
    """Discard all further output, because writing failed. Returns `error`, or None if the pipe was closed."""
    silence(sys.stdout)
    _State.is_lost = True
    return None if isinstance(error, BrokenPipeError) else error


def is_lost() -> bool:
    """Return whether all further output is discarded."""
    return _State.is_lost


def flush() -> OSError | None:
    """Flush both streams, so that no error appears when the interpreter shuts down.

    Returns:
        The error if standard output could not be written, or None.
    """
    failure = _write("")
    try:
        sys.stderr.flush()
    except (OSError, ValueError):
        silence(sys.stderr)
    return _State.failure or failure


def silence(stream: TextIO) -> None:
    """Redirect `stream` to the null device."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _write(text: str) -> OSError | None:
    """Write to standard output and flush it. Returns the error, or None; a closed pipe is not an error."""
    try:
        if text:  # on a full disk, even writing an empty string fails
            sys.stdout.write(text)
        sys.stdout.flush()
    except ValueError:  # other code in this process has closed it
        return None
    except OSError as exc:
        return give_up(exc)
    return None


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, right: frozenset[int] = frozenset()) -> str:
    """Format a table of plain text with aligned columns; see `table_parts`."""
    return "".join(table_parts(header, rows, right=right))


def table_parts(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, right: frozenset[int] = frozenset()
) -> Iterator[str]:
    """Format a table of plain text with aligned columns, in parts of many lines each.

    Args:
        header: the columns' headings.
        rows: the cells, in rows that are as long as the header. Characters that could forge a line are replaced.
        right: the indices of columns that are aligned to the right, such as numbers.
    """
    widths = [len(cell) for cell in header]
    # Until all widths are known, each line is kept as one string, which takes a quarter of the memory for 10,000
    # rows.
    lines = ["\t".join(header)]
    for row in rows:
        cells = row if "".join(row).isprintable() else tuple(map(printable, row))
        widths = list(map(max, widths, map(len, cells)))
        lines.append("\t".join(cells))
    form = "  ".join(f"{{:{'>' if column in right else '<'}{width}}}" for column, width in enumerate(widths)).format
    for begin in range(0, len(lines), _LINES):
        part = "\n".join(form(*line.split("\t")).rstrip() for line in lines[begin : begin + _LINES])
        yield f"\n{part}" if begin else part


class Palette:
    """Colors for terminals. Not used on other streams, or if NO_COLOR is set (https://no-color.org)."""

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
