"""The operation that lists and follows events: as pages of JSON, or as a stream of server-sent events."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Annotated

import attrs
import msgspec
import trio

from ..errors import ConfigurationError
from ..http import Send, StreamedResponse
from ..protocol.limits import MAX_CONNECTION_NAME
from ..security import ManagementRole
from .calls import Call
from .feed import IsWanted, NumberedEvent
from .gate import unauthenticated
from .operations import EVENT_STREAM, Operation
from .problem_kinds import Problem
from .problems import problem
from .values import Body, Value

__all__ = ["EVENT_ROWS"]

#: How many clients may follow events, or wait for one, at the same time: in total, because each needs a connection,
#: and of the same caller, so that others can still connect.
MAX_FOLLOWERS = 100
MAX_FOLLOWERS_OF_CALLER = 16
#: A stream ends after this time (seconds), and a browser then continues with another request. Credentials other than
#: tokens and keys are verified only at the beginning, so a stream continues for at most this long after they are no
#: longer valid.
_STREAM_SECONDS = 300.0
#: Before a client that follows events is sent further ones, its token or key is looked up again if this was done
#: longer ago than this (seconds).
_VERIFY_SECONDS = 5.0
#: After this time without an event (seconds), a comment is sent, which shows that the connection still works.
_COMMENT_SECONDS = 15.0
#: How long to wait for further events after one has been published (seconds), so that many events wake each follower
#: only five times a second instead of once for each.
_COLLECT_SECONDS = 0.2
#: The maximum number of events that are sent in one piece.
_PER_PIECE = 100
_LAST_EVENT_ID = re.compile(r"[0-9]{1,16}")


class EventsQuery(Body, frozen=True):
    """The query for events."""

    #: Only the events after the one with this number; without it, all events that the relay has kept.
    since: Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)] | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100
    #: How long to wait for an event if there is none (seconds).
    wait: Annotated[float, msgspec.Meta(ge=0, le=30)] = 0.0
    #: Whether the latest events are wanted; then `since` and `wait` are ignored.
    newest: bool = False
    #: Only events whose names begin with this text, such as ``management.``.
    name: Annotated[str, msgspec.Meta(max_length=64)] = ""
    #: Only events about the hybrid connection of this name.
    connection: Annotated[str, msgspec.Meta(max_length=MAX_CONNECTION_NAME)] = ""


class EventValue(Value, frozen=True):
    """An event of this relay."""

    number: int
    #: RFC 3339, UTC.
    time: str
    level: str
    name: str
    #: The operation name of the same event in the diagnostic log of Azure Relay; null if it has none.
    operation: str | None
    summary: str
    fields: Mapping[str, str | int | float | bool | list[str]]

    @classmethod
    def of(cls, event: NumberedEvent) -> EventValue:
        """Make the value of an event."""
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
    """Consecutive events, the oldest first."""

    value: tuple[EventValue, ...]
    #: Pass this as `since` to get the following events.
    last: int
    #: Whether the page follows `since` without a gap. False if the relay has not kept events in between.
    has_all: bool


async def _list_events(call: Call) -> EventPage:
    query = call.query_as(EventsQuery)
    if query.newest:
        async with _turn(call):
            page = await call.managed.feed.latest(query.limit, _filter(call))
        return EventPage(value=tuple(map(EventValue.of, page.events)), last=page.last, has_all=page.has_all)
    position = _Position.of(call, query.since)
    events = await _read(call, position, query.limit)
    if not events and query.wait > 0:
        _check_room(call)
        with _followed(call), trio.move_on_after(query.wait):
            events = await _next(call, position, query.limit)
        if not await call.is_admitted():
            raise unauthenticated("the credentials became invalid while the request waited for events")
    return EventPage(value=tuple(map(EventValue.of, events)), last=position.after, has_all=position.has_all)


@attrs.define
class _Position:
    """A client's position among the events. It also advances past events that are not wanted (`_filter`), so that
    these are examined only once.
    """

    #: The number of the last event that was examined.
    after: int
    #: Whether no gap was found so far. False if some events before `after` had not been kept.
    has_all: bool = True

    @classmethod
    def of(cls, call: Call, since: int | None) -> _Position:
        """Return the position at which a client begins."""
        return cls(call.managed.feed.before_first if since is None else since)


def _filter(call: Call) -> IsWanted:
    """Return the predicate of the events that the query selects and the caller may see."""
    caller, query = call.caller, call.query_as(EventsQuery)

    def is_wanted(name: str, connection: str | None) -> bool:
        return caller.sees(connection) and name.startswith(query.name) and query.connection in ("", connection)

    return is_wanted


async def _read(call: Call, position: _Position, limit: int) -> tuple[NumberedEvent, ...]:
    """Return the next events that are wanted, without waiting for any. If cancelled, `position` is unchanged."""
    async with _turn(call):
        page = await call.managed.feed.read(position.after, limit, _filter(call))
    position.after, position.has_all = page.last, position.has_all and page.has_all
    return page.events


async def _next(call: Call, position: _Position, limit: int) -> tuple[NumberedEvent, ...]:
    """Wait for the next events that are wanted, or until the relay stops."""
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
    """Send events as they are published, for a browser's EventSource and for ``curl --no-buffer``."""
    query = call.query_as(EventsQuery)
    after = query.since
    resumed = call.request.headers.get("last-event-id")
    if resumed is not None and _LAST_EVENT_ID.fullmatch(resumed):
        after = int(resumed)

    async def write(send: Send) -> None:
        # Other clients may have begun to follow while the head of this response was sent. If there are too many now,
        # the stream ends at once.
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
    """Check that another client may follow. Raises RequestError."""
    if not _has_room(call):
        raise problem(
            Problem.UNAVAILABLE,
            f"{MAX_FOLLOWERS_OF_CALLER} clients of this caller, or {MAX_FOLLOWERS} in total, already follow events",
            remedy="close one of them, or list events without waiting: 'Accept: application/json' and no 'wait'",
        )


