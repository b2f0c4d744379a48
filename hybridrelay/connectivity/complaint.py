"""Log messages for something that fails repeatedly."""

from __future__ import annotations

import logging
import math

from ..errors import HybridRelayError

#: The same failure is repeated in the log no more often than this (seconds).
REPEAT_SECONDS = 60.0


class Complaint:
    """One thing that is tried until it works: logged in full at first and whenever the reason changes, otherwise in
    short.

    The report of a prober fills several lines, and stays the same for as long as a relay is down. Something that is
    tried every few seconds all night must not fill the log either: see `level`.
    """

    def __init__(self) -> None:
        self._told: str | None = None
        #: When a line was last written, and the failure in it.
        self._written: tuple[float, str | None] = (-math.inf, None)

    def level(self, now: float) -> int:
        """At which level to log the failure that `about` was last asked for: as a warning if it is a new one or if
        the last line about it is `REPEAT_SECONDS` old, and for debugging otherwise. `now` is on any clock."""
        at, told = self._written
        if told == self._told and now - at < REPEAT_SECONDS:
            return logging.DEBUG
        self._written = now, self._told
        return logging.WARNING

    def about(self, error: HybridRelayError) -> str:
        """What to log of this failure."""
        text = f"{error}; {error.remedy}" if error.remedy else str(error)
        if text != self._told:
            self._told = text
            return text
        return str(error) if error.brief is None else f"{error.brief}, as before"

    def over(self) -> None:
        """It works: the next failure is another one."""
        self._told = None
        self._written = (-math.inf, None)
