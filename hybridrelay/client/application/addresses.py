"""Which addresses the hosts of hybrid connections have for an application. Pure.

1. A host that is an IP address keeps it.
2. A host that is a name gets a loopback address of its own, which all of its ports share. Its first bytes are chosen
   at random for each run, in 127.64.0.0/10, so that two runs do not get in each other's way.
3. Names are compared as in DNS: without regard to case, and to a final dot.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence

import attrs

from ...errors import ConfigurationError
from ...security import HostPort
from ...security.local_names import check_local_name
from ...security.names import ip_address, normal_host

__all__ = ["BASES", "MAX_PUBLISHED", "Address", "Published", "addresses_of", "check_published", "names_of"]

#: An IP address and a port.
Address = tuple[str, int]

#: How many hosts with their ports one run may have. Their addresses differ in the last byte only, and the kernel
#: passes at most 253 descriptors of listeners from one process to another at once.
MAX_PUBLISHED = 250
#: How many networks of 256 addresses there are to choose from.
BASES = 64 * 256
_FIRST_NETWORK = int(ipaddress.IPv4Address("127.64.0.0"))


def check_published(published: Iterable[HostPort]) -> None:
    """Check that an application can have all of these addresses.

    Raises:
        ConfigurationError: one occurs twice, is the name of the machine itself, or there are too many names.
    """
    seen: set[HostPort] = set()
    for one in published:
        host = HostPort(normal_host(one.host), one.port)
        try:
            check_local_name(host)
        except ValueError as exc:
            raise ConfigurationError(f"{one}: {exc}", remedy="give another name with --as HOST:PORT") from None
        if host in seen:
            raise ConfigurationError(
                f"two hybrid connections have the name {one}",
                remedy="give one of them another name with --as HOST:PORT",
            )
        seen.add(host)
    if len(seen) > MAX_PUBLISHED:
        raise ConfigurationError(
            f"{len(seen)} hosts with their ports are too many: at most {MAX_PUBLISHED}",
            remedy="run the application with fewer hybrid connections",
        )


def names_of(published: Iterable[HostPort], base: int) -> Mapping[str, str]:
    """Return the addresses of those hosts that have names: name, in lower case, to IPv4 address.

    Args:
        published: see `check_published`.
        base: a number from 0 to `BASES` - 1.
    """
    names = dict.fromkeys(normal_host(one.host) for one in published if ip_address(normal_host(one.host)) is None)
    network = _FIRST_NETWORK + (base << 8)
    return {name: str(ipaddress.IPv4Address(network + number)) for number, name in enumerate(names, 1)}


def addresses_of(published: Sequence[HostPort], names: Mapping[str, str]) -> Sequence[Address]:
    """Return the address, and port, of each host.

    Args:
        published: see `check_published`.
        names: from `names_of`.
    """
    found = []
    for one in published:
        host = normal_host(one.host)
        found.append((names[host] if host in names else str(ip_address(host)), one.port))
    return found


@attrs.frozen
class Published:
    """What an application is to see, and the addresses for it."""

    #: Each host with its port, as the application knows it.
    hosts: tuple[HostPort, ...]
    #: The addresses of those that have names.
    names: Mapping[str, str]
    #: The address of each of `hosts`.
    addresses: tuple[Address, ...]
    #: A loopback address that no host has.
    spare: str = "127.64.0.255"

    @classmethod
    def of(cls, hosts: Sequence[HostPort], base: int) -> Published:
        """Choose the addresses; see `names_of`."""
        names = names_of(hosts, base)
        spare = str(ipaddress.IPv4Address(_FIRST_NETWORK + (base << 8) + 254))
        return cls(tuple(hosts), names, tuple(addresses_of(hosts, names)), spare)
