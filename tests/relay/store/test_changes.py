"""Reading only what has changed gives the same result as reading everything."""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hybridrelay.relay.model import Description, HybridConnection
from hybridrelay.relay.store.changes import KEPT_DELETIONS, Mark
from hybridrelay.relay.store.memory import MemoryStore
from hybridrelay.relay.store.rows import read_connections
from hybridrelay.relay.store.sqlite import SQLiteStore
from hybridrelay.relay.store.state_dir import REGISTRY_FILE
from hybridrelay.relay.store.store import NoConnection, Store
from hybridrelay.security import KeySlot, Right, Rule

HOSTS: Final = ["relay.example.com"]
NAMES: Final = ("a", "b", "c", "d")


class Reader:
    """Reads only changes, and has all hybrid connections nevertheless."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.mark: Mark | None = None
        self.known: dict[str, HybridConnection] = {}
        #: How many hybrid connections were read in the last part.
        self.read = 0

    def read_part(self, limit: int = 100) -> bool:
        """Read a part. Returns whether there is another one."""
        changes = self.store.changes(self.mark, limit)
        self.mark, self.read = changes.mark, len(changes.changed)
        if changes.is_everything:
            self.known.clear()
        else:
            assert len(changes.changed) + len(changes.deleted) <= 2 * limit
        for name in changes.deleted:
            self.known.pop(name, None)
        self.known.update({one.name: one for one in changes.changed})
        return changes.has_more

    def read_all(self, limit: int = 100) -> dict[str, HybridConnection]:
        """Read all parts, and return all hybrid connections."""
        while self.read_part(limit):
            pass
        return self.known


class Stores(RuleBasedStateMachine):
    """Any changes of a store, with reading in between."""

    def __init__(self, store: Store, reading: Store) -> None:
        super().__init__()
        self.store = store
        self.reader = Reader(reading)

    @rule(name=st.sampled_from(NAMES))
    def create(self, name: str) -> None:
        if not self.store.exists(name):
            self.store.create(name, HOSTS, [Rule.generate("r", {Right.SEND})])

    @rule(name=st.sampled_from(NAMES))
    def delete(self, name: str) -> None:
        if self.store.exists(name):
            self.store.delete(name)

    @rule(name=st.sampled_from(NAMES), text=st.sampled_from(["x", "y"]))
    def describe(self, name: str, text: str) -> None:
        if self.store.exists(name):
            self.store.change(name, description=Description(text))

    @rule(name=st.sampled_from(NAMES))
    def change_a_key(self, name: str) -> None:
        if self.store.exists(name):
            self.store.regenerate_key(name, "r", KeySlot.PRIMARY)

    @rule(name=st.sampled_from(NAMES))
    def add_a_rule(self, name: str) -> None:
        if self.store.exists(name):
            self.store.put_rule(name, "s", {Right.LISTEN})

    @rule(limit=st.integers(1, 3))
    def read_a_part(self, limit: int) -> None:
        self.reader.read_part(limit)

    @rule(limit=st.integers(1, 3))
    def read_all(self, limit: int) -> None:
        assert self.reader.read_all(limit) == self.store.snapshot()

    @precondition(lambda self: self.reader.mark is not None)
    @invariant()
    def nothing_is_known_that_never_existed(self) -> None:
        assert self.reader.known.keys() <= set(NAMES)

    def teardown(self) -> None:
        assert self.reader.read_all() == self.store.snapshot()


class InMemory(Stores):
    def __init__(self) -> None:
        store = MemoryStore()
        super().__init__(store, store)


class InAFile(Stores):
    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        store, reading = (self._stack.enter_context(SQLiteStore.open(directory)) for _ in range(2))
        super().__init__(store, reading)

    def teardown(self) -> None:
        with self._stack:
            super().teardown()


TestInMemory = InMemory.TestCase
TestInAFile = InAFile.TestCase
TestInAFile.settings = settings(max_examples=15, stateful_step_count=30)


@pytest.fixture(params=["sqlite", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made: Store = MemoryStore() if request.param == "memory" else SQLiteStore.open(tmp_path / "state")
    yield made
    made.close()


def test_only_what_has_changed_is_read(store: Store) -> None:
    for number in range(30):
        store.create(f"c{number:02}", HOSTS, [])
    reader = Reader(store)
    assert len(reader.read_all()) == reader.read == 30
    store.change("c07", disabled=True)
    reader.read_part()
    assert reader.read == 1
    store.delete("c08")
    reader.read_part()
    assert reader.read == 0
    assert reader.known == store.snapshot()


def test_more_changes_than_are_read_at_once_are_read_in_parts_up_to_the_last_one(store: Store) -> None:
    names = [f"c{number:02}" for number in range(30)]
    for name in names:
        store.create(name, HOSTS, [])
    reader = Reader(store)
    reader.read_all()
    for name in names[:7]:
        store.change(name, disabled=True)
    assert [reader.read_part(3) for _ in range(3)] == [True, True, False]
    assert reader.known == store.snapshot()
    for name in names[:7]:
        store.delete(name)
    assert [reader.read_part(3) for _ in range(3)] == [True, True, False]
    assert reader.known == store.snapshot()


def test_what_was_created_again_is_not_deleted(store: Store) -> None:
    before = store.create("a", HOSTS, [])
    reader = Reader(store)
    reader.read_all()
    store.delete("a")
    after = store.create("a", HOSTS, [])
    assert before.version != after.version
    changes = store.changes(reader.mark, 100)
    assert (changes.changed, changes.deleted) == ((after,), ())


@pytest.mark.parametrize("missed", [KEPT_DELETIONS, KEPT_DELETIONS + 1])
def test_a_reader_that_has_missed_too_many_deletions_reads_everything(missed: int) -> None:
    store = MemoryStore()
    store.create("a", HOSTS, [])
    reader = Reader(store)
    reader.read_all()
    store._deletions += missed
    store._deleted.extend("x" for _ in range(missed))
    assert store.changes(reader.mark, 1).is_everything == (missed > KEPT_DELETIONS)


def change_file(state: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(state / REGISTRY_FILE)) as database, database:
        for statement in statements:
            database.execute(statement)


@pytest.mark.parametrize(
    "forget",
    [
        # More deletions than a registry remembers.
        "DELETE FROM deletions WHERE number < 3",
        "DELETE FROM deletions WHERE number < 2",
        "DELETE FROM deletions",
        # An earlier copy of the registry was restored into the file.
        "UPDATE meta SET value = '1' WHERE name = 'changes'",
    ],
)
def test_a_registry_that_does_not_know_all_changes_since_then_is_read_completely(tmp_path: Path, forget: str) -> None:
    with SQLiteStore.open(tmp_path) as registry:
        for name in "abcd":
            registry.create(name, HOSTS, [])
        reader = Reader(registry)
        reader.read_all()
        for name in "abc":
            registry.delete(name)
        change_file(tmp_path, forget)
        assert registry.changes(reader.mark, 1).is_everything
        assert reader.read_all() == registry.snapshot()
        registry.create("e", HOSTS, [])
        assert not registry.changes(reader.mark, 1).is_everything


def test_a_registry_forgets_old_deletions(tmp_path: Path) -> None:
    with SQLiteStore.open(tmp_path) as registry:
        registry.create("a", HOSTS, [])
        registry.delete("a")
        change_file(tmp_path, f"INSERT INTO deletions VALUES ({KEPT_DELETIONS}, 'x')")  # as if there had been so many
        for name in "bc":
            registry.create(name, HOSTS, [])
            registry.delete(name)
        with contextlib.closing(sqlite3.connect(tmp_path / REGISTRY_FILE)) as database:
            numbers = [number for (number,) in database.execute("SELECT number FROM deletions ORDER BY number")]
    assert numbers == [KEPT_DELETIONS, KEPT_DELETIONS + 1, KEPT_DELETIONS + 2]


def test_a_deletion_by_an_earlier_version_of_the_program_is_noticed(tmp_path: Path) -> None:
    """A process that has opened the file before it was migrated deletes rows, and knows nothing of `deletions`."""
    with SQLiteStore.open(tmp_path) as registry:
        registry.create("a", HOSTS, [])
        reader = Reader(registry)
        reader.read_all()
        change_file(tmp_path, "DELETE FROM connections", "UPDATE meta SET value = value + 1 WHERE name = 'changes'")
        assert reader.read_all() == {}


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda store: [store.exists(name) for name in ("a", "team/x", "team")], [True, True, False]),
        (lambda store: [store.count(prefix) for prefix in ("", "team/", "x")], [4, 2, 0]),
        (lambda store: list(store.created_at_by_name("team/")), ["team/x", "team/y"]),
    ],
)
def test_cheap_ways_to_look_at_hybrid_connections(
    store: Store, call: Callable[[Store], object], expected: object
) -> None:
    for name in ("team/y", "a", "team/x", "teamx"):
        store.create(name, HOSTS, [])
    assert call(store) == expected
    assert store.created_at_by_name()["a"] == store.get("a").created_at


def test_an_unknown_name_does_not_make_a_store_read_all_hybrid_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SQLiteStore.open(tmp_path) as registry:
        for number in range(25):
            registry.create(f"c{number:02}", HOSTS, [])
        read: list[HybridConnection] = []

        def spy(*arguments: Any) -> Iterator[HybridConnection]:
            for one in read_connections(*arguments):
                read.append(one)
                yield one

        monkeypatch.setattr("hybridrelay.relay.store.sqlite_reader.read_connections", spy)
        assert registry.get("c00") == read.pop()
        with pytest.raises(NoConnection, match="no hybrid connection 'x'") as info:
            registry.get("x")
    assert not read
    assert "c19 and 5 more" in str(info.value.remedy)
