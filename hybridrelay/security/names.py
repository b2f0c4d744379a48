"""Validating names of hybrid connections, host names and addresses."""

from __future__ import annotations

import enum
import ipaddress
import re

import attrs

from .._value import Value
from ..protocol.limits import MAX_CONNECTION_NAME

#: As in Azure Relay. No URL encoder changes these characters.
_SEGMENT = re.compile(r"[A-Za-z0-9._-]+")
#: In characters, without the final dot (RFC 1035, 2.3.4).
_MAX_HOST = 253
#: Characters that need no encoding in a URL (RFC 6874).
_ZONE = re.compile(r"[A-Za-z0-9._~-]{1,64}")
#: As in RFC 1035, 2.3.4, and with the underscore that Windows networks use.
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
#: Numbers that some parsers accept as the last part of an IPv4 address: decimal, octal or hexadecimal.
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
#: A port number, without signs, spaces, underscores, leading zeros (octal for some parsers) and digits of other
#: scripts.
_PORT = re.compile(r"[1-9][0-9]{0,4}")


def check_connection_name(name: str) -> str:
    """Return `name` if it is valid as the name of a hybrid connection.

    Raises:
        ValueError: it is not; the message does not repeat the name.
    """
    if not 1 <= len(name) <= MAX_CONNECTION_NAME:
        raise ValueError(f"the name of a hybrid connection has 1 to {MAX_CONNECTION_NAME} characters")
    for segment in name.split("/"):
        if not segment:
            raise ValueError("the name of a hybrid connection must not have a leading, trailing or double slash")
        if segment in {".", ".."}:
            raise ValueError("the name of a hybrid connection must not have a segment '.' or '..'")
        if not _SEGMENT.fullmatch(segment):
            raise ValueError("the name of a hybrid connection consists of A-Z a-z 0-9 . _ - and / between segments")
    return name


def check_host(host: str) -> str:
    """Return `host` if it is a valid DNS name, or IP address without brackets.

    An IPv4 address must consist of four decimal numbers without leading zeros. Resolvers, proxies and `ipaddress`
    interpret ``127.1``, ``010.0.0.1`` and ``2130706433`` differently, so these are not accepted.

    Raises:
        ValueError: it is not valid; the message does not repeat the host.
    """
    if ":" in host:
        try:
            zone = ipaddress.IPv6Address(host).scope_id
        except ValueError:
            raise ValueError("not a valid IPv6 address") from None
        # The standard library accepts any text as a zone, including separators and line breaks.
        if zone is not None and not _ZONE.fullmatch(zone):
            raise ValueError("not a valid IPv6 address: its zone may only consist of A-Z a-z 0-9 . _ ~ -")
        if zone is not None and zone.startswith("25") and len(zone) > 2:
            raise ValueError("write the zone of an IPv6 address without %-encoding: fe80::1%eth0")
        return host
    if not host:
        raise ValueError("the host is missing")
    if not host.isascii():
        raise ValueError("write an international host name in its ASCII form (xn--...)")
    bare = host.removesuffix(".")
    if _NUMBER.fullmatch(bare.rpartition(".")[2]):
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            raise ValueError(
                "not a valid IPv4 address: expected four numbers from 0 to 255, such as 10.0.0.1"
            ) from None
        return host
    if len(bare) > _MAX_HOST or not all(_LABEL.fullmatch(label) for label in bare.split(".")):
        raise ValueError("not a valid host name")
    return host


