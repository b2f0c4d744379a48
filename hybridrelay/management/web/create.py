"""The page "Create": shows the commands for the administrator's machine, because the relay never creates
identities."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

from ...connectivity import all_ports, discover
from ...errors import HybridRelayError
from ...http import RequestError
from ...relay import Binding
from ...security import check_connection_name
from ...security.names import parse_host_untrusted
from ..live_values import RelayValue
from .html import Child, h
from .layout import View
from .page import Page
from .parts import button, command, field
from .shown import segment
from .visit import Visit

__all__ = ["CREATE_PAGES", "commands"]

_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_STATE = "/var/lib/hybridrelay"


def commands(
    name: str, target: str, endpoint: str, *, pin: str = "", ports: str = "", state: str = _STATE
) -> tuple[str, str, str, str]:
    """Return the command lines, one for each step, quoted for a shell.

    Args:
        name: the name of the hybrid connection.
        target: the address that the connector connects to.
        endpoint: the relay's host name or address.
        pin: the relay's pin; omitted if empty.
        ports: the value of ``--public-ports``; omitted if empty.
        state: the relay's state directory.
    """
    file = re.sub(r"[^A-Za-z0-9._-]", "-", name).strip("-.")[:100] or "connection"
    create = [
        f"hybridrelay connections create {shlex.quote(name)}",
        f"--target {shlex.quote(target)} --endpoint {shlex.quote(endpoint)}",
        f"--connector-file {file}.connector --application-file {file}.application",
        f"--relay-file {file}.relay",
        *([f"--relay-pin {shlex.quote(pin)}"] if pin else []),
        *([f"--public-ports {shlex.quote(ports)}"] if ports else []),
    ]
    return (
        " \\\n  ".join(create),
        f"hybridrelay connections import {file}.relay --state {shlex.quote(state)}",
        f"hybridrelay connector --connection-string-file {file}.connector",
        f"hybridrelay forward --connection-string-file {file}.application --listen 127.0.0.1:15432",
    )


def public_ports(bound: Mapping[str, tuple[Binding, ...]]) -> str:
    """Return the relay's ports that differ from the default ports, as a value of ``--public-ports``."""
    found = []
    for name, port in all_ports(discover()).items():
        bindings = bound.get(name, ())
        if not bindings:
            found.append(f"{name}=off")
        elif bindings[0].port != port.default:
            found.append(f"{name}={bindings[0].port}")
    return ",".join(found)


async def _show(visit: Visit) -> View:
    name, target, endpoint = visit.asked("name", 260), visit.asked("target", 300), visit.asked("endpoint", 255)
    authority = visit.request.authority
    host = "" if authority is None or authority.host in _LOOPBACK or visit.is_local else authority.host
    problems = _problems(name, target, endpoint) if name or target or endpoint else []
    filled = bool(name and target and endpoint) and not problems
    form = h(
        "form",
        field("Name", "name", name, required=True, maxlength=260, hint="Such as orders, or team/orders."),
        field(
            "Target", "target", target, required=True, maxlength=300,
            hint="The host and port that the connector connects to, such as db.internal:5432. The relay does not "
            "store them.",
        ),
        field(
            "Relay", "endpoint", endpoint or host, required=True, maxlength=255,
            hint="The host name or address by which connectors and clients reach this relay.",
        ),
        [h("p", problem, class_="message bad") for problem in problems],
        button("Show the commands", kind="primary"),
        class_="card",
    )  # fmt: skip
    return View(
        title="Create a hybrid connection",
        place="/connections",
        parents=(("/connections", "Connections"),),
        is_live=False,
        content=(
            h(
                "p",
                "The identities of a hybrid connection are created on your own machine, so that the relay cannot "
                "read the data. Fill in the form, and run the commands that it then shows.",
            ),
            form,
            await _steps(visit, name, target, endpoint) if filled else None,
        ),
    )


def _problems(name: str, target: str, endpoint: str) -> list[str]:
    found = []
    try:
        check_connection_name(name)
    except ValueError as exc:
        found.append(f"Name: {exc}.")
    if any(text.startswith("-") for text in (name, target, endpoint)):
        found.append("A name or an address must not begin with a hyphen.")
    host, colon, port = target.rpartition(":")
    if not (host and colon and port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536) or re.search(
        r"\s", target
    ):
        found.append("Target: give host and port, such as db.internal:5432 or [fd00::5]:5432.")
    try:
        parse_host_untrusted(endpoint, about_ports="connection strings carry the ports")
    except (ValueError, HybridRelayError) as exc:
        found.append(f"Relay: {exc}.")
    return found


async def _steps(visit: Visit, name: str, target: str, endpoint: str) -> Child:
    try:
        relay = await visit.get_if_allowed("getRelay", RelayValue)
    except RequestError:
        relay = None
    ports = public_ports(visit.managed.info.bound)
    create, load, connect, forward = commands(
        name, target, endpoint, pin="" if relay is None else relay.pin, ports=ports
    )
    port_note = (
        "--public-ports has the ports on which the relay listens. If others are reachable from outside, write those."
        if ports
        else None
    )
    steps = (
        (
            "On your own machine",
            create,
            "This creates four secret files; one is the authority, for further identities. Keep it offline.",
        ),
        (
            "On the relay's machine",
            load,
            "Copy the file that ends in .relay there first, and delete it afterwards: it contains keys.",
        ),
        ("In the private network", connect, "Copy the file that ends in .connector there first."),
        (
            "Beside the application",
            forward,
            "Copy the file that ends in .application there first. The application then connects to 127.0.0.1:15432.",
        ),
    )
    return h(
        "ol",
        [
            h(
                "li",
                h("h2", title),
                command(line, f"command {title.lower()}"),
                h("p", note, class_="note"),
                class_="card",
            )
            for title, line, note in steps
        ],
        h(
            "li",
            h("h2", "See it"),
            h("p", h("a", "Open its page", href=f"/connections?prefix={segment(name)}")),
            class_="card",
        ),
        class_="steps",
    ), (h("p", port_note, class_="note") if port_note else None)


CREATE_PAGES: tuple[Page, ...] = (Page(id="showCreation", method="GET", path="/create", show=_show),)
