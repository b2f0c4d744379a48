"""The pages "Create a claim" and "Push an update": they show the command for the administrator's machine.

Both need the authority of the hybrid connection, and a claim contains a private key. The relay must have neither, and
neither must a page that the relay serves.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from ...errors import HybridRelayError
from ...security import ManagementRole, check_label, check_pin, parse_target_untrusted
from ...security.names import parse_host_untrusted
from ..values import ConnectionValue
from .html import Child, Element, h
from .layout import View
from .management_url import NEXT_LINE, at_the_relay, file_of
from .page import Page
from .parts import button, command, field
from .paths import parents_of, path_of
from .visit import Visit

__all__ = ["SEALED_PAGES", "claim_path", "update_path"]

#: How long a claim can be taken, as ``--expires`` has it.
_EXPIRIES: Mapping[str, str] = {"1h": "one hour", "24h": "one day", "7d": "a week"}
_ROLES: Mapping[str, str] = {
    "application": "Application: for forward, run, and programs that use the library",
    "connector": "Connector: for the private network",
}
_MAX_NOTE = 128


def claim_path(name: str) -> str:
    """Return the path of the page "Create a claim"."""
    return f"{path_of(name)}/create-claim"


def update_path(name: str) -> str:
    """Return the path of the page "Push an update"."""
    return f"{path_of(name)}/push-update"


async def _view(visit: Visit, title: str, about: str, form: Element, problems: list[str], shown: Child) -> View:
    name = visit.param("name")
    return View(
        title=title,
        place="/connections",
        parents=parents_of(name),
        is_live=False,
        content=(
            h("p", about),
            h("div", form, [h("p", one, class_="message bad", role="alert") for one in problems], class_="card"),
            shown,
        ),
    )


def _shown(visit: Visit, line: list[str], title: str, note: str) -> Element:
    options, where = at_the_relay(visit)
    return h(
        "section",
        h("h2", title),
        command(NEXT_LINE.join([*line, options]), f"command: {title.lower()}"),
        h("p", where, class_="note"),
        h("p", note, class_="note"),
        class_="card",
    )


def _begins_with_a_hyphen(*texts: str) -> bool:
    return any(text.startswith("-") for text in texts)


# --- claims


async def _show_claim(visit: Visit) -> View:
    visit.require_token()
    name = visit.param("name")
    await visit.get("getHybridConnection", ConnectionValue, name=name)
    role, expires = visit.asked("role", 20) or "application", visit.asked("expires", 20) or "24h"
    label, note = visit.asked("label", 100), visit.asked("note", 600)
    problems = _problems_of_claim(role, expires, label, note) if label or note else []
    roles = [
        h("label", h("input", type="radio", name="role", value=one, checked=one == role), meaning)
        for one, meaning in _ROLES.items()
    ]
    form = h(
        "form",
        h("fieldset", h("legend", "For"), roles),
        field("Label", "label", label, required=True, maxlength=64,
              hint="The name of the new identity in the audit log of the connector, such as billing."),
        field("Note", "note", note, maxlength=_MAX_NOTE, hint="For the list of claims. The relay sees it."),
        h("div", h("label", "Expires after", for_="field-expires"),
          h("select", [h("option", text, value=one, selected=one == expires) for one, text in _EXPIRIES.items()],
            id="field-expires", name="expires"), class_="field"),
        button("Show the command", kind="primary"),
    )  # fmt: skip
    shown: Child = None
    if label and not problems:
        line = [
            f"hybridrelay claims create {shlex.quote(name)}",
            f"--role {role} --label {shlex.quote(label)} --expires {expires}",
            *([f"--note {shlex.quote(note)}"] if note else []),
            f"--authority-file {file_of(name)}.authority",
        ]
        shown = _shown(
            visit,
            line,
            "Create the claim",
            "The command shows a code, once, and the claim appears on the page of the hybrid connection. On the "
            "machine that needs the connection string, take the claim with this code: hybridrelay claims take.",
        )
    about = (
        "A claim brings a connection string to its machine. It is sealed on your own machine, so that the relay, "
        "which keeps it until it is taken, cannot read it."
    )
    return await _view(visit, "Create a claim", about, form, problems, shown)


def _problems_of_claim(role: str, expires: str, label: str, note: str) -> list[str]:
    found = []
    if role not in _ROLES or expires not in _EXPIRIES:
        found.append("Choose one of the values in the form.")
    try:
        check_label(label)
    except ValueError as exc:
        found.append(f"Label: {exc}.")
    if len(note) > _MAX_NOTE or not note.isprintable():
        found.append(f"Note: enter at most {_MAX_NOTE} printable characters.")
    if _begins_with_a_hyphen(label, note):
        found.append("A label or note must not begin with a hyphen.")
    return found


# --- updates


async def _show_update(visit: Visit) -> View:
    visit.require_token()
    name = visit.param("name")
    await visit.get("getHybridConnection", ConnectionValue, name=name)
    target = visit.asked("target", 300).strip()
    relays, pins = (visit.asked(one, 1000).replace(",", " ").split() for one in ("relays", "pins"))
    problems = _problems_of_update(target, relays, pins) if target or relays or pins else []
    form = h(
        "form",
        field("Target", "target", target, maxlength=300,
              hint="The host and port to which connectors connect from now on, such as db2.internal:5432. Empty: it "
              "stays as it is."),
        field("Relays", "relays", " ".join(relays), maxlength=1000,
              hint="The host names of all relays, in order, with spaces between them. Empty: they stay as they are."),
        field("Pins", "pins", " ".join(pins), maxlength=1000,
              hint="The pins of all relays, sha256:..., with spaces between them. Empty: they stay as they are."),
        button("Show the command", kind="primary"),
    )  # fmt: skip
    shown: Child = None
    if (target or relays or pins) and not problems:
        line = [
            f"hybridrelay updates push {shlex.quote(name)}",
            *([f"--target {shlex.quote(target)}"] if target else []),
            *(f"--endpoint {shlex.quote(one)}" for one in relays),
            *(f"--relay-pin {shlex.quote(one)}" for one in pins),
            f"--authority-file {file_of(name)}.authority",
        ]
        shown = _shown(
            visit,
            line,
            "Push the update",
            "With several relays, push the update at each of them. The page of the hybrid connection then shows "
            "which programs do not have it yet.",
        )
    about = (
        "An update changes connection strings that are in use, without a restart. It is signed and encrypted on your "
        "own machine, so that the relay can neither make nor read one."
    )
    return await _view(visit, "Push an update", about, form, problems, shown)


def _problems_of_update(target: str, relays: list[str], pins: list[str]) -> list[str]:
    found = []
    try:
        if target:
            parse_target_untrusted(target)
    except (ValueError, HybridRelayError) as exc:
        found.append(f"Target: {exc}.")
    try:
        for one in relays:
            parse_host_untrusted(one, about_ports="connection strings carry the ports")
    except (ValueError, HybridRelayError) as exc:
        found.append(f"Relays: {exc}.")
    try:
        for one in pins:
            check_pin(one)
    except ValueError as exc:
        found.append(f"Pins: {exc}.")
    if _begins_with_a_hyphen(target, *relays, *pins):
        found.append("A name or an address must not begin with a hyphen.")
    return found


SEALED_PAGES: tuple[Page, ...] = (
    Page(
        id="showClaimCreation",
        method="GET",
        role=ManagementRole.ADMIN,
        path="/connections/{name}/create-claim",
        show=_show_claim,
    ),
    Page(
        id="showUpdatePush",
        method="GET",
        role=ManagementRole.ADMIN,
        path="/connections/{name}/push-update",
        show=_show_update,
    ),
)
