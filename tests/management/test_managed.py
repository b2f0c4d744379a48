"""How long callers wait for the store."""

from __future__ import annotations

import threading

import pytest
import trio
import trio.testing

from hybridrelay.events import EventStream
from hybridrelay.management.managed import Managed
from hybridrelay.relay import MemoryStore, RelayInfo, Store
from hybridrelay.relay.store.store import StoreBusy

from .live import FakeRelay


async def test_a_change_waits_for_others_only_so_long(autojump_clock: trio.testing.MockClock) -> None:
    store = MemoryStore()
    managed = Managed(store, MemoryStore(), lambda: RelayInfo({}, ""), FakeRelay(), EventStream())
    may_end, changed = threading.Event(), []

    def slow_change(store: Store) -> str:
        assert may_end.wait(60)
        return "made"

    async def change() -> None:
        changed.append(await managed.change_store(slow_change))

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(change)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(StoreBusy, match="nothing was changed") as caught:
                await managed.change_store(lambda store: store.create("x", ["h"], []))
            assert caught.value.remedy == "try again"
            assert await managed.read_store(lambda store: store.list()) == ()
            assert changed == []
            may_end.set()
    finally:
        may_end.set()
    assert changed == ["made"], "a change that has begun is waited for, however long it takes"
    assert store.list() == ()
