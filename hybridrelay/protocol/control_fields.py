"""Validators and converters for the fields of control messages (`control`). Pure.

A validator raises `TypeError` or `ValueError`, whose text contains the name of the field and no value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import attrs

from .._printable import printable

__all__ = [
    "MAX_DETAIL",
    "MAX_INTEGER",
    "MAX_LIFETIME_SECONDS",
    "MAX_RETRY_AFTER_SECONDS",
    "cut",
    "hex_of",
    "integer",
    "lifetime",
    "list_of",
    "matching",
    "retry_after",
    "seconds",
    "text_of",
]

#: The greatest length of text for people (characters). Longer text is cut, not refused.
MAX_DETAIL = 256
#: Integers beyond this are not exact in every JSON implementation.
MAX_INTEGER = 2**53 - 1
#: The longest time for which a relay may ask its peers to stay away (seconds). A longer time is read as this one: a
#: relay restarts within seconds, and one message must not keep connectors and clients away for days.
MAX_RETRY_AFTER_SECONDS = 60.0
#: The longest lifetime of a ticket (seconds). A longer one is read as this. Relays grant 30 s.
MAX_LIFETIME_SECONDS = 300.0


def cut(text: Any) -> Any:
    """Cut a text for people to `MAX_DETAIL` characters, and make it printable."""
    # Text for people is cut rather than refused, so that the message is not lost. The validator rejects values that
    # are not text.
    if not isinstance(text, str):
        return text
    return printable(text[:MAX_DETAIL])


def integer(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """Check that this is an integer from 0 to `MAX_INTEGER`."""
    if type(value) is not int:
        raise TypeError(f"{attribute.name} is not an integer")
    if not 0 <= value <= MAX_INTEGER:
        raise ValueError(f"{attribute.name} is out of range")


def seconds(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """Check that this is a finite number from 0 to `MAX_INTEGER`."""
    if type(value) is not int and type(value) is not float:
        raise TypeError(f"{attribute.name} is not a number")
    # In this order, because `isfinite` overflows for very large integers, and comparisons do not.
    if not 0 <= value <= MAX_INTEGER or not math.isfinite(value):
        raise ValueError(f"{attribute.name} is out of range")


def _at_most(limit: float, value: Any) -> Any:
    # A duration above its limit is read as the limit. The validator rejects values that are not finite numbers.
    if type(value) is int or (type(value) is float and math.isfinite(value)):
        return min(value, limit)
    return value


def retry_after(value: Any) -> Any:
    """Read a longer time as `MAX_RETRY_AFTER_SECONDS`."""
    return _at_most(MAX_RETRY_AFTER_SECONDS, value)


def lifetime(value: Any) -> Any:
    """Read a longer time as `MAX_LIFETIME_SECONDS`."""
    return _at_most(MAX_LIFETIME_SECONDS, value)


def text_of(limit: int, *, empty: bool = False) -> Callable[[object, attrs.Attribute[Any], object], None]:
    """Return the validator of printable text of at most `limit` characters; only with `empty` may it have none."""

    def validate(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if not isinstance(value, str):
            raise TypeError(f"{attribute.name} is not a string")
        # Unprintable characters include lone surrogates, which JSON can express and UTF-8 cannot, and characters that
        # could forge log lines.
        if len(value) > limit or not (value or empty) or not value.isprintable():
            raise ValueError(f"{attribute.name} is empty, too long or unprintable")

    return validate


def matching(pattern: re.Pattern[str], what: str) -> Callable[[object, attrs.Attribute[Any], object], None]:
    """Return the validator of text that matches a pattern; `what` describes it."""

    def validate(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if not isinstance(value, str):
            raise TypeError(f"{attribute.name} is not a string")
        if not pattern.match(value):
            raise ValueError(f"{attribute.name} is not {what}")

    return validate


def list_of(
    item: Callable[[object, attrs.Attribute[Any], object], None], limit: int
) -> Callable[[object, attrs.Attribute[Any], object], None]:
    """Return the validator of a tuple with at most `limit` items, each of which `item` accepts."""

    def validate(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if not isinstance(value, tuple):
            raise TypeError(f"{attribute.name} is not a list")
        if len(value) > limit:
            raise ValueError(f"{attribute.name} is too long")
        for one in value:
            item(instance, attribute, one)

    return validate


def hex_of(bytes_: int) -> Callable[[object, attrs.Attribute[Any], object], None]:
    """Return the validator of this many bytes in lower-case hexadecimal."""
    return matching(re.compile(rf"[0-9a-f]{{{2 * bytes_}}}\Z", re.ASCII), f"{bytes_} bytes in hexadecimal")
