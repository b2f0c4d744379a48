"""The local UDP ports of flows that have ended, which no other application gets while a target may still send.

A target that sends without being asked, or late, does not know that a flow has ended. The system gives the local port
to any later socket, and if that is connected to the same target, it receives what was meant for the earlier flow.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Any, Final, TypeAlias

__all__ = ["KEEP_SECONDS", "MAX_OF_OWNER", "RecentPorts", "Way"]

#: How long other applications do not get the local port of a flow (seconds). Meanwhile, the system tells the target
#: with an ICMP message that nothing receives there, each time that it sends.
KEEP_SECONDS: Final = 300.0
#: How many local ports are remembered for each application: the last ones.
MAX_OF_OWNER: Final = 4096
#: A local port, and the address of the target as `socket.getpeername` returns it.
Way: TypeAlias = tuple[int, tuple[Any, ...]]


class RecentPorts:
    """Knows which application had which local port last. Pure. Times are seconds on any one clock."""

    def __init__(self) -> None:
        #: Who had each, and when that flow ended; the one that ended first comes first.
        self._ways: OrderedDict[Way, tuple[Hashable, float]] = OrderedDict()
        #: The same for each application.
        self._of_owner: dict[Hashable, OrderedDict[Way, None]] = {}

    def __len__(self) -> int:
        return len(self._ways)

    def ended(self, way: Way, owner: Hashable, now: float) -> None:
        """Note that a flow of an application has ended, and has closed its socket."""
        self._forget(way)
        self._ways[way] = owner, now
        own = self._of_owner.setdefault(owner, OrderedDict())
        own[way] = None
        if len(own) > MAX_OF_OWNER:
            self._forget(next(iter(own)))
        while (oldest := next(iter(self._ways))) and now - self._ways[oldest][1] >= KEEP_SECONDS:
            self._forget(oldest)

    def foreign_since(self, way: Way, owner: Hashable, now: float) -> float | None:
        """Return when a flow of another application has ended there; None if there was none, or it is long ago."""
        other, at = self._ways.get(way, (owner, now))
        return None if other == owner or now - at >= KEEP_SECONDS else at

    def _forget(self, way: Way) -> None:
        if way in self._ways:
            owner, _ = self._ways.pop(way)
            own = self._of_owner[owner]
            del own[way]
            if not own:
                del self._of_owner[owner]
