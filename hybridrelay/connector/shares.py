"""How much one application may take up at a connector of what can run out, so that others get some as well.

Every session and every connection to a target takes a file descriptor, and every connection to a target a local port:
a port number can be used once for each address of a target, whatever is at the other end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from pathlib import Path

from .._descriptors import RAISE_LIMIT, descriptor_limit, reserved_descriptors
from ..security import HostPort

__all__ = ["Share", "Shares", "count_local_ports"]

#: Where Linux says which ports it gives to connections: the first and the last.
_PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
#: How many there are elsewhere: RFC 6335, section 6.
_DYNAMIC_PORTS = 65_536 - 49_152
#: Ports that no application may take, for whatever else runs on the machine.
_RESERVED_PORTS = 64


class Share:
    """Counts one thing that can run out by the application that it is taken for. Pure.

    An application may hold as much as is still free. So a single application gets half of all, the next one half of
    the rest, and none gets the last one. Nothing has to be configured, and an unused share remains available to the
    others.

    Args:
        what: names it in messages, in the plural.
        remedy: what an administrator can do.
        usable: how much there is, or None where there is no limit.
    """

    def __init__(self, what: str, remedy: str, usable: Callable[[], int | None]) -> None:
        self.remedy = remedy
        self._what = what
        self._usable = usable
        self._held: Counter[Hashable] = Counter()

    @property
    def is_unused(self) -> bool:
        """Nobody holds any."""
        return not self._held

    def held(self, owner: Hashable) -> int:
        """How much `owner` holds."""
        return self._held.get(owner, 0)

    def why_refused(self, owner: Hashable) -> str:
        """What to say to an application that has its share."""
        return f"{self.held(owner)} connections are open, this application's share of the {self._what}"

    def take(self, owner: Hashable) -> bool:
        """Count one more for `owner`; False where it has its share already."""
        usable = self._usable()
        if usable is not None and self.held(owner) >= max(usable - self._held.total(), 1):
            return False
        self._held[owner] += 1
        return True

    def give_back(self, owner: Hashable) -> None:
        """`owner` has one less."""
        self._held[owner] -= 1
        if not self._held[owner]:
            del self._held[owner]


class Shares:
    """The shares of all applications in descriptors, and in the local ports towards each target."""

    def __init__(
        self, *, limit: Callable[[], int | None] = descriptor_limit, ports: Callable[[], int] | None = None
    ) -> None:
        """`limit` gives the descriptors that the process may have, `ports` the local ports of the machine."""
        self.descriptors = Share("descriptors", RAISE_LIMIT, lambda: _usable_descriptors(limit()))
        self._ports = count_local_ports if ports is None else ports
        self._by_target: dict[HostPort, Share] = {}

    def ports(self, target: HostPort) -> Share:
        """Those of the local ports towards one target."""
        if target not in self._by_target:
            for other in [other for other, share in self._by_target.items() if share.is_unused]:
                del self._by_target[other]
            usable = max(1, self._ports() - _RESERVED_PORTS)
            self._by_target[target] = Share(
                f"local ports towards {target}", "widen net.ipv4.ip_local_port_range", lambda: usable
            )
        return self._by_target[target]


def _usable_descriptors(limit: int | None) -> int | None:
    return None if limit is None else limit - 2 * reserved_descriptors(limit)


def count_local_ports() -> int:
    """How many connections to one address and port this machine can have at the same time."""
    try:
        first, last = map(int, _PORT_RANGE.read_text("ascii").split())
    except (OSError, ValueError):
        return _DYNAMIC_PORTS
    return max(1, last - first + 1)
