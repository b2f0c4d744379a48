"""Arguments of the wrong type, reported where the library is called and not somewhere inside of it."""

from __future__ import annotations

from typing import TypeVar

__all__ = ["check_type"]

T = TypeVar("T")


def check_type(value: object, kind: type[T], how: str) -> T:
    """Return `value` if it is of this type.

    Args:
        value: an argument of a public call.
        kind: the type that it must have.
        how: an expression that gives such a value, for the message.

    Raises:
        TypeError: it is something else. The message repeats nothing of the value, which may be a secret.
    """
    if not isinstance(value, kind):
        raise TypeError(f"expected a {kind.__name__}, not {type(value).__name__}: {how}")
    return value
