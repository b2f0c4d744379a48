"""The operations of the management API about the history of a relay, from which charts are drawn."""

from __future__ import annotations

import itertools
from typing import Annotated

import msgspec

from ..relay.history import MAX_INTERVALS, RESOLUTIONS, HistoryQuery, Row, Subject
from ..relay.model import HybridConnection
from ..relay.store.store import Store
from ..security import ManagementRole
from .calls import Call
from .operations import Operation
from .problem_kinds import Problem
from .problems import problem
from .values import Body, Value

__all__ = ["HISTORY_ROWS"]

_Time = Annotated[int, msgspec.Meta(ge=0, le=253402300799)]


class HistoryPageQuery(Body, frozen=True):
    """The query for the intervals of a history."""

    #: The length of the intervals (seconds).
    resolution: Annotated[int, msgspec.Meta(ge=10, le=86400, extra_json_schema={"enum": list(RESOLUTIONS)})] = 60
    #: The first interval begins at or after this time (seconds since 1970). By default, as early as the maximum
    #: number of intervals allows.
    begin: _Time | None = msgspec.field(name="from", default=None)
    #: The last interval begins before this time. By default, now.
    end: _Time | None = msgspec.field(name="to", default=None)


class IntervalValue(Value, frozen=True):
    """The numbers for one interval. Maxima are computed from samples that are taken every ten seconds."""

    #: When the interval begins (seconds since 1970).
    time: int
    listeners_max: int
    senders_max: int
    sessions_max: int
    bytes_to_listeners: int
    bytes_to_senders: int
    #: Pairs of data channels that were joined.
    joins: int
    #: Joins that were refused, or whose data channels were not opened.
    joins_failed: int
    #: Registrations of connectors that have ended.
    disconnects: int


class HistoryValue(Value, frozen=True):
    """The intervals in order of time. Intervals in which nothing happened may be omitted.

    Intervals before `started_at` may also be missing because the relay was not running, and intervals of ten seconds
    because they are kept only in memory.
    """

    #: The length of the intervals (seconds).
    resolution: int
    #: When this relay was started (seconds since 1970).
    started_at: float
    value: tuple[IntervalValue, ...]


async def _get_connection_history(call: Call) -> HistoryValue:
    connection = await call.managed.read_store(lambda store: store.get(call.name))
    return await _history(call, frozenset([_subject(connection)]))


async def _get_history(call: Call) -> HistoryValue:
    scope = call.caller.scope
    if scope.is_everything:
        return await _history(call, None)

    def seen(store: Store) -> frozenset[Subject]:
        if scope.only is not None:
            return frozenset([_subject(store.get(scope.only))] if store.exists(scope.only) else [])
        return frozenset(itertools.starmap(Subject, store.created_at_by_name(scope.prefix).items()))

    return await _history(call, await call.managed.read_store(seen))


def _subject(connection: HybridConnection) -> Subject:
    return Subject(connection.name, connection.created_at)


async def _history(call: Call, subjects: frozenset[Subject] | None) -> HistoryValue:
    query = call.query_as(HistoryPageQuery)
    resolution = query.resolution
    if resolution not in RESOLUTIONS:
        possible = ", ".join(map(str, RESOLUTIONS))
        raise problem(
            Problem.INVALID,
            "there are no intervals of this length",
            remedy=f"ask for one of these: {possible}",
            errors=[{"pointer": "?/resolution", "detail": f"possible values: {possible}"}],
        )
    end = int(call.managed.clock()) + 1 if query.end is None else query.end
    begin = max(0, end - MAX_INTERVALS * resolution) if query.begin is None else query.begin
    if begin > end:
        raise problem(
            Problem.INVALID,
            "'to' is before 'from'",
            remedy="give from and to in seconds since 1970",
            errors=[{"pointer": "?/from", "detail": "later than to"}],
        )
    if end - begin > MAX_INTERVALS * resolution:
        raise problem(
            Problem.INVALID,
            f"these would be more than {MAX_INTERVALS} intervals",
            remedy="ask for longer intervals (resolution), or for a shorter time",
            errors=[{"pointer": "?/resolution", "detail": "too short for this time"}],
        )
    query_of_relay = HistoryQuery(resolution=resolution, begin=begin, end=end, subjects=subjects)
    rows = await call.managed.relay.history(query_of_relay)
    value = tuple(_interval(begin, row) for begin, row in rows)
    return HistoryValue(resolution=resolution, started_at=call.managed.started_at, value=value)


def _interval(begin: int, row: Row) -> IntervalValue:
    return IntervalValue(time=begin, **row._asdict())


#: The operations of this module, a part of the table of all operations.
HISTORY_ROWS: tuple[Operation[Call], ...] = (
    Operation(
        id="getHistory",
        method="GET",
        path="/v1/history",
        summary="Get the history of this relay: listeners, senders, sessions, bytes and joins by interval.",
        role=ManagementRole.VIEWER,
        handler=_get_history,
        query=HistoryPageQuery,
        answer=HistoryValue,
        filters=True,
    ),
    Operation(
        id="getHybridConnectionHistory",
        method="GET",
        path="/v1/hybridConnections/{name}/history",
        summary="Get the history of a hybrid connection at this relay.",
        role=ManagementRole.VIEWER,
        handler=_get_connection_history,
        query=HistoryPageQuery,
        answer=HistoryValue,
    ),
)
