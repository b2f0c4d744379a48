"""The history of a relay as it is recorded: what is counted, and what happens to its file."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from hybridrelay.errors import StateError
from hybridrelay.events import (
    Event,
    EventStream,
    ListenerLeft,
    RendezvousEnded,
    RendezvousJoined,
    SenderRefused,
    StateFileNotWritten,
    StateFileSetAside,
    StateFileWritten,
    TokenInvalid,
)
from hybridrelay.protocol.reasons import Reason
from hybridrelay.relay.core.known import KnownConnections
from hybridrelay.relay.core.listener import Listener
from hybridrelay.relay.core.pairs import Pair, PairEnd
from hybridrelay.relay.history import HistoryQuery, Row, Subject
from hybridrelay.relay.model import KeyId
from hybridrelay.relay.service.broker import BrokerService
from hybridrelay.relay.service.history import HistoryService
from hybridrelay.relay.snapshot import FileProblem
from hybridrelay.relay.store.history import HISTORY_FILE
from hybridrelay.relay.store.memory import MemoryStore
from hybridrelay.security import KeySlot, Right, Rule

from ..listening import deaf

#: Five seconds after the beginning of a minute.
NOW = 1_800_000_005.0
MINUTE = 1_800_000_000


@attrs.define
class Moved:
    to_client: int = 0
    to_connector: int = 0


@attrs.define
class Recorded:
    """A relay's history, with a clock that a test sets."""

    directory: Path
    broker: BrokerService
    store: MemoryStore
    stream: EventStream
    published: list[Event]
    history: HistoryService
    now: float = NOW

    @classmethod
    def make(cls, directory: Path, *names: str, max_bytes: int = 1 << 30) -> Recorded:
        async def refresh() -> None:
            pass

        store, published = MemoryStore(lambda: 1234.5), list[Event]()
        for name in names:
            store.create(name, ["relay.example.com"], [Rule.generate("listener", [Right.LISTEN])])
        stream = EventStream(published.append)
        broker = BrokerService(store.snapshot(), refresh=refresh, events=stream)
        history = HistoryService(directory, broker, clock=lambda: made.now, events=stream, max_bytes=max_bytes)
        made = cls(directory, broker, store, stream, published, history)
        stream.subscribe(history)
        return made

    def join(self, name: str, id_: str = "1") -> Moved:
        """Two data channels are joined."""
        moved, end = Moved(), PairEnd("1" * 32, "192.0.2.1", KeyId(name, "r", KeySlot.PRIMARY, 1))
        self.broker.pairs.joined(Pair(id_, name, end, end, 0.0, moved))
        self.stream.publish(RendezvousJoined(connection=name, activity_id=id_))
        return moved

    def ended(self, name: str, outcome: str, seconds: float = 0.0) -> None:
        self.stream.publish(
            RendezvousEnded(
                connection=name, activity_id="1", outcome=outcome, reason=Reason.NO_ERROR,
                bytes_to_client=0, bytes_to_connector=0, seconds=seconds,
            )
        )  # fmt: skip

    def listen(self, name: str, number: int = 1) -> None:
        key = KeyId(name, "listener", KeySlot.PRIMARY, 1)
        self.broker.core.register(Listener(name, f"{number:032x}", 1, key, deaf(), "192.0.2.1", "tcp", "test/1"), 0.0)
        self.broker.carry_out()

    async def finish(self) -> None:
        """The relay stops."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.history.run)
            await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        await self.history.finish()

    async def rows(self, resolution: int, *names: str) -> list[tuple[int, Row]]:
        subjects = frozenset(Subject(name, 1234.5) for name in names) if names else None
        query = HistoryQuery(resolution=resolution, begin=0, end=int(NOW * 2), subjects=subjects)
        return await self.history.read(query)

    def problem(self) -> FileProblem | None:
        return self.history.problem

    def events(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.published if isinstance(event, kind)]


async def test_what_happens_is_counted_for_each_hybrid_connection_and_for_all(tmp_path: Path) -> None:
    made = Recorded.make(tmp_path, "orders", "billing")
    made.listen("orders", 1)
    made.listen("orders", 2)
    made.listen("billing", 1)
    moved = made.join("orders")
    moved.to_client, moved.to_connector = 500, 70
    made.ended("orders", "finished", 3.0)
    for outcome in ("both absent", "listener absent", "sender absent", "left", "withdrawn", "displaced"):
        made.ended("orders", outcome)
    made.stream.publish(SenderRefused(connection="billing", reason=Reason.NO_LISTENER))
    for right in ("send", "listen"):
        made.stream.publish(TokenInvalid(connection="orders", right=right, reason=Reason.WRONG_KEY, detail=""))
    made.stream.publish(ListenerLeft(connection="billing", instance="1" * 32, reason=Reason.NO_ERROR))
    for name in ("nothing", ""):  # strangers can ask for anything
        made.stream.publish(SenderRefused(connection=name, reason=Reason.UNKNOWN_CONNECTION))
    await made.finish()
    orders, billing = Row(2, 0, 1, 70, 500, 1, 5, 0), Row(1, 0, 0, 0, 0, 0, 1, 1)
    for resolution in (60, 300, 3600, 86400):
        assert [row for _, row in await made.rows(resolution, "orders")] == [orders]
        assert [row for _, row in await made.rows(resolution, "billing")] == [billing]
        assert [row for _, row in await made.rows(resolution)] == [Row(3, 0, 1, 70, 500, 1, 6, 1)]
        assert await made.rows(resolution, "nothing") == []
    assert [time for time, _ in await made.rows(60, "orders")] == [MINUTE]


@pytest.fixture
def no_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Autojump clocks also jump while worker threads run, so no deadline may expire meanwhile."""
    for name in ("_FINISH_SECONDS", "_CLOSE_SECONDS", "_LONG_SECONDS"):
        monkeypatch.setattr(f"hybridrelay.relay.service.history.{name}", math.inf)


