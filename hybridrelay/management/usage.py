"""The operations of the management API on usage, and the JSON values of these operations."""

from __future__ import annotations

import trio

from ..relay.quotas import Editions
from ..relay.store.store import Store
from ..relay.usage import TOTAL, Period, Usage
from ..security import ManagementRole
from .calls import Call
from .cursors import decode_cursor_untrusted, encode_cursor
from .live_values import LivePageQuery
from .operations import Operation
from .values import LimitsBody, Value

__all__ = ["USAGE_ROWS", "ConnectionUsage", "RelayUsage"]

#: How many values are converted before other tasks of the relay may run.
_AT_A_TIME = 100


class PeriodUsage(Value, frozen=True):
    """The usage in one period, which is a calendar month (UTC)."""

    #: Seconds since 1970.
    begin: int
    end: int
    #: The bytes that were passed on to clients and to connectors, and their sum, to which quotas apply.
    bytes_to_client: int
    bytes_to_connector: int
    bytes: int
    #: The number of pairs of data channels that were joined.
    joins: int

    @classmethod
    def of(cls, period: Period, usage: Usage) -> PeriodUsage:
        """Make the value for a period."""
        return cls(
            begin=period.begin,
            end=period.end,
            bytes_to_client=usage.to_client,
            bytes_to_connector=usage.to_connector,
            bytes=usage.bytes,
            joins=usage.joins,
        )


class NamedUsage(Value, frozen=True):
    """The usage of a hybrid connection in the current period."""

    name: str
    usage: PeriodUsage
    #: The limits in force; null means no limit.
    limits: LimitsBody


class ConnectionUsage(Value, frozen=True):
    """The usage of a hybrid connection at this relay. If it is deleted and created again, its usage continues."""

    name: str
    usage: PeriodUsage
    #: The limits in force: those of the hybrid connection, of its edition, and the defaults. null means no limit.
    limits: LimitsBody
    #: The current numbers to which the limits apply.
    listeners: int
    senders: int
    sessions: int
    #: Earlier periods, the latest first; at most 24.
    earlier: tuple[PeriodUsage, ...]


class CountedConnections(Value, frozen=True):
    """The number of hybrid connections, and how many the edition of the relay allows; null means any number."""

    used: int
    allowed: int | None


class CountedBytes(Value, frozen=True):
    """The bytes that were moved in the period, and how many the edition of the relay allows; null means any
    number."""

    used: int
    allowed: int | None


class RelayUsage(Value, frozen=True):
    """The usage of all hybrid connections together at this relay, including those that were deleted."""

    #: The edition that the relay uses; null if it uses none.
    edition: str | None
    connections: CountedConnections
    bytes: CountedBytes
    usage: PeriodUsage
    earlier: tuple[PeriodUsage, ...]
    #: The usage of each hybrid connection, sorted by name.
    value: tuple[NamedUsage, ...]
    #: The cursor of the next page; null on the last page.
    next_cursor: str | None


async def _get_usage(call: Call) -> RelayUsage:
    query, relay = call.query_as(LivePageQuery), call.managed.relay
    after = "" if query.cursor is None else decode_cursor_untrusted(query.cursor, parts=1)[0]

    def read(store: Store) -> tuple[list[tuple[str, LimitsBody]], int, Editions]:
        editions = store.editions()
        found = store.list(after=after, limit=query.limit + 1)
        limits = [(one.name, LimitsBody.of(editions.limits(one.quota))) for one in found]
        return limits, store.count(), editions

    found, count, editions = await call.managed.read_store(read)
    period, edition, total = relay.period(), editions.of_relay, relay.usage(TOTAL)
    value: list[NamedUsage] = []
    for name, limits in found[: query.limit]:
        value.append(NamedUsage(name=name, usage=PeriodUsage.of(period, relay.usage(name)), limits=limits))
        if len(value) % _AT_A_TIME == 0:
            await trio.lowlevel.checkpoint()
    earlier = await relay.past_usage(TOTAL)
    return RelayUsage(
        edition=editions.in_use or None,
        connections=CountedConnections(used=count, allowed=None if edition is None else edition.connections),
        bytes=CountedBytes(used=total.bytes, allowed=None if edition is None else edition.limits.bytes_per_month),
        usage=PeriodUsage.of(period, total),
        earlier=tuple(PeriodUsage.of(one.period, one.usage) for one in earlier),
        value=tuple(value),
        next_cursor=encode_cursor(value[-1].name) if len(found) > len(value) else None,
    )


async def _get_connection_usage(call: Call) -> ConnectionUsage:
    connection, editions = await call.managed.read_store(lambda store: (store.get(call.name), store.editions()))
    relay = call.managed.relay
    earlier, live = await relay.past_usage(call.name), relay.connection(call.name)
    return ConnectionUsage(
        name=call.name,
        usage=PeriodUsage.of(relay.period(), relay.usage(call.name)),
        limits=LimitsBody.of(editions.limits(connection.quota)),
        listeners=live.listeners,
        senders=live.senders,
        sessions=live.sessions,
        earlier=tuple(PeriodUsage.of(one.period, one.usage) for one in earlier),
    )


#: The operations of this module, a part of the table of all operations.
USAGE_ROWS: tuple[Operation[Call], ...] = (
    Operation(
        id="getUsage",
        method="GET",
        path="/v1/usage",
        summary="Get the usage of this month: hybrid connections and bytes, and what the edition of the relay "
        "allows; and a page of the hybrid connections with their usage.",
        role=ManagementRole.VIEWER,
        handler=_get_usage,
        query=LivePageQuery,
        answer=RelayUsage,
    ),
    Operation(
        id="getHybridConnectionUsage",
        method="GET",
        path="/v1/hybridConnections/{name}/usage",
        summary="Get the usage of a hybrid connection in this month and in earlier ones, and the limits in force.",
        role=ManagementRole.VIEWER,
        handler=_get_connection_usage,
        answer=ConnectionUsage,
    ),
)
