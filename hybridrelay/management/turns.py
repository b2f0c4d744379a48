"""Requests of one caller of the management API take turns: more requests at once do not get more of the event loop.

A request that examines much lets other tasks run after about a millisecond. Each pass of the event loop therefore
takes about a millisecond for each request that is being handled. If each caller has one at a time, this is about a
millisecond for each caller.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager

import attrs
import trio

__all__ = ["Turns"]


@attrs.define(eq=False)
class _Queue:
    """The tasks of one caller."""

    lock: trio.Lock = attrs.field(factory=trio.Lock)
    #: How many tasks hold the lock or wait for it.
    tasks: int = 0


class Turns:
    """Lets one task of each caller run at a time, in the order in which they have asked."""

    def __init__(self) -> None:
        """Begin without any callers."""
        self._queues: dict[Hashable, _Queue] = {}

    def __len__(self) -> int:
        """Return how many callers have or await a turn."""
        return len(self._queues)

    @asynccontextmanager
    async def take(self, caller: Hashable) -> AsyncIterator[None]:
        """Wait for a turn of this caller, and hold it while the block runs. A task must not take a second one."""
        queue = self._queues.setdefault(caller, _Queue())
        queue.tasks += 1
        try:
            async with queue.lock:
                yield
        finally:
            queue.tasks -= 1
            if not queue.tasks:
                del self._queues[caller]