@pytest.mark.usefixtures("no_deadlines")
async def test_it_is_recorded_while_the_relay_runs(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    made = Recorded.make(tmp_path, "orders")
    moved = made.join("orders")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.history.run)
        for number in range(3):
            moved.to_client += 100
            made.now = NOW + 10 * number + 6
            while sum(row.bytes_to_senders for _, row in await made.rows(10, "orders")) < moved.to_client:
                await trio.sleep(1)
        nursery.cancel_scope.cancel()
    # A sample that is being taken while the test moves the clock may count in the row of the earlier time.
    rows = [(time, row.bytes_to_senders) for time, row in await made.rows(10, "orders")]
    assert {time for time, _ in rows} <= {MINUTE, MINUTE + 10, MINUTE + 20}
    assert (rows[0][0], len(rows) > 1, sum(size for _, size in rows)) == (MINUTE, True, 300)
    await made.history.finish()
    assert [(time, row.bytes_to_senders) for time, row in await made.rows(60, "orders")] == [(MINUTE, 300)]


async def test_another_relay_on_the_same_directory_continues_it(tmp_path: Path) -> None:
    for number in range(3):
        made = Recorded.make(tmp_path, "orders")
        made.now = NOW + 60 * number
        made.join("orders")
        await made.finish()
    assert [row.joins for _, row in await made.rows(60, "orders")] == [1, 1, 1]
    assert [row.joins for _, row in await made.rows(3600, "orders")] == [3]
    assert (tmp_path / HISTORY_FILE).stat().st_mode & 0o077 == 0


async def test_a_damaged_file_is_set_aside_and_recording_continues(tmp_path: Path) -> None:
    (tmp_path / HISTORY_FILE).write_bytes(b"nonsense" * 1000)
    made = Recorded.make(tmp_path, "orders")
    with pytest.raises(StateError):
        await made.rows(60, "orders")
    made.join("orders")
    await made.finish()
    assert [row.joins for _, row in await made.rows(60, "orders")] == [1]
    (event,) = made.events(StateFileSetAside)
    assert isinstance(event, StateFileSetAside)
    assert Path(event.copy).read_bytes().startswith(b"nonsense")
    assert made.history.problem is None


