"""The page that lists the hybrid connections, and the page for deleting one."""

from __future__ import annotations

import urllib.parse

from ...http import Response
from ...security import ManagementRole
from ..values import ConnectionPage, ConnectionValue
from .confirming import confirmation
from .forms import version_untrusted
from .html import Child, h
from .layout import View, redirect
from .messages import done
from .overview import CONNECTION_COLUMNS, connection_rows
from .page import Page
from .parts import api_line, button, empty, field, post_form, section, table
from .paths import parents_of, path_of
from .shown import count, name_of, present
from .visit import Visit

__all__ = ["CONNECTIONS_PAGES"]

_PER_PAGE = 50
_API = "/v1/hybridConnections"


async def _show_all(visit: Visit) -> View:
    prefix, cursor = visit.asked("prefix", 260), visit.asked("cursor", 512)
    query: dict[str, object] = {"limit": _PER_PAGE, "prefix": prefix}
    if cursor:
        query["cursor"] = cursor
    page = await visit.get("listHybridConnections", ConnectionPage, query=query)
    search = h(
        "form",
        field("Names that begin with", "prefix", prefix, type_="search", maxlength=260),
        button("Search"),
        class_="row",
        role="search",
    )
    return View(
        title="Hybrid connections",
        place="/connections",
        actions=h("a", "Create", href="/create", class_="button primary") if visit.is_admin else None,
        content=(
            h("div", search, class_="card"),
            section(
                "Hybrid connections",
                _table(visit, page, prefix),
                _next(page, prefix),
                api_line(visit, f"{_API}?{urllib.parse.urlencode(query)}"),
                id_="connections",
            ),
        ),
    )


def _table(visit: Visit, page: ConnectionPage, prefix: str) -> Child:
    if page.value:
        return table("Hybrid connections", CONNECTION_COLUMNS, connection_rows(page.value), numeric=(2, 3, 4, 5, 6))
    if prefix:
        return empty(
            "There is no hybrid connection whose name begins with this.",
            h("a", "Show all hybrid connections", href="/connections"),
        )
    if visit.is_admin:
        return empty("There is no hybrid connection yet.", h("a", "Create one", href="/create"))
    return empty("There is no hybrid connection yet.", "An administrator of the relay creates hybrid connections.")


def _next(page: ConnectionPage, prefix: str) -> Child:
    if page.next_cursor is None:
        return None
    query = urllib.parse.urlencode({"prefix": prefix, "cursor": page.next_cursor})
    return h("p", h("a", "Next page", href=f"/connections?{query}", class_="button"))


async def _confirm_delete(visit: Visit) -> View:
    name = visit.param("name")
    found, version = await visit.get_versioned("getHybridConnection", ConnectionValue, name=name)
    ends = present(found.listener_count, found.sender_count, found.session_count)
    return confirmation(
        "Delete this hybrid connection?",
        post_form(f"{path_of(name)}/delete", button("Delete", kind="danger"), version=version or 0),
        h("p", "Name: ", h("b", name_of(name))),
        h("p", "What ends immediately: ", ends, "."),
        h(
            "p",
            f"Its rules ({count(len(found.authorization_rules))}) and their keys are deleted, too. Connection "
            "strings that were made for it never work again, not even with a new hybrid connection of the "
            "same name.",
        ),
        parents=parents_of(name),
    )


async def _delete(visit: Visit) -> Response:
    await visit.perform("deleteHybridConnection", version=version_untrusted(visit.form()), name=visit.param("name"))
    return redirect(done("/connections", "connection-deleted"))


CONNECTIONS_PAGES: tuple[Page, ...] = (
    Page(id="showHybridConnections", method="GET", path="/connections", show=_show_all),
    Page(
        id="confirmDeletion",
        method="GET",
        role=ManagementRole.ADMIN,
        path="/connections/{name}/delete",
        show=_confirm_delete,
    ),
    Page(id="sendDeletion", method="POST", path="/connections/{name}/delete", show=_delete),
)
