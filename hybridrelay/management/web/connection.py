"""The page of a hybrid connection: its listeners, senders and sessions, with buttons to end them, its rules, and what
is on its way to programs."""

from __future__ import annotations

from ...http import Response
from ..live_values import Dropped, ListenerDrain, ListenerPage, ListenerValue, SenderPage, SenderValue, SessionPage
from ..sizes import bytes_of
from ..usage import ConnectionUsage
from ..values import ConnectionValue
from .distribution import distribution_sections
from .html import Child, Element, h
from .layout import View, redirect
from .messages import done
from .overview import state_of
from .page import Page
from .parts import api_line, badge, button, empty, figure, figures, identity, linked, post_form, section, table
from .paths import CONNECTIONS, path_of
from .rules import rules_section
from .settings import settings_sections
from .shown import count, moment, name_of, segment
from .usage import connection_usage_section, month_figure
from .visit import Visit

__all__ = ["CONNECTION_PAGES"]

_SHOWN = 50
_LIMIT = {"limit": _SHOWN}


async def _show(visit: Visit) -> View:
    name = visit.param("name")
    found, version = await visit.get_versioned("getHybridConnection", ConnectionValue, name=name)
    listeners = await visit.get("listListeners", ListenerPage, query=_LIMIT, name=name)
    senders = await visit.get("listSenders", SenderPage, query=_LIMIT, name=name)
    usage = await visit.get("getHybridConnectionUsage", ConnectionUsage, name=name)
    sessions = await visit.get("listSessions", SessionPage, query=_LIMIT, name=name)
    return View(
        title=name,
        is_named=True,
        place="/connections",
        parents=(CONNECTIONS,),
        actions=(
            h("span", state_of(found), id="state", data_live=True),
            h("a", "Charts", href=f"/monitor?connection={segment(name)}", class_="button"),
        ),
        content=(
            h("p", name_of(found.description), class_="note") if found.description else None,
            _figures(found, usage),
            section(
                "Listeners",
                _listeners(visit, found, listeners),
                api_line(visit, f"{_api(name)}/listeners"),
                id_="listeners",
                note="The connectors that are registered at this relay. The column Target shows what each has "
                "reported about its target. The column Chosen shows how often, and why, this relay has chosen it for "
                "a new session.",
            ),
            section(
                "Senders",
                _senders(visit, name, senders),
                api_line(visit, f"{_api(name)}/senders"),
                id_="senders",
                note="The clients that are connected to this relay.",
            ),
            section(
                "Sessions",
                _sessions(visit, name, sessions),
                api_line(visit, f"{_api(name)}/sessions"),
                id_="sessions",
                note="The pairs of data channels that the relay has joined.",
            ),
            connection_usage_section(visit, usage),
            rules_section(visit, found),
            await distribution_sections(visit, found),
            await settings_sections(visit, found, version),
            _about(visit, found),
        ),
    )


def _api(name: str) -> str:
    return f"/v1/hybridConnections/{segment(name)}"


def _figures(found: ConnectionValue, usage: ConnectionUsage) -> Element:
    api = _api(found.name)
    return figures(
        figure("Listeners", count(found.listener_count), href=f"{api}/listeners"),
        figure("Senders", count(found.sender_count), href=f"{api}/senders"),
        figure("Sessions", count(found.session_count), href=f"{api}/sessions"),
        month_figure(usage.usage, usage.limits.bytes_per_month, href=f"{api}/usage"),
        id_="figures",
    )


def _more(next_cursor: str | None, href: str) -> Child:
    if next_cursor is None:
        return None
    return h(
        "p", f"These are the first {_SHOWN}. ", h("a", "The API lists all of them", href=href), ".", class_="note"
    )


def _drop(visit: Visit, action: str, label: str) -> Child:
    return post_form(action, button("Drop", kind="quiet", label=label)) if visit.is_operator else None


def _drain(visit: Visit, path: str, one: ListenerValue) -> Child:
    """Return whether a listener is drained, and the button that changes this."""
    state = "drained " if one.draining else ""
    if not visit.is_operator:
        return state
    if one.draining:
        action, text = "undo-drain", "Undo drain"
    else:
        action, text = "drain", "Drain"
    label = f"{text} of listener {one.instance[:12]}" if one.draining else f"{text} listener {one.instance[:12]}"
    return [state, post_form(f"{path}/{action}", button(text, kind="quiet", label=label))]


def _peer(one: ListenerValue | SenderValue, href: str) -> list[Child]:
    # A sender has an id besides its instance. Commands and the API use this id to drop the sender.
    others = [("Sender", one.id)] if isinstance(one, SenderValue) else []
    return [
        identity(one.instance, *others),
        f"{one.address} ({one.transport})",
        name_of(one.software or "unknown"),
        f"{one.rule}, {one.slot}",
        moment(one.since),
        linked(count(one.sessions), href),
        linked(bytes_of(one.bytes_to_client), href),
        linked(bytes_of(one.bytes_to_connector), href),
    ]


_PEER_COLUMNS = (
    "Instance", "Address", "Software", "Key", "Since", "Sessions", "To clients", "To connectors", "",
)  # fmt: skip


#: The kind of badge for what a connector reports about its target.
_TARGETS = {"healthy": "good", "unhealthy": "bad"}


