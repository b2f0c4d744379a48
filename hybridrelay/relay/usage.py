"""What hybrid connections have used in a period, as values. A period is a calendar month (UTC). Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Final, Self

import attrs

from .model import KeyId

__all__ = ["MAX_USAGE", "NO_USAGE", "TOTAL", "Batch", "PastUsage", "Period", "Usage"]

#: Numbers stay at this value when they have reached it, so that JSON and SQLite can represent them.
MAX_USAGE: Final = 2**53 - 1
#: The name under which the usage of all hybrid connections together is counted. No hybrid connection can have it.
TOTAL: Final = ""
#: The first and the last month whose begin and end can be computed.
_FIRST, _LAST = (1970, 1), (9998, 12)


@attrs.frozen(order=True)
class Period:
    """A calendar month (UTC)."""

    year: int
    month: int

    @classmethod
    def at(cls, seconds: float) -> Self:
        """Return the period at a time (seconds since 1970). Times that no calendar has are moved to its ends."""
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
        """When it begins (seconds since 1970)."""
        return int(dt.datetime(self.year, self.month, 1, tzinfo=dt.UTC).timestamp())

    @property
    def end(self) -> int:
        """When the next one begins."""
        return type(self)(self.year + self.month // 12, self.month % 12 + 1).begin


@attrs.frozen
class Usage:
    """What was moved for a hybrid connection, or for all of them."""

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
class PastUsage:
    """The usage of a period."""

    period: Period
    usage: Usage


@attrs.frozen
class Batch:
    """What has to be saved."""

    #: What to add, by period and hybrid connection (or `TOTAL`).
    usage: Mapping[tuple[Period, str], Usage]
    #: When keys were used last.
    keys: Mapping[KeyId, float]

    def __bool__(self) -> bool:
        return bool(self.usage or self.keys)
