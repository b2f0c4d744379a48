"""The settings of a hybrid connection: description, relays, disabled or not."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from ...http import Response
from ..problems import Problem, problem
from ..values import ConnectionBody, ConnectionValue
from .html import Child, Element, h
from .layout import View, redirect
from .messages import done
from .overview import path_of
from .page import Page
from .parts import button, field, post_form, section
from .shown import name_of, plural
from .visit import Visit

__all__ = ["SETTINGS_PAGES", "settings_section"]

#: What a request to change a hybrid connection can contain.
_FIELDS = frozenset(one.encode_name for one in msgspec.structs.fields(ConnectionBody)) - {"authorizationRules"}
_MAX_DESCRIPTION = 1024


def settings_section(visit: Visit, found: ConnectionValue, version: int | None) -> Element | None:
    """The part of the page of a hybrid connection in which administrators change it."""
    if not visit.is_admin:
        return None
    at = path_of(found.name)
    switch: Child
    if found.disabled:
        switch = post_form(f"{at}/enable", button("Enable"))
    else:
        switch = h("a", "Disable", href=f"{at}/disable", class_="button")
    return section(
        "Settings",
        post_form(
            f"{at}/change",
            field("Description", "description", found.description, maxlength=_MAX_DESCRIPTION),
            field(
                "Relays",
                "endpoints",
                ", ".join(found.endpoints),
                required=True,
                hint="The host names or addresses of all its relays. Tokens have to be for one of them.",
            ),
            button("Save"),
            version=version or 0,
        ),
        id_="settings",
        actions=switch,
        live=False,
    )


async def _change(visit: Visit) -> Response:
    form, name = await visit.form(), visit.param("name")
    version = form.get("version", "")
    if not re.fullmatch(r"[0-9]{1,18}", version):
        raise problem(Problem.INVALID, "the form has no version")
    endpoints = [host for host in re.split(r"[,\s]+", form.get("endpoints", "")) if host]
    changed = {"description": form.get("description", ""), "endpoints": endpoints}
    await _put(visit, name, changed, int(version))
    return redirect(done(path_of(name), "connection-changed"))


async def _put(visit: Visit, name: str, changed: Mapping[str, object], version: int | None = None) -> None:
    """Change some of the settings; the others stay as they are. Raises RequestError: 412 if they have changed."""
    found, present = await visit.get_versioned("getHybridConnection", ConnectionValue, name=name)
    settings = {key: value for key, value in msgspec.to_builtins(found).items() if key in _FIELDS}
    await visit.perform(
        "putHybridConnection",
        body=settings | dict(changed),
        version=present if version is None else version,
        name=name,
    )


async def _confirm_disable(visit: Visit) -> View:
    name = visit.param("name")
    found = await visit.get("getHybridConnection", ConnectionValue, name=name)
    counts = (
        plural(found.listener_count, "listener"),
        plural(found.sender_count, "sender"),
        plural(found.session_count, "session"),
    )
    return View(
        title="Disable this hybrid connection?",
        place="/connections",
        parents=(("/connections", "Connections"), (path_of(name), name)),
        is_live=False,
        content=(
            h(
                "section",
                h("p", "Name: ", h("b", name_of(name))),
                h("p", h("b", "What ends at once: "), ", ".join(counts), "."),
                h("p", "Nothing is deleted. Until it is enabled, the relay refuses its connectors and clients."),
                h(
                    "div",
                    post_form(f"{path_of(name)}/disable", button("Disable", kind="danger")),
                    h("a", "Cancel", href=path_of(name), class_="button"),
                    class_="row",
                ),
                class_="card",
            ),
        ),
    )


async def _disable(visit: Visit) -> Response:
    name = visit.param("name")
    await _put(visit, name, {"disabled": True})
    return redirect(done(path_of(name), "connection-disabled"))


async def _enable(visit: Visit) -> Response:
    name = visit.param("name")
    await _put(visit, name, {"disabled": False})
    return redirect(done(path_of(name), "connection-enabled"))


_PATH = "/connections/{name}"

SETTINGS_PAGES: tuple[Page, ...] = (
    Page(id="sendChange", method="POST", path=f"{_PATH}/change", show=_change),
    Page(id="confirmDisabling", method="GET", path=f"{_PATH}/disable", show=_confirm_disable),
    Page(id="sendDisabling", method="POST", path=f"{_PATH}/disable", show=_disable),
    Page(id="sendEnabling", method="POST", path=f"{_PATH}/enable", show=_enable),
)
