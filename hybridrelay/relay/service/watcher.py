"""Keeps a running relay up to date with its registry, whoever changes it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping
from types import MappingProxyType

import trio

from ..._threads import run_in_thread
from ...errors import StateError
from ..core.admission import KeyIndex
from ..limits import REGISTRY_POLL_SECONDS
from ..model import HybridConnection, StoreChange
from ..store.store import Store

__all__ = ["StoreWatcher"]

_logger = logging.getLogger(__name__)


class StoreWatcher:
    """Holds the registry's content in memory and polls for changes. The registry is its own while `run` runs."""

    def __init__(self, registry: Store, *, interval: float = REGISTRY_POLL_SECONDS) -> None:
        """Watch `registry`, looking every `interval` seconds."""
        self._registry = registry
        self._interval = interval
        self._limiter = trio.CapacityLimiter(1)
        self._version: Hashable | None = None
        self._on_change: Callable[[StoreChange], None] | None = None
        self._snapshot: Mapping[str, HybridConnection] = MappingProxyType({})
        self._keys = KeyIndex()

    @property
    def snapshot(self) -> Mapping[str, HybridConnection]:
        """The hybrid connections by name, as of the last look. Empty before `run` has started."""
        return self._snapshot

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
        """Watch until cancelled. Started when the first snapshot is there, which is not reported as a change.

        Args:
            on_change: called after each change with `snapshot` up to date already; must not raise.

        Raises:
            StateError: the first look failed. When a later one does, the relay goes on with what it knows, which is
                logged once, and looks again.

        Cancelled, a look that is under way is waited for: it reads memory or a local file.
        """
        await self._look()
        self._on_change = on_change
        task_status.started()
        failed = False
        while True:
            await trio.sleep(self._interval)
            try:
                await self.refresh()
            except StateError as exc:
                if not failed:
                    _logger.error("changes to the registry cannot be read: %s", exc)
                failed = True
                continue
            if failed:
                _logger.warning("the registry can be read again")
            failed = False

    async def refresh(self) -> None:
        """Check now instead of waiting for the next check; changes are reported as always.

        Raises:
            StateError: the registry cannot be read.
        """
        change = await self._look()
        if change is not None and self._on_change is not None:
            self._on_change(change)

    async def _look(self) -> StoreChange | None:
        read = await run_in_thread(self._maybe_read, limiter=self._limiter)
        # SQLite's housekeeping (a checkpoint) may look like a change.
        if read is None or read[0] == self._snapshot:
            return None
        old, (new, self._keys) = self._snapshot, read
        self._snapshot = new
        return StoreChange.between(old, new)

    def _maybe_read(self) -> tuple[Mapping[str, HybridConnection], KeyIndex] | None:
        """In a worker thread: the content and its keys, if it may have changed since the last look."""
        # The version first: a change between the two statements is then noticed the next time.
        version = self._registry.data_version()
        if version == self._version:
            return None
        snapshot = self._registry.snapshot()
        keys = self._keys.updated(snapshot)
        self._version = version
        return snapshot, keys
