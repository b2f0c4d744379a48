"""How much time has passed according to a clock that may be wrong for a while. Pure.

Files and records that are deleted by age must not be deleted because somebody has set the clock to another year, or
because a machine has started with a wrong time. So readings that were stored earlier are compared with each other:

1. Time that has passed between two readings counts if it is at most a day.
2. A larger step forwards (the program did not run, or the clock is wrong) counts once the clock has confirmed it, by
   running for `CONFIRM_SECONDS` after it without going back, and without a step of more than 100 days. Until then, no
   reading after the step counts.
3. A step backwards does not count, nor does a time before `EARLIEST`, when this program did not exist.

So something may be kept longer than it should be, but is deleted early only if the clock is wrong for a week.

This is for what is kept for months: audit files, and the checkpoints at a relay. The times that are stored in them
are the readings, so steps of the clock while the program did not run are noticed, too. Two other modules have rules
of their own for a clock that may be wrong; `hybridrelay/_confirmed_time.py` says how the three differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

__all__ = ["CONFIRM_SECONDS", "EARLIEST", "counted"]

#: The beginning of 2020 (seconds since 1970). Machines without a battery for their clock start in 1970 or 2000.
EARLIEST: Final = 1_577_836_800.0
#: How long the clock has to run on after a large step forwards (seconds): a week.
CONFIRM_SECONDS: Final = 7 * 86_400.0
#: The largest step that needs no confirmation (seconds): a day, with an hour for time servers and busy machines.
_STEP_SECONDS: Final = 90_000.0
#: A step that confirms nothing (seconds): 100 days.
_VERY_LARGE_SECONDS: Final = 100 * 86_400.0
#: By how much a correct clock may be set back (seconds).
_SLACK_SECONDS: Final = 3600.0


def counted(readings: Sequence[float]) -> list[float]:
    """Return the time that counts at each reading: never less than at the reading before it.

    Args:
        readings: what the clock has shown (seconds since 1970), in the order in which it was read. Usually at least
            once a day.
    """
    result: list[float] = []
    begin = next((reading for reading in readings if reading >= EARLIEST), EARLIEST)
    for index, reading in enumerate(readings):
        before = result[-1] if result else begin
        is_counted = reading - before <= _STEP_SECONDS or _is_confirmed(readings, index)
        result.append(max(before, reading) if is_counted else before)
    return result


def _is_confirmed(readings: Sequence[float], index: int) -> bool:
    """Return whether the clock has gone on after a reading without going back."""
    reading = latest = readings[index]
    for later in readings[index + 1 :]:
        if later < reading - _SLACK_SECONDS or later > latest + _VERY_LARGE_SECONDS:
            return False
        if later >= reading + CONFIRM_SECONDS:
            return True
        latest = max(latest, later)
    return False
