"""Watching the relay's store, which other processes may change."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from types import MappingProxyType

import trio

from ..._threads import run_in_thread
from ...errors import StateError
from ...events.log import logged_events
from ...events.relay_resources import StoreReadable, StoreUnreadable
from ...events.stream import EventStream
from ..core.admission import KeyIndex
from ..limits import STORE_POLL_SECONDS
from ..model import HybridConnection, StoreChange
from ..quotas import NO_EDITIONS, Editions
from ..store.store import Store

__all__ = ["StoreWatcher"]


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
        self._store = store
        self._events = logged_events() if events is None else events
        self._interval = interval
        self._limiter = trio.CapacityLimiter(1)
        self._version: Hashable | None = None
        self._on_change: Callable[[StoreChange], None] | None = None
        #: Whether the last check failed.
        self._failed = False
        self._snapshot: Mapping[str, HybridConnection] = MappingProxyType({})
        #: The content that the worker thread read last.
        self._last_read: tuple[Mapping[str, HybridConnection], Editions] = self._snapshot, NO_EDITIONS
        self._keys = KeyIndex()
        self._editions = NO_EDITIONS

    @property
    def snapshot(self) -> Mapping[str, HybridConnection]:
        """The hybrid connections by name, at the last check. Empty before `run` has started."""
        return self._snapshot

    @property
    def editions(self) -> Editions:
        """The editions, at the last check."""
        return self._editions

    @property
    def keys(self) -> KeyIndex:
        """The keys of `snapshot`."""
        return self._keys

    async def run(
        self,
        on_change: Callable[[StoreChange], None],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Watch until cancelled. `task_status.started` is called when the first snapshot was read, which is not
        reported as a change.

        If cancelled, it waits for a check that is in progress, which reads memory or a local file.

        Args:
            on_change: called after each change, when `snapshot` is up to date; must not raise.

        Raises:
            StateError: the first check failed. If a later one fails, the last snapshot stays in use, and the check is
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

        If the store cannot be read, the last snapshot stays in use. `StoreUnreadable` is published then, and
        `StoreReadable` when it can be read again.
        """
        try:
            change = await self._look()
        except StateError as exc:
            if not self._failed:
                self._failed = True
                self._events.publish(StoreUnreadable(detail=str(exc)))
            return
        if self._failed:
            self._failed = False
            self._events.publish(StoreReadable())
        if change is not None and self._on_change is not None:
            self._on_change(change)

    async def _look(self) -> StoreChange | None:
        read = await run_in_thread(self._maybe_read, limiter=self._limiter)
        if read is None:
            return None
        old, (new, self._editions, self._keys) = self._snapshot, read
        self._snapshot = new
        return StoreChange.between(old, new, self._editions)

    def _maybe_read(self) -> tuple[Mapping[str, HybridConnection], Editions, KeyIndex] | None:
        """Read the content and its keys in a worker thread, if it has changed since the last check."""
        # Get the version first, so that a change between the two statements is noticed at the next check.
        version = self._store.data_version()
        if version == self._version:
            return None
        snapshot, editions = self._store.snapshot(), self._store.editions()
        # The version also changes when a token is used, and at a checkpoint of SQLite. So compare the content, and do
        # it in this thread, because that takes too long for the event loop.
        is_changed = (snapshot, editions) != self._last_read
        keys = self._keys.updated(snapshot) if is_changed else self._keys
        self._version, self._last_read = version, (snapshot, editions)
        return (snapshot, editions, keys) if is_changed else None
