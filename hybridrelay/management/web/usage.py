"""Parts of pages that show the usage of this month and of earlier ones, and the limits."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from ..sizes import bytes_of
from ..usage import ConnectionUsage, PeriodUsage, RelayUsage
from .html import Child, Element, h
from .parts import api_line, empty, figure, linked, meter, section, table
from .paths import path_of
from .shown import count, name_of, segment
from .visit import Visit

__all__ = ["connection_usage_section", "month_figure", "relay_usage_section"]

_PERIOD_COLUMNS = ("Month", "To clients", "To connectors", "Total", "Joins")


def _month(period: PeriodUsage) -> str:
    return dt.datetime.fromtimestamp(period.begin, dt.UTC).strftime("%B %Y")


def month_figure(period: PeriodUsage, allowed: int | None, *, href: str) -> Element:
    """Make the number at the top of a page that shows the amount of data in this month."""
    note = f"of {bytes_of(allowed)} in {_month(period)}" if allowed is not None else f"in {_month(period)} (UTC)"
    return figure("Data", bytes_of(period.bytes), href=href, note=note)


def _bar(label: str, used: int, allowed: int | None, *, is_bytes: bool = False) -> Element:
    show = bytes_of if is_bytes else count
    if allowed is None:
        return h(
            "div",
            h("span", label, class_="meter-label"),
            h("span", "no limit", class_="note"),
            h("span", show(used), class_="meter-text"),
            class_="meter",
        )
    return meter(label, min(used, allowed), allowed, f"{show(used)} of {show(allowed)}")


def _earlier(periods: Sequence[PeriodUsage]) -> Child:
    if not periods:
        return None
    rows = [
        [
            _month(one),
            bytes_of(one.bytes_to_client),
            bytes_of(one.bytes_to_connector),
            bytes_of(one.bytes),
            count(one.joins),
        ]
        for one in periods
    ]
    content = table("Earlier months", _PERIOD_COLUMNS, rows, numeric=(1, 2, 3, 4))
    return h("details", h("summary", "Earlier months"), content)


def connection_usage_section(visit: Visit, found: ConnectionUsage) -> Element:
    """Make the part that compares the usage of a hybrid connection, now and in this month, with its limits."""
    limits = found.limits
    return section(
        "Usage",
        _bar(f"Data in {_month(found.usage)}", found.usage.bytes, limits.bytes_per_month, is_bytes=True),
        _bar("Listeners", found.listeners, limits.listeners),
        _bar("Senders", found.senders, limits.senders),
        _bar("Sessions", found.sessions, limits.sessions),
        h("p", f"Data moves at no more than {bytes_of(limits.bytes_per_second)} per second.", class_="note")
        if limits.bytes_per_second is not None
        else None,
        _earlier(found.earlier),
        api_line(visit, f"/v1/hybridConnections/{segment(found.name)}/usage"),
        id_="usage",
        note="The limits are those of the hybrid connection, or else of its edition, or else the defaults. Months "
        "are in UTC.",
    )


def relay_usage_section(visit: Visit, found: RelayUsage) -> Element:
    """Make the part that compares the usage of all hybrid connections with what the relay's edition allows."""
    rows: list[list[Child]] = [
        [
            h("a", name_of(one.name), href=path_of(one.name)),
            *(
                linked(text, f"/v1/hybridConnections/{segment(one.name)}/usage")
                for text in (
                    bytes_of(one.usage.bytes_to_client),
                    bytes_of(one.usage.bytes_to_connector),
                    bytes_of(one.usage.bytes),
                    "no limit" if one.limits.bytes_per_month is None else bytes_of(one.limits.bytes_per_month),
                )
            ),
        ]
        for one in found.value
    ]
    columns = ("Hybrid connection", "To clients", "To connectors", "Total", "Limit")
    return section(
        f"Usage in {_month(found.usage)}",
        _bar("Hybrid connections", found.connections.used, found.connections.allowed),
        _bar("Data", found.bytes.used, found.bytes.allowed, is_bytes=True),
        table("Usage by hybrid connection", columns, rows, numeric=(1, 2, 3, 4))
        if rows
        else empty("There is no hybrid connection yet."),
        h("p", "The API lists the others.", class_="note") if found.next_cursor else None,
        _earlier(found.earlier),
        api_line(visit, "/v1/usage"),
        id_="usage",
        note="Months are in UTC. The totals include hybrid connections that were deleted.",
    )
