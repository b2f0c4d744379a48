r"""Targets: what a connector connects to, and how it is written. Pure.

A target is one of these. The first two can be local names, too:

* ``db.corp:5432``: one port of a host (`HostPort`);
* ``ftp.corp:21,50000-50100``: several ports of a host (`HostPorts`);
* ``sql01\SQLEXPRESS``: an instance of SQL Server, whose port the connector finds out (`NamedInstance`);
* ``unix:/run/db.sock``: a Unix socket of the connector's machine (`UnixSocket`).

After the ports of a target, ``/udp`` means datagrams instead of streams, and ``/tcp+udp`` means both.

`parse_target_untrusted` and, for local names, `parse_host_target_untrusted` are the only parsers. Connection strings,
the command line, configuration files and updates use them. Suffixes after the ports, such as ``/udp``, are parsed in
`_parse_ports_of_host`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final, TypeAlias

import attrs

from .._value import Value
from .names import HostPort, Protocols, bracketed, check_host, parse_port_untrusted, split_port

__all__ = [
    "MAX_TARGET_PORTS",
    "UNIX_PREFIX",
    "HostPorts",
    "HostTarget",
    "NamedInstance",
    "PortSet",
    "StreamTarget",
    "Target",
    "UnixSocket",
    "check_unix_path",
    "each_stream_target",
    "parse_host_target_untrusted",
    "parse_target_untrusted",
    "protocols_of",
    "ranges_of",
]

#: Comes before the path of a Unix socket wherever a host and a port are accepted, too.
UNIX_PREFIX: Final = "unix:"
#: The longest path of a Unix socket that can be a target. On Linux, the connector can connect to a path of this
#: length, although the address of a Unix socket has at most 107 bytes.
_MAX_UNIX_PATH = 1024
#: How many ports a target may have. A forward opens a listener for each of them.
MAX_TARGET_PORTS: Final = 512
#: The longest text that lists `MAX_TARGET_PORTS` ports (characters).
_MAX_PORTS_TEXT = MAX_TARGET_PORTS * len("65535,")
#: The name of an instance: what SQL Server allows, restricted to ASCII, of which a connection string consists.
_INSTANCE = re.compile(r"[A-Za-z_][A-Za-z0-9_$#]{0,15}")
_SEVERAL = re.compile(r"[,-]")
_PROTOCOLS = {one.value: one for one in Protocols}


def ranges_of(ports: Iterable[int]) -> list[tuple[int, int]]:
    """Return the first and the last port of each range of consecutive numbers."""
    ranges: list[tuple[int, int]] = []
    for port in ports:
        if ranges and ranges[-1][1] == port - 1:
            ranges[-1] = ranges[-1][0], port
        else:
            ranges.append((port, port))
    return ranges


def _as_ranges(ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    return tuple(ranges)


@attrs.frozen
class PortSet(Value):
    """Different ports, in the order in which they are written. `str()` is ``21,50000-50100``.

    Raises:
        ValueError: a range is empty or not made of port numbers, a port occurs twice, or there are none or too many.
    """

    #: The first and the last port of each range.
    ranges: tuple[tuple[int, int], ...] = attrs.field(converter=_as_ranges)

    @ranges.validator
    def _check(self, attribute: object, ranges: tuple[tuple[int, int], ...]) -> None:
        if not ranges:
            raise ValueError("the port is missing")
        for first, last in ranges:
            if not 1 <= first <= 65535 or not 1 <= last <= 65535:
                raise ValueError("a port is a number from 1 to 65535")
            if first > last:
                raise ValueError(f"the range of ports {first}-{last} ends before it begins")
        if len(self) > MAX_TARGET_PORTS:
            raise ValueError(f"at most {MAX_TARGET_PORTS} ports are possible, and these are {len(self)}")
        end = 0
        for first, last in sorted(ranges):
            if first <= end:
                raise ValueError(f"port {first} occurs twice")
            end = last

    def __len__(self) -> int:
        return sum(last - first + 1 for first, last in self.ranges)

    def __iter__(self) -> Iterator[int]:
        for first, last in self.ranges:
            yield from range(first, last + 1)

    def __contains__(self, port: int) -> bool:
        return any(first <= port <= last for first, last in self.ranges)

    @property
    def first(self) -> int:
        """The port that is written first."""
        return self.ranges[0][0]

    def __str__(self) -> str:
        return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in self.ranges)

    @classmethod
    def of(cls, ports: Iterable[int]) -> PortSet:
        """Return the set of some ports, in their order. Consecutive numbers become a range.

        Raises:
            ValueError: see `PortSet`.
        """
        return cls(ranges_of(ports))


@attrs.frozen
class HostPorts(Value):
    """Several ports of one host, such as those of FTP. `str()` puts IPv6 addresses in brackets.

    The port that is written first is the *first port*: the one that is meant where no port is named.

    Raises:
        ValueError: the host is not valid, or there is only one port, which `HostPort` is for.
    """

    host: str = attrs.field(validator=lambda _instance, _attribute, value: check_host(value))
    ports: PortSet = attrs.field()
    protocols: Protocols = attrs.field(default=Protocols.TCP, kw_only=True)

    @ports.validator
    def _check_ports(self, attribute: object, value: PortSet) -> None:
        if len(value) == 1:
            raise ValueError("several ports are at least two")

    def __str__(self) -> str:
        return f"{bracketed(self.host)}:{self.ports}{self.protocols.value}"

    def at(self, port: int) -> HostPort:
        """Return one of the ports with the host. `port` has to be in the set. The result is always for TCP, whatever
        `protocols` is."""
        assert port in self.ports
        return HostPort(self.host, port)

    @property
    def first(self) -> HostPort:
        """The first port, with the host; always for TCP, as `at`."""
        return self.at(self.ports.first)

    @property
    def each(self) -> Iterator[HostPort]:
        """Every port, with the host; always for TCP, as `at`."""
        return (HostPort(self.host, port) for port in self.ports)


def check_unix_path(path: str) -> str:
    """Return `path` if it is valid as the path of a Unix socket to connect to.

    Raises:
        ValueError: it is not; the message does not repeat the path.
    """
    if not path.startswith("/") or path.endswith("/"):
        raise ValueError("expected unix:/path/of/the/socket, an absolute path")
    if len(path) > _MAX_UNIX_PATH:
        raise ValueError(f"the path of a Unix socket has at most {_MAX_UNIX_PATH} characters")
    # A connection string consists of ASCII, and separates its fields by semicolons.
    if not (path.isascii() and path.isprintable()) or ";" in path or "*" in path:
        raise ValueError("the path of a Unix socket consists of printable ASCII characters without ; and *")
    return path


@attrs.frozen
class UnixSocket(Value):
    """A Unix socket to connect to. `str()` is ``unix:/path``."""

    #: Absolute. It may lead over symbolic links, and contain ``..``.
    path: str = attrs.field(validator=lambda _instance, _attribute, value: check_unix_path(value))

    def __str__(self) -> str:
        return f"{UNIX_PREFIX}{self.path}"


@attrs.frozen
class NamedInstance(Value):
    r"""An instance of SQL Server on a host, which has no fixed port. `str()` is ``host\instance``."""

    host: str = attrs.field(validator=lambda _instance, _attribute, value: check_host(value))
    #: Its name, as it was written. SQL Server ignores the case; `==` does not.
    instance: str = attrs.field()

    @instance.validator
    def _check_instance(self, attribute: object, value: str) -> None:
        if not _INSTANCE.fullmatch(value):
            raise ValueError("the name of an instance has 1 to 16 characters: A-Z a-z 0-9 _ $ #, first a letter or _")

    def __str__(self) -> str:
        return f"{bracketed(self.host)}\\{self.instance}"


#: A host with one port or several.
HostTarget: TypeAlias = HostPort | HostPorts
#: What a connector connects to.
Target: TypeAlias = HostTarget | NamedInstance | UnixSocket
#: What one stream or flow of datagrams is connected to. It has only one protocol.
StreamTarget: TypeAlias = HostPort | NamedInstance | UnixSocket


def has_datagrams(target: Target) -> bool:
    """Return whether a target is written with ``/udp`` or ``/tcp+udp``."""
    return protocols_of(target).has_datagrams


def protocols_of(target: Target) -> Protocols:
    """Return what can be sent to a target."""
    return target.protocols if isinstance(target, HostPort | HostPorts) else Protocols.TCP


def each_stream_target(target: Target) -> Iterator[StreamTarget]:
    """Yield everything to which a stream or a flow of datagrams may be connected. Each has only one protocol."""
    if isinstance(target, UnixSocket | NamedInstance):
        yield target
        return
    for port in [target.port] if isinstance(target, HostPort) else target.ports:
        if target.protocols.has_streams:
            yield HostPort(target.host, port)
        if target.protocols.has_datagrams:
            yield HostPort(target.host, port, protocols=Protocols.UDP)


def parse_target_untrusted(text: str) -> Target:
    """Parse ``unix:/path``, ``host\\instance``, or a host with its ports as `parse_host_target_untrusted` does.

    Raises:
        ValueError: it is not valid; the message does not repeat the text.
    """
    if text.startswith(UNIX_PREFIX):
        return UnixSocket(text.removeprefix(UNIX_PREFIX))
    if text.startswith("/"):
        raise ValueError("write the path of a Unix socket as unix:/path")
    if "\\" in text:
        return _parse_instance(text)
    return parse_host_target_untrusted(text)


def parse_host_target_untrusted(text: str) -> HostTarget:
    """Parse ``host:port``, ``address:port`` or ``[IPv6]:port``, where several ports and ranges may be given,
    separated by commas: ``ftp.corp:21,50000-50100``. After the ports, ``/udp`` or ``/tcp+udp`` may follow.

    Raises:
        ValueError: it is not valid; the message does not repeat the text, except for the numbers of ports.
    """
    host, ports = split_port(text)
    return _parse_ports_of_host(host, ports)


def _parse_instance(text: str) -> NamedInstance:
    host, _, instance = text.partition("\\")
    if "," in instance or ":" in instance:
        raise ValueError(
            "write either the name of an instance, or a port: the connector asks for the instance's port"
        )
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("write an IPv6 address in brackets: [::1]\\SQLEXPRESS")
    return NamedInstance(host, instance)


def _parse_ports_of_host(host: str, text: str) -> HostTarget:
    """Parse what follows the colon after a host."""
    numbers, slash, suffix = text.partition("/")
    if slash + suffix not in _PROTOCOLS:
        raise ValueError("after the ports of a target, only /udp and /tcp+udp are possible")
    protocols = _PROTOCOLS[slash + suffix]
    if not _SEVERAL.search(numbers):
        return HostPort(host, parse_port_untrusted(numbers), protocols=protocols)
    ports = _parse_ports(numbers)
    if len(ports) == 1:
        return HostPort(host, ports.first, protocols=protocols)
    return HostPorts(host, ports, protocols=protocols)


def _parse_ports(text: str) -> PortSet:
    if len(text) > _MAX_PORTS_TEXT:
        raise ValueError(f"at most {MAX_TARGET_PORTS} ports are possible")
    ranges = []
    for item in text.split(","):
        first, dash, last = item.partition("-")
        try:
            ranges.append((parse_port_untrusted(first), parse_port_untrusted(last if dash else first)))
        except ValueError:
            raise ValueError(
                "a port is a number from 1 to 65535; write several as 21,50000-50100, without blanks"
            ) from None
    return PortSet(ranges)
