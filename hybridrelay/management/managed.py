"""The interface of the relay that the operations of the management API use."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import attrs
import trio

from .._threads import run_in_thread
from ..events.stream import EventStream
from ..relay import LiveRelay, RelayInfo, Store
from ..relay.store.store import StoreBusy
from .audit_log import ManagementAuditLog
from .callers import Caller
from .feed import Feed
from .live_values import RelayProblem
from .scope_limits import ScopedChanges
from .turns import Turns

__all__ = ["CHANGE_WAIT_SECONDS", "Managed"]

T = TypeVar("T")

#: How long a change may wait for the changes before it (seconds). Each of these may wait up to five seconds for
#: another process; without this limit, the wait would grow with the length of the queue.
CHANGE_WAIT_SECONDS: Final = 5.0


def _one_thread() -> trio.CapacityLimiter:
    return trio.CapacityLimiter(1)


@attrs.frozen(eq=False)
class Managed:
    """The relay that is managed: its store, its events, and its state at run time."""

    #: The store through which changes are made.
    store: Store
    #: The store through which content is read: a second `Store` with the same content, so that reading does not wait
    #: for changes.
    reader: Store
    #: Returns where the relay can be reached now.
    get_info: Callable[[], RelayInfo]
    #: The relay's state at run time.
    relay: LiveRelay
    events: EventStream
    #: Seconds since 1970.
    clock: Callable[[], float] = time.time
    #: The relay's state directory, for the commands that pages show; None if it is unknown.
    state_dir: Path | None = None
    #: When the relay was started (seconds since 1970).
    started_at: float = attrs.field()
    #: The relay's audit log; None if there is none.
    audit: ManagementAuditLog | None = None
    #: Returns the problems that are neither the relay's nor those of its audit log.
    problems: Callable[[], Sequence[RelayProblem]] = tuple
    #: Keeps the latest events, once it is subscribed to `events`.
    feed: Feed = attrs.field()
    #: The turns of callers (`Caller.limit_group`): for requests that read and for pages, and for reading from `feed`.
    #: A task that has a turn of `turns` may take one of `feed_turns` in addition.
    turns: Turns = attrs.field(factory=Turns)
    feed_turns: Turns = attrs.field(factory=Turns)
    #: Limits how often callers with a scope change something.
    scoped_changes: ScopedChanges = attrs.field(factory=ScopedChanges)
    #: At most one thread at a time uses each store.
    _changing: trio.CapacityLimiter = attrs.field(factory=_one_thread)
    #: The turns of tenants (`Caller.tenant_group`) for changes. A change of a caller with a scope has one while it
    #: waits for `_changing`, and while it is made.
    _changes_in_scope: Turns = attrs.field(factory=partial(Turns, at_a_time=1))
    _reading: trio.CapacityLimiter = attrs.field(factory=_one_thread)

    @started_at.default
    def _now(self) -> float:
        return self.clock()

    @feed.default
    def _make_feed(self) -> Feed:
        return Feed(self.clock)

    @property
    def info(self) -> RelayInfo:
        """Where the relay can be reached now."""
        return self.get_info()

    async def read_store(self, function: Callable[[Store], T]) -> T:
        """Call a function that reads the store, in a thread. It does not wait for changes.

        Raises:
            ConfigurationError: raised by the store.

        If cancelled, this first waits for the function, which only reads a local file.
        """
        return await run_in_thread(function, self.reader, limiter=self._reading)

    async def change_store(self, function: Callable[[Store], T], *, caller: Caller | None = None) -> T:
        """Call a function that reads and changes the store, in a thread. Only one change is made at a time.

        Args:
            function: called with the store.
            caller: who wants the change; None for the relay itself. Callers with a scope take turns: only one of
                their changes at a time waits for the store or is made. So administrators wait for at most one of
                them. Of each tenant, only one change at a time waits for such a turn.

        Raises:
            StoreBusy: the changes before this one took longer than `CHANGE_WAIT_SECONDS`. Nothing was changed.
            ConfigurationError: raised by the store.

        If cancelled while it waits for another change, nothing is changed. If cancelled later, this first waits for
        the function, which only changes a local file, so that the change is either made completely or not at all.
        """
        with trio.move_on_after(CHANGE_WAIT_SECONDS):
            has_scope = caller is not None and not caller.scope.is_everything
            turn = self._changes_in_scope.take(caller.tenant_group, has_scope=True) if caller and has_scope else None
            async with contextlib.nullcontext() if turn is None else turn:
                return await run_in_thread(function, self.store, limiter=self._changing)
        raise StoreBusy(
            f"other changes of the registry took longer than {CHANGE_WAIT_SECONDS:g} seconds; nothing was changed",
            remedy="try again",
        )
