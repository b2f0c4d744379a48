"""A running relay notices what other processes do to its registry."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from hybridrelay.errors import StateError
from hybridrelay.events import Event, EventStream, StoreReadable, StoreUnreadable
from hybridrelay.relay.core.admission import KeyIndex
from hybridrelay.relay.core.known import KnownConnections
from hybridrelay.relay.model import HybridConnection, KeyId, StoreChange
from hybridrelay.relay.quotas import NO_EDITIONS, NO_QUOTA, Limits, Quota
from hybridrelay.relay.service.watcher import PART, StoreReader, StoreWatcher
from hybridrelay.relay.snapshot import FileProblem
from hybridrelay.relay.store.memory import MemoryStore
from hybridrelay.relay.store.sqlite import SQLiteStore
from hybridrelay.security import (
    KeySlot,
    ManagementRole,
    Right,
    Rule,
    Secret,
    generate_key,
    generate_management_token,
    make_admission_proof,
)

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


async def test_the_event_loop_does_not_compare_hybrid_connections(
    registry: SQLiteStore, state: Path, rules: Rules, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.create("sql", ["relay.example.com"], rules)
    watcher = StoreWatcher(registry)
    comparing: set[threading.Thread] = set()
    compare = HybridConnection.__eq__

    def spy(one: HybridConnection, other: object) -> bool:
        comparing.add(threading.current_thread())
        return compare(one, other)

    changes: list[StoreChange] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(watcher.run, changes.append)
        with SQLiteStore.open(state, create=False) as another:
            another.regenerate_key("sql", "sender", KeySlot.PRIMARY)
        monkeypatch.setattr(HybridConnection, "__eq__", spy)
        await watcher.refresh()
        nursery.cancel_scope.cancel()
    assert [len(change.ended) for change in changes] == [1]
    assert comparing
    assert threading.current_thread() not in comparing


async def test_a_token_that_is_used_is_not_a_change(registry: SQLiteStore, state: Path, rules: Rules) -> None:
    registry.create("sql", ["relay.example.com"], rules)
    watcher = StoreWatcher(registry)
    async with trio.open_nursery() as nursery:
        await nursery.start(watcher.run, lambda _: pytest.fail("it has not changed"))
        token, _ = generate_management_token("metrics", ManagementRole.VIEWER, now=0.0)
        with SQLiteStore.open(state, create=False) as another:
            another.add_token(token)
            another.set_last_use_of_tokens({token.id: 1.0})
        await watcher.refresh()
        nursery.cancel_scope.cancel()


async def test_many_changes_are_applied_in_parts_with_other_tasks_in_between() -> None:
    store, many = MemoryStore(), 3 * PART + 5
    watcher = StoreWatcher(store)
    passes, steps = 0, []

    async def other() -> None:
        nonlocal passes
        while True:
            passes += 1
            await trio.lowlevel.checkpoint()

    def note(change: StoreChange) -> None:
        steps.append((passes, len(change.changed) + len(change.deleted)))

    async with trio.open_nursery() as nursery:
        await nursery.start(watcher.run, note)
        nursery.start_soon(other)
        for number in range(many):
            store.create(f"c{number:03}", ["relay.example.com"], [])
        await watcher.refresh()
        assert watcher.connections == store.snapshot()
        for number in range(many):
            store.delete(f"c{number:03}")
        await watcher.refresh()
        assert watcher.connections == {}
        nursery.cancel_scope.cancel()
    assert sum(size for _, size in steps) == 2 * many
    assert max(size for _, size in steps) <= PART
    assert len({at for at, _ in steps}) == len(steps), "another task runs between two parts"


async def test_what_was_read_is_applied_even_if_the_task_that_has_read_it_was_cancelled() -> None:
    store = MemoryStore()
    watcher, changes = StoreWatcher(store), []
    with trio.CancelScope() as scope:

        def note(change: StoreChange) -> None:
            changes.append(change)
            scope.cancel()

        async with trio.open_nursery() as nursery:
            await nursery.start(watcher.run, note)
            for number in range(2 * PART):
                store.create(f"c{number:03}", ["relay.example.com"], [])
            await watcher.refresh()
    assert scope.cancelled_caught
    assert len(watcher.connections) == PART
    await watcher.refresh()
    assert watcher.connections == store.snapshot()
    assert [len(change.created) for change in changes] == [PART, PART]


class Watching(RuleBasedStateMachine):
    """Whatever changes, and whenever it is read: what the relay has learned is what is in the store."""

    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryStore()
        self.reader = StoreReader(self.store)
        self.known = KnownConnections()
        self.keys = KeyIndex()
        self.editions = NO_EDITIONS
        #: The last content that was read completely.
        self.before: Mapping[str, HybridConnection] = {}
        self.ended: set[KeyId] = set()

    @rule(name=st.sampled_from("abc"), secret=st.sampled_from(["k", "l"]))
    def create(self, name: str, secret: str) -> None:
        if not self.store.exists(name):
            self.store.create(name, ["relay.example.com"], [Rule("r", {Right.SEND}, Secret(secret), None)])

    @rule(name=st.sampled_from("abc"))
    def delete(self, name: str) -> None:
        if self.store.exists(name):
            self.store.delete(name)

    @rule(name=st.sampled_from("abc"), secret=st.sampled_from(["k", "l", "m"]))
    def change_a_key(self, name: str, secret: str) -> None:
        if self.store.exists(name) and self.store.rule(name, "r").primary != Secret(secret):
            self.store.regenerate_key(name, "r", KeySlot.PRIMARY, Secret(secret))

    @rule(name=st.sampled_from("abc"), disabled=st.booleans(), sessions=st.sampled_from([None, 1]))
    def change(self, name: str, disabled: bool, sessions: int | None) -> None:
        if self.store.exists(name):
            self.store.change(name, disabled=disabled, quota=Quota(limits=Limits(sessions=sessions)))

    @rule(name=st.sampled_from("abc"))
    def roll(self, name: str) -> None:
        if self.store.exists(name) and not self.store.get(name).rolls:
            self.store.roll_key(name, "r", KeySlot.SECONDARY, generate_key(), seconds=60)

    @rule(edition=st.sampled_from(["", "basic"]))
    def use_edition(self, edition: str) -> None:
        self.store.use_edition(edition)

    @rule()
    def read(self) -> None:
        parts, has_more = self.reader.read()
        assert not has_more
        for part in parts:
            change = part.change
            self.known.apply(change)
            self.ended |= change.ended
            self.editions = self.editions if change.editions is None else change.editions
            for name in (*change.deleted, *change.changed):
                self.keys.replace(name, part.keys.get(name, ()))
        content = self.store.snapshot()
        full = StoreChange.between(self.before, content)
        assert self.ended >= full.ended
        self.before, self.ended = content, set()
        assert self.known == content
        assert self.editions == self.store.editions()
        assert set(self.known.limited) == {one.name for one in content.values() if one.quota != NO_QUOTA}
        assert set(self.known.rolling) == {one.name for one in content.values() if one.rolls}
        texts = {
            key.reveal()
            for one in content.values()
            for rule in one.rules
            for key in (rule.primary, rule.secondary)
            if key is not None
        }
        assert len(self.keys) == len(texts)
        for text in texts:
            assert self.keys.prove(make_admission_proof(Secret(text), 1000.0), 1000.0)

    def teardown(self) -> None:
        self.read()


TestWatching = Watching.TestCase


#: What a reader asks its store for.
QUESTIONS = ["data_version", "editions", "changes"]


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("is_after", [True, False])
def test_a_change_while_the_store_is_read_is_noticed_at_the_next_check(
    monkeypatch: pytest.MonkeyPatch, question: str, is_after: bool
) -> None:
    store = MemoryStore()
    store.create("a", ["relay.example.com"], [])
    reader, known = StoreReader(store), KnownConnections()
    ask = getattr(store, question)

    def interrupted(*arguments: Any) -> object:
        monkeypatch.undo()
        found = ask(*arguments) if is_after else None
        store.change("a", disabled=True)
        store.create("b", ["relay.example.com"], [])
        store.use_edition("basic")
        return found if is_after else ask(*arguments)

    monkeypatch.setattr(store, question, interrupted)
    parts = [*reader.read()[0], *reader.read()[0]]
    for part in parts:
        known.apply(part.change)
    assert known == store.snapshot()
    assert [part.change.editions for part in parts if part.change.editions is not None][-1] == store.editions()
    assert reader.read() == ([], False)


@pytest.mark.parametrize("question", QUESTIONS)
def test_what_could_not_be_read_is_read_the_next_time(monkeypatch: pytest.MonkeyPatch, question: str) -> None:
    store = MemoryStore()
    reader = StoreReader(store)
    for number in range(2 * PART):
        store.create(f"c{number:03}", ["relay.example.com"], [])
    reader.read()
    store.delete("c001")

    def fail(*_: Any) -> object:
        raise StateError("the disk is on fire")

    with monkeypatch.context() as context:
        context.setattr(store, question, fail)
        with pytest.raises(StateError):
            reader.read()
    parts, has_more = reader.read()
    assert [part.change.deleted for part in parts] == [{"c001"}]
    assert not has_more


async def test_keys_are_in_the_index_as_long_as_they_are_in_the_store() -> None:
    """The change has been applied by the time subscribers are informed of it."""
    store = MemoryStore()
    watcher = StoreWatcher(store)
    keys, proofs = [Secret("k"), Secret("l")], [make_admission_proof(Secret(one), 1000.0) for one in "kl"]
    valid: list[tuple[bool, ...]] = []

    def note(_change: StoreChange) -> None:
        assert watcher.connections == store.snapshot()
        assert watcher.editions == store.editions()
        valid.append(tuple(watcher.keys.prove(proof, 1000.0) is not None for proof in proofs))

    async with trio.open_nursery() as nursery:
        await nursery.start(watcher.run, note)
        for act in (
            lambda: store.create("a", ["relay.example.com"], [Rule("r", {Right.SEND}, keys[0], None)]),
            lambda: store.regenerate_key("a", "r", KeySlot.PRIMARY, keys[1]),
            lambda: store.use_edition("basic"),
            lambda: store.delete("a"),
        ):
            act()
            await watcher.refresh()
        nursery.cancel_scope.cancel()
    assert valid == [(True, False), (False, True), (False, True), (False, False)]
    assert len(watcher.keys) == 0


async def test_changes_of_another_process_are_noticed(registry: SQLiteStore, state: Path, rules: Rules) -> None:
    created = registry.create("sql", ["relay.example.com"], rules)
    watcher = StoreWatcher(registry, interval=INTERVAL)
    assert watcher.connections == {}
    send, receive = trio.open_memory_channel[StoreChange](100)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(watcher.run, send.send_nowait)
            assert watcher.connections == {"sql": created}

            await another_process(state, "regenerate_key('sql', 'sender', KeySlot.PRIMARY)")
            change = await receive.receive()
            assert change.ended == {created.key_id("sender", KeySlot.PRIMARY)}
            assert change.deleted == set()
            assert set(change.changed) == {"sql"}
            new_key = watcher.connections["sql"].key_id("sender", KeySlot.PRIMARY)

            await another_process(state, "create('web', ['relay.example.com'], [])")
            change = await receive.receive()
            assert not change.ended
            assert not change.deleted
            assert set(change.changed) == change.created == {"web"}
            assert set(watcher.connections) == {"sql", "web"}

            await another_process(state, "delete('sql')")
            change = await receive.receive()
            assert len(change.ended) == 4
            assert new_key in change.ended
            assert change.deleted == {"sql"}
            nursery.cancel_scope.cancel()


async def test_one_check_reads_all_changes_however_many(registry: SQLiteStore, state: Path) -> None:
    watcher = StoreWatcher(registry, interval=1e6)
    count = 2 * PART + 1
    async with trio.open_nursery() as nursery:
        await nursery.start(watcher.run, lambda change: None)
        with SQLiteStore.open(state) as other:
            for number in range(count):
                other.create(f"db{number}", ["relay.example.com"], [])
            await watcher.refresh()
            assert len(watcher.connections) == count
            for number in range(count):
                other.delete(f"db{number}")
            await watcher.refresh()
            assert watcher.connections == {}
        nursery.cancel_scope.cancel()


async def test_our_own_changes_are_noticed(registry: SQLiteStore, rules: Rules) -> None:
    watcher = StoreWatcher(registry, interval=1e6)  # the watcher must not use the registry at the same time
    changes: list[StoreChange] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(watcher.run, changes.append)
        registry.create("sql", ["relay.example.com"], rules)
        await watcher.refresh()
        (change,) = changes
        assert set(change.changed) == {"sql"}
        nursery.cancel_scope.cancel()


async def test_a_new_version_with_the_same_content_is_not_a_change(
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
    registry: SQLiteStore,
    state: Path,
    rules: Rules,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
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
            assert watcher.connections == {"sql": created}
            with SQLiteStore.open(state) as other:
                await trio.to_thread.run_sync(other.delete, "sql")
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
        raise StateError("the disk is on fire", remedy="put it out")

    async with trio.open_nursery() as nursery:
        await nursery.start(watcher.run, lambda change: None)
        monkeypatch.setattr(registry, "data_version", fail)
        assert watcher.problem is None
        for _ in range(3):
            await watcher.refresh()
        assert watcher.problem == FileProblem("registry", "the disk is on fire", "put it out")
        assert events == [StoreUnreadable(detail="the disk is on fire", remedy="put it out")]
        monkeypatch.setattr(registry, "data_version", real)
        for _ in range(3):
            await watcher.refresh()
        nursery.cancel_scope.cancel()
    assert events == [StoreUnreadable(detail="the disk is on fire", remedy="put it out"), StoreReadable()]
    assert watcher.problem is None


async def test_a_store_that_cannot_be_read_at_first_is_an_error(registry: SQLiteStore) -> None:
    registry.close()
    with pytest.raises(StateError):
        await StoreWatcher(registry).run(lambda change: None)
