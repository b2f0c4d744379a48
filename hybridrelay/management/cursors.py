"""Cursors: where a page of a list has ended, as an opaque text. Pure."""

from __future__ import annotations

import base64

from ..security import check_connection_name
from .problems import Problem, problem

__all__ = ["decode_cursor_untrusted", "encode_cursor"]

#: Between the parts. No name and no key contains it.
_SEPARATOR = "\n"


def encode_cursor(*parts: str) -> str:
    """The cursor for the place after a hybrid connection, or after the value of a hybrid connection with this key."""
    return base64.urlsafe_b64encode(_SEPARATOR.join(parts).encode()).decode().rstrip("=")


def decode_cursor_untrusted(cursor: str, *, parts: int) -> tuple[str, ...]:
    """The parts of a cursor, which a caller sends.

    Raises:
        RequestError: it is not one with that many parts.
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
