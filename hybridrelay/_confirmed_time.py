"""The time of day, for what cannot be undone: revoking a key, deleting contents, ending sessions. Pure.

The clock of a machine may be wrong for a while: it has no battery and starts in another year, somebody sets it, or a
time server is wrong. What becomes invalid because of that is valid again once the clock is right; what was deleted is
lost. So these rules say which moments have passed, for what cannot be undone:

1. A moment that the clock has reached while it ran without a step has passed.
2. A step forwards of more than a minute counts once the clock has run on for `CONFIRM_SECONDS` without going back.
   Until then, time passes as if there had been no step. A machine that was suspended makes such a step, too.
3. A moment that was already past at the first reading counts as passed `CONFIRM_SECONDS` after this reading.
4. A step backwards counts at once.

So something may happen ten minutes late, but happens early only if the clock is wrong for ten minutes.

Three modules have rules about a clock that may be wrong, because they solve different problems:

- This one is for single moments that should not pass much too late, such as the end of a grace period. It compares
  the clock with another one, which is never set, and so knows nothing about the time before the program was started.
- `hybridrelay/_counted_time.py` is for what is kept for months and deleted by its age: audit files and checkpoints.
  Deleting them may wait for a week, so that steps which were made while the program did not run are noticed, too. No
  other clock has run since then, so it compares the times that the clock has shown.
- `HistoryMachine.may_prune` (`relay/core/history.py`) is for rows that are deleted if they are old, and also if they
  are in the future. There, a step backwards can do as much harm as one forwards, and must not count at once, as in
  rule 4.
"""

from __future__ import annotations

import math
from typing import Final

__all__ = ["CONFIRM_SECONDS", "ConfirmedTime"]

#: How long the clock has to run on after a step forwards, or after the first reading (seconds).
CONFIRM_SECONDS: Final = 600.0
#: A larger difference between the clocks is a step (seconds). A smaller one may be a correction by a time server.
_STEP_SECONDS: Final = 60.0


class ConfirmedTime:
    """Readings of the time of day, and which moments have passed according to them.

    Args:
        time_of_day: the first reading (seconds since 1970).
        now: when it was made (seconds, on a monotonic clock).
    """

    def __init__(self, time_of_day: float, now: float) -> None:
        self._first, self._began = time_of_day, now
        self._now = now
        #: By how much the clock was ahead of `now` when it was last right, as far as is known.
        self._offset = time_of_day - now
        #: By how much it is ahead after a step that is not confirmed, and since when; None if there is no such step.
        self._step: tuple[float, float] | None = None

    def read(self, time_of_day: float, now: float) -> None:
        """Note another reading."""
        self._now = now
        offset = time_of_day - now
        if offset <= self._offset + _STEP_SECONDS:
            self._offset, self._step = offset, None
        elif self._step is None or abs(offset - self._step[0]) > _STEP_SECONDS:
            self._step = offset, now
        elif now - self._step[1] >= CONFIRM_SECONDS:
            self._offset, self._step = offset, None

    @property
    def is_confirmed(self) -> bool:
        """Whether rule 3 no longer applies."""
        return self._now - self._began >= CONFIRM_SECONDS

    @property
    def latest(self) -> float:
        """The time up to which all moments have passed (seconds since 1970); -inf as long as rule 3 applies. It may
        go back."""
        return self._now + self._offset if self.is_confirmed else -math.inf

    def has_passed(self, moment: float) -> bool:
        """Return whether a moment (seconds since 1970) has passed."""
        if moment <= self._first and not self.is_confirmed:
            return False
        return self._now + self._offset >= moment
