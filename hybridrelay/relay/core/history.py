"""Computing the history of a relay: for each hybrid connection and interval, a row of numbers for charts. Pure.

The input consists of samples: for each hybrid connection, the current numbers of listeners, senders and sessions, and
the current values of counters. The output consists of rows, each with the maxima and the sums for one interval. The
rules:

1. A sample is taken just after the end of an interval (`delay_until_sample`), and counts for the interval that has
   just ended.
2. If a counter is lower than before, it has restarted from zero, so its whole value is new. The numbers in a row are
   never negative, and never above `MAX_VALUE`.
3. A hybrid connection that was deleted and created again under the same name is a different one (`Subject`). The
   values of its counters at the first sample are not counted, because they may belong to the earlier one.
4. Rows of the same interval are added up, in any order. If the clock is set back, so that an interval passes twice,
   its row contains what happened both times.
5. In the first hour of the relay, and for an hour after the clock was set in either direction, no rows are deleted by
   their time (`may_prune`). If it was set far ahead by mistake, all rows would seem old; if it was set far back, all
   would seem to be in the future, and such rows are deleted, too. `hybridrelay/_confirmed_time.py` does not serve
   here, because a step backwards counts at once there. Nor does `hybridrelay/_counted_time.py`, which needs a reading
   for about every day: a relay without traffic writes no rows (rule 6).
6. Rows in which everything is zero are omitted.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple

import attrs

from ..history import MAX_VALUE, MAXIMA, RECENT, TOTAL, WRITTEN, Row, Subject

__all__ = ["HistoryMachine", "Sample", "delay_until_sample"]

#: The greatest time: the end of the year 9999.
_MAX_TIME: Final = 253402300799
#: The clock counts as set if, from one sample to the next, it and the steady clock advance by amounts that differ by
#: more than this (seconds).
_CLOCK_STEP_SECONDS: Final = 60.0
#: How long nothing is deleted after the clock was set (seconds).
_STEADY_SECONDS: Final = 3600.0
#: The most rows that may wait to be written. If they cannot be written for a long time, the oldest are dropped.
MAX_WAITING: Final = 100_000


class Sample(NamedTuple):
    """The numbers of one hybrid connection at one moment."""

    #: Current numbers.
    listeners: int = 0
    senders: int = 0
    sessions: int = 0
    #: Counters, since the relay started.
    bytes_to_listeners: int = 0
    bytes_to_senders: int = 0
    joins: int = 0
    joins_failed: int = 0
    disconnects: int = 0


_ZERO: Final = Row()


def delay_until_sample(now: float) -> float:
    """Return how long to wait until the next sample (seconds, more than 0). `now` is in seconds since 1970."""
    return RECENT - now % RECENT


@attrs.define
class _Known:
    """The last sample of the hybrid connection with a certain name."""

    subject: Subject
    last: Sample


class HistoryMachine:
    """The history of a relay; see the module's docstring. To take a sample, call `begin`, `observe` for each hybrid
    connection, and `finish`."""

    def __init__(self) -> None:
        """Make a machine that has not had any samples."""
        #: The last samples, by the name of the hybrid connection.
        self._known: dict[str, _Known] = {}
        #: The times of both clocks at the last sample.
        self._clocks: tuple[float, float] | None = None
        self._steady_since = 0.0
        #: The sample that is being taken: its interval, its rows, and their sum.
        self._time = 0
        self._rows: dict[Subject, Row] = {}
        self._total = _ZERO
        #: Rows that were not taken yet, grouped by the beginning of their interval. Samples add to the last group.
        self._waiting: list[tuple[int, dict[Subject, Row]]] = []
        #: How many rows were dropped because they could not be written for too long.
        self.dropped = 0

    # --- samples

    def begin(self, now: float, steady: float) -> None:
        """Begin a sample.

        Args:
            now: seconds since 1970.
            steady: seconds on a clock that is never set.
        """
        if self._clocks is None:
            self._steady_since = steady
        else:
            step = (now - self._clocks[0]) - (steady - self._clocks[1])
            if abs(step) > _CLOCK_STEP_SECONDS:
                self._steady_since = steady
        self._clocks = now, steady
        self._time = _interval(now - RECENT / 2, RECENT)
        self._rows, self._total = {}, _ZERO

    def observe(self, subject: Subject, sample: Sample) -> None:
        """Note the sample of one hybrid connection. May be omitted if all of its numbers were always zero."""
        known = self._known.get(subject.name)
        if known is None:
            before = Sample()
            self._known[subject.name] = _Known(subject, sample)
        elif known.subject != subject:
            before = sample  # rule 3
            self._known[subject.name] = _Known(subject, sample)
        else:
            before, known.last = known.last, sample
        row = _difference(before, sample)
        if row == _ZERO:
            return
        self._enter(subject, row)
        self._total = Row(*(min(a + b, MAX_VALUE) for a, b in zip(self._total, row, strict=True)))

    def finish(self) -> tuple[int, Mapping[Subject, Row]]:
        """End the sample.

        Returns:
            The beginning of its interval (seconds since 1970), and its rows, with one for `TOTAL`.
        """
        if self._total != _ZERO:
            self._enter(TOTAL, self._total)
        rows, self._rows = self._rows, {}
        self._drop_oldest()
        return self._time, rows

    def _enter(self, subject: Subject, row: Row) -> None:
        self._rows[subject] = row
        time = _interval(self._time, WRITTEN)
        if not self._waiting or self._waiting[-1][0] != time:
            self._waiting.append((time, {}))
        group = self._waiting[-1][1]
        known = group.get(subject)
        group[subject] = row if known is None else known.merged(row)

    def keep_only(self, subjects: Collection[Subject]) -> None:
        """Forget hybrid connections that no longer exist."""
        for name in [name for name, known in self._known.items() if known.subject not in subjects]:
            del self._known[name]

    # --- rows to be written

    def take(self) -> Sequence[tuple[int, Mapping[Subject, Row]]]:
        """Take the waiting rows, grouped by the beginning of their interval, which may not have ended yet.

        Several groups may have the same interval.
        """
        taken, self._waiting = self._waiting, []
        return taken

    def put_back(self, taken: Sequence[tuple[int, Mapping[Subject, Row]]]) -> None:
        """Put back rows that could not be written."""
        self._waiting = [*((time, dict(rows)) for time, rows in taken), *self._waiting]
        self._drop_oldest()

    def _drop_oldest(self) -> None:
        waiting = sum(len(rows) for _, rows in self._waiting)
        while waiting > MAX_WAITING and len(self._waiting) > 1:
            _, oldest = self._waiting.pop(0)
            waiting -= len(oldest)
            self.dropped += len(oldest)

    @property
    def may_prune(self) -> bool:
        """Whether rows that are old by the clock of the last sample may be deleted."""
        return self._clocks is not None and self._clocks[1] - self._steady_since >= _STEADY_SECONDS


def _difference(before: Sample, now: Sample) -> Row:
    numbers = [min(max(number, 0), MAX_VALUE) for number in now[:MAXIMA]]
    for old, new in zip(before[MAXIMA:], now[MAXIMA:], strict=True):
        numbers.append(min(max(new if new < old else new - old, 0), MAX_VALUE))
    return Row(*numbers)


def _interval(time: float, length: int) -> int:
    """Return the beginning of the interval that contains a time."""
    return int(min(max(time, 0), _MAX_TIME)) // length * length
