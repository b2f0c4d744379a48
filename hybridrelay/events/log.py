"""The log's subscriber: logs events within the limit on lines that a peer can cause."""

from __future__ import annotations

from .._log_limit import may_log
from .base import Event
from .plain_log import LOGGER, PlainLogSubscriber, event_text
from .stream import EventStream

__all__ = ["LogSubscriber", "logged_events"]


class LogSubscriber(PlainLogSubscriber):
    """Logs each event at its level, within the limit on lines that a peer can cause.

    Events of the same class share a limit (see `hybridrelay._log_limit`). The task that owns the stream runs
    `report_left_out`, so that the number of events that were left out is logged in time.
    """

    def __init__(self, logger: str = LOGGER) -> None:
        """Write to the logger with this name."""
        super().__init__(logger)
        self._name = logger

    def _may_log(self, event: Event) -> bool:
        return may_log(self._name, int(event.level), event.name, lambda: event_text(event))


def logged_events() -> EventStream:
    """A stream that only the log subscribes to."""
    return EventStream(LogSubscriber())
