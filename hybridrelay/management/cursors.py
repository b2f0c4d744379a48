"""Cursors: opaque strings that identify the end of a page of a list. Pure."""

from __future__ import annotations

import base64

from ..security import check_connection_name
from .problem_kinds import Problem
from .problems import problem

__all__ = ["decode_cursor_untrusted", "encode_cursor"]

#: Separates the parts. It does not occur in names or keys.
_SEPARATOR = "\n"


def encode_cursor(*parts: str) -> str:
    """Make the cursor of the page that begins after an entry.

    Args:
        parts: identify the entry: the name of a hybrid connection and, for a list of what belongs to hybrid
            connections (such as listeners), the key of one of these.
    """
    return base64.urlsafe_b64encode(_SEPARATOR.join(parts).encode()).decode().rstrip("=")


def decode_cursor_untrusted(cursor: str, *, parts: int) -> tuple[str, ...]:
    """Return the parts of a cursor that a caller has sent.

    Raises:
        RequestError: it is not a cursor with that many parts.
    """
    try:
        found = tuple(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().split(_SEPARATOR))
        check_connection_name(found[0])
        is_known = len(found) == parts and encode_cursor(*found) == cursor
    except ValueError:
        is_known = False
    if not is_known:
        raise problem(
            Problem.INVALID,
            "the cursor is not one that this relay has given out",
            remedy="begin again without a cursor",
            errors=[{"pointer": "?/cursor", "detail": "unknown"}],
        )
    return found
