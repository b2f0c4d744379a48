"""A running relay notices what other processes do to its registry."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import trio

from hybridrelay.errors import StateError
from hybridrelay.events import Event, EventStream, StoreReadable, StoreUnreadable
from hybridrelay.relay.model import HybridConnection, StoreChange
from hybridrelay.relay.service.watcher import StoreWatcher
from hybridrelay.relay.store.sqlite import SQLiteStore
from hybridrelay.security import KeySlot, ManagementRole, Rule, generate_management_token

Rules = tuple[Rule, ...]
#: Seconds. Short, because the tests wait in real time until the file has been checked.
INTERVAL = 0.01


async def another_process(state: Path, call: str) -> None:
    """Run ``registry.<call>`` in a process of its own."""
    program = (
        "import sys, pathlib\n"
        "from hybridrelay.relay.store.sqlite import SQLiteStore\n"
        "from hybridrelay.security import KeySlot\n"
        f"with SQLiteStore.open(pathlib.Path(sys.argv[1]), create=False) as registry:\n    registry.{call}\n"
    )
    await trio.run_process([sys.executable, "-c", program, str(state)], stderr=subprocess.STDOUT)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


async def test_the_event_loop_does_not_compare_the_content_when_a_token_was_used(
    registry: SQLiteStore, state: Path, rules: Rules, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.create("sql", ["relay.example.com"], rules)
    watcher = StoreWatcher(registry)
    comparing: set[threading.Thread] = set()
    compare = HybridConnection.__eq__

    def spy(one: HybridConnection, other: object) -> bool:
        comparing.add(threading.current_thread())
        return compare(one, other)

    async with trio.open_nursery() as nursery:
        await nursery.start(watcher.run, lambda _: pytest.fail("it has not changed"))
        token, _ = generate_management_token("metrics", ManagementRole.VIEWER, now=0.0)
        with SQLiteStore.open(state, create=False) as another:
            another.add_token(token)
            another.set_last_use_of_tokens({token.id: 1.0})
        monkeypatch.setattr(HybridConnection, "__eq__", spy)
        await watcher.refresh()
        nursery.cancel_scope.cancel()
    assert comparing
    assert threading.current_thread() not in comparing


async def test_changes_of_another_process_are_noticed(registry: SQLiteStore, state: Path, rules: Rules) -> None:
    created = registry.create("sql", ["relay.example.com"], rules)
    watcher = StoreWatcher(registry, interval=INTERVAL)
    assert watcher.snapshot == {}
    send, receive = trio.open_memory_channel[StoreChange](100)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(watcher.run, send.send_nowait)
            assert watcher.snapshot == {"sql": created}

            await another_process(state, "regenerate_key('sql', 'sender', KeySlot.PRIMARY)")
            change = await receive.receive()
            assert change.ended == {created.key_id("sender", KeySlot.PRIMARY)}
            assert change.deleted == set()
            assert change.snapshot is watcher.snapshot
            new_key = watcher.snapshot["sql"].key_id("sender", KeySlot.PRIMARY)

            await another_process(state, "create('web', ['relay.example.com'], [])")
            change = await receive.receive()
            assert not change.ended
            assert not change.deleted
            assert set(change.snapshot) == {"sql", "web"}

            await another_process(state, "delete('sql')")
            change = await receive.receive()
            assert len(change.ended) == 4
            assert new_key in change.ended
            assert change.deleted == {"sql"}
            nursery.cancel_scope.cancel()


async def test_our_own_changes_are_noticed(registry: SQLiteStore, rules: Rules) -> None:
    watcher = StoreWatcher(registry, interval=INTERVAL)
    send, receive = trio.open_memory_channel[StoreChange](100)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(watcher.run, send.send_nowait)
            await trio.to_thread.run_sync(registry.create, "sql", ["relay.example.com"], rules)
            assert set((await receive.receive()).snapshot) == {"sql"}
            nursery.cancel_scope.cancel()


async def test_a_new_version_with_the_same_content_is_no_change(
    registry: SQLiteStore, rules: Rules, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.create("sql", ["relay.example.com"], rules)
    watcher = StoreWatcher(registry)
    changes: list[StoreChange] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(watcher.run, changes.append)
        monkeypatch.setattr(registry, "data_version", lambda: (-1, -1))
        await watcher.refresh()
        assert changes == []
        nursery.cancel_scope.cancel()


async def test_a_store_that_cannot_be_read_is_logged_once_and_watched_further(
    registry: SQLiteStore, rules: Rules, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    created = registry.create("sql", ["relay.example.com"], rules)
    watcher = StoreWatcher(registry, interval=INTERVAL)
    send, receive = trio.open_memory_channel[StoreChange](100)
    real, failures = registry.data_version, iter(range(3))

    def fail_three_times() -> tuple[int, int]:
        if next(failures, None) is not None:
            raise StateError("the disk is on fire")
        return real()

    with caplog.at_level(logging.WARNING), trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(watcher.run, send.send_nowait)
            monkeypatch.setattr(registry, "data_version", fail_three_times)
            assert watcher.snapshot == {"sql": created}
            await trio.to_thread.run_sync(registry.delete, "sql")
            assert (await receive.receive()).deleted == {"sql"}
            nursery.cancel_scope.cancel()
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
    assert "on fire" in caplog.text


async def test_a_store_that_cannot_be_read_is_one_event_however_often_it_is_checked(
    registry: SQLiteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Event] = []
    watcher = StoreWatcher(registry, events=EventStream(events.append))
    real = registry.data_version

    def fail() -> tuple[int, int]:
        raise StateError("the disk is on fire")

    async with trio.open_nursery() as nursery:
        await nursery.start(watcher.run, lambda change: None)
        monkeypatch.setattr(registry, "data_version", fail)
        for _ in range(3):
            await watcher.refresh()
        assert events == [StoreUnreadable(detail="the disk is on fire")]
        monkeypatch.setattr(registry, "data_version", real)
        for _ in range(3):
            await watcher.refresh()
        nursery.cancel_scope.cancel()
    assert events == [StoreUnreadable(detail="the disk is on fire"), StoreReadable()]


async def test_a_store_that_cannot_be_read_at_first_is_an_error(registry: SQLiteStore) -> None:
    registry.close()
    with pytest.raises(StateError):
        await StoreWatcher(registry).run(lambda change: None)
