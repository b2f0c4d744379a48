"""Sets of networks, such as those of proxies that are trusted to state where connections come from. Pure."""

from __future__ import annotations

import ipaddress
from typing import TypeAlias

import attrs

from .._value import Value

__all__ = ["NO_NETWORKS", "Networks", "parse_networks_untrusted"]

_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


@attrs.frozen
class Networks(Value):
    """A set of addresses."""

    networks: tuple[_Network, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.networks)

    def covers(self, address: str) -> bool:
        """Return whether an address is in one of the networks. False for anything but an IP address, such as a Unix
        socket."""
        if not self.networks:
            return False
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            return False
        if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        return any(ip in network for network in self.networks)

    def __str__(self) -> str:
        return ",".join(map(str, self.networks))


NO_NETWORKS = Networks()


def parse_networks_untrusted(text: str) -> Networks:
    """Parse addresses and networks, separated by commas: ``192.0.2.7,10.0.0.0/8,2001:db8::/32``.

    Raises:
        ValueError: one of them is malformed, or its address has bits beyond the length of the network.
    """
    networks: list[_Network] = []
    for part in text.split(","):
        try:
            networks.append(ipaddress.ip_network(part.strip()))
        except ValueError as exc:
            raise ValueError(
                f"expected addresses or networks such as 192.0.2.7,10.0.0.0/8,2001:db8::/32 ({exc})"
            ) from None
    return Networks(tuple(networks))
