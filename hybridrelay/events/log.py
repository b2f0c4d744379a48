"""The subscriber that logs events, with a limit on the number of lines that peers can cause."""

from __future__ import annotations

from .._log_limit import may_log
from .base import Event
from .plain_log import LOGGER, PlainLogSubscriber, event_text
from .stream import EventStream

__all__ = ["LogSubscriber", "logged_events"]


class LogSubscriber(PlainLogSubscriber):
    """Logs each event at its level, with a limit on the number of lines that peers can cause.

    Events of the same class share a limit (see `hybridrelay._log_limit`). The task that owns the stream must run
    `report_left_out`, which regularly logs how many events were left out.
    """

    def __init__(self, logger: str = LOGGER) -> None:
        """Write to the logger with this name."""
        super().__init__(logger)
        self._name = logger

    def _may_log(self, event: Event) -> bool:
        return not event.is_limited or may_log(self._name, int(event.level), event.name, lambda: event_text(event))


def logged_events() -> EventStream:
    """Make a stream to which only the log (`LogSubscriber`) subscribes."""
    return EventStream(LogSubscriber())
