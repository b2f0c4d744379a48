"""Requests of one caller of the management API take turns: more requests at the same time do not get more of the
event loop.

A request that examines much lets other tasks run after about a millisecond. Each pass of the event loop therefore
takes about a millisecond for each request that is being handled. So a caller has at most one *turn* at a time (here:
the permission to have a request handled). All callers without a scope together have at most
`AT_A_TIME` turns, and all callers with a scope have as many others, so that the former do not wait for the latter.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from typing import Final

import attrs
import trio

__all__ = ["AT_A_TIME", "Turns"]

#: How many callers with a scope have a turn at the same time, and how many without.
AT_A_TIME: Final = 3


@attrs.define(eq=False)
class _Queue:
    """The tasks of one caller."""

    lock: trio.Lock = attrs.field(factory=trio.Lock)
    #: How many tasks hold the lock or wait for it.
    tasks: int = 0


class Turns:
    """Lets one task of each caller run at a time, and a few of each group, in the order of asking."""

    def __init__(self, at_a_time: int = AT_A_TIME) -> None:
        """Begin without any callers. `at_a_time`: how many of each group have a turn at the same time."""
        self._groups: dict[bool, trio.CapacityLimiter] = {
            has_scope: trio.CapacityLimiter(at_a_time) for has_scope in (False, True)
        }
        self._queues: dict[Hashable, _Queue] = {}

    def __len__(self) -> int:
        """Return how many callers have or await a turn."""
        return len(self._queues)

    @asynccontextmanager
    async def take(self, caller: Hashable, *, has_scope: bool = False) -> AsyncIterator[None]:
        """Wait for a turn of this caller, and hold it while the block runs. A task must not take a second one.

        Args:
            caller: `Caller.limit_group`, or `Caller.tenant_group`.
            has_scope: whether the caller has a scope; callers that have one do not let others wait.
        """
        queue = self._queues.setdefault(caller, _Queue())
        queue.tasks += 1
        try:
            async with queue.lock, self._groups[has_scope]:
                yield
        finally:
            queue.tasks -= 1
            if not queue.tasks:
                del self._queues[caller]