def ip_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return `host` as an IP address, without its zone; None if it is a name.

    For an IPv4-mapped IPv6 address (``::ffff:192.0.2.1``) it is the IPv4 address, to which the system would connect.
    """
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def normal_host(host: str) -> str:
    """Normalize `host` for comparison: in lower case, without a final dot, an IPv6 address in its shortest form."""
    try:
        return str(ipaddress.IPv6Address(host))
    except ValueError:
        return host.lower().removesuffix(".")


def without_zone(host: str) -> str:
    """Return `host` without the zone of an IPv6 address, which is meaningful on one machine only (RFC 4007)."""
    return host.partition("%")[0]


class Protocols(enum.Enum):
    """What can be sent to the ports of a target. The value is how it is written after them."""

    #: Streams (TCP).
    TCP = ""
    #: Datagrams (UDP).
    UDP = "/udp"
    BOTH = "/tcp+udp"

    @property
    def has_streams(self) -> bool:
        """Whether TCP connections are possible."""
        return self is not Protocols.UDP

    @property
    def has_datagrams(self) -> bool:
        """Whether flows of datagrams are possible."""
        return self is not Protocols.TCP


@attrs.frozen
class HostPort(Value):
    """An address to connect to: a DNS name or an IP address, and a port. `str()` puts IPv6 addresses in brackets, and
    appends ``/udp`` or ``/tcp+udp``."""

    host: str = attrs.field(validator=lambda _instance, _attribute, value: check_host(value))
    port: int = attrs.field()
    protocols: Protocols = attrs.field(default=Protocols.TCP, kw_only=True)

    @port.validator
    def _check_port(self, attribute: object, value: int) -> None:
        if not 1 <= value <= 65535:
            raise ValueError("a port is a number from 1 to 65535")

    def __str__(self) -> str:
        return f"{bracketed(self.host)}:{self.port}{self.protocols.value}"


def is_loopback(host: str) -> bool:
    """Return whether this is a name or an address that always means the local machine."""
    address = ip_address(host)
    if address is not None:
        return address.is_loopback
    name = normal_host(host)
    return name == "localhost" or name.endswith(".localhost")


def bracketed(host: str) -> str:
    """Return `host` as in a URL: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def parse_port_untrusted(text: str) -> int:
    """Parse a port number, which consists only of decimal digits.

    Raises:
        ValueError: it is not a number from 1 to 65535.
    """
    if not (_PORT.fullmatch(text) and int(text) <= 65535):
        raise ValueError("a port is a number from 1 to 65535")
    return int(text)


def parse_host_untrusted(text: str, *, about_ports: str) -> str:
    """Parse a host name or an address, IPv6 with brackets or without, that stands alone.

    Args:
        text: the text as the user has entered it.
        about_ports: where to specify a port, for the message if `text` contains one.

    Raises:
        ValueError: says what is wrong, without repeating the text.
    """
    if "://" in text or "/" in text:
        raise ValueError("expected only a host name or an address, without a scheme or a path: relay.example.com")
    host, colon, port = text.rpartition(":")
    if colon and port.isdecimal() and (":" not in host or host.endswith("]")):
        raise ValueError(f"expected a host name or an address without a port; {about_ports}")
    return check_host(_without_brackets(text))


def _without_brackets(host: str) -> str:
    if not (host.startswith("[") and host.endswith("]")):
        return host
    if ":" not in host:
        raise ValueError("brackets are for IPv6 addresses")
    return host[1:-1]


def parse_host_port_untrusted(text: str) -> HostPort:
    """Parse ``host:port``, ``address:port`` or ``[IPv6]:port``.

    Raises:
        ValueError: it is not valid; the message does not repeat the text.
    """
    host, port = split_port(text)
    return HostPort(host, parse_port_untrusted(port))


def split_port(text: str) -> tuple[str, str]:
    """Split a host, which is checked and returned without brackets, and what follows the colon after it.

    Raises:
        ValueError: it is not valid; the message does not repeat the text.
    """
    if "://" in text:
        raise ValueError("expected host:port, without a scheme such as tcp://")
    host, colon, port = text.rpartition(":")
    if not colon:
        raise ValueError("expected host:port, such as 127.0.0.1:5432")
    bare = _without_brackets(host)
    if bare == host and ":" in host:
        raise ValueError("write an IPv6 address in brackets: [::1]:5432")
    return check_host(bare), port
