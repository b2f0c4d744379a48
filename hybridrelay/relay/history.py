"""The history of a relay as values: rows, the subjects of rows, and queries for rows. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple

import attrs

from .._value import Value

__all__ = [
    "MAXIMA",
    "MAX_INTERVALS",
    "MAX_VALUE",
    "RECENT",
    "RESOLUTIONS",
    "TOTAL",
    "WRITTEN",
    "HistoryQuery",
    "Row",
    "Subject",
]

#: The length of the shortest intervals (seconds), which are kept in memory.
RECENT: Final = 10
#: The length of the shortest intervals that are written to the file (seconds).
WRITTEN: Final = 60
#: The lengths of intervals that can be requested, and for each, the length of the stored intervals from which they
#: are computed.
RESOLUTIONS: Final = {RECENT: RECENT, WRITTEN: WRITTEN, 300: 300, 3600: 3600, 86400: 3600}
#: The maximum number of intervals in one answer.
MAX_INTERVALS: Final = 1500
#: The greatest number that a row may contain: the greatest that every JSON parser reads exactly.
MAX_VALUE: Final = 2**53 - 1


class Subject(NamedTuple):
    """The subject of a row: a hybrid connection, identified by its name and the time of its creation."""

    name: str
    #: Seconds since 1970.
    created_at: float


#: All hybrid connections together. No hybrid connection has an empty name.
TOTAL: Final = Subject("", 0.0)


class Row(NamedTuple):
    """The numbers for one interval. Maxima are those of the samples in it."""

    listeners_max: int = 0
    senders_max: int = 0
    sessions_max: int = 0
    bytes_to_listeners: int = 0
    bytes_to_senders: int = 0
    #: Pairs of data channels that were joined.
    joins: int = 0
    #: Joins that were refused, or for which a data channel never arrived.
    joins_failed: int = 0
    #: Registrations of listeners that have ended.
    disconnects: int = 0

    def merged(self, other: Row) -> Row:
        """Combine two rows: the larger of each maximum, and the sum of each other number."""
        maxima = map(max, self[:MAXIMA], other[:MAXIMA])
        return Row(*maxima, *(min(a + b, MAX_VALUE) for a, b in zip(self[MAXIMA:], other[MAXIMA:], strict=True)))


#: How many of a row's numbers are maxima; the others are sums.
MAXIMA: Final = 3


@attrs.frozen(kw_only=True)
class HistoryQuery(Value):
    """A query for rows."""

    #: One of `RESOLUTIONS` (seconds).
    resolution: int
    #: Intervals that begin at or after `begin`, and before `end` (seconds since 1970).
    begin: int
    end: int
    #: The hybrid connections whose rows are added up. None: `TOTAL`.
    subjects: frozenset[Subject] | None = None
