"""The latest events of a relay, numbered, for administrators who follow them.

A number is never used twice, not even after a restart: numbers begin with the time at which the relay started. So a
client that passes the number of the last event that it has seen gets every later one, or learns that some are
missing.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager

import attrs
import trio

from ..events import Event, Level
from ..events.plain_log import FieldValue, event_fields

__all__ = ["MAX_EVENTS", "Feed", "FeedPage", "NumberedEvent"]

#: How many events are kept. A flood that a peer causes drives out older ones sooner; the log keeps what it keeps.
MAX_EVENTS = 10_000
#: Numbers that one second of the clock gives room for: more events than a relay can publish in that time.
_PER_SECOND = 1_000_000
#: How many events one call of `read` looks at, and after how many of them other tasks run (about a millisecond).
_PER_PAGE = 1_000
_AT_A_TIME = 100


@attrs.frozen
class NumberedEvent:
    """One event."""

    number: int
    #: Seconds since 1970.
    time: float
    level: Level
    #: ``listener.registered``; see docs/events.md.
    name: str
    #: What Azure Relay calls it; None where it has no name for it.
    operation: str | None
    #: What happened, for people.
    summary: str
    fields: Mapping[str, FieldValue]

    @property
    def connection(self) -> str | None:
        """The hybrid connection that it is about, or None."""
        value = self.fields.get("connection")
        return value if isinstance(value, str) else None


@attrs.frozen
class _Kept:
    """An event as it was published. It is formatted when somebody wants to see it, which for most is never."""

    number: int
    time: float
    event: Event

    def show(self) -> NumberedEvent:
        kind = type(self.event)
        return NumberedEvent(
            self.number, self.time, kind.level, kind.name, kind.operation, kind.summary, event_fields(self.event)
        )


@attrs.frozen
class FeedPage:
    """Some events."""

    events: tuple[NumberedEvent, ...]
    #: The number of the last event that was looked at: continue after it.
    last: int
    #: False: events between the number that was asked for and the first of these are not kept any more, or the
    #: number was not one of this relay.
    has_all: bool


class Feed:
    """A subscriber of an event stream, which keeps the latest events of level INFO and above.

    Args:
        clock: seconds since 1970.
        max_events: how many are kept.
    """

    def __init__(self, clock: Callable[[], float], *, max_events: int = MAX_EVENTS) -> None:
        self._clock = clock
        self._numbers = itertools.count(int(clock()) * _PER_SECOND)
        self._events: deque[_Kept] = deque(maxlen=max_events)
        self.last = next(self._numbers)
        #: Events up to this number are not kept, or never were.
        self._missing_up_to = self.last
        self._published = trio.Event()
        #: How often events were read.
        self.reads = 0
        #: How many clients follow events now, or wait for one, by caller.
        self.followers: Counter[Hashable] = Counter()

    @contextmanager
    def followed(self, caller: Hashable) -> Iterator[None]:
        """Count a client of this caller that follows events, during the block."""
        self.followers[caller] += 1
        try:
            yield
        finally:
            self.followers[caller] -= 1
            self.followers += Counter()  # removes those that are zero

    @property
    def first(self) -> int:
        """The number before that of the first event that is kept."""
        return self._missing_up_to

    def __call__(self, event: Event) -> None:
        """Keep an event."""
        if type(event).level < Level.INFO or getattr(event, "exception", None) is not None:
            return  # an exception would keep alive whatever was in use where it was raised
        if len(self._events) == self._events.maxlen:
            self._missing_up_to = self._events[0].number
        self.last = next(self._numbers)
        self._events.append(_Kept(self.last, self._clock(), event))
        self._published.set()
        self._published = trio.Event()

    async def read(self, after: int, limit: int, is_wanted: Callable[[NumberedEvent], bool]) -> FeedPage:
        """The next events after a number, without waiting for any. This is a checkpoint.

        Args:
            after: the number of an event, which need not be kept.
            limit: return at most so many.
            is_wanted: leave out others.
        """
        self.reads += 1
        has_all = self._missing_up_to <= after <= self.last
        if not has_all:
            after = self._missing_up_to
        events = self._events
        # Numbers are consecutive. The end of a deque is reached quickly, and those who follow are there.
        start = len(events) - (self.last - after)
        kept = [events[index] for index in range(start, min(start + _PER_PAGE, len(events)))]
        await trio.lowlevel.checkpoint()
        found: list[NumberedEvent] = []
        for looked_at, one in enumerate(kept, 1):
            shown = one.show()
            if is_wanted(shown):
                found.append(shown)
            after = one.number
            if len(found) == limit:
                break
            if looked_at % _AT_A_TIME == 0:
                await trio.lowlevel.checkpoint()
        return FeedPage(tuple(found), after, has_all)

    async def wait(self, after: int) -> None:
        """Wait until there is an event after this number."""
        if after < self.last:
            await trio.lowlevel.checkpoint()
        while after >= self.last:
            await self._published.wait()