def _listeners(visit: Visit, found: ConnectionValue, page: ListenerPage) -> Child:
    name = found.name
    if found.disabled and not page.value:
        return empty(
            "No connector listens, because the hybrid connection is disabled.",
            "Connectors that are running register again within a minute after it is enabled.",
        )
    if not page.value:
        return empty(
            "No connector listens.",
            "Start the connector in the private network: hybridrelay connector --connection-string-file FILE. If it "
            "is running, its log says why it is not registered, and hybridrelay probe shows which routes work.",
        )
    rows = [
        [
            *_peer(one, f"{_api(name)}/listeners"),
            badge(one.target.capitalize(), _TARGETS.get(one.target, "plain")),
            one.choices or "never",
            [
                _drain(visit, f"{path_of(name)}/listeners/{segment(one.instance)}", one),
                _drop(
                    visit,
                    f"{path_of(name)}/listeners/{segment(one.instance)}/drop",
                    f"Drop listener {one.instance[:12]}",
                ),
            ],
        ]
        for one in page.value
    ]
    return [
        table("Listeners", (*_PEER_COLUMNS[:-1], "Target", "Chosen", ""), rows, numeric=(5, 6, 7)),
        _more(page.next_cursor, f"{_api(name)}/listeners"),
    ]


def _senders(visit: Visit, name: str, page: SenderPage) -> Child:
    if not page.value:
        return empty(
            "No client is connected.",
            "A client connects when an application needs it. Start one beside the application: hybridrelay forward "
            "--connection-string-file FILE --listen 127.0.0.1:PORT.",
        )
    rows = [
        [
            *_peer(one, f"{_api(name)}/senders"),
            _drop(visit, f"{path_of(name)}/senders/{segment(one.id)}/drop", f"Drop sender {one.id}"),
        ]
        for one in page.value
    ]
    return [
        table("Senders", _PEER_COLUMNS, rows, numeric=(5, 6, 7)),
        _more(page.next_cursor, f"{_api(name)}/senders"),
    ]


def _sessions(visit: Visit, name: str, page: SessionPage) -> Child:
    if not page.value:
        return empty("There is no session.", "A session begins when an application opens its first connection.")
    rows = [
        [
            identity(one.id),
            f"{one.sender.address} ({one.sender.transport})",
            f"{one.listener.address} ({one.listener.transport})",
            f"{one.sender.rule}, {one.sender.slot}",
            moment(one.since),
            linked(bytes_of(one.bytes_to_client), f"{_api(name)}/sessions"),
            linked(bytes_of(one.bytes_to_connector), f"{_api(name)}/sessions"),
            _drop(visit, f"{path_of(name)}/sessions/{segment(one.id)}/drop", f"Drop session {one.id[:12]}"),
        ]
        for one in page.value
    ]
    columns = ("Session", "Client", "Connector", "Client's key", "Since", "To clients", "To connectors", "")
    return [table("Sessions", columns, rows, numeric=(5, 6)), _more(page.next_cursor, f"{_api(name)}/sessions")]


def _about(visit: Visit, found: ConnectionValue) -> Element:
    metadata = [h("li", h("b", name_of(key)), " ", name_of(value)) for key, value in sorted(found.metadata.items())]
    return section(
        "About",
        h(
            "dl",
            h("div", h("dt", "Relays"), h("dd", ", ".join(found.endpoints))),
            h("div", h("dt", "Created"), h("dd", moment(found.created_at))),
            h("div", h("dt", "Changed"), h("dd", moment(found.updated_at))),
            h("div", h("dt", "Metadata"), h("dd", h("ul", metadata) if metadata else "none")),
            h("div", h("dt", "Target"), h("dd", "known to the connector only; the relay never sees it")),
            class_="facts",
        ),
        h("p", h("a", "Delete this hybrid connection", href=f"{path_of(found.name)}/delete", class_="button danger"))
        if visit.is_admin
        else None,
        api_line(visit, _api(found.name)),
        id_="about",
    )


async def _drop_listener(visit: Visit) -> Response:
    name = visit.param("name")
    dropped = await visit.get("dropListener", Dropped, name=name, instance=visit.param("instance"))
    return redirect(done(path_of(name), "listener-dropped" if dropped.ended else "had-ended"))


async def _drain_listener(visit: Visit) -> Response:
    return await _set_draining(visit, "drainListener", "listener-drained")


async def _undo_drain_listener(visit: Visit) -> Response:
    return await _set_draining(visit, "undoDrainListener", "listener-accepting")


async def _set_draining(visit: Visit, operation: str, message: str) -> Response:
    name = visit.param("name")
    answer = await visit.get(operation, ListenerDrain, name=name, instance=visit.param("instance"))
    return redirect(done(path_of(name), message if answer.changed else "not-changed"))


async def _drop_sender(visit: Visit) -> Response:
    name = visit.param("name")
    dropped = await visit.get("dropSender", Dropped, name=name, sender=visit.param("sender"))
    return redirect(done(path_of(name), "sender-dropped" if dropped.ended else "had-ended"))


async def _drop_session(visit: Visit) -> Response:
    name = visit.param("name")
    dropped = await visit.get("dropSession", Dropped, name=name, session=visit.param("session"))
    return redirect(done(path_of(name), "session-dropped" if dropped.ended else "had-ended"))


_PATH = "/connections/{name}"

CONNECTION_PAGES: tuple[Page, ...] = (
    Page(id="showHybridConnection", method="GET", path=_PATH, show=_show),
    Page(id="sendListenerDrop", method="POST", path=f"{_PATH}/listeners/{{instance}}/drop", show=_drop_listener),
    Page(id="sendListenerDrain", method="POST", path=f"{_PATH}/listeners/{{instance}}/drain", show=_drain_listener),
    Page(
        id="sendListenerDrainUndo",
        method="POST",
        path=f"{_PATH}/listeners/{{instance}}/undo-drain",
        show=_undo_drain_listener,
    ),
    Page(id="sendSenderDrop", method="POST", path=f"{_PATH}/senders/{{sender}}/drop", show=_drop_sender),
    Page(id="sendSessionDrop", method="POST", path=f"{_PATH}/sessions/{{session}}/drop", show=_drop_session),
)
