"""The ports of a local name at one local address. Pure."""

from __future__ import annotations

import attrs

from ._own_address import EveryPort
from ._value import Value
from .errors import ConfigurationError
from .security import HostPort, HostTarget, PortSet, Protocols, bracketed

__all__ = ["NamePorts"]


@attrs.frozen
class NamePorts(Value):
    """A local address, and the ports of a local name that are to be listened on there, as far as they can be had."""

    #: A host name, or an IP address.
    host: str
    ports: PortSet
    #: What is received there.
    protocols: Protocols = Protocols.TCP

    def __str__(self) -> str:
        return f"{bracketed(self.host)}:{self.ports}{self.protocols.value}"

    @property
    def are_several(self) -> bool:
        """Whether each port leads to the port of the target with the same number. A single one leads to the target's
        first port."""
        return len(self.ports) > 1

    @classmethod
    def at(cls, host: str, name: HostTarget, *, with_streams: bool = True, with_datagrams: bool = False) -> NamePorts:
        """Return the ports of a local name at a local address, for TCP connections, for datagrams, or for both."""
        protocols = Protocols.TCP if not with_datagrams else Protocols.BOTH if with_streams else Protocols.UDP
        return cls(host, PortSet.of([name.port]) if isinstance(name, HostPort) else name.ports, protocols)

    @classmethod
    def every(cls, wanted: EveryPort, name: HostTarget | None) -> NamePorts:
        """Return the ports of the local name of a hybrid connection at an address.

        Raises:
            ConfigurationError: it has no local name.
        """
        if name is None:
            raise ConfigurationError(
                f"{wanted} means the ports of the local name, and the connection string has no local name",
                remedy="listen on an address with a port, or give the connection string a local name with "
                "'hybridrelay connections set-local-name'",
            )
        return cls.at(wanted.host, name, with_streams=wanted.with_streams, with_datagrams=wanted.with_datagrams)
