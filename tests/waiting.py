"""Waiting for conditions in other processes, which cannot be awaited: the only sleeps of the tests.

A time limit here detects code that hangs. It is in seconds of an idle machine, so that code does not seem to hang
only because other programs use the processors, too.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

T = TypeVar("T")

_PAUSE_SECONDS = 0.02
_MAX_PAUSE_SECONDS = 1.0
#: A limit is extended at most by this factor.
_MAX_SLOWDOWN = 20.0


def patience(seconds: float) -> float:
    """Return how long to wait now for something that takes at most `seconds` on an idle machine."""
    try:
        runnable = os.getloadavg()[0]
    except (AttributeError, OSError):  # Windows has no load average
        return seconds
    return seconds * min(_MAX_SLOWDOWN, max(1.0, runnable / (os.cpu_count() or 1)))


def _pause(took: float) -> float:
    """Return the seconds until a condition is evaluated again, which took `took` seconds: waiting for one that starts
    a program must not keep a processor busy."""
    return min(_MAX_PAUSE_SECONDS, max(_PAUSE_SECONDS, 2 * took))


class TimeLimit:
    """A time limit that becomes longer while the machine is busy.

    Args:
        seconds: the limit on an idle machine.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._start = time.monotonic()

    @property
    def remaining(self) -> float:
        """Return the remaining seconds, as estimated now; 0 or less if the limit has passed."""
        return self._start + patience(self._seconds) - time.monotonic()


def wait_until(condition: Callable[[], T | None], *, seconds: float, what: str) -> T:
    """Poll `condition` until its result is true, and return this result.

    Raises:
        TimeoutError: the result was not true within `seconds` of an idle machine.
    """
    limit = TimeLimit(seconds)
    while True:
        began = time.monotonic()
        if result := condition():
            return result
        if limit.remaining <= 0:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(_pause(time.monotonic() - began))


async def async_wait_until(condition: Callable[[], Awaitable[T | None]], *, seconds: float, what: str) -> T:
    """Do the same as `wait_until` with an asynchronous condition. A call that hangs is cancelled."""
    limit = TimeLimit(seconds)
    while (remaining := limit.remaining) > 0:
        with trio.move_on_after(remaining):
            began = time.monotonic()
            if result := await condition():
                return result
            await trio.sleep(_pause(time.monotonic() - began))
    raise TimeoutError(f"not within {seconds:g} s: {what}")
