"""The values that a policy can contain: targets, relays, authorities and hours. Pure.

Every parser accepts only what has one meaning. A pattern that could never match anything is refused, because a denial
that has no effect would go unnoticed.
"""

# This module is long because each kind of value has its parser here.

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import TypeAlias

import attrs

from .._value import Value
from ..security import HostPort, check_pin
from ..security.names import (
    bracketed,
    check_host,
    ip_address,
    normal_host,
    parse_port_untrusted,
)
from ..security.targets import UNIX_PREFIX
from .unix_paths import PathPattern, parse_path

__all__ = [
    "ALL_PORTS",
    "DAYS",
    "Address",
    "HostPattern",
    "Hours",
    "LocalPattern",
    "RelayPattern",
    "TargetPattern",
    "address_of",
    "meanings",
    "parse_audit_sink",
    "parse_authority",
    "parse_hours",
    "parse_local",
    "parse_relay",
    "parse_target",
    "parse_witness",
]

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_AUTHORITY = re.compile(r"[0-9a-f]{64}")
#: As they are written, Monday first.
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_HOURS = re.compile(
    r"(?P<first>[A-Za-z]+)(?:-(?P<last>[A-Za-z]+))? +"
    r"(?P<begin>[0-9]{2}:[0-9]{2})-(?P<end>[0-9]{2}:[0-9]{2})"
)
_MINUTES_OF_A_DAY = 24 * 60
#: The first and the last port.
ALL_PORTS = 1, 65535
#: A connection to the unspecified address goes to this machine itself.
_LOOPBACK: Mapping[int, Address] = {4: ipaddress.IPv4Address("127.0.0.1"), 6: ipaddress.IPv6Address("::1")}


def address_of(host: str) -> Address | None:
    """Return `host` as an IP address, to which the system would connect; None if it is a name.

    An IPv4-mapped IPv6 address is the IPv4 address. Zones are left out.
    """
    return ip_address(host)


def meanings(address: Address) -> tuple[Address, ...]:
    """Return the address, and then the address to which the system connects instead, if that is a different one."""
    return (address, _LOOPBACK[address.version]) if address.is_unspecified else (address,)


@attrs.frozen
class HostPattern(Value):
    """Which hosts an entry of a policy is about. Exactly one of the fields is set, or none of them for every host."""

    #: A name, in the form of `normal_host`.
    name: str = ""
    #: The end of names, with the dot: ``.corp.example``.
    suffix: str = ""
    network: _Network | None = None

    def is_about(self, host: str, address: Address | None) -> bool:
        """Return whether the pattern is about a host, for a denial.

        Args:
            host: the name or address as it is configured.
            address: the address that it stands for; None if it is a name that has not been resolved.
        """
        if self.network is not None:
            return address is not None and any(one in self.network for one in meanings(address))
        return self._fits_name(host)

    def permits(self, host: str, address: Address | None) -> bool:
        """Return whether the pattern allows a host, as far as this is known before its name is resolved."""
        if self.network is not None:
            return address is None or meanings(address)[-1] in self.network
        return self._fits_name(host)

    def permits_listening(self, host: str) -> bool:
        """Return whether the pattern allows listening at a local address. The unspecified address stands for all
        local addresses."""
        if self.network is None:
            return self._fits_name(host)
        address = ip_address(host)
        if address is None or address not in self.network:
            return False
        return self.network.prefixlen == 0 or not address.is_unspecified

    @property
    def is_every(self) -> bool:
        """Whether the pattern matches every host."""
        return not (self.name or self.suffix or self.network)

    def _fits_name(self, host: str) -> bool:
        name = normal_host(host)
        if self.name:
            return name == self.name
        return not self.suffix or (name.endswith(self.suffix) and ip_address(host) is None)


