"""A local address at which a forward receives datagrams."""

from __future__ import annotations

import dataclasses

__all__ = ["DatagramAddress"]


@dataclasses.dataclass(frozen=True)
class DatagramAddress:
    """A host name or an address, and a port for datagrams. `str()` appends ``/udp`` or ``/tcp+udp``."""

    host: str
    #: 0 means any free port.
    port: int
    #: Whether TCP connections are also accepted, at the same port.
    with_streams: bool = False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}/{'tcp+udp' if self.with_streams else 'udp'}"
