"""What the relay tells a connector about the address of a client. Pure.

The relay itself limits and logs by address group (`address_group`): for IPv6 the /64, in which a client chooses its
address freely. A connector gets the address for its audit log and for PROXY headers, where a group would not do.
"""

from __future__ import annotations

import enum
import ipaddress

from ..security.names import ip_address

__all__ = ["ClientAddresses"]

#: The lengths of the networks of `ClientAddresses.NETWORK`, by version.
_PREFIXES = {4: 24, 6: 64}


class ClientAddresses(enum.StrEnum):
    """How exactly connectors learn from which address a client has connected."""

    #: The whole address.
    EXACT = "exact"
    #: Only the /24 of an IPv4 address, or the /64 of an IPv6 address.
    NETWORK = "network"
    #: Nothing.
    NONE = "none"

    def stated(self, address: str) -> str:
        """Return what connectors are told; empty if that is nothing.

        Args:
            address: the client's address as the relay sees it. If it is not an IP address (that of a Unix socket, for
                example), it is stated unchanged, except with `NONE`.
        """
        if self is ClientAddresses.NONE:
            return ""
        ip = ip_address(address)
        if ip is None:
            return address
        if self is ClientAddresses.EXACT:
            return str(ip)
        return str(ipaddress.ip_network((ip, _PREFIXES[ip.version]), strict=False))
