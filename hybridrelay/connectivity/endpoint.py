"""Where a relay is, and on which ports."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from ..abc import Port, Route
from ..security import ConnectionString, bracketed
from .addresses import AddressBook


@attrs.frozen
class RelayEndpoint:
    """A relay as its users see it: host, ports, and what its certificate has to match."""

    #: A name or an address; IPv6 without brackets. Names are resolved on every dial.
    host: str
    #: By `Port.name`: a number that is not the default, or None for a port that the relay does not serve.
    ports: Mapping[str, int | None] = attrs.field(factory=dict)
    #: Of the relay's public key, any one of which is right. Empty: a certificate authority has to vouch for it.
    pins: tuple[str, ...] = ()
    #: What is known about the addresses of `host`.
    addresses: AddressBook = attrs.field(factory=AddressBook, eq=False, repr=False, kw_only=True)

    @classmethod
    def all_from(cls, string: ConnectionString) -> tuple[RelayEndpoint, ...]:
        """The relays that a connection string names, first choice first."""
        return tuple(cls(endpoint.host, endpoint.ports, string.relay_pins) for endpoint in string.endpoints)

    def number_of(self, port: Port) -> int | None:
        """The TCP port number to dial, or None where the relay does not serve this port."""
        return self.ports.get(port.name, port.default)

    def missing_ports(self, route: Route) -> tuple[str, ...]:
        """The names of the ports that the route needs and the relay does not serve: where there are any, skip it."""
        return tuple(sorted({port.name for port in route.ports.values() if self.number_of(port) is None}))


def format_address(host: str, port: int) -> str:
    """``host:port`` for people and logs, with brackets around IPv6."""
    return f"{bracketed(host)}:{port}"