def _followed(call: Call) -> AbstractContextManager[None]:
    return call.managed.feed.followed(_caller(call))


def _turn(call: Call) -> AbstractAsyncContextManager[None]:
    return call.managed.feed_turns.take(_caller(call), has_scope=not call.caller.scope.is_everything)


def _caller(call: Call) -> tuple[str, str]:
    return call.caller.limit_group


async def _write(call: Call, after: int | None, send: Send) -> None:
    deadline = trio.current_time() + _STREAM_SECONDS
    verify_at = trio.current_time() + _VERIFY_SECONDS
    position = _Position.of(call, after)
    events = await _read(call, position, _PER_PIECE)
    await send(b": connected\n\n")  # at once, even if there is no event yet
    while not call.request.stop.is_set() and trio.current_time() < deadline:
        if not position.has_all:
            await send(b"event: reset\ndata: {}\n\n")
            position.has_all = True
        if trio.current_time() >= verify_at:
            if not await _may_continue(call):
                break
            verify_at = trio.current_time() + _VERIFY_SECONDS
        if events:
            await send(b"".join(map(_server_sent, events)))
        events = ()
        with trio.move_on_after(_COMMENT_SECONDS) as waiting:
            events = await _next(call, position, _PER_PIECE)
        if waiting.cancelled_caught:
            await send(b": nothing new\n\n")


async def _may_continue(call: Call) -> bool:
    try:
        return await call.is_admitted()
    except ConfigurationError:
        return False  # the client asks again, and gets an answer that says what is wrong


def _server_sent(event: NumberedEvent) -> bytes:
    """Encode an event as a server-sent event (WHATWG HTML, section 9.2). The JSON contains no line breaks."""
    return b"id: %d\ndata: %s\n\n" % (event.number, msgspec.json.encode(EventValue.of(event)))


#: The operations of this module, a part of the table of all operations.
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
        waits=True,
    ),
)
