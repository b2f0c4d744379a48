"""Holders of places: a holder is a key at a network address. Also, which addresses belong to one network. Pure."""

from __future__ import annotations

import ipaddress
from functools import cached_property, lru_cache

import attrs

from ..model import KeyId

__all__ = ["Holder", "network_of"]


@lru_cache(maxsize=4096)
def network_of(address: str) -> str:
    """Return the network of an address: the /24 of an IPv4 address, the /48 of an IPv6 address or of an IPv6 /64.

    Anything that is not an IP address (a Unix socket, a memory transport) is a network of its own.
    """
    try:
        network = ipaddress.ip_network(address)
    except ValueError:
        return address
    length = 24 if network.version == 4 else 48
    return str(network.supernet(new_prefix=min(length, network.prefixlen)))


@attrs.frozen(slots=False)
class Holder:
    """A key at one network address. The same key may be used from several addresses."""

    key: KeyId
    #: Its address group (`address_group`).
    address: str = ""

    @cached_property
    def network(self) -> str:
        """See `network_of`."""
        return network_of(self.address)
