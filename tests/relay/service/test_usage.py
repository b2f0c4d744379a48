"""When the relay saves what was moved, and how long what it does every few seconds takes."""

from __future__ import annotations

import math
import time
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from hybridrelay.events.base import Event
from hybridrelay.events.quotas import QuotaReached
from hybridrelay.events.relay_resources import WorkerTakenOver
from hybridrelay.events.stream import EventStream
from hybridrelay.relay.quotas import Limits, Quota
from hybridrelay.relay.service import usage
from hybridrelay.relay.service.broker import BrokerService
from hybridrelay.relay.service.connections import ControlPeers
from hybridrelay.relay.service.usage import UsageService
from hybridrelay.relay.store.memory import MemoryStore
from hybridrelay.relay.store.usage import UsageFile
from hybridrelay.security import Right, Rule

from ...waiting import async_wait_until
from ..steps import calls_at_a_time


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


async def test_the_quotas_of_many_hybrid_connections_delay_no_other_task(tmp_path: Path) -> None:
    store = MemoryStore()
    quota = Quota(limits=Limits(bytes_per_month=1000))
    one = store.create("db", ["relay.example.com"], [Rule.generate("listener", [Right.LISTEN])], quota=quota)

    async def longest_step(count: int) -> int:
        published: list[Event] = []
        connections = {f"db{number}": attrs.evolve(one, name=f"db{number}") for number in range(count)}
        broker = BrokerService(connections, refresh=refresh, events=EventStream(published.append))
        service = UsageService(tmp_path, broker, clock=time.time, events=EventStream())
        for name in connections:
            broker.usage.observe(name, 999, 1)
        longest = max(await calls_at_a_time(service._sample))
        assert [type(event) for event in published] == [QuotaReached] * count
        return longest

    assert await longest_step(900) < 1.2 * await longest_step(300)


@attrs.define(eq=False)
class Peer:
    """A control channel."""

    peers: ControlPeers
    #: Another one, which ends while this one is examined.
    ends: Peer | None = None
    examined: int = 0

    def expire(self, now: float) -> None:
        if self.ends is not None:
            self.peers._peers.discard(self.ends)

    def check_reading(self) -> None:
        self.examined += 1


async def test_many_control_channels_delay_no_other_task() -> None:
    async def longest_step(count: int) -> int:
        broker = BrokerService({}, refresh=refresh, events=EventStream())
        peers = ControlPeers(broker, "0" * 32, tuple)
        made = [Peer(peers) for _ in range(count)]
        peers._peers = set(made)  # type: ignore[arg-type]
        order: list[Peer] = list(peers)  # type: ignore[arg-type]
        order[0].ends = ended = order[-1]
        longest = max(await calls_at_a_time(partial(peers.sweep, time.time())))
        assert [one.examined for one in made] == [int(one is not ended) for one in made]
        return longest

    assert await longest_step(900) < 1.2 * await longest_step(300)
