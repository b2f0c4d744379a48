"""A loopback address for each host name, so that a forward can listen on the same ports as each target. Pure.

1. The address of a name is computed from the name, in 127.64.0.0/10. So it is the same in every run, and another
   program can compute it, too.
2. If two names of one program would have the same address, the one that comes later in the alphabet gets another.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from typing import Final

__all__ = ["OWN", "OWN_FORMS", "EveryPort", "own_addresses"]

#: What a user writes instead of an address and a port, so that the local name gets an address of its own.
OWN: Final = "own"
#: Its forms for streams, datagrams or both. Each value: whether it means streams, and whether it means datagrams.
OWN_FORMS: Final = {OWN: (True, False), "own/udp": (False, True), "own/tcp+udp": (True, True)}


@dataclasses.dataclass(frozen=True)
class EveryPort:
    """A local address at which to listen on every port of a local name."""

    #: A host name, or an IP address.
    host: str
    #: Whether TCP connections are accepted there, and whether datagrams are.
    with_streams: bool = True
    with_datagrams: bool = False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        suffix = "" if not self.with_datagrams else "/tcp+udp" if self.with_streams else "/udp"
        return f"{host}:*{suffix}"


def own_addresses(names: Iterable[str]) -> dict[str, str]:
    """Return an IPv4 loopback address for each name.

    Args:
        names: host names in lower case, or IP addresses; fewer than a million.
    """
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in sorted(set(names)):
        attempt = 0
        while (address := _address(name, attempt)) in taken:
            attempt += 1
        taken.add(address)
        found[name] = address
    return found


def _address(name: str, attempt: int) -> str:
    digest = hashlib.sha256(f"{attempt}:{name}".encode()).digest()
    # Some programs take the last bytes 0 and 255 for the address of a network, or of all its hosts.
    return f"127.{64 + digest[0] % 64}.{digest[1]}.{1 + digest[2] % 254}"
