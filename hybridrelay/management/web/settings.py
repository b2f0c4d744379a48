"""The settings of a hybrid connection: its description, relays and limits, and whether it is disabled."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ...http import RequestError, Response
from ...relay.limits import LISTENERS_PER_CONNECTION
from ...security import ManagementRole
from ..quotas import EditionList
from ..values import ConnectionValue
from .confirming import confirmation
from .editions import edition_choice
from .forms import NOTHING_ENTERED, Entered, refused, version_untrusted
from .html import Child, Element, h
from .layout import View, redirect
from .limits import LIMIT_FIELDS, limit_fields, parse_limits
from .messages import done
from .page import Page
from .parts import button, field, post_form, section
from .paths import parents_of, path_of
from .shown import name_of, present
from .visit import Visit

__all__ = ["SETTINGS_PAGES", "settings_sections"]

_MAX_DESCRIPTION = 1024
_EMPTY = (
    "For an empty field, the limit of the edition applies. If the edition has none, there is no limit, except for "
    f"listeners: {LISTENERS_PER_CONNECTION} by default."
)


async def settings_sections(visit: Visit, found: ConnectionValue, version: int | None) -> Child:
    """Make the parts of a hybrid connection's page in which administrators change it."""
    if not visit.is_admin:
        return None
    # A caller with a key that has the right Manage can neither change limits, nor enable or disable the hybrid
    # connection.
    editions = await visit.get_if_allowed("listEditions", EditionList) if visit.caller.scope.only is None else None
    switch = None if visit.caller.scope.only is not None else _switch(found, str(version or 0))
    return [
        section("Settings", _settings_form(found, str(version or 0)), id_="settings", actions=switch, live=False),
        None
        if editions is None
        else section("Limits", _limits_form(found, str(version or 0), editions), id_="limits", live=False),
    ]


def _limits_form(
    found: ConnectionValue, version: str, editions: EditionList, entered: Entered = NOTHING_ENTERED
) -> Element:
    return post_form(
        f"{path_of(found.name)}/limits",
        h("p", _EMPTY, class_="note"),
        edition_choice(editions, entered.value("edition", found.edition or ""), "None"),
        limit_fields(found.limits, unset="As the edition says", entered=entered),
        button("Save limits"),
        version=version,
    )


def _switch(found: ConnectionValue, version: str) -> Element:
    if found.disabled:
        return post_form(f"{path_of(found.name)}/enable", button("Enable"), version=version)
    return h("a", "Disable", href=f"{path_of(found.name)}/disable", class_="button")


def _settings_form(found: ConnectionValue, version: str, entered: Entered = NOTHING_ENTERED) -> Element:
    return post_form(
        f"{path_of(found.name)}/change",
        field(
            "Description",
            "description",
            entered.value("description", found.description),
            maxlength=_MAX_DESCRIPTION,
            error=entered.error("description"),
        ),
        field(
            "Relays",
            "endpoints",
            entered.value("endpoints", ", ".join(found.endpoints)),
            required=True,
            hint="The host names or addresses of all its relays. The signatures of connectors and clients have to be "
            "for one of them.",
            error=entered.error("endpoints"),
        ),
        button("Save"),
        version=version,
    )


async def _current(visit: Visit, name: str, version: str, *, is_outdated: bool) -> tuple[ConnectionValue, str]:
    """Return the hybrid connection, and the version for a form that is shown again."""
    found, newest = await visit.get_versioned("getHybridConnection", ConnectionValue, name=name)
    return found, str(newest or 0) if is_outdated else version


async def _change(visit: Visit) -> View | Response:
    form, name = visit.form(), visit.param("name")
    endpoints = [host for host in re.split(r"[,\s]+", form.get("endpoints", "")) if host]
    changed = {"description": form.get("description", ""), "endpoints": endpoints}
    version = form.get("version", "")
    try:
        await _patch(visit, name, changed)
    except RequestError as exc:
        refusal = refused(exc, form, ("description", "endpoints"))
        found, version = await _current(visit, name, version, is_outdated=refusal.is_outdated)
        content = _settings_form(found, version, refusal.entered)
        return refusal.view("Settings", content, place="/connections", parents=parents_of(name))
    return redirect(done(path_of(name), "connection-changed"))


async def _limit(visit: Visit) -> View | Response:
    form, name = visit.form(), visit.param("name")
    version = form.get("version", "")
    try:
        changed = {"edition": form.get("edition") or None, "limits": parse_limits(form)}
        await _patch(visit, name, changed)
    except RequestError as exc:
        refusal = refused(exc, form, LIMIT_FIELDS)
        found, version = await _current(visit, name, version, is_outdated=refusal.is_outdated)
        content = _limits_form(found, version, await visit.get("listEditions", EditionList), refusal.entered)
        return refusal.view("Limits", content, place="/connections", parents=parents_of(name))
    return redirect(done(path_of(name), "limits-changed"))


async def _patch(visit: Visit, name: str, changed: Mapping[str, object]) -> None:
    """Change some of the settings, as a form says.

    Raises:
        RequestError: the change was refused; with 412, because another administrator has changed the hybrid
            connection since the form was shown.
    """
    version = version_untrusted(visit.form())
    await visit.perform("patchHybridConnection", body=changed, version=version, name=name)


async def _confirm_disable(visit: Visit) -> View:
    visit.require_token()
    name = visit.param("name")
    found, version = await visit.get_versioned("getHybridConnection", ConnectionValue, name=name)
    ends = present(found.listener_count, found.sender_count, found.session_count)
    return confirmation(
        "Disable this hybrid connection?",
        post_form(f"{path_of(name)}/disable", button("Disable", kind="danger"), version=version or 0),
        h("p", "Name: ", h("b", name_of(name))),
        h("p", h("b", "What ends immediately: "), ends, "."),
        h(
            "p",
            "Nothing is deleted. Until it is enabled again, the relay refuses its connectors and clients.",
        ),
        parents=parents_of(name),
    )


async def _disable(visit: Visit) -> Response:
    name = visit.param("name")
    await _patch(visit, name, {"disabled": True})
    return redirect(done(path_of(name), "connection-disabled"))


async def _enable(visit: Visit) -> Response:
    name = visit.param("name")
    await _patch(visit, name, {"disabled": False})
    return redirect(done(path_of(name), "connection-enabled"))


_PATH = "/connections/{name}"

SETTINGS_PAGES: tuple[Page, ...] = (
    Page(id="sendLimits", method="POST", path=f"{_PATH}/limits", show=_limit),
    Page(id="sendChange", method="POST", path=f"{_PATH}/change", show=_change),
    Page(
        id="confirmDisabling", method="GET", role=ManagementRole.ADMIN, path=f"{_PATH}/disable", show=_confirm_disable
    ),
    Page(id="sendDisabling", method="POST", path=f"{_PATH}/disable", show=_disable),
    Page(id="sendEnabling", method="POST", path=f"{_PATH}/enable", show=_enable),
)
