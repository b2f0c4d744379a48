"""Redraws a text on a terminal in place of the previous one. Pure."""

from __future__ import annotations

from os import terminal_size

__all__ = ["redrawn"]

_HOME = "\x1b[H"
_CLEAR_LINE = "\x1b[K"
_CLEAR_BELOW = "\x1b[J"


def redrawn(text: str, size: terminal_size) -> str:
    """Return the characters that make a terminal show this text from its first line on.

    The screen is overwritten and not cleared, so that it does not flicker. Text that is too wide or too long for the
    terminal is cut off; the last line then says how many lines are missing.
    """
    lines = text.splitlines()
    if len(lines) > size.lines - 1:
        shown = max(1, size.lines - 2)
        lines = [*lines[:shown], f"... {len(lines) - shown} more lines: see them without --watch"]
    return _HOME + "".join(f"{line[: size.columns]}{_CLEAR_LINE}\r\n" for line in lines) + _CLEAR_BELOW
