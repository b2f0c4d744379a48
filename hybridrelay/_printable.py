"""Making text from a peer or a user safe for a log line or a terminal. Imports nothing."""

from __future__ import annotations


def printable(text: str) -> str:
    """Return `text` with every unprintable character replaced by a space, so that it cannot move the cursor or forge
    a line."""
    return text if text.isprintable() else "".join(char if char.isprintable() else " " for char in text)
