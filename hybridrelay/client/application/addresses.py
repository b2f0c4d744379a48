"""Which addresses the hosts of hybrid connections have for an application. Pure.

1. A host that is an IP address keeps it.
2. A host that is a name gets a loopback address of its own, which all of its ports share. The first three bytes of
   these addresses are chosen at random for each run, in 127.64.0.0/10, so that two runs do not get in each other's
   way.
3. Names are compared as in DNS: without regard to case, and to a final dot.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import attrs

from ...errors import ConfigurationError
from ...security import HostPort, HostTarget
from ...security.local_names import check_local_name
from ...security.names import ip_address, normal_host

__all__ = [
    "BASES",
    "MAX_HOSTS",
    "MAX_PUBLISHED",
    "Address",
    "Published",
    "addresses_of",
    "check_published",
    "each_of",
    "names_of",
]

#: An IP address and a port.
Address = tuple[str, int]

#: How many hosts one run may have. Their addresses differ in the last byte only.
MAX_HOSTS = 250
#: How many ports the hosts of one run may have together. Each has a listener.
MAX_PUBLISHED = 1024
#: How many networks of 256 addresses there are to choose from.
BASES = 64 * 256
_FIRST_NETWORK = int(ipaddress.IPv4Address("127.64.0.0"))


def each_of(name: HostTarget) -> Iterable[HostPort]:
    """Return every port of a local name, with the host."""
    return (name,) if isinstance(name, HostPort) else name.each


def check_published(published: Iterable[HostTarget]) -> None:
    """Check that an application can have all of these addresses.

    Raises:
        ConfigurationError: one occurs twice, is the name of the machine itself, or there are too many.
    """
    seen: set[HostPort] = set()
    for name in published:
        try:
            check_local_name(name)
        except ValueError as exc:
            raise ConfigurationError(f"{name}: {exc}", remedy="give another name with --as HOST:PORT") from None
        for one in each_of(name):
            host = HostPort(normal_host(one.host), one.port)
            if host in seen:
                raise ConfigurationError(
                    f"two hybrid connections have the name {one}",
                    remedy="give one of them another name with --as HOST:PORT",
                )
            seen.add(host)
    for count, limit, what in (
        (len({one.host for one in seen}), MAX_HOSTS, "hosts"),
        (len(seen), MAX_PUBLISHED, "ports of all hosts together"),
    ):
        if count > limit:
            raise ConfigurationError(
                f"{count} {what} are too many: at most {limit}",
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

    #: Each port with its host, as the application knows it.
    hosts: tuple[HostPort, ...]
    #: The addresses of those that have names.
    names: Mapping[str, str]
    #: The address of each of `hosts`.
    addresses: tuple[Address, ...]
    #: A loopback address that no host has.
    spare: str = "127.64.0.255"
    #: The addresses in a network that the application has for itself; see `_private_addresses`.
    private_addresses: tuple[Address, ...] = ()

    @classmethod
    def of(cls, published: Sequence[HostTarget], base: int) -> Published:
        """Choose the addresses; see `names_of`."""
        hosts = tuple(one for name in published for one in each_of(name))
        names = names_of(hosts, base)
        spare = str(ipaddress.IPv4Address(_FIRST_NETWORK + (base << 8) + 254))
        addresses = tuple(addresses_of(hosts, names))
        return cls(hosts, names, addresses, spare, _private_addresses(published, addresses))


def _private_addresses(published: Sequence[HostTarget], addresses: Sequence[Address]) -> tuple[Address, ...]:
    """Return where to listen in a network in which the application is alone.

    A server may tell its client an address of its own for a further connection, as FTP's reply to PASV does. In such
    a network, that address leads nowhere else. So a port of a host that has several, if no other host has it, is
    opened at all IPv4 addresses.
    """
    has_several = [not isinstance(name, HostPort) for name in published for _ in each_of(name)]
    count = Counter(port for _, port in addresses)
    return tuple(
        ("0.0.0.0", port) if several and count[port] == 1 and ":" not in host else (host, port)  # noqa: S104
        for (host, port), several in zip(addresses, has_several, strict=True)
    )
