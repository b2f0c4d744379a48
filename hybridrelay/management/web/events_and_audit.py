"""The pages "Events" and "Audit": the latest events of this relay, and calls of the management API."""

from __future__ import annotations

import datetime as dt
import urllib.parse
from collections.abc import Mapping

from ..audit import AuditValue
from ..audit_entries import AuditEntry
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
    asked = {name: visit.asked(name, 512) for name in ("caller", "operation", "connection", "cursor")}
    query: dict[str, object] = {"limit": _LIMIT, **{name: value for name, value in asked.items() if value}}
    page = await visit.get("listAudit", AuditValue, query=query)
    rows = [_call(entry) for entry in page.value]
    columns = ("Time", "Operation", "Result", "Caller", "Address", "About", "Request")
    is_part = len(query) > 1
    content = (
        table("Calls of the management API", columns, rows)
        if rows
        else empty(
            "No call matches." if is_part else "Nobody has changed anything yet.",
            h("a", "Show all calls", href="/audit")
            if is_part
            else "Every change, and every request that shows keys, appears here.",
        )
    )
    return View(
        title="Audit",
        place="/audit",
        content=(
            h(
                "form",
                field("Callers that begin with", "caller", asked["caller"], type_="search", maxlength=512),
                field("Operation", "operation", asked["operation"], type_="search", maxlength=64),
                field("Hybrid connection", "connection", asked["connection"], type_="search", maxlength=260),
                button("Filter"),
                class_="row card",
                role="search",
            ),
            section(
                "Changes, and keys that were shown",
                content,
                _earlier(asked, page.next_cursor),
                api_line(visit, f"/v1/audit?{urllib.parse.urlencode(query)}"),
                id_="audit",
                note="Calls that change something or show keys, including refused ones, the latest first. The relay "
                "keeps them in files, which the command hybridrelay audit calls shows, too.",
            ),
        ),
    )


def _earlier(asked: Mapping[str, str], cursor: str | None) -> Child:
    if cursor is None:
        return None
    query = {name: value for name, value in asked.items() if value} | {"cursor": cursor}
    return h("p", h("a", "Earlier calls", href=f"/audit?{urllib.parse.urlencode(query)}", class_="button"))


def _call(entry: AuditEntry) -> list[Child]:
    about: list[Child] = []
    if entry.connection:
        about.append(h("a", name_of(entry.connection), href=path_of(entry.connection)))
    about += [f" {text}" for text in (entry.rule, entry.token) if text]
    return [
        moment(entry.time),
        entry.operation,
        _result(entry),
        name_of(f"{entry.caller} ({entry.role})" if entry.caller else "unknown"),
        entry.peer,
        about,
        h("code", entry.request_id),
    ]


def _result(entry: AuditEntry) -> Child:
    if not entry.status:
        return badge("No response", "warn")
    if not 200 <= entry.status < 400:
        return badge(f"{'Failed' if entry.status >= 500 else 'Refused'} ({entry.status})", "warn")
    return badge("Nothing changed") if entry.unchanged else badge("Done", "good")


EVENT_PAGES: tuple[Page, ...] = (
    Page(id="showEvents", method="GET", path="/events", show=_events),
    Page(id="showAudit", method="GET", path="/audit", show=_audit),
)
