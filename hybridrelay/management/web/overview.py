"""The page "Dashboard": first the problems, then the current numbers, then the hybrid connections."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from ...relay.snapshot import ConnectionSnapshot
from ..live_values import RelayProblem, RelayValue
from ..sizes import bytes_of
from ..usage import RelayUsage
from ..values import ConnectionPage, ConnectionValue
from .charts import CHART_FILES, CHARTS, RANGES, chart_section, charts_div, drawn, start_note
from .html import Child, Element, h
from .layout import View
from .page import Page
from .parts import api_line, badge, empty, figure, figures, linked, section, table
from .paths import path_of
from .scale import capacity_section
from .shown import count, moment, name_of, plural, segment
from .usage import month_figure
from .visit import Visit

__all__ = ["CONNECTION_COLUMNS", "OVERVIEW_PAGES", "connection_rows", "state_of"]

_SHOWN_PROBLEMS, _MAX_PROBLEMS = 8, 40
_SHOWN_CONNECTIONS = 25
#: How many numbers are added up before other tasks of the relay may run.
_AT_A_TIME = 100
_RELAY = "/v1/relay"
_CONNECTIONS = "/v1/hybridConnections"


async def _overview(visit: Visit) -> View:
    relay = await visit.get_if_allowed("getRelay", RelayValue) if visit.caller.sees(None) else None
    usage = None if relay is None else await visit.get("getUsage", RelayUsage, query={"limit": 1})
    page = await visit.get("listHybridConnections", ConnectionPage, query={"limit": _SHOWN_CONNECTIONS})
    if relay is not None:
        problems = relay.problems
    else:
        problems = tuple(_unserved(one.name) for one in page.value if not (one.listener_count or one.disabled))
    return View(
        title="Dashboard",
        place="/",
        files=CHART_FILES,
        actions=_state(relay),
        content=(
            _problems(visit, problems, is_whole=relay is not None),
            _figures(relay, await _total(visit) if usage is None else ConnectionSnapshot(), usage),
            await _data(visit),
            _connections(visit, page),
            None if relay is None else capacity_section(visit, relay),
            None if relay is None else _about(visit, relay),
        ),
    )


def _unserved(name: str) -> RelayProblem:
    return RelayProblem(
        code="no-listener",
        detail=f"no connector listens for {name}",
        remedy="start the connector, or check its log to see why it is not registered",
        connection=name,
    )


def _state(relay: RelayValue | None) -> Element | None:
    if relay is None:
        return None
    state = badge("Draining", "warn") if relay.draining_since is not None else badge("Serving", "good")
    return h("span", state, id="state", data_live=True)


def _problems(visit: Visit, problems: Sequence[RelayProblem], *, is_whole: bool) -> Element:
    rows = [_problem(visit, one) for one in problems]
    shown, more = rows[:_SHOWN_PROBLEMS], rows[_SHOWN_PROBLEMS:_MAX_PROBLEMS]
    rest = len(rows) - len(shown) - len(more)
    content: list[Child] = []
    if not rows:
        content.append(h("p", badge("No problems", "good"), " Everything that this relay can see is in order."))
    else:
        content.append(h("ul", shown, class_="problems"))
    if more:
        listed = h("ul", more, class_="problems")
        last = h("p", f"And {count(rest)} more, which the API lists.", class_="note") if rest else None
        content.append(h("details", h("summary", plural(len(more) + rest, "more problem")), listed, last))
    content.append(api_line(visit, _RELAY if is_whole else _CONNECTIONS))
    return section("Problems", content, id_="problems")


def _remedy(visit: Visit, one: RelayProblem) -> Child:
    """Return what to do about a problem: a link, if this caller can do it on a page."""
    if one.code not in {"quota-near", "quota-reached"} or not visit.is_admin or visit.caller.scope.only is not None:
        return one.remedy
    if one.connection is None:
        return ["raise the limit if it is too low: ", h("a", "change the edition", href="/scale#edition")]
    link = h("a", "change the limits", href=f"{path_of(one.connection)}#limits")
    return ["raise the limit if it is too low: ", link]


def _problem(visit: Visit, one: RelayProblem) -> Element:
    is_bad = one.code in {"certificate-expired", "pairs", "control-channels"}
    detail = one.detail[:1].upper() + one.detail[1:]
    return h(
        "li",
        badge("Error" if is_bad else "Warning", "bad" if is_bad else "warn"),
        h(
            "div",
            h("p", h("a", h("bdi", detail), href=path_of(one.connection)) if one.connection else h("bdi", detail)),
            h("p", "What to do: ", _remedy(visit, one), class_="note"),
        ),
    )


async def _data(visit: Visit) -> Element:
    """Make the chart of the last hour."""
    shown = await drawn(visit, RANGES["1h"])
    more = h("a", "Monitor", href="/monitor", class_="button")
    return charts_div([chart_section(visit, CHARTS[0], shown, more=more, note=start_note(shown))], shown)


async def _total(visit: Visit) -> ConnectionSnapshot:
    """Add up the numbers of all hybrid connections that the caller may see."""
    live, total = visit.managed.relay, ConnectionSnapshot()
    for number, name in enumerate(live.connection_names()):
        if number % _AT_A_TIME == 0:
            await trio.lowlevel.checkpoint()
        if visit.caller.sees(name):
            total += live.connection(name)
    return total


def _figures(relay: RelayValue | None, total: ConnectionSnapshot, usage: RelayUsage | None) -> Element:
    if relay is None or usage is None:
        moved = total.bytes_to_client + total.bytes_to_connector
        return figures(
            figure("Listeners", count(total.listeners), href="/v1/listeners"),
            figure("Senders", count(total.senders), href="/v1/senders"),
            figure("Sessions", count(total.sessions), href="/v1/sessions"),
            figure("Data", bytes_of(moved), href=_CONNECTIONS, note="since the relay was started"),
            id_="figures",
        )
    allowed = usage.connections.allowed
    of_edition = None if allowed is None else f"of {count(allowed)} ({usage.edition})"
    return figures(
        figure("Hybrid connections", count(relay.connection_count), href="/v1/usage", note=of_edition),
        month_figure(usage.usage, usage.bytes.allowed, href="/v1/usage"),
        figure("Listeners", count(relay.listener_count), href="/v1/listeners", note="registered connectors"),
        figure("Senders", count(relay.sender_count), href="/v1/senders", note="connected clients"),
        figure("Sessions", count(relay.session_count), href="/v1/sessions", note="running now"),
        id_="figures",
    )


def connection_rows(connections: Sequence[ConnectionValue]) -> list[list[Child]]:
    """Return the rows of a table of hybrid connections."""
    rows: list[list[Child]] = []
    for one in connections:
        at = f"{_CONNECTIONS}/{segment(one.name)}"
        rows.append(
            [
                h("a", name_of(one.name), href=path_of(one.name)),
                state_of(one),
                linked(count(one.listener_count), f"{at}/listeners"),
                linked(count(one.sender_count), f"{at}/senders"),
                linked(count(one.session_count), f"{at}/sessions"),
                linked(bytes_of(one.bytes_to_client), at),
                linked(bytes_of(one.bytes_to_connector), at),
            ]
        )
    return rows


def state_of(one: ConnectionValue) -> Element:
    """Make the badge with the state of a hybrid connection."""
    if one.disabled:
        return badge("Disabled")
    return badge("Listening", "good") if one.listener_count else badge("No listener", "warn")


CONNECTION_COLUMNS = ("Name", "State", "Listeners", "Senders", "Sessions", "To clients", "To connectors")


def _connections(visit: Visit, page: ConnectionPage) -> Element:
    actions = h("a", "Create", href="/create", class_="button primary") if visit.is_admin else None
    if not page.value:
        content: Child = empty(
            "There is no hybrid connection yet.",
            h("a", "Create one", href="/create")
            if visit.is_admin
            else "An administrator of the relay creates hybrid connections.",
        )
    else:
        content = table(
            "Hybrid connections", CONNECTION_COLUMNS, connection_rows(page.value), numeric=(2, 3, 4, 5, 6)
        )
    more = h("p", h("a", "All hybrid connections", href="/connections")) if page.next_cursor else None
    return section(
        "Hybrid connections", content, more, api_line(visit, _CONNECTIONS), id_="connections", actions=actions
    )


def _about(visit: Visit, relay: RelayValue) -> Element:
    ports = [h("li", h("b", name), " ", ", ".join(addresses)) for name, addresses in (relay.ports or {}).items()]
    certificates = [
        h("li", h("b", one.name), " expires ", moment(one.expires_at)) for one in relay.certificates or ()
    ]
    return section(
        "This relay",
        h(
            "dl",
            h("div", h("dt", "Version"), h("dd", relay.version)),
            h("div", h("dt", "Pin"), h("dd", h("code", relay.pin))),
            h("div", h("dt", "Ports"), h("dd", h("ul", ports))),
            h("div", h("dt", "Certificates that expire"), h("dd", h("ul", certificates) if certificates else "none")),
            class_="facts",
        ),
        api_line(visit, _RELAY),
        id_="relay",
    )


OVERVIEW_PAGES: tuple[Page, ...] = (Page(id="showDashboard", method="GET", path="/", show=_overview),)
