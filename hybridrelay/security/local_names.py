"""Local names: the name and ports under which the applications of a machine know the target.

An application's connection string may have one. It is advice for that machine only: commands use it for names and
ports that they make there. It is never sent to a relay or a connector, and does not change where a connector dials.

A local name with one port (`HostPort`) stands for the first port of the target, whatever its number is there. A local
name with several ports (`HostPorts`) stands for those ports of the target that have the same numbers.
"""

from __future__ import annotations

import ipaddress
from typing import Final, Literal, TypeAlias

from .names import HostPort, Protocols, ip_address, is_loopback, normal_host
from .targets import HostPorts, HostTarget, NamedInstance, Target, UnixSocket, parse_host_target_untrusted

#: What a user writes for no local name at all.
NO_LOCAL_NAME: Final = "none"
_SQL_SERVER_PORT: Final = 1433
#: A local name; "none"; or None if nothing was said about it.
LocalNameChoice: TypeAlias = HostTarget | Literal["none"] | None


def check_local_name(name: HostTarget) -> HostTarget:
    """Return `name`, with its host in normal form, if it may stand for another host on this machine.

    Raises:
        ValueError: it is, or may be, this machine itself, or no single host; the message does not repeat it.
    """
    if is_loopback(name.host):
        raise ValueError(
            "a local name must not be localhost or a loopback address, which programs use for themselves"
        )
    address = ip_address(name.host)
    if address is not None and (_names_no_host(address) or "%" in name.host):
        raise ValueError("a local name is a host name, or the address of one host without a zone")
    host = normal_host(name.host)
    return HostPort(host, name.port) if isinstance(name, HostPort) else HostPorts(host, name.ports)


def parse_local_name_untrusted(text: str) -> HostTarget:
    """Parse a local name; see `parse_host_target_untrusted`.

    Raises:
        ValueError: it is not valid; the message does not repeat the text.
    """
    name = parse_host_target_untrusted(text)
    if name.protocols is not Protocols.TCP:
        raise ValueError("a local name is written without /udp and /tcp+udp")
    return check_local_name(name)


def local_name_of_target(target: Target) -> HostTarget | None:
    """Return the local name that a new hybrid connection has by default: the host and ports of the target.

    Returns:
        None if the target cannot be a local name, for example because it is on the connector's own machine, or is a
        Unix socket.
    """
    if isinstance(target, UnixSocket):
        return None
    # An application that names no instance connects to the usual port of SQL Server.
    name = HostPort(target.host, _SQL_SERVER_PORT) if isinstance(target, NamedInstance) else target
    try:
        return check_local_name(name)
    except ValueError:
        return None


def choose_local_name(choice: LocalNameChoice, otherwise: HostTarget | None) -> HostTarget | None:
    """Return the local name that was chosen, or `otherwise` if nothing was said."""
    if choice is None:
        return otherwise
    return None if choice == NO_LOCAL_NAME else choice


def _names_no_host(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return address.is_unspecified or address.is_multicast or address == ipaddress.IPv4Address("255.255.255.255")
