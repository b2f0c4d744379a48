"""Watching the relay's store, which other processes may change.

1. Only what has changed is read, and compared with what was known, in a thread. So a change takes time in proportion
   to itself, not to the number of hybrid connections.
2. The event loop gets changes in parts of at most `PART` hybrid connections, and other tasks run after each part.
3. A part that was read is not lost if the task that has read it is cancelled: it is applied first at the next check.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping
from itertools import islice

import attrs
import trio

from ..._threads import run_in_thread
from ..._value import Value
from ...errors import StateError
from ...events.log import logged_events
from ...events.relay_resources import StoreReadable, StoreUnreadable
from ...events.stream import EventStream
from ..core.admission import KeyIndex, KeyOfIndex, keys_for_index
from ..core.known import KnownConnections
from ..limits import STORE_POLL_SECONDS
from ..model import HybridConnection, StoreChange
from ..quotas import NO_EDITIONS, Editions
from ..snapshot import FileProblem
from ..store.changes import Mark
from ..store.store import Store

__all__ = ["PART", "StoreReader", "StoreWatcher"]

#: How many hybrid connections the event loop handles before other tasks run. At most 2 x `PART` are read in one go,
#: unless all have to be read.
PART = 20


@attrs.frozen
class Part(Value):
    """A part of what has changed in a store, with the keys of the hybrid connections that have changed."""

    change: StoreChange
    keys: Mapping[str, tuple[KeyOfIndex, ...]] = attrs.field(repr=False)


class StoreReader:
    """Reads what has changed in a store. For use in a thread, and by one thread at a time.

    Args:
        store: the store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._version: Hashable | None = None
        self._mark: Mark | None = None
        self._known: dict[str, HybridConnection] = {}
        self._editions = NO_EDITIONS

    def read(self) -> tuple[list[Part], bool]:
        """Read the next changes.

        Returns:
            Parts, each of which is about at most `PART` hybrid connections; and whether more has to be read.

        Raises:
            StateError: the store cannot be read. The next call reads the same again.
        """
        # Get the version first, so that a change between the two statements is noticed at the next check.
        version = self._store.data_version()
        if version == self._version:
            return [], False
        editions = self._store.editions()
        changes = self._store.changes(self._mark, PART)
        changed = {one.name: one for one in changes.changed if self._known.get(one.name) != one}
        if changes.is_everything:
            deleted = self._known.keys() - {one.name for one in changes.changed}
        else:
            deleted = self._known.keys() & changes.deleted
        concerned: dict[str, HybridConnection | None] = {**dict.fromkeys(sorted(deleted)), **changed}
        parts = list(self._parts(concerned))
        if editions != self._editions:
            parts.append(Part(StoreChange.between({}, {}, editions), {}))
        # Nothing was noted yet. If any of this had failed, the same would be read again.
        for name in deleted:
            del self._known[name]
        self._known.update(changed)
        self._mark, self._editions = changes.mark, editions
        if not changes.has_more:
            self._version = version
        return parts, changes.has_more

    def _parts(self, changes: Mapping[str, HybridConnection | None]) -> Iterator[Part]:
        """Yield changes (None: deleted) in parts."""
        names = iter(changes)
        while part := tuple(islice(names, PART)):
            old = {name: self._known[name] for name in part if name in self._known}
            new = {name: one for name in part if (one := changes[name]) is not None}
            yield Part(StoreChange.between(old, new), {name: keys_for_index(one) for name, one in new.items()})


class StoreWatcher:
    """Keeps the store's content in memory and polls for changes. Nothing else may use this `Store` during `run`.

    Args:
        store: the store to be watched.
        interval: how often it is checked (seconds).
        events: the stream to which events are published; None means the log.
    """

    def __init__(
        self, store: Store, *, interval: float = STORE_POLL_SECONDS, events: EventStream | None = None
    ) -> None:
        self._reader = StoreReader(store)
        self._events = logged_events() if events is None else events
        self._interval = interval
        self._limiter = trio.CapacityLimiter(1)
        #: Held from reading a change until it is applied, so that changes are applied in order.
        self._looking = trio.Lock()
        #: What was read, and is not applied yet.
        self._waiting: deque[Part] = deque()
        self._on_change: Callable[[StoreChange], None] | None = None
        #: Why the store could not be read at the last check, or that its file was replaced; None if it was read.
        self.problem: FileProblem | None = None
        #: The hybrid connections, the editions and the keys, as far as changes were applied; nothing before `run`.
        self.connections = KnownConnections()
        self.editions: Editions = NO_EDITIONS
        self.keys = KeyIndex()

    async def run(
        self,
        on_change: Callable[[StoreChange], None],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Watch until cancelled. `task_status.started` is called when everything was read, which is not reported as a
        change.

        If cancelled, it waits for a check that is in progress, which reads memory or a local file.

        Args:
            on_change: called after each change, or part of one, when `connections`, `editions` and `keys` are up to
                date; must not raise.

        Raises:
            StateError: the first check failed. If a later one fails, what is known stays in use, and the check is
                repeated.
        """
        await self._look()
        self._on_change = on_change
        task_status.started()
        while True:
            await trio.sleep(self._interval)
            await self.refresh()

    async def refresh(self) -> None:
        """Check now, instead of at the next interval. Changes are reported as usual.

        If the store cannot be read, what is known stays in use, and `problem` says why. `StoreUnreadable` is
        published then, and `StoreReadable` when it can be read again.
        """
        try:
            await self._look()
        except StateError as exc:
            is_new, self.problem = self.problem is None, FileProblem("registry", str(exc), exc.remedy or "")
            if is_new:
                self._events.publish(StoreUnreadable(detail=self.problem.detail, remedy=self.problem.remedy))

    async def _look(self) -> None:
        async with self._looking:
            await self._apply_waiting()
            has_more = True
            while has_more:
                has_more = await run_in_thread(self._read, limiter=self._limiter)
                if self.problem is not None:
                    self.problem = None
                    self._events.publish(StoreReadable())
                await self._apply_waiting()

    def _read(self) -> bool:
        """Read what is next, in a thread. Returns whether more has to be read."""
        parts, has_more = self._reader.read()
        self._waiting.extend(parts)
        return has_more

    async def _apply_waiting(self) -> None:
        while self._waiting:
            self._apply(self._waiting.popleft())
            await trio.lowlevel.checkpoint()

    def _apply(self, part: Part) -> None:
        change = part.change
        self.connections.apply(change)
        if change.editions is not None:
            self.editions = change.editions
        for name in change.deleted:
            self.keys.replace(name, ())
        for name, keys in part.keys.items():
            self.keys.replace(name, keys)
        if self._on_change is not None:
            self._on_change(change)
