"""Keeps the latest events of a relay, with numbers, for administrators who follow them.

The first number is computed from the time at which the relay started, so that no number is used twice, not even after
a restart. A client passes the number of the last event that it has seen, and gets every later event, or learns that
some are missing.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeAlias

import attrs
import trio

from .._value import Value
from ..events.base import Event, Level
from ..events.plain_log import FieldValue, event_fields

__all__ = ["MAX_EVENTS", "Feed", "FeedPage", "IsWanted", "NumberedEvent"]

#: Returns whether a reader wants an event, from its name, and from the name of the hybrid connection that it is about
#: (or None). Only events that are wanted are formatted.
IsWanted: TypeAlias = Callable[[str, str | None], bool]

#: How many events are kept. If a peer causes many events, older ones are removed here, but are still in the log.
MAX_EVENTS = 10_000
#: By how much the first number grows for each second of the clock. A relay publishes fewer events in a second.
_PER_SECOND = 1_000_000
#: How many events one call of `read` examines at most, and after how many of them other tasks may run (after about a
#: millisecond).
_PER_PAGE = 1_000
_AT_A_TIME = 100


@attrs.frozen
class NumberedEvent(Value):
    """An event with its number, formatted for the API."""

    number: int
    #: Seconds since 1970.
    time: float
    level: Level
    #: For example ``listener.registered``; see docs/events.md.
    name: str
    #: The operation name of the same event in the diagnostic log of Azure Relay; None if it has none.
    operation: str | None
    #: What happened, for people.
    summary: str
    fields: Mapping[str, FieldValue]


@attrs.frozen
class _Kept(Value):
    """An event as it was published. It is formatted only when a client reads it, because most are never read."""

    number: int
    time: float
    event: Event

    def is_selected(self, is_wanted: IsWanted) -> bool:
        connection = getattr(self.event, "connection", None)
        return is_wanted(type(self.event).name, connection if isinstance(connection, str) and connection else None)

    def show(self) -> NumberedEvent:
        kind = type(self.event)
        return NumberedEvent(
            self.number, self.time, kind.level, kind.name, kind.operation, kind.summary, event_fields(self.event)
        )


@attrs.frozen
class FeedPage(Value):
    """Consecutive events, as `Feed.read` returns them."""

    events: tuple[NumberedEvent, ...]
    #: The number of the last event that was examined; the next page begins after it.
    last: int
    #: Whether the page follows the requested number without a gap. False if events in between were not kept, or if
    #: the number is not one of this relay.
    has_all: bool


class Feed:
    """Subscribes to an event stream, and keeps the latest events of level INFO and above.

    Args:
        clock: returns seconds since 1970.
        max_events: how many are kept.
    """

    def __init__(self, clock: Callable[[], float], *, max_events: int = MAX_EVENTS) -> None:
        self._clock = clock
        self._numbers = itertools.count(int(clock()) * _PER_SECOND)
        self._events: deque[_Kept] = deque(maxlen=max_events)
        self.last = next(self._numbers)
        #: The number before that of the first event that is kept.
        self._missing_up_to = self.last
        self._published = trio.Event()
        #: How many times `read` was called.
        self.reads = 0
        #: How many clients of each caller currently follow events, or wait for one.
        self.followers: Counter[Hashable] = Counter()

    @contextmanager
    def followed(self, caller: Hashable) -> Iterator[None]:
        """Count a client of this caller among the followers while the block runs."""
        self.followers[caller] += 1
        try:
            yield
        finally:
            self.followers[caller] -= 1
            self.followers += Counter()  # removes callers whose count is zero

    @property
    def before_first(self) -> int:
        """The number before that of the first event that is kept."""
        return self._missing_up_to

    def __call__(self, event: Event) -> None:
        """Keep an event."""
        if type(event).level < Level.INFO or getattr(event, "exception", None) is not None:
            return  # keeping an exception would keep alive all objects that its traceback refers to
        if len(self._events) == self._events.maxlen:
            self._missing_up_to = self._events[0].number
        self.last = next(self._numbers)
        self._events.append(_Kept(self.last, self._clock(), event))
        self._published.set()
        self._published = trio.Event()

    async def read(self, after: int, limit: int, is_wanted: IsWanted) -> FeedPage:
        """Return the events after a number, without waiting for any. This is a checkpoint.

        Args:
            after: the number of an event, which may be one that is no longer kept.
            limit: the maximum number of events to return.
            is_wanted: events for which this returns False are omitted.
        """
        self.reads += 1
        has_all = self._missing_up_to <= after <= self.last
        if not has_all:
            after = self._missing_up_to
        events = self._events
        # Numbers are consecutive, so the index can be computed. Indexing a deque is fast near its end, which is where
        # followers read.
        start = len(events) - (self.last - after)
        kept = [events[index] for index in range(start, min(start + _PER_PAGE, len(events)))]
        await trio.lowlevel.checkpoint()
        found: list[NumberedEvent] = []
        for looked_at, one in enumerate(kept, 1):
            if one.is_selected(is_wanted):
                found.append(one.show())
            after = one.number
            if len(found) == limit:
                break
            if looked_at % _AT_A_TIME == 0:
                await trio.lowlevel.checkpoint()
        return FeedPage(tuple(found), after, has_all)

    async def latest(self, limit: int, is_wanted: IsWanted) -> FeedPage:
        """Return the latest events, the oldest first. This is a checkpoint.

        Args:
            limit: the maximum number of events to return.
            is_wanted: events for which this returns False are omitted.
        """
        last, kept = self.last, list(self._events)
        await trio.lowlevel.checkpoint()
        found: list[NumberedEvent] = []
        for looked_at, one in enumerate(reversed(kept), 1):
            if one.is_selected(is_wanted):
                found.append(one.show())
            if len(found) == limit:
                break
            if looked_at % _AT_A_TIME == 0:
                await trio.lowlevel.checkpoint()
        return FeedPage(tuple(reversed(found)), last, has_all=True)

    async def wait(self, after: int) -> None:
        """Wait until there is an event after this number."""
        if after < self.last:
            await trio.lowlevel.checkpoint()
        while after >= self.last:
            await self._published.wait()
