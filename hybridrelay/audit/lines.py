"""The content of a line of an audit file. Not in `chain.py`, because writing lines does not need msgspec. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["content_of", "end_of_file"]


def content_of(line: bytes) -> dict[str, Any]:
    """Return the content of a line; empty if it is not a JSON object."""
    try:
        content = msgspec.json.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def end_of_file(line: bytes) -> dict[str, Any] | None:
    """Return the content of a line that ends a file (``log.continued``); None if it is another line."""
    content = content_of(line)
    covers = content.get("covers")
    if content.get("event") != "log.continued" or not isinstance(covers, dict):
        return None
    return content if type(covers.get("seq")) is int else None
