"""Delivering events to their subscribers: the log, the audit log, metrics."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from .base import Event

__all__ = ["EventStream", "Subscriber"]

#: Called with each event, in the thread that publishes it. It must return quickly and must not wait for anything.
Subscriber: TypeAlias = Callable[[Event], None]

_logger = logging.getLogger("hybridrelay.events")


class EventStream:
    """The events of one relay, connector or client, or of several that run in one process.

    It is passed explicitly to all code that publishes events, so that two relays in one process can have separate
    streams. For use in one thread only.
    """

    def __init__(self, *subscribers: Subscriber) -> None:
        """Make a stream with these subscribers, which are called in this order."""
        self._subscribers: list[Subscriber] = list(subscribers)

    def publish(self, event: Event) -> None:
        """Call all subscribers with the event, in the order in which they subscribed. Never raises.

        If a subscriber raises an exception, it is logged with its traceback, and the other subscribers are still
        called. If a subscriber publishes another event, that event is delivered before this call returns.
        """
        for subscriber in tuple(self._subscribers):
            try:
                subscriber(event)
            except Exception:
                # Logged directly, and not as an event: the subscriber that failed may be the log.
                _logger.exception("a subscriber of events failed at %s: %r", event.name, subscriber)

    @contextmanager
    def subscribed(self, subscriber: Subscriber) -> Iterator[None]:
        """Call `subscriber` with every event that is published during the block."""
        self.subscribe(subscriber)
        try:
            yield
        finally:
            self.unsubscribe(subscriber)

    def subscribe(self, subscriber: Subscriber) -> None:
        """Call `subscriber` with every event from now on, after those that subscribed earlier."""
        self._subscribers.append(subscriber)

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Undo one call of `subscribe`.

        Raises:
            ValueError: `subscriber` has not subscribed.
        """
        self._subscribers.remove(subscriber)
