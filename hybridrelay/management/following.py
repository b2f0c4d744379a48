"""The operation that shows events, and follows them: as pages of JSON, or as a stream of server-sent events."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Annotated

import attrs
import msgspec
import trio

from ..http import Send, StreamedResponse
from ..security import ManagementRole
from .calls import Call
from .feed import NumberedEvent
from .operations import EVENT_STREAM, Operation
from .problems import Problem, problem
from .values import Body, Value

__all__ = ["EVENT_ROWS"]

#: How many clients may follow events, or wait for one, at the same time: each needs a connection. And how many of one
#: caller, so that others can still connect.
MAX_FOLLOWERS = 100
MAX_FOLLOWERS_OF_CALLER = 16
#: A stream ends after this time (seconds), and a browser continues it with another request: so a token that was
#: revoked, or that has expired, shows no more than this.
_STREAM_SECONDS = 300.0
#: After this time without an event, a comment shows that the connection works (seconds).
_COMMENT_SECONDS = 15.0
#: How long to wait for further events after one has come (seconds), so that a flood of them wakes each follower five
#: times a second and not for each event.
_COLLECT_SECONDS = 0.2
#: Events in one piece of a stream.
_PER_PIECE = 100
_LAST_EVENT_ID = re.compile(r"[0-9]{1,16}")


class EventsQuery(Body, frozen=True):
    """Which events are wanted."""

    #: Those after the event with this number; without it, all that the relay keeps.
    since: Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)] | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100
    #: How long to wait for an event if there is none (seconds).
    wait: Annotated[float, msgspec.Meta(ge=0, le=30)] = 0.0


class EventValue(Value, frozen=True):
    """Something that happened at this relay."""

    number: int
    #: RFC 3339, UTC.
    time: str
    level: str
    name: str
    #: The name of the same thing in the public service's diagnostic log.
    operation: str | None
    summary: str
    fields: Mapping[str, str | int | float | bool | list[str]]

    @classmethod
    def of(cls, event: NumberedEvent) -> EventValue:
        """An event."""
        time = dt.datetime.fromtimestamp(event.time, dt.UTC).isoformat(timespec="milliseconds")
        return cls(
            number=event.number,
            time=time.replace("+00:00", "Z"),
            level=event.level.name.lower(),
            name=event.name,
            operation=event.operation,
            summary=event.summary,
            fields=event.fields,
        )


class EventPage(Value, frozen=True):
    """Events in their order."""

    value: tuple[EventValue, ...]
    #: Pass this as `since` to get what follows.
    last: int
    #: False: events between `since` and the first of these are not kept any more.
    has_all: bool


async def _list_events(call: Call) -> EventPage:
    query = call.query_as(EventsQuery)
    position = _Position.of(call, query.since)
    events = await _read(call, position, query.limit)
    if not events and query.wait > 0:
        _check_room(call)
        with _followed(call), trio.move_on_after(query.wait):
            events = await _next(call, position, query.limit)
    return EventPage(value=tuple(map(EventValue.of, events)), last=position.after, has_all=position.has_all)


@attrs.define
class _Position:
    """How far a client has got. It also advances past events that the caller may not see, so that they are not looked
    at again.
    """

    #: The number of the last event that was looked at.
    after: int
    #: False: events before `after` were not kept any more.
    has_all: bool = True

    @classmethod
    def of(cls, call: Call, since: int | None) -> _Position:
        """Where a client begins."""
        return cls(call.managed.feed.first if since is None else since)


async def _read(call: Call, position: _Position, limit: int) -> tuple[NumberedEvent, ...]:
    """The next events that the caller may see, without waiting for any. Cancelled, `position` stays as it is."""
    caller = call.caller
    page = await call.managed.feed.read(position.after, limit, lambda event: caller.sees(event.connection))
    position.after, position.has_all = page.last, position.has_all and page.has_all
    return page.events


async def _next(call: Call, position: _Position, limit: int) -> tuple[NumberedEvent, ...]:
    """Wait for the next events that the caller may see, or for the relay's end."""
    while True:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_at_stop, call, nursery.cancel_scope)
            await call.managed.feed.wait(position.after)
            await trio.sleep(_COLLECT_SECONDS)
            nursery.cancel_scope.cancel()
        events = await _read(call, position, limit)
        if events or call.request.stop.is_set():
            return events


async def _cancel_at_stop(call: Call, waiting: trio.CancelScope) -> None:
    await call.request.stop.wait()
    waiting.cancel()


def _stream_events(call: Call) -> StreamedResponse:
    """The same events without end, for a browser's EventSource and for ``curl --no-buffer``."""
    query = call.query_as(EventsQuery)
    after = query.since
    resumed = call.request.headers.get("last-event-id")
    if resumed is not None and _LAST_EVENT_ID.fullmatch(resumed):
        after = int(resumed)

    async def write(send: Send) -> None:
        # Others may have begun while the head of this response was sent: then the stream ends at once.
        if _has_room(call):
            with _followed(call):
                await _write(call, after, send)

    _check_room(call)
    headers = (("Content-Type", EVENT_STREAM), ("Cache-Control", "no-store"), ("X-Accel-Buffering", "no"))
    return StreamedResponse(200, write, headers, close=True)


def _has_room(call: Call) -> bool:
    followers = call.managed.feed.followers
    return followers.total() < MAX_FOLLOWERS and followers[_caller(call)] < MAX_FOLLOWERS_OF_CALLER


def _check_room(call: Call) -> None:
    """Raises RequestError."""
    if not _has_room(call):
        raise problem(
            Problem.UNAVAILABLE,
            f"{MAX_FOLLOWERS_OF_CALLER} clients of this caller, or {MAX_FOLLOWERS} of all, follow events already",
            remedy="close one of them, or list events without waiting: Accept: application/json, with since",
        )


def _followed(call: Call) -> AbstractContextManager[None]:
    return call.managed.feed.followed(_caller(call))


def _caller(call: Call) -> tuple[str, str]:
    return call.caller.kind, call.caller.id


async def _write(call: Call, after: int | None, send: Send) -> None:
    deadline = trio.current_time() + _STREAM_SECONDS
    position = _Position.of(call, after)
    events = await _read(call, position, _PER_PIECE)
    await send(b": connected\n\n")  # at once, also where there is no event yet
    while not call.request.stop.is_set() and trio.current_time() < deadline:
        if not position.has_all:
            await send(b"event: reset\ndata: {}\n\n")
            position.has_all = True
        if events:
            await send(b"".join(map(_server_sent, events)))
        events = ()
        with trio.move_on_after(_COMMENT_SECONDS) as waiting:
            events = await _next(call, position, _PER_PIECE)
        if waiting.cancelled_caught:
            await send(b": nothing new\n\n")


def _server_sent(event: NumberedEvent) -> bytes:
    """An event as the HTML standard's server-sent events have it; JSON has no line breaks."""
    return b"id: %d\ndata: %s\n\n" % (event.number, msgspec.json.encode(EventValue.of(event)))


#: A part of the table of operations.
EVENT_ROWS: tuple[Operation[Call], ...] = (
    Operation(
        id="listEvents",
        method="GET",
        path="/v1/events",
        summary="List the latest events of this relay, wait for the next ones, or follow them.",
        role=ManagementRole.VIEWER,
        handler=_list_events,
        query=EventsQuery,
        answer=EventPage,
        streams=_stream_events,
        filters=True,
    ),
)
