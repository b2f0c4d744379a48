"""Counts events of a connector, for metrics. Pure."""

from __future__ import annotations

from ..connectivity.counters import EndpointCounters
from ..events.base import Event
from ..events.policy import PolicyRefused

__all__ = ["ConnectorCounters"]


class ConnectorCounters(EndpointCounters):
    """Counts the events of one connector, as a subscriber."""

    def __call__(self, event: Event) -> None:
        """Count an event."""
        if isinstance(event, PolicyRefused):
            self.policy_refusals[event.rule] += 1
        else:
            super().__call__(event)
