"""When the relay saves what was moved."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest
import trio
import trio.testing

from hybridrelay.events.relay_resources import WorkerTakenOver
from hybridrelay.events.stream import EventStream
from hybridrelay.relay.service import usage
from hybridrelay.relay.service.broker import BrokerService
from hybridrelay.relay.service.usage import UsageService
from hybridrelay.relay.store.usage import UsageFile

from ...waiting import async_wait_until


async def refresh() -> None:
    """There is nothing to read again."""


async def test_what_a_worker_has_moved_without_a_main_process_is_saved_when_it_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SAMPLE_SECONDS", "SAVE_SECONDS"):
        monkeypatch.setattr(usage, name, math.inf)
    events = EventStream()
    broker = BrokerService({}, refresh=refresh, events=events)
    service = UsageService(tmp_path, broker, clock=time.time, events=events)

    def saved() -> list[int]:
        file = UsageFile(tmp_path)
        try:
            return [one.usage.to_client for one in file.past("db")]
        finally:
            file.close()

    async def is_saved() -> bool:
        return await trio.to_thread.run_sync(saved) == [100]

    await service.load()
    with events.subscribed(service):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.run)
            await trio.testing.wait_all_tasks_blocked()
            broker.usage.observe("db", 100, 10)
            assert not await is_saved()
            events.publish(WorkerTakenOver(pid=1, pairs=1))
            await async_wait_until(is_saved, seconds=60, what="it is saved")
            await service.finish()