@attrs.frozen
class TargetPattern(Value):
    """An entry such as ``db.corp.example:5432``, ``*.corp.example:*``, ``10.1.0.0/16:8000-8999``,
    ``unix:/run/db.sock`` or ``unix:/run/postgresql/*``."""

    text: str
    host: HostPattern
    first_port: int
    last_port: int
    #: Set if the entry is about Unix sockets. It is then about no host and port.
    path: PathPattern | None = None

    def is_about(self, target: HostPort, address: Address | None) -> bool:
        """See `HostPattern.is_about`."""
        return self._has_port(target) and self.host.is_about(target.host, address)

    def permits(self, target: HostPort, address: Address | None) -> bool:
        """See `HostPattern.permits`."""
        return self._has_port(target) and self.host.permits(target.host, address)

    def permits_listening(self, local: HostPort) -> bool:
        """See `HostPattern.permits_listening`."""
        return self._has_port(local) and self.host.permits_listening(local.host)

    def is_about_path(self, paths: Iterable[str]) -> bool:
        """Return whether the entry is about a Unix socket, for a denial. ``*:*`` is about every target.

        Args:
            paths: its path as it is configured, and the one to which that leads, if it is known.
        """
        if self.path is None:
            return self.host.is_every and (self.first_port, self.last_port) == ALL_PORTS
        return any(map(self.path.fits, paths))

    def permits_path(self, path: str | None) -> bool:
        """Return whether the entry allows a Unix socket.

        Args:
            path: the path without symbolic links; None if it is not known yet.
        """
        return self.path is not None and (path is None or self.path.fits(path))

    def _has_port(self, target: HostPort) -> bool:
        return self.path is None and self.first_port <= target.port <= self.last_port


@attrs.frozen
class LocalPattern(Value):
    """An entry such as ``127.0.0.1:5432``, ``unix:/run/orders.sock`` or ``unix:*``."""

    text: str
    #: None if the entry is about Unix sockets.
    address: TargetPattern | None
    #: The path of a Unix socket, or ``*`` for all of them.
    path: str = ""

    def permits(self, local: HostPort) -> bool:
        """Return whether the entry allows listening at an address and port."""
        return self.address is not None and self.address.permits_listening(local)

    def permits_path(self, path: str) -> bool:
        """Return whether the entry allows listening on a Unix socket."""
        return bool(self.path) and self.path in ("*", path)


@attrs.frozen
class RelayPattern(Value):
    """An entry such as ``relay.example.com``, ``*.example.com``, or a pin."""

    text: str
    #: None if the entry is a pin.
    host: HostPattern | None
    pin: str = ""


@attrs.frozen
class Hours(Value):
    """An entry such as ``Mon-Fri 08:00-18:00``."""

    text: str
    #: Monday is 0.
    days: frozenset[int]
    #: Minutes since midnight. The hours include `begin`, and not `end`.
    begin: int
    end: int


# --- parsing


def parse_target(text: str) -> TargetPattern:
    """Parse ``host:port``, where the host may be a pattern, and the port a range or ``*``; or ``unix:/path``,
    ``unix:/directory/*``, or ``unix:*``.

    Raises:
        ValueError: it is not valid; the message says what is expected.
    """
    if text.startswith(UNIX_PREFIX):
        return TargetPattern(text, HostPattern(), *ALL_PORTS, path=parse_path(text.removeprefix(UNIX_PREFIX)))
    host, colon, port = text.rpartition(":")
    if not colon or "://" in text:
        raise ValueError("expected host:port, such as db.corp.example:5432 or 10.0.0.0/8:*")
    first, last = _parse_ports(port)
    return TargetPattern(text, _parse_host_pattern(host), first, last)


def parse_local(text: str) -> LocalPattern:
    """Parse ``address:port`` as in `parse_target`, or ``unix:/path``, or ``unix:*``.

    Raises:
        ValueError: it is not valid.
    """
    if not text.startswith("unix:"):
        return LocalPattern(text, parse_target(text))
    path = text.removeprefix("unix:")
    if path != "*" and (not path.startswith("/") or "*" in path):
        raise ValueError("expected unix:/path/of/the/socket, or unix:* for every Unix socket")
    return LocalPattern(text, None, path)


def parse_relay(text: str) -> RelayPattern:
    """Parse the host of a relay, ``*.domain``, or a pin (``sha256:...``).

    Raises:
        ValueError: it is not valid.
    """
    if text.startswith("sha256:"):
        return RelayPattern(text, None, check_pin(text))
    if "://" in text:
        raise ValueError("expected the host name, address or pin of a relay, without a scheme")
    host = bracketed(text) if text.count(":") > 1 and not text.startswith("[") else text
    if ":" in host and not host.startswith("["):
        raise ValueError("expected the host name of a relay without a port, or a pin (sha256:...)")
    return RelayPattern(text, _parse_host_pattern(host))


def parse_witness(text: str) -> RelayPattern:
    """Parse the host of a relay, or ``*.domain``.

    Raises:
        ValueError: it is not valid.
    """
    if text.startswith("sha256:"):
        raise ValueError("expected the host name or address of a relay, and not a pin")
    return parse_relay(text)


