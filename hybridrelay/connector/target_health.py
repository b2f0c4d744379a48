"""Whether a connector can connect to a target, and when to check it: a pure state machine.

The evidence is how attempts to connect to the target end: those of applications' streams, and checks. The rules:

1. The health of the target changes after a number of results of the same kind in a row; see `TRANSITIONS`.
2. A failed attempt counts only if it began after the last successful one had begun. So attempts that still wait for
   an answer when the target is back do not count against it.
3. After a failure, the target is checked soon, until its health is certain. So it need not fail for several
   applications first.
4. While it is unhealthy, it is checked regularly. The relays prefer other connectors, so there may be no streams that
   show that the target is back.
5. Otherwise, it is checked only if nobody has connected to it successfully for `interval` seconds, and not at all
   without an interval: to a target, a check is a connection that ends at once, which some log or count as an error.

Waits are lengthened or shortened by up to a tenth at random, so that several connectors do not check at the same
time.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping
from typing import Final

from ..protocol.control_states import TargetHealth

__all__ = ["CONFIRM_SECONDS", "FALL", "RECHECK_SECONDS", "RISE", "TRANSITIONS", "Results", "TargetMachine"]

#: How many attempts in a row have to fail until the target is unhealthy. A single failure may have a passing cause,
#: such as a full backlog. HAProxy uses the same numbers.
FALL: Final = 3
#: How many have to succeed until it is healthy again.
RISE: Final = 2
#: When to check after a result that may be the first of several (seconds).
CONFIRM_SECONDS: Final = 1.0
#: How often an unhealthy target is checked (seconds).
RECHECK_SECONDS: Final = 5.0
#: The part of a wait by which it may differ.
_JITTER: Final = 0.1


class Results(enum.Enum):
    """The inputs of the machine: results in a row."""

    SUCCESS = "a success"
    SUCCESSES = f"{RISE} successes in a row"
    FAILURES = f"{FALL} failures in a row"


#: Whether the attempts succeeded, and how many there have to be.
_LENGTHS: Mapping[Results, tuple[bool, int]] = {
    Results.SUCCESS: (True, 1),
    Results.SUCCESSES: (True, RISE),
    Results.FAILURES: (False, FALL),
}

TRANSITIONS: Mapping[tuple[TargetHealth, Results], TargetHealth] = {
    (TargetHealth.UNKNOWN, Results.SUCCESS): TargetHealth.HEALTHY,
    (TargetHealth.UNKNOWN, Results.FAILURES): TargetHealth.UNHEALTHY,
    (TargetHealth.HEALTHY, Results.FAILURES): TargetHealth.UNHEALTHY,
    (TargetHealth.UNHEALTHY, Results.SUCCESSES): TargetHealth.HEALTHY,
}


class TargetMachine:
    """The health of one target.

    Args:
        interval: see rule 5 (seconds); None: the target is checked only after failures.
        random: returns a number in [0, 1).
        now: the time, on the clock of all methods.
    """

    def __init__(self, interval: float | None, random: Callable[[], float], now: float) -> None:
        self._interval = interval
        self._random = random
        self.health = TargetHealth.UNKNOWN
        #: The result of the last attempts, and how many in a row had it.
        self._succeeds = True
        self._in_a_row = 0
        #: When the last successful attempt had begun.
        self._succeeded_from = -math.inf
        self._is_checking = False
        self._due: float | None = None if interval is None else now + CONFIRM_SECONDS * random()

    @property
    def due(self) -> float | None:
        """When to check the target; None if it need not be checked, or is being checked."""
        return None if self._is_checking else self._due

    def check_begins(self) -> None:
        """Note that a check begins. It ends with `check_ends`, after its result."""
        self._is_checking = True

    def check_ends(self) -> None:
        """Note that the check is over."""
        self._is_checking = False

    def attempt_ended(self, *, succeeded: bool, began: float, now: float) -> bool:
        """Take the result of an attempt to connect to the target, whether of a check or of a stream.

        Args:
            succeeded: whether there was a connection.
            began: when the attempt had begun.
            now: the time.

        Returns:
            Whether `health` has changed.
        """
        if succeeded:
            self._succeeded_from = max(self._succeeded_from, began)
        elif began < self._succeeded_from:
            return False
        self._in_a_row = self._in_a_row + 1 if succeeded is self._succeeds else 1
        self._succeeds = succeeded
        before, may_change = self.health, False
        for results, (kind, length) in _LENGTHS.items():
            after = TRANSITIONS.get((before, results))
            if after is None or kind is not succeeded:
                continue
            if self._in_a_row >= length:
                self.health = after
            else:
                may_change = True
        self._schedule(now, may_change=may_change)
        return self.health is not before

    def _schedule(self, now: float, *, may_change: bool) -> None:
        wait = self._interval
        if may_change:  # further results like this one would change the health
            wait = CONFIRM_SECONDS
        elif self.health is TargetHealth.UNHEALTHY:
            wait = RECHECK_SECONDS
        self._due = None if wait is None else now + wait * (1 + _JITTER * (2 * self._random() - 1))
