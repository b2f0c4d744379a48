"""Shares the connector's limited resources among applications, so that one application cannot use up all of them.

Every session and every connection to a target takes a file descriptor. Every connection to a target also takes a
local port. With TCP, a local port can be used only once for the same address and port of the target. The UDP socket
of a flow takes a local port that no other UDP socket of the machine can have, whatever its target is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from pathlib import Path

import attrs

from .._descriptors import RAISE_LIMIT, descriptor_limit, reserved_descriptors
from .._value import Value
from ..security import StreamTarget, UnixSocket

__all__ = ["Share", "Shares", "SpareOf", "count_local_ports"]

#: Linux: the first and the last local port for outgoing connections.
_PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
#: The number of such ports on other systems (RFC 6335, section 6).
_DYNAMIC_PORTS = 65_536 - 49_152
#: Ports that are left free for other programs on the machine.
_RESERVED_PORTS = 64
_MORE_PORTS = "widen net.ipv4.ip_local_port_range"


class Share:
    """Counts how much of one limited resource each application holds, and limits it. Pure.

    An application may hold at most as much as is free. The first application thus gets up to half of everything, the
    next one up to half of the rest, and something always remains free. Nothing has to be configured, and what one
    application does not use is available to the others.

    Args:
        what: the resource, as a plural, for messages.
        remedy: what an administrator can do when the resource is used up.
        usable: returns how much of it there is, or None if it is unlimited.
        holders: what holds it, as a plural, for messages.
    """

    def __init__(
        self, what: str, remedy: str, usable: Callable[[], int | None], *, holders: str = "connections"
    ) -> None:
        self.remedy = remedy
        self._what = what
        self._usable = usable
        self._holders = holders
        self._held: Counter[Hashable] = Counter()

    @property
    def is_unused(self) -> bool:
        """Whether no application holds any of it."""
        return not self._held

    def held(self, owner: Hashable) -> int:
        """Return how much `owner` holds."""
        return self._held.get(owner, 0)

    def why_refused(self, owner: Hashable) -> str:
        """Return the message for an application that already holds its share."""
        return f"{self.held(owner)} {self._holders} are open, this application's share of the {self._what}"

    def take(self, owner: Hashable) -> bool:
        """Count one more for `owner`. Returns False, and counts nothing, if it already holds its share."""
        usable = self._usable()
        if usable is not None and self.held(owner) >= max(usable - self._held.total(), 1):
            return False
        self._held[owner] += 1
        return True

    def give_back(self, owner: Hashable) -> None:
        """Count one less for `owner`."""
        self._held[owner] -= 1
        if not self._held[owner]:
            del self._held[owner]


@attrs.frozen
class SpareOf(Value):
    """What an application may still take of its share, for additional sockets. Implements `Spare` of
    `streams.connecting`."""

    share: Share
    owner: Hashable

    def take(self) -> bool:
        """See `Spare.take`."""
        return self.share.take(self.owner)

    def give_back(self) -> None:
        """See `Spare.give_back`."""
        self.share.give_back(self.owner)


class Shares:
    """The shares of all applications: one `Share` for descriptors, one for the local TCP ports towards each target,
    and one for the local UDP ports of all flows."""

    def __init__(
        self, *, limit: Callable[[], int | None] = descriptor_limit, ports: Callable[[], int] | None = None
    ) -> None:
        """`limit` returns how many descriptors the process may have, `ports` how many local ports the machine has."""
        self.descriptors = Share("descriptors", RAISE_LIMIT, lambda: _usable_descriptors(limit()))
        self._ports = count_local_ports if ports is None else ports
        #: Flows take at most half of the local UDP ports: the programs of the machine need some to resolve names.
        self.datagram_ports = Share(
            "local UDP ports", _MORE_PORTS, lambda: max(1, self._ports() // 2), holders="flows"
        )
        self._by_target: dict[StreamTarget, Share] = {}

    def ports(self, target: StreamTarget) -> Share:
        """Return the `Share` of the local TCP ports for connections to one target. For a Unix socket it is
        unlimited."""
        if target not in self._by_target:
            for other in [other for other, share in self._by_target.items() if share.is_unused]:
                del self._by_target[other]
            has_ports = not isinstance(target, UnixSocket)
            usable = max(1, self._ports() - _RESERVED_PORTS) if has_ports else None
            self._by_target[target] = Share(f"local ports towards {target}", _MORE_PORTS, lambda: usable)
        return self._by_target[target]


def _usable_descriptors(limit: int | None) -> int | None:
    return None if limit is None else limit - 2 * reserved_descriptors(limit)


def count_local_ports() -> int:
    """Return how many connections to one address and port this machine can have at the same time, and how many UDP
    sockets in all."""
    try:
        first, last = map(int, _PORT_RANGE.read_text("ascii").split())
    except (OSError, ValueError):
        return _DYNAMIC_PORTS
    return max(1, last - first + 1)