def parse_authority(text: str) -> str:
    """Parse the SHA-256 of an authority's certificate: 64 hexadecimal digits, with colons between them or not, and
    ``sha256:`` before them or not.

    Returns:
        The digits in lower case.

    Raises:
        ValueError: it is not valid.
    """
    digits = text.lower().removeprefix("sha256:").replace(":", "")
    if not _AUTHORITY.fullmatch(digits):
        raise ValueError("expected the SHA-256 of an authority's certificate: 64 hexadecimal digits")
    return digits


def parse_hours(text: str) -> Hours:
    """Parse days and hours: ``Mon-Fri 08:00-18:00``, ``Sat 09:00-12:30``, ``daily 06:00-24:00``.

    Raises:
        ValueError: it is not valid.
    """
    found = _HOURS.fullmatch(text)
    if found is None:
        raise ValueError('expected days and hours, such as "Mon-Fri 08:00-18:00" or "daily 06:00-22:00"')
    begin, end = _minutes(found["begin"]), _minutes(found["end"])
    if begin >= end:
        raise ValueError("the hours end before they begin; for hours beyond midnight, write two entries")
    return Hours(text, _days(found["first"], found["last"]), begin, end)


def _parse_ports(text: str) -> tuple[int, int]:
    if text == "*":
        return ALL_PORTS
    first, dash, last = text.partition("-")
    try:
        ports = parse_port_untrusted(first), parse_port_untrusted(last if dash else first)
    except ValueError:
        raise ValueError("a port is a number from 1 to 65535, a range such as 8000-8999, or *") from None
    if ports[0] > ports[1]:
        raise ValueError("the range of ports ends before it begins")
    return ports


def _parse_host_pattern(text: str) -> HostPattern:
    if text == "*":
        return HostPattern()
    if text.startswith("["):
        if not text.endswith("]") or ":" not in text:
            raise ValueError("brackets are for IPv6 addresses and networks: [2001:db8::/32]:443")
        return HostPattern(network=_parse_network(text[1:-1]))
    if ":" in text:
        raise ValueError("write an IPv6 address or network in brackets: [2001:db8::/32]:443")
    if "/" in text:
        return HostPattern(network=_parse_network(text))
    if text.startswith("*."):
        name = normal_host(check_host(text[2:]))
        if ip_address(name) is not None:
            raise ValueError("write a network as address/length: 10.1.0.0/16")
        return HostPattern(suffix=f".{name}")
    if "*" in text:
        raise ValueError("a wildcard is * for every host, or *.domain for all names below a domain")
    check_host(text)
    return (
        HostPattern(name=normal_host(text)) if ip_address(text) is None else HostPattern(network=_parse_network(text))
    )


def _parse_network(text: str) -> _Network:
    try:
        network = ipaddress.ip_network(text)
    except ValueError as exc:
        raise ValueError(f"not a valid address or network ({exc})") from None
    if isinstance(network, ipaddress.IPv6Network):
        if getattr(network.network_address, "scope_id", None) is not None:
            raise ValueError("leave out the zone of an IPv6 address: it applies to every zone")
        if network.network_address.ipv4_mapped is not None and network.prefixlen > 0:
            raise ValueError("write an IPv4-mapped address as the IPv4 address that it means")
    return network


def _minutes(text: str) -> int:
    hour, minute = int(text[:2]), int(text[3:])
    total = hour * 60 + minute
    if minute > 59 or total > _MINUTES_OF_A_DAY:
        raise ValueError("a time is from 00:00 to 24:00")
    return total


def _days(first: str, last: str | None) -> frozenset[int]:
    if first.lower() == "daily" and last is None:
        return frozenset(range(7))
    begin = _day(first)
    end = begin if last is None else _day(last)
    return frozenset((begin + offset) % 7 for offset in range((end - begin) % 7 + 1))


def _day(text: str) -> int:
    try:
        return DAYS.index(text.capitalize())
    except ValueError:
        raise ValueError(f"a day is one of {', '.join(DAYS)}, or 'daily' for all of them") from None


#: The kinds of sinks of the audit log that can be required, as ``--audit-required`` names them.
_AUDIT_SINKS = ("file", "journal", "syslog", "eventlog")


def parse_audit_sink(text: str) -> str:
    """Parse the kind of a sink of the audit log.

    Raises:
        ValueError: there is no such kind.
    """
    if text not in _AUDIT_SINKS:
        raise ValueError(f"expected one of {', '.join(_AUDIT_SINKS)}")
    return text
