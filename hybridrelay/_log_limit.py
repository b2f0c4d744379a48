"""Limiting how often a peer can make a program write to its log.

Lines that a peer, an application or a target can cause repeatedly (`Event.is_limited`) are logged only if `may_log`
allows it. Lines of the same kind share a limit: a number of lines in a period that begins with the first one. Omitted
lines are counted, and the count is logged at the end of the period, even if no further line follows.

`LogLimit` decides, and does no I/O. `report_left_out` logs the counts.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Hashable
from typing import Final

import attrs
import trio

from ._value import Value

__all__ = ["LeftOut", "LogLimit", "may_log", "report_left_out"]

#: How many lines of one kind are logged in one period. Enough for a connector that registers dozens of hybrid
#: connections at the same time.
LINES: Final = 50
#: The length of a period (seconds). The sustained rate is thus at most 2.5 lines of one kind per second.
SECONDS: Final = 20.0
#: How many kinds have separate limits. Further ones share a limit, so that memory is bounded.
MAX_KINDS: Final = 256
#: How much of an omitted line is shown as an example (characters).
EXAMPLE_LENGTH: Final = 300


@attrs.frozen
class LeftOut(Value):
    """Lines of one kind that were not logged in one period."""

    kind: Hashable
    count: int
    #: The text of the first of them.
    example: str


@attrs.define
class _Period:
    until: float
    admitted: int = 0
    left_out: int = 0
    example: str = ""


class LogLimit:
    """Decides which lines are logged, and counts the others. Pure: times are arguments.

    Times are in seconds, on any monotonic clock.
    """

    def __init__(self, *, lines: int = LINES, seconds: float = SECONDS, max_kinds: int = MAX_KINDS) -> None:
        """Admit `lines` of each kind in each period of `seconds`; `max_kinds` kinds have separate limits."""
        self._lines = lines
        self._seconds = seconds
        self._max_kinds = max_kinds
        self._periods: dict[Hashable, _Period] = {}
        #: No period ends before this.
        self._next_end = math.inf

    def admit(self, kind: Hashable, now: float, example: Callable[[], str]) -> bool:
        """Return whether a line may be logged. Call `ended` first, so that omitted lines are reported before it.

        Args:
            kind: lines of the same kind share a limit.
            now: the time.
            example: returns the line's text. Called only for the first line that is omitted in a period.
        """
        period = self._periods.get(kind)
        if period is None:
            if len(self._periods) >= self._max_kinds:
                kind = None
            period = self._periods.setdefault(kind, _Period(now + self._seconds))
            self._next_end = min(self._next_end, period.until)
        if period.admitted < self._lines:
            period.admitted += 1
            return True
        if not period.left_out:
            period.example = example()[:EXAMPLE_LENGTH]
        period.left_out += 1
        return False

    def ended(self, now: float) -> list[LeftOut]:
        """Return the lines omitted in periods that have ended. Each is returned once. `math.inf` ends all periods."""
        if now < self._next_end:
            return []
        over = {kind: period for kind, period in self._periods.items() if period.until <= now}
        for kind in over:
            del self._periods[kind]
        self._next_end = min((period.until for period in self._periods.values()), default=math.inf)
        return [LeftOut(kind, period.left_out, period.example) for kind, period in over.items() if period.left_out]


@attrs.frozen
class _Kind(Value):
    """Lines that share a limit: those of one event, or those of one call."""

    logger: str
    level: int
    #: The name of an event, or a message without its arguments.
    what: str


#: The limit of a Trio run. All loggers of a run share it, and runs in other threads have their own.
_LIMIT: trio.lowlevel.RunVar[LogLimit] = trio.lowlevel.RunVar("hybridrelay log limit")


def _run_limit() -> LogLimit:
    try:
        return _LIMIT.get()
    except LookupError:
        limit = LogLimit()
        _LIMIT.set(limit)
        return limit


def may_log(logger: str, level: int, kind: str, example: Callable[[], str]) -> bool:
    """Return whether a line may be logged now. Otherwise it is counted. The count is logged by a later call, or by
    `report_left_out`, which relay, connector and client run.

    Outside of a Trio run, nothing is limited, because peers and users cannot cause lines there.

    Args:
        logger: the name of the line's logger.
        level: the level of the line.
        kind: lines with the same logger, level and kind share a limit.
        example: returns the text of the line.
    """
    if not trio.lowlevel.in_trio_run():
        return True
    limit, now = _run_limit(), trio.current_time()
    _log_left_out(limit.ended(now))
    return limit.admit(_Kind(logger, level, kind), now, example)


async def report_left_out() -> None:
    """Log the number of omitted lines after each period, until cancelled; the last counts are logged then."""
    limit = _run_limit()
    try:
        while True:
            await trio.sleep(SECONDS)
            _log_left_out(limit.ended(trio.current_time()))
    finally:
        _log_left_out(limit.ended(math.inf))


def _log_left_out(entries: list[LeftOut]) -> None:
    for entry in entries:
        kind = entry.kind
        name, level = (kind.logger, kind.level) if isinstance(kind, _Kind) else ("hybridrelay", logging.WARNING)
        logging.getLogger(name).log(
            level, "%d more lines like this were left out in %.0f s: %s", entry.count, SECONDS, entry.example
        )
