"""Checking the types of arguments in public calls, so that a wrong type is reported there and not deep inside the
library."""

from __future__ import annotations

from typing import TypeVar

__all__ = ["check_type"]

T = TypeVar("T")


def check_type(value: object, kind: type[T], how: str) -> T:
    """Return `value` if it is of this type.

    Args:
        value: an argument of a public call.
        kind: the type that it must have.
        how: an expression that returns such a value, for the message.

    Raises:
        TypeError: it has the wrong type. The message does not contain the value, which may be a secret.
    """
    if not isinstance(value, kind):
        raise TypeError(f"expected a {kind.__name__}, not {type(value).__name__}: {how}")
    return value
