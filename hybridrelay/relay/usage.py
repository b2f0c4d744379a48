"""The usage of hybrid connections in a period, as values. A period is a calendar month (UTC). Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Final, Self

import attrs

from .._value import Value
from .model import KeyId

__all__ = ["MAX_USAGE", "NO_USAGE", "TOTAL", "Batch", "PastUsage", "Period", "Usage"]

#: The greatest value of a number. Counting stops there, so that JSON and SQLite can represent it.
MAX_USAGE: Final = 2**53 - 1
#: The name under which the usage of all hybrid connections together is counted. No hybrid connection can have it.
TOTAL: Final = ""
#: The first and the last month whose beginning and end can be computed.
_FIRST, _LAST = (1970, 1), (9998, 12)


@attrs.frozen(order=True)
class Period:
    """A calendar month (UTC)."""

    year: int
    month: int

    @classmethod
    def at(cls, seconds: float) -> Self:
        """Return the period at a time (seconds since 1970). Times outside of the calendar are in its first or last
        month."""
        try:
            date = dt.datetime.fromtimestamp(seconds, dt.UTC)
        except (OverflowError, ValueError, OSError):
            return cls(*(_LAST if seconds > 0 else _FIRST))
        return cls(*min(max((date.year, date.month), _FIRST), _LAST))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``2026-11``. Raises ValueError."""
        date = dt.datetime.strptime(text, "%Y-%m").replace(tzinfo=dt.UTC)
        return cls(*min(max((date.year, date.month), _FIRST), _LAST))

    def __str__(self) -> str:
        return f"{self.year:04}-{self.month:02}"

    @property
    def begin(self) -> int:
        """When the period begins (seconds since 1970)."""
        return int(dt.datetime(self.year, self.month, 1, tzinfo=dt.UTC).timestamp())

    @property
    def end(self) -> int:
        """When the next period begins (seconds since 1970)."""
        return type(self)(self.year + self.month // 12, self.month % 12 + 1).begin


@attrs.frozen
class Usage(Value):
    """The usage of a hybrid connection, or of all of them together."""

    #: Bytes that were passed on to clients and to connectors.
    to_client: int = 0
    to_connector: int = 0
    #: Pairs of data channels that were joined.
    joins: int = 0

    @property
    def bytes(self) -> int:
        """Bytes in both directions together."""
        return min(self.to_client + self.to_connector, MAX_USAGE)

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            min(self.to_client + other.to_client, MAX_USAGE),
            min(self.to_connector + other.to_connector, MAX_USAGE),
            min(self.joins + other.joins, MAX_USAGE),
        )


NO_USAGE: Final = Usage()


@attrs.frozen
class PastUsage(Value):
    """The usage of a period."""

    period: Period
    usage: Usage


@attrs.frozen
class Batch(Value):
    """The numbers that have to be saved."""

    #: The usage to add, by period and hybrid connection (or `TOTAL`).
    usage: Mapping[tuple[Period, str], Usage]
    #: When keys were used last (seconds since 1970).
    keys: Mapping[KeyId, float]

    def __bool__(self) -> bool:
        return bool(self.usage or self.keys)
