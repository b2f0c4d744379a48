"""How long the relay waits for a peer, without blaming the peer for the time that the relay itself needs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from ..._nursery import FlatNursery

__all__ = ["STEPS", "happens", "in_time"]

T = TypeVar("T")


#: The wait consists of this many steps, each of which takes at least one pass of the event loop. Bytes of
#: a peer take fewer passes from the socket to the task that waits for them.
STEPS = 10


async def happens(event: trio.Event, seconds: float) -> bool:
    """Wait until an event happens because of what a peer sends. Returns False if it does not happen in time.

    The time is longer if the event loop is so slow that something which has arrived in time might not have been read.
    If this process was suspended, only one step has passed in the meantime.
    """
    for _ in range(STEPS):
        with trio.move_on_after(seconds / STEPS):
            await event.wait()
            return True
    return event.is_set()


async def in_time(act: Callable[[], Awaitable[T]], seconds: float) -> T | None:
    """Return the result of `act`, which waits for what a peer sends. If it does not return in time (see `happens`),
    it is cancelled, and the result is None."""
    result = None
    has_returned = trio.Event()

    async def end_late(scope: trio.CancelScope) -> None:
        if not await happens(has_returned, seconds):
            scope.cancel()

    with trio.CancelScope() as scope:
        async with FlatNursery() as nursery:
            nursery.start_soon(end_late, scope)
            try:
                result = await act()
            finally:
                has_returned.set()
    return result
