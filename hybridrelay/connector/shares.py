"""How many descriptors one application may take up at a connector, so that others get some as well. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable

from .._descriptors import descriptor_limit, reserved_descriptors

__all__ = ["DescriptorShares"]


class DescriptorShares:
    """Counts sessions, and connections to targets, by the application that they are for.

    An application may hold as many as are still free. So a single application gets half of all, the next one half of
    the rest, and none gets the last one. Nothing has to be configured, and an unused share remains available to the
    others.

    Args:
        limit: the descriptors that the process may have, or None where there is no limit.
    """

    def __init__(self, limit: Callable[[], int | None] = descriptor_limit) -> None:
        self._limit = limit
        self._held: Counter[Hashable] = Counter()

    def held(self, owner: Hashable) -> int:
        """How many descriptors `owner` has."""
        return self._held.get(owner, 0)

    def why_refused(self, owner: Hashable) -> str:
        """The message for an application that has its share."""
        return f"{self.held(owner)} connections are open, this application's share of the descriptors"

    def take(self, owner: Hashable) -> bool:
        """Count one more descriptor of `owner`; False where it has its share already."""
        limit = self._limit()
        if limit is not None:
            free = limit - 2 * reserved_descriptors(limit) - self._held.total()
            if self.held(owner) >= max(free, 1):
                return False
        self._held[owner] += 1
        return True

    def give_back(self, owner: Hashable) -> None:
        """One descriptor of `owner` is closed."""
        self._held[owner] -= 1
        if not self._held[owner]:
            del self._held[owner]
