"""The relay that is managed, as the operations see it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

import attrs
import trio

from .._threads import run_in_thread
from ..events import EventStream
from ..relay import LiveRelay, RelayInfo, Store
from ..relay.store.store import StoreBusy
from .feed import Feed

__all__ = ["CHANGE_WAIT_SECONDS", "Managed"]

T = TypeVar("T")

#: How long a change waits until those before it are made (seconds). Each of them may wait for another process, so a
#: longer queue would keep its last caller waiting for as many times five seconds as there are changes before it.
CHANGE_WAIT_SECONDS: Final = 5.0


def _one_thread() -> trio.CapacityLimiter:
    return trio.CapacityLimiter(1)


@attrs.frozen(eq=False)
class Managed:
    """The relay that is managed."""

    #: For changes.
    store: Store
    #: For reading: another `Store` with the same content, so that nothing that is read waits for a change.
    reader: Store
    info: RelayInfo
    #: What it holds at this moment.
    relay: LiveRelay
    events: EventStream
    #: Seconds since 1970.
    clock: Callable[[], float] = time.time
    #: Its latest events, once this subscribes to `events`.
    feed: Feed = attrs.field()
    #: A store is used by one thread at a time.
    _changing: trio.CapacityLimiter = attrs.field(factory=_one_thread)
    _reading: trio.CapacityLimiter = attrs.field(factory=_one_thread)

    @feed.default
    def _make_feed(self) -> Feed:
        return Feed(self.clock)

    async def read_store(self, function: Callable[[Store], T]) -> T:
        """Call a function that reads with the store, in a thread. It waits for no change.

        Raises:
            ConfigurationError: what the store raises.

        Cancelled, it waits for the function, which reads a local file.
        """
        return await run_in_thread(function, self.reader, limiter=self._reading)

    async def change_store(self, function: Callable[[Store], T]) -> T:
        """Call a function that reads and changes with the store, in a thread. One change is made at a time.

        Raises:
            StoreBusy: the changes before it were not made within `CHANGE_WAIT_SECONDS`. Nothing was changed.
            ConfigurationError: what the store raises.

        Cancelled while it waits for another change, nothing is changed. Cancelled later, it waits for the function,
        which changes a local file: no change is left half known.
        """
        with trio.move_on_after(CHANGE_WAIT_SECONDS):
            return await run_in_thread(function, self.store, limiter=self._changing)
        raise StoreBusy(
            f"other changes of the registry were not finished within {CHANGE_WAIT_SECONDS:g} seconds; nothing was "
            "changed",
            remedy="try again",
        )
