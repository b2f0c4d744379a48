"""The pages "Events" and "Audit": the latest events of this relay, and calls of the management API."""

from __future__ import annotations

import datetime as dt
import urllib.parse

from ..following import EventPage, EventValue
from .html import Child, h
from .layout import View
from .page import Page
from .parts import api_line, badge, button, empty, field, section, table
from .paths import path_of
from .shown import moment, name_of
from .visit import Visit

__all__ = ["EVENT_PAGES"]

_LIMIT = 100
_KINDS = {"warning": "warn", "error": "bad", "critical": "bad"}
#: Names of the events that are about calls of the management API.
_AUDIT = "management.call"


def _time(event: EventValue) -> Child:
    return moment(dt.datetime.fromisoformat(event.time).timestamp())


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _connection(event: EventValue) -> Child:
    name = event.fields.get("connection")
    return h("a", name_of(name), href=path_of(name)) if isinstance(name, str) and name else ""


async def _events(visit: Visit) -> View:
    name, connection = visit.asked("name", 64), visit.asked("connection", 260)
    query: dict[str, object] = {"newest": "true", "limit": _LIMIT}
    query |= {key: value for key, value in (("name", name), ("connection", connection)) if value}
    page = await visit.get("listEvents", EventPage, query=query)
    rows: list[list[Child]] = [
        [
            _time(event),
            badge(event.level.capitalize(), _KINDS.get(event.level, "plain")),
            [h("code", event.name), h("br"), event.summary],
            _connection(event),
            [
                [h("b", key), " ", name_of(_value(value)), " "]
                for key, value in event.fields.items()
                if key != "connection" and value not in ("", [])
            ],
        ]
        for event in reversed(page.value)
    ]
    content: Child = (
        table("Events", ("Time", "Level", "Event", "Hybrid connection", "Details"), rows)
        if rows
        else empty(
            "No event matches." if name or connection else "Nothing has happened yet.",
            h("a", "Show all events", href="/events") if name or connection else "Events appear here as they happen.",
        )
    )
    return View(
        title="Events",
        place="/events",
        content=(
            h(
                "form",
                field("Events that begin with", "name", name, type_="search", maxlength=64, placeholder="listener."),
                field("Hybrid connection", "connection", connection, type_="search", maxlength=260),
                button("Filter"),
                class_="row card",
                role="search",
            ),
            section(
                "Latest events",
                content,
                api_line(visit, f"/v1/events?{urllib.parse.urlencode(query)}"),
                id_="events",
                note="The latest 100 of the events that the relay has in memory. Its log contains all of them.",
            ),
        ),
    )


async def _audit(visit: Visit) -> View:
    query: dict[str, object] = {"newest": "true", "limit": _LIMIT, "name": _AUDIT}
    page = await visit.get("listEvents", EventPage, query=query)
    rows: list[list[Child]] = [_call(event) for event in reversed(page.value)]
    columns = ("Time", "Operation", "Result", "Caller", "Address", "About", "Request")
    content = (
        table("Calls of the management API", columns, rows)
        if rows
        else empty(
            "Nobody has changed anything yet.", "Every change, and every request that shows keys, appears here."
        )
    )
    return View(
        title="Audit",
        place="/audit",
        content=(
            section(
                "Changes, and keys that were shown",
                content,
                api_line(visit, f"/v1/events?{urllib.parse.urlencode(query)}"),
                id_="audit",
                note="Calls that change something or show keys, including refused ones. These are the latest 100 in "
                "the memory of the relay. The command hybridrelay audit shows all that are kept in its files.",
            ),
        ),
    )


def _call(event: EventValue) -> list[Child]:
    fields = event.fields
    status = fields.get("status", 0)
    is_done = isinstance(status, int) and 200 <= status < 400
    about = [_connection(event), *(f" {fields[key]}" for key in ("rule", "token") if fields.get(key))]
    caller = f"{fields['caller']} ({fields.get('role', '')})" if fields.get("caller") else "unknown"
    return [
        _time(event),
        _value(fields.get("operation_id", "")),
        badge("Done", "good") if is_done else badge(f"Refused ({status})" if status else "No response", "warn"),
        name_of(caller),
        _value(fields.get("peer", "")),
        about,
        h("code", _value(fields.get("request_id", ""))),
    ]


EVENT_PAGES: tuple[Page, ...] = (
    Page(id="showEvents", method="GET", path="/events", show=_events),
    Page(id="showAudit", method="GET", path="/audit", show=_audit),
)
