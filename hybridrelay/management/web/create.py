"""The page "Create": shows the commands for the administrator's machine, because the relay never creates
identities."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

import attrs

from ..._value import Value
from ...connectivity import all_ports, discover
from ...errors import HybridRelayError
from ...http import RequestError
from ...relay import Binding
from ...security import ManagementRole, check_connection_name
from ...security.names import parse_host_untrusted
from ..live_values import RelayValue
from ..problem_kinds import Problem
from ..usage import RelayUsage
from ..values import ConnectionValue
from .html import Child, h
from .layout import View
from .management_url import LOOPBACK, file_of, management_url
from .page import Page
from .parts import button, command, field
from .paths import CONNECTIONS
from .shown import count, plural, segment
from .visit import Visit

__all__ = ["CREATE_PAGES"]


@attrs.frozen(kw_only=True)
class Commands(Value):
    """The command lines that create a hybrid connection and use it, quoted for a shell."""

    #: Creates it with the management API, which adds it to the relay. None: see `management_url`.
    create_at_relay: str | None
    #: Creates it without the management API, and writes a file for the relay.
    create: str
    #: Imports that file, on the relay's machine.
    load: str
    connect: str
    forward: str


def make_commands(
    name: str, target: str, endpoint: str, *, management: str | None, pin: str, ports: str, state: str
) -> Commands:
    """Make the command lines.

    Args:
        name: the name of the hybrid connection.
        target: the address that the connector connects to.
        endpoint: the relay's host name or address.
        management: the URL of the management API; None: it cannot be used.
        pin: the relay's pin; omitted if empty.
        ports: the value of ``--public-ports``; omitted if empty.
        state: the relay's state directory, quoted for a shell.
    """
    file = file_of(name)
    create = [
        f"hybridrelay connections create {shlex.quote(name)}",
        f"--target {shlex.quote(target)} --endpoint {shlex.quote(endpoint)}",
        f"--connector-file {file}.connector --application-file {file}.application",
    ]
    at_relay = [*create, f"--management {shlex.quote(management)} --token-file admin.token"] if management else None
    with_file = [
        *create,
        f"--relay-file {file}.relay",
        *([f"--relay-pin {shlex.quote(pin)}"] if pin else []),
        *([f"--public-ports {shlex.quote(ports)}"] if ports else []),
    ]
    next_line = " \\\n  "
    return Commands(
        create_at_relay=next_line.join(at_relay) if at_relay else None,
        create=next_line.join(with_file),
        load=f"hybridrelay connections import {file}.relay --state {state}",
        connect=f"hybridrelay connector --connection-string-file {file}.connector",
        forward=f"hybridrelay forward --connection-string-file {file}.application --listen 127.0.0.1:15432",
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
    visit.require_token()
    name, target, endpoint = visit.asked("name", 260), visit.asked("target", 300), visit.asked("endpoint", 255)
    authority = visit.request.authority
    host = "" if authority is None or authority.host in LOOPBACK or visit.is_local else authority.host
    problems = []
    if name or target or endpoint:
        problems = _problems(name, target, endpoint) or await _name_problems(visit, name)
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
        parents=(CONNECTIONS,),
        is_live=False,
        content=(
            h(
                "p",
                "The identities of a hybrid connection are created on your own machine, so that the relay cannot "
                "read the data. Fill in the form, and run the commands that it then shows.",
            ),
            await _full(visit),
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


async def _name_problems(visit: Visit, name: str) -> list[str]:
    """Return why the relay would refuse this name."""
    try:
        await visit.get("getHybridConnection", ConnectionValue, name=name)
    except RequestError as exc:
        if exc.failure.status == Problem.NOT_FOUND.status:
            return []
        if exc.failure.status == Problem.FORBIDDEN.status:
            return [
                f"Name: you may only create hybrid connections whose names begin with {visit.caller.scope.prefix}."
            ]
        raise
    return ["Name: there is already a hybrid connection with this name."]


async def _full(visit: Visit) -> Child:
    """Make the message that the relay's edition allows no further hybrid connection. None if it allows one."""
    usage = await visit.get_if_allowed("getUsage", RelayUsage, query={"limit": 1})
    if usage is None or usage.connections.allowed is None or usage.connections.used < usage.connections.allowed:
        return None
    return h(
        "p",
        f"This relay has {plural(usage.connections.used, 'hybrid connection')}, and its edition ({usage.edition}) "
        f"allows {count(usage.connections.allowed)}, so it would refuse another one. First delete one, or ",
        h("a", "change the edition", href="/scale"),
        ".",
        class_="message bad",
        role="alert",
    )


async def _steps(visit: Visit, name: str, target: str, endpoint: str) -> Child:
    try:
        relay = await visit.get_if_allowed("getRelay", RelayValue)
    except RequestError:
        relay = None
    ports = public_ports(visit.managed.info.bound)
    made = make_commands(
        name,
        target,
        endpoint,
        management=management_url(visit),
        pin="" if relay is None else relay.pin,
        ports=ports,
        state=visit.state_argument,
    )
    port_note = (
        "--public-ports names the ports on which the relay listens. If it is reached at other ports, name those. "
        if ports
        else ""
    )
    with_file = (
        (
            "On your own machine",
            made.create,
            "This creates four secret files. Keep the authority file offline: it is needed only to issue further "
            "identities. " + port_note,
        ),
        (
            "On the relay's machine",
            made.load,
            "Run it as the user of the relay. First copy the file that ends in .relay there. Delete it afterwards.",
        ),
    )
    steps = [
        ("In the private network", made.connect, "Copy the file that ends in .connector there first."),
        (
            "Beside the application",
            made.forward,
            "Copy the file that ends in .application there first. The application then connects to 127.0.0.1:15432.",
        ),
    ]
    other_way: Child = None
    if made.create_at_relay is None:
        steps[:0] = with_file
    else:
        note = (
            "This creates three secret files, and adds the hybrid connection to the relay, which gets neither the "
            "target nor the authority. Keep the authority file offline: it is needed only to issue further "
            "identities. The file admin.token has to contain the management token of an administrator."
        )
        steps.insert(0, ("On your own machine", made.create_at_relay, note))
        other_way = h(
            "details",
            h("summary", "If your machine cannot reach the management API: two commands instead"),
            [
                [h("h3", title), command(line, f"command {title.lower()}"), h("p", note, class_="note")]
                for title, line, note in with_file
            ],
        )
    return h(
        "ol",
        [
            h(
                "li",
                h("h2", title),
                command(line, f"command {title.lower()}"),
                h("p", note, class_="note"),
                other_way if index == 0 else None,
                class_="card",
            )
            for index, (title, line, note) in enumerate(steps)
        ],
        h(
            "li",
            h("h2", "See it"),
            h("p", h("a", "Open its page", href=f"/connections?prefix={segment(name)}")),
            class_="card",
        ),
        class_="steps",
    )


CREATE_PAGES: tuple[Page, ...] = (
    Page(id="showCreation", method="GET", role=ManagementRole.ADMIN, path="/create", show=_show),
)
