"""Counts events of a client, for metrics. Pure."""

from __future__ import annotations

from ..connectivity.counters import EndpointCounters
from ..events.base import Event
from ..events.client import SessionLost

__all__ = ["ClientCounters"]


class ClientCounters(EndpointCounters):
    """Counts the events of one client, as a subscriber."""

    def __call__(self, event: Event) -> None:
        """Count an event."""
        if isinstance(event, SessionLost):
            self.session_resumes[event.outcome] += 1
        else:
            super().__call__(event)
