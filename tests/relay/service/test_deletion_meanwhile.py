"""A hybrid connection may be deleted by another process at any moment: between any two statements of what the relay
does with its store by itself. None of this may end the relay."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from hybridrelay.events import EventStream
from hybridrelay.protocol import control
from hybridrelay.relay.claims import Claim
from hybridrelay.relay.model import StoreChange
from hybridrelay.relay.service.claims import ClaimService
from hybridrelay.relay.service.control import ControlPeer
from hybridrelay.relay.service.rolls import RollService
from hybridrelay.relay.service.updates import UpdateService
from hybridrelay.relay.service.watcher import StoreWatcher
from hybridrelay.relay.store.sqlite import SQLiteStore
from hybridrelay.relay.store.store import StoreBusy
from hybridrelay.relay.updates import StoredUpdate
from hybridrelay.security import KeySlot, Role, Rule

from ..peers import HOST, make_broker

#: The hybrid connection that is deleted, and two that stay.
NAMES = ("b", "a", "c")
PROOF = bytes(32)
CLAIM, EXPIRED = "ab" * 16, "cd" * 16
#: More statements than any of the actions executes.
MANY = 100


class Interrupted:
    """The database of a store, which calls a function before one of the statements that are executed.

    Args:
        store: the store, which uses this database from now on.
        step: before which statement, from 0.
        interrupt: the function.
    """

    def __init__(self, store: SQLiteStore, step: int, interrupt: Callable[[], object]) -> None:
        self._database = store._database
        self._step = step
        self._interrupt = interrupt
        self.executed = 0
        store._database = self  # type: ignore[assignment]

    def execute(self, *arguments: Any) -> Any:
        if self.executed == self._step:
            self._interrupt()
        self.executed += 1
        return self._database.execute(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)


#: What the relay does, and what checks its state afterwards.
Act = Callable[[], Awaitable[None]]
Parts = tuple[Act, Act]


async def nothing() -> None:
    pass


async def read_updates(store: SQLiteStore) -> Parts:
    """Read the updates of hybrid connections that have changed."""
    limiter, events = trio.CapacityLimiter(1), EventStream()
    service = UpdateService(make_broker(store), list[ControlPeer], store, limiter, clock=time.time, events=events)
    await service._read()
    snapshot = store.snapshot()

    async def act() -> None:
        service.changed(StoreChange.between({}, snapshot))
        await service._read()

    async def check() -> None:
        service.changed(StoreChange.between(snapshot, store.snapshot()))
        await service._read()
        assert sorted(service._of_connection) == sorted(store.snapshot())

    return act, check


async def retire_a_key(store: SQLiteStore) -> Parts:
    """Revoke the old key at the end of a roll."""
    limiter, events = trio.CapacityLimiter(1), EventStream()
    service = RollService(make_broker(store), list[ControlPeer], store, limiter, clock=time.time, events=events)
    await service._update()
    (known,) = service._rolls.values()

    async def act() -> None:
        await service._retire(NAMES[0], known.machine, has_waited=True)

    return act, nothing


async def sweep_claims(store: SQLiteStore) -> Parts:
    """Delete the contents of claims that have expired."""
    service = ClaimService(store, trio.CapacityLimiter(1), EventStream(), clock=time.time)
    return partial(service.sweep, time.time()), nothing


async def take_a_claim(store: SQLiteStore) -> Parts:
    """Take a claim."""
    service = ClaimService(store, trio.CapacityLimiter(1), EventStream(), clock=time.time)

    async def act() -> None:
        (answer,) = await service.take(control.Take(7, CLAIM, PROOF.hex()), "192.0.2.1")
        assert isinstance(answer, control.Taken | control.Failed)

    return act, nothing


async def watch(store: SQLiteStore) -> Parts:
    """Read what has changed in the store."""
    watcher = StoreWatcher(store, events=EventStream())

    async def check() -> None:
        await watcher.refresh()
        assert watcher.connections.keys() == store.snapshot().keys()

    return watcher.refresh, check


def fill(state_dir: Path, rules: tuple[Rule, ...]) -> None:
    """Make a store as it was left 100 seconds ago."""
    then = time.time() - 100
    with SQLiteStore.open(state_dir, clock=lambda: then) as store:
        for name in NAMES:
            store.create(name, [HOST], rules)
            store.put_update(StoredUpdate(name, Role.CONNECTOR, "", 7, b"sealed", 0.0, 2e9, "target"))
        store.roll_key(NAMES[0], rules[0].name, KeySlot.SECONDARY, seconds=1000)
        for id_, seconds in ((CLAIM, 1000), (EXPIRED, 60)):
            digest = hashlib.sha256(PROOF).hexdigest()
            store.add_claim(Claim(id_, NAMES[0], digest, b"sealed", then, then + seconds))


@pytest.mark.parametrize("prepare", [read_updates, retire_a_key, sweep_claims, take_a_claim, watch])
async def test_a_hybrid_connection_that_is_deleted_between_two_statements(
    prepare: Callable[[SQLiteStore], Awaitable[Parts]], tmp_path: Path, rules: tuple[Rule, ...]
) -> None:
    executed = 1
    for step in range(MANY):
        if step >= executed:
            break
        fill(tmp_path / str(step), rules)
        with SQLiteStore.open(tmp_path / str(step)) as store, SQLiteStore.open(tmp_path / str(step)) as other:
            other._database.execute("PRAGMA busy_timeout = 0")
            act, check = await prepare(store)
            interrupted = Interrupted(store, step, partial(_delete, other))
            await act()
            executed = interrupted.executed
            await check()
    assert 0 < executed < MANY


def _delete(store: SQLiteStore) -> None:
    with suppress(StoreBusy):  # in the middle of a change, this waits for its turn
        store.delete(NAMES[0])