def _in_its_place(file: Path) -> Callable[[], None]:
    file.mkdir()
    return file.rmdir


def _locked(file: Path) -> Callable[[], None]:
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("PRAGMA journal_mode = WAL")
    other.execute("CREATE TABLE something (x)")
    other.execute("DROP TABLE something")
    other.execute("BEGIN IMMEDIATE")

    def unlock() -> None:
        other.rollback()
        other.close()

    return unlock


@pytest.mark.usefixtures("no_deadlines")
@pytest.mark.parametrize("spoil", [_in_its_place, _locked])
async def test_a_file_that_cannot_be_written_is_a_problem_until_it_can(
    tmp_path: Path,
    autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[Path], Callable[[], None]],
) -> None:
    monkeypatch.setattr("hybridrelay.relay.store.expendable._BUSY_TIMEOUT_SECONDS", 0.0)
    repair = spoil(tmp_path / HISTORY_FILE)
    made = Recorded.make(tmp_path, "orders")
    made.join("orders")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.history.run)
        while (problem := made.problem()) is None:
            await trio.sleep(1)
        assert (problem.code, bool(problem.remedy)) == ("history", True)
        await trio.sleep(300)
        assert [type(event) for event in made.published if "state-file" in event.name] == [StateFileNotWritten]
        assert [row.joins for _, row in await made.rows(10, "orders")] == [1]
        with pytest.raises(StateError):
            await made.rows(60, "orders")
        repair()
        while made.problem() is not None:
            await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert [type(event) for event in made.published if "state-file" in event.name] == [
        StateFileNotWritten,
        StateFileWritten,
    ]
    await made.history.finish()
    assert sum(row.joins for _, row in await made.rows(60, "orders")) == 1


async def test_without_a_file_there_is_the_last_hour(tmp_path: Path) -> None:
    made = Recorded.make(tmp_path, "orders", max_bytes=0)
    made.join("orders")
    assert await made.rows(60, "orders") == []
    await made.finish()
    assert list(tmp_path.iterdir()) == []


async def test_what_is_created_again_under_the_same_name_inherits_nothing(tmp_path: Path) -> None:
    made = Recorded.make(tmp_path, "orders")
    made.join("orders").to_client = 100
    await made.finish()
    assert await made.rows(60, "orders")
    again = Recorded.make(tmp_path)
    again.store = MemoryStore(lambda: 2000.0)
    again.store.create("orders", ["relay.example.com"], [Rule.generate("listener", [Right.LISTEN])])
    again.broker.authorization.connections = KnownConnections(again.store.snapshot())
    again.listen("orders")
    await again.finish()
    new = frozenset([Subject("orders", 2000.0)])
    query = HistoryQuery(resolution=60, begin=0, end=int(NOW * 2), subjects=new)
    assert [row for _, row in await again.history.read(query)] == [Row(listeners_max=1)]
    assert await again.rows(60, "orders") == []


async def test_other_tasks_run_while_a_sample_of_many_is_taken(tmp_path: Path) -> None:
    names = [f"db{number}" for number in range(1000)]
    made = Recorded.make(tmp_path, *names, max_bytes=0)
    for name in names:
        made.listen(name)
    pairs = [made.join("db0", str(number)) for number in range(4000)]
    for moved in pairs:
        moved.to_client = 1
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        await made.finish()
        nursery.cancel_scope.cancel()
    assert turns > len(names) / 100 + len(pairs) / 2000


async def test_a_relay_that_has_not_served_anybody_writes_nothing(tmp_path: Path) -> None:
    made = Recorded.make(tmp_path, "orders")
    made.join("orders")
    await made.history.finish()
    assert list(tmp_path.iterdir()) == []
