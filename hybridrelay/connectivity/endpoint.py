"""How to connect to a relay: host, ports, pins, and the preamble of a connection."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import attrs

from .._value import Value
from ..abc import Port, Purpose, Route
from ..protocol.preamble import Preamble
from ..security import NO_PROOF, ConnectionString, Secret, bracketed, make_admission_proof
from .addresses import AddressBook


@attrs.frozen
class RelayEndpoint(Value):
    """A relay that a connection string names."""

    #: A name or an address; IPv6 without brackets. Names are resolved on every dial.
    host: str
    #: Port numbers that differ from the default, by `Port.name`; None for a port that the relay does not serve.
    ports: Mapping[str, int | None] = attrs.field(factory=dict)
    #: Pins of the relay's public key; one of them must match. Empty: the certificate is verified by the system's
    #: certificate authorities.
    pins: tuple[str, ...] = ()
    #: What is known about the addresses of `host`.
    addresses: AddressBook = attrs.field(factory=AddressBook, eq=False, repr=False, kw_only=True)
    #: A shared access key that the relay knows. A relay under load handles our TLS handshakes before those of
    #: strangers, because the preamble proves possession of the key.
    key: Secret | None = attrs.field(default=None, eq=False, repr=False, kw_only=True)
    #: Returns seconds since 1970.
    clock: Callable[[], float] = attrs.field(default=time.time, eq=False, repr=False, kw_only=True)

    @classmethod
    def all_from(
        cls, string: ConnectionString, *, clock: Callable[[], float] = time.time
    ) -> tuple[RelayEndpoint, ...]:
        """Return the relays that a connection string names, in its order. `clock` returns seconds since 1970."""
        return tuple(
            cls(endpoint.host, endpoint.ports, string.relay_pins, key=string.key, clock=clock)
            for endpoint in string.endpoints
        )

    def with_key(self, key: Secret) -> RelayEndpoint:
        """Return the same relay with another key. What is known about its addresses is kept."""
        return attrs.evolve(self, key=key)

    def preamble(self, purpose: Purpose, ticket: bytes | None = None) -> Preamble:
        """Return the preamble of a connection for `purpose`.

        `ticket` is that of a data channel; None for the other purposes, and when a data port is only probed.
        """
        if purpose is Purpose.CONTROL:
            proof = NO_PROOF if self.key is None else make_admission_proof(self.key, self.clock())
            return Preamble(purpose, proof, by_ca=not self.pins)
        return Preamble(purpose) if ticket is None else Preamble(purpose, ticket)

    def number_of(self, port: Port) -> int | None:
        """Return the port number to dial, 0 if the port is a Unix socket of the relay (`Port.local`), and None if the
        relay does not serve this port."""
        return 0 if port.local else self.ports.get(port.name, port.default)

    def missing_ports(self, route: Route) -> tuple[str, ...]:
        """Return the names of ports that the route needs and the relay does not serve. If there are any, the
        route cannot be used."""
        return tuple(sorted({port.name for port in route.ports if self.number_of(port) is None}))


def format_address(host: str, port: int) -> str:
    """``host:port`` for people and logs, with brackets around IPv6."""
    return f"{bracketed(host)}:{port}"
