"""Holders of places: a holder is a key at a network address. Also, which addresses belong to one network. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Hashable
from functools import cached_property, lru_cache
from itertools import accumulate

import attrs

from ..model import KeyId

__all__ = ["Holder", "network_of"]


#: How many slashes of a name of a hybrid connection count in `Holder.groups`.
_MAX_LEVELS = 3


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

    @property
    def groups(self) -> tuple[Hashable, ...]:
        """The groups to which the holder belongs, from small to large, for `PeerTurns.of`.

        All holders of the key, all of its hybrid connection, and all of hybrid connections whose names agree up to
        the third, the second and the first slash: somebody with a scope such as ``prod/team/`` can make any number of
        hybrid connections and keys in it.
        """
        *parts, _ = self.key.connection.split("/", _MAX_LEVELS)
        prefixes = accumulate(f"{part}/" for part in parts)
        return self.key, self.key.connection, *reversed([*prefixes])
