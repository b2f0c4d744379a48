"""The content of a line of an audit file. Not in `chain.py`, because writing lines does not need msgspec. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["content_of"]


def content_of(line: bytes) -> dict[str, Any]:
    """Return the content of a line; empty if it is not a JSON object."""
    try:
        content = msgspec.json.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
