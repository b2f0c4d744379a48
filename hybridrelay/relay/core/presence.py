"""Counts the rendezvous of each hybrid connection, and knows which instances of clients have pairs. Pure."""

from __future__ import annotations

from collections import Counter, OrderedDict

from ..limits import KEPT_AFTER_BREAK_SECONDS

__all__ = ["Presence"]


class Presence:
    """See the module's docstring. Every method takes constant time on average. Times are on a monotonic clock."""

    def __init__(self) -> None:
        """Begin without any rendezvous."""
        self._rendezvous: Counter[str] = Counter()
        #: The number of pairs (joined rendezvous), by hybrid connection and instance.
        self._joined: Counter[tuple[str, str]] = Counter()
        #: Instances whose last pair has ended, and until when they still count as having one, in the order of these
        #: times.
        self._left: OrderedDict[tuple[str, str], float] = OrderedDict()

    def begins(self, connection: str) -> None:
        """Note that a rendezvous was created."""
        self._rendezvous[connection] += 1

    def joined(self, connection: str, instance: str) -> None:
        """Note that the data channels of a rendezvous were joined."""
        self._joined[connection, instance] += 1

    def ended(self, connection: str, instance: str, now: float, *, was_joined: bool) -> None:
        """Note that a rendezvous has ended."""
        self._rendezvous[connection] -= 1
        if not self._rendezvous[connection]:
            del self._rendezvous[connection]
        while self._left and next(iter(self._left.values())) <= now:
            self._left.popitem(last=False)
        if not was_joined:
            return
        who = connection, instance
        self._joined[who] -= 1
        if not self._joined[who]:
            del self._joined[who]
            self._left.pop(who, None)
            self._left[who] = now + KEPT_AFTER_BREAK_SECONDS

    def count(self, connection: str) -> int:
        """Return the number of rendezvous of a hybrid connection that have not ended."""
        return self._rendezvous[connection]

    @property
    def connections(self) -> list[str]:
        """The names of the hybrid connections that have any rendezvous."""
        return list(self._rendezvous)

    def has_pair(self, connection: str, instance: str, now: float) -> bool:
        """Return whether an instance has a pair, or had one within the last `KEPT_AFTER_BREAK_SECONDS`."""
        who = connection, instance
        return self._joined[who] > 0 or self._left.get(who, now) > now
