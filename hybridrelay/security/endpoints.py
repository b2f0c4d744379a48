"""The relays of a connection string: ``Endpoint`` has their hosts, ``Ports`` the ports that differ from the defaults.

A hybrid connection may be served by several equivalent relays, which are listed in order of preference. ``Ports`` is
one list for all of them, or one for each in the order of ``Endpoint``, separated by ``|``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import attrs

from .._value import Value
from .names import bracketed, check_host, normal_host, parse_port_untrusted

#: The most relays of a hybrid connection. A client tries them one after the other, so a long list would be useless.
MAX_ENDPOINTS = 8
MAX_PORTS = 16
_ENDPOINT = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]{0,15})://(?P<authority>[^/?#]*)(?P<rest>.*)", re.DOTALL)
_PORT_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")


def _check_ports(instance: object, attribute: object, value: Mapping[str, int | None]) -> None:
    if len(value) > MAX_PORTS:
        raise ValueError(f"at most {MAX_PORTS} ports")
    for name, port in value.items():
        if not _PORT_NAME.fullmatch(name):
            raise ValueError("a port's name consists of lower case letters, digits, _ and -")
        if port is not None and not 1 <= port <= 65535:
            raise ValueError("a port is a number from 1 to 65535, or off")


def _frozen_ports(value: Mapping[str, int | None]) -> Mapping[str, int | None]:
    return MappingProxyType(dict(value))


@attrs.frozen
class Endpoint(Value):
    """The address of one relay."""

    #: Host name or IP address, without brackets.
    host: str = attrs.field(validator=lambda _instance, _attribute, value: check_host(value))
    #: The ports that differ from the defaults, by name; None is off.
    ports: Mapping[str, int | None] = attrs.field(
        factory=dict[str, int | None], converter=_frozen_ports, validator=_check_ports
    )


def check_hosts(hosts: Sequence[str]) -> tuple[str, ...]:
    """Return `hosts` if they are valid as the relays of one hybrid connection.

    Raises:
        ValueError: there are none, or too many, or one appears twice or is not a valid host. The message does not
            repeat them.
    """
    if not 1 <= len(hosts) <= MAX_ENDPOINTS:
        raise ValueError(f"expected 1 to {MAX_ENDPOINTS} relays")
    if len({normal_host(check_host(host)) for host in hosts}) != len(hosts):
        raise ValueError("a relay appears twice: each relay must have a different host name or address")
    return tuple(hosts)


def pair_endpoints(hosts: Sequence[str], ports: Sequence[Mapping[str, int | None]]) -> tuple[Endpoint, ...]:
    """Combine hosts with their ports.

    Args:
        hosts: the hosts of the relays.
        ports: the ports that differ from the defaults: none, one mapping for all relays, or one for each.

    Raises:
        ValueError: the numbers of hosts and mappings do not match, or a mapping is not valid.
    """
    lists = list(ports) or [{}]
    if len(lists) == 1:
        lists *= len(hosts)
    if len(lists) != len(hosts):
        raise ValueError(
            f"{len(lists)} lists of ports for {len(hosts)} relay{'s' if len(hosts) > 1 else ''}: "
            "expected one for all, or one for each, in order"
        )
    return tuple(map(Endpoint, hosts, lists))


def parse_hosts_untrusted(text: str) -> tuple[str, ...]:
    """Parse ``hr://host/,hr://host/``.

    Raises:
        ValueError: it is not valid; the message does not repeat the text.
    """
    return check_hosts([_parse_host(item.strip()) for item in text.split(",", MAX_ENDPOINTS)])


def format_hosts(hosts: Sequence[str]) -> str:
    """Format hosts for `parse_hosts_untrusted`."""
    return ",".join(f"hr://{bracketed(host)}/" for host in hosts)


def parse_ports_untrusted(text: str) -> dict[str, int | None]:
    """Parse ``name=number,name=off``, the ports of one relay; off is None.

    Raises:
        ValueError: it is not valid; the message does not repeat the text.
    """
    ports: dict[str, int | None] = {}
    for item in text.split(","):
        name, equals, value = item.strip().partition("=")
        if not equals or not _PORT_NAME.fullmatch(name):
            raise ValueError("expected name=number or name=off, separated by commas")
        if name in ports:
            raise ValueError("a port appears twice")
        ports[name] = None if value == "off" else parse_port_untrusted(value)
    _check_ports(None, None, ports)
    return ports


def format_ports(ports: Mapping[str, int | None]) -> str:
    """Format ports for `parse_ports_untrusted`."""
    return ",".join(f"{name}={'off' if port is None else port}" for name, port in ports.items())


def parse_port_lists_untrusted(text: str) -> list[dict[str, int | None]]:
    """Parse the ports of all relays: one list, or several separated by ``|``. An empty list means the defaults.

    Raises:
        ValueError: it is not valid; the message does not repeat the text.
    """
    sections = text.split("|", MAX_ENDPOINTS)
    if len(sections) == 1:
        return [parse_ports_untrusted(text)]
    return [parse_ports_untrusted(section) if section.strip() else {} for section in sections]


def format_port_lists(endpoints: Sequence[Endpoint]) -> str:
    """Format the relays' ports for `parse_port_lists_untrusted`; empty if all are the defaults."""
    sections = [format_ports(endpoint.ports) for endpoint in endpoints]
    return sections[0] if len({frozenset(one.ports.items()) for one in endpoints}) == 1 else "|".join(sections)


def _parse_host(text: str) -> str:
    match = _ENDPOINT.fullmatch(text)
    if match is None:
        raise ValueError("expected hr://host/, several separated by commas")
    if match["scheme"].lower() not in {"hr", "sb"}:
        raise ValueError("expected hr://host/ (or sb://host/); other schemes are for other services")
    if match["rest"] not in {"", "/"}:
        raise ValueError("nothing may follow the host: the hybrid connection's name goes into EntityPath")
    host = match["authority"]
    if "@" in host:
        raise ValueError("it must not contain a user name")
    if host.startswith("[") and host.endswith("]") and ":" in host:
        return check_host(host[1:-1])
    if host.startswith("[") or ":" in host:
        raise ValueError("it must not contain a port (ports go into Ports); write an IPv6 address in brackets")
    return check_host(host)
