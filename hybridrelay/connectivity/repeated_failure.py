"""Log messages about an operation that fails repeatedly."""

from __future__ import annotations

import logging
import math

from ..errors import HybridRelayError

#: The same failure is repeated in the log no more often than this (seconds).
REPEAT_SECONDS = 60.0


class RepeatedFailure:
    """The failures of an operation that is repeated until it succeeds.

    A failure is described in full at first and whenever its text changes, and otherwise briefly: a prober's report
    fills several lines, and stays the same while a relay is down. `level` limits how often the same failure is logged
    as a warning, since the operation may be repeated every few seconds for hours.
    """

    def __init__(self) -> None:
        #: The full text of the failure that was described last.
        self._text: str | None = None
        #: When a warning was last logged, and the failure in it.
        self._written: tuple[float, str | None] = (-math.inf, None)

    def describe(self, error: HybridRelayError) -> str:
        """Return the text to log for this failure."""
        text = f"{error}; {error.remedy}" if error.remedy else str(error)
        if text != self._text:
            self._text = text
            return text
        return str(error) if error.brief is None else f"{error.brief}, as before"

    def level(self, now: float) -> int:
        """Return the level at which to log the failure that was described last.

        A warning if the failure is a new one or if the last warning about it is `REPEAT_SECONDS` old, otherwise a
        debug message. `now` is in seconds on any monotonic clock.
        """
        at, text = self._written
        if text == self._text and now - at < REPEAT_SECONDS:
            return logging.DEBUG
        self._written = now, self._text
        return logging.WARNING

    def succeeded(self) -> None:
        """Note that the operation succeeded, so that the next failure is a new one."""
        self._text = None
        self._written = (-math.inf, None)
