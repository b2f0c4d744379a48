"""A relay takes over the workers of the previous one: pairs are kept, or end at once with the right outcome."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from hybridrelay.events.base import Event
from hybridrelay.events.relay import RendezvousEnded, RendezvousKept, RendezvousTakenOver
from hybridrelay.events.relay_resources import (
    WorkerNotTakenOver,
    WorkersKeepPairs,
    WorkersNotKept,
    WorkerTakenOver,
)
from hybridrelay.events.stream import EventStream
from hybridrelay.protocol.reasons import Reason
from hybridrelay.relay.core.pair_note import PairNote
from hybridrelay.relay.core.pairs import Pair, PairEnd
from hybridrelay.relay.model import KeyId
from hybridrelay.relay.quotas import Limits, Quota
from hybridrelay.relay.service.adopted_process import AdoptedProcess, peer_of
from hybridrelay.relay.service.broker import BrokerService
from hybridrelay.relay.service.handover import PairHandover
from hybridrelay.relay.service.pace import PairPace
from hybridrelay.relay.service.pump import Moved, PumpOutcome
from hybridrelay.relay.service.splice import PipePool
from hybridrelay.relay.service.takeover import _LIST_SECONDS, Takeover, _Attempt, listen_for_workers
from hybridrelay.relay.service.worker_memory import WorkerMemory
from hybridrelay.relay.service.workers import PairRetention, Workers, open_workers
from hybridrelay.relay.store.sqlite import SQLiteStore
from hybridrelay.relay.worker.messages import SOCKET_NAME, VERSION, Kind, send
from hybridrelay.security import KeySlot, Rule
from hybridrelay.streams import receive_exactly
from hybridrelay.testing import tcp_pair

from ...receiving import receive_all
from ...waiting import async_wait_until, patience
from ..peers import HOST, update
from ..places import make_places

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="workers need epoll and memfd_create"),
    pytest.mark.usefixtures("no_descriptor_leaks"),
]

NAME = "db"


async def until(happened: Callable[[], object]) -> None:
    async def condition() -> bool:
        return bool(happened())

    await async_wait_until(condition, seconds=30, what="a step of the test")


@pytest.fixture
def store(registry: SQLiteStore, rules: Sequence[Rule]) -> SQLiteStore:
    registry.create(NAME, [HOST], rules)
    return registry


def key_of(store: SQLiteStore, rule: str) -> KeyId:
    key = store.snapshot()[NAME].key_id(rule, KeySlot.PRIMARY)
    assert key is not None
    return key


@attrs.define(eq=False)
class JoinedPair:
    """A pair, and the streams of its peers."""

    note: PairNote
    connector: trio.SocketStream
    client: trio.SocketStream
    near: tuple[trio.SocketStream, trio.SocketStream]
    handover: PairHandover
    moved: Moved = attrs.field(factory=Moved)
    results: list[PumpOutcome] = attrs.field(factory=list)

    @classmethod
    async def make(cls, store: SQLiteStore, number: int = 1) -> JoinedPair:
        (connector, near_a), (client, near_b) = await tcp_pair(), await tcp_pair()
        listener = PairEnd("a" * 32, "203.0.113.1", key_of(store, "listener"), "tcp")
        sender = PairEnd("b" * 32, "203.0.113.2", key_of(store, "sender"), "tcp")
        note = PairNote(f"{number:032x}", listener, sender, time.monotonic() - 5.0)
        return cls(note, connector, client, (near_a, near_b), PairHandover(note))

    async def run(self, workers: Workers) -> None:
        """Move the bytes of the pair, as the first relay does."""
        with PipePool() as pipes:
            self.results.append(
                await workers.move(*self.near, moved=self.moved, pipes=pipes, pace=PairPace(), handover=self.handover)
            )

    async def talk(self, to_client: bytes = b"", to_connector: bytes = b"") -> None:
        await self.connector.send_all(to_client)
        assert await receive_exactly(self.client, len(to_client)) == to_client
        await self.client.send_all(to_connector)
        assert await receive_exactly(self.connector, len(to_connector)) == to_connector

    async def expect_reset(self) -> None:
        for far in (self.connector, self.client):
            with pytest.raises(trio.BrokenResourceError):
                await receive_all(far)

    async def aclose(self) -> None:
        await self.connector.aclose()
        await self.client.aclose()


@asynccontextmanager
async def kept(directory: Path, *pairs: JoinedPair, seconds: float = 60.0) -> AsyncIterator[Workers]:
    """Yield after the end of a first relay whose worker keeps these pairs. With the block, the worker has to end."""
    events: list[Event] = []
    with trio.fail_after(40):
        async with (
            open_workers(1, EventStream(events.append), retention=PairRetention(seconds, directory)) as workers,
            trio.open_nursery() as nursery,
        ):
            await until(lambda: workers.running)
            for pair in pairs:
                nursery.start_soon(pair.run, workers)
            await until(lambda: workers.pairs == len(pairs))
            for pair in pairs:
                await pair.talk(b"c" * 100, b"k" * 10)
            await until(lambda: all((p.moved.total_a_to_b, p.moved.total_b_to_a) == (100, 10) for p in pairs))
            await workers.keep_pairs()
        assert [type(event) for event in events] == [WorkersKeepPairs]
        for pair in pairs:
            assert pair.results == [PumpOutcome.KEPT]
            assert (pair.moved.a_to_b, pair.moved.b_to_a) == (100, 10)
        yield workers
        (worker,) = workers.left
        await worker.process.wait()
        for pair in pairs:
            await pair.aclose()


@attrs.define(eq=False)
class Successor:
    """The next main process."""

    broker: BrokerService
    workers: Workers
    events: list[Event]
    taking_over: trio.CancelScope

    async def keep_pairs(self) -> None:
        self.taking_over.cancel()
        await self.workers.keep_pairs()

    def ends(self) -> list[tuple[str, Reason, int, int]]:
        return [
            (event.outcome, event.reason, event.bytes_to_client, event.bytes_to_connector)
            for event in self.events
            if isinstance(event, RendezvousEnded)
        ]

    def count(self, type_: type[Event]) -> int:
        return sum(isinstance(event, type_) for event in self.events)


@asynccontextmanager
async def successor(
    directory: Path, store: SQLiteStore, *, count: int = 1, max_pairs: int = 100
) -> AsyncIterator[Successor]:
    events: list[Event] = []
    stream = EventStream(events.append)

    async def refresh() -> None:
        pass

    with listen_for_workers(directory, stream) as listener:
        assert listener is not None
        retention = PairRetention(60.0, directory)
        async with open_workers(count, stream, retention=retention, takes_over=True) as workers:
            async with trio.open_nursery() as nursery:
                broker = BrokerService(
                    store.snapshot(),
                    refresh=refresh,
                    events=stream,
                    workers=workers,
                    pairs=make_places("pairs", max_pairs),
                )
                taking_over = trio.CancelScope()
                nursery.start_soon(Takeover(listener, broker, workers, stream).run, nursery, taking_over)
                yield Successor(broker, workers, events, taking_over)
                nursery.cancel_scope.cancel()
            broker.close()


async def test_a_pair_is_kept_and_its_bytes_are_counted_once(tmp_path: Path, store: SQLiteStore) -> None:
    pair = await JoinedPair.make(store)
    async with kept(tmp_path, pair) as first:
        await pair.talk(b"x" * 50, b"y" * 5)  # while no relay runs, only the worker
        async with successor(tmp_path, store) as next_:
            await until(lambda: next_.count(WorkerTakenOver))
            assert next_.broker.statistics()["joined_pairs"] == 1
            # It moves to a worker of the new relay, and the old one ends.
            await first.left[0].process.wait()
            await until(lambda: next_.workers.pairs == 1)
            await pair.talk(b"z" * 1000, b"")
            (session,) = [one for _, one in next_.broker.pairs.index.page(10)]
            assert (session.id, session.listener, session.sender) == (
                pair.note.id,
                pair.note.listener,
                pair.note.sender,
            )
            assert session.since == pytest.approx(trio.current_time() - 5.0, abs=30.0)
            await until(lambda: session.moved.to_client == 1150 and session.moved.to_connector == 15)
            # The first relay has counted the first of them.
            traffic = next_.broker.pairs.of_connection(NAME)
            assert (traffic.to_client, traffic.to_connector, traffic.pairs) == (1050, 5, 1)
            assert next_.count(RendezvousTakenOver) == 1
            assert next_.ends() == []
            for far in (pair.connector, pair.client):
                await far.send_eof()
            await until(next_.ends)
            assert next_.ends() == [("finished", Reason.NO_ERROR, 1150, 15)]
            traffic = next_.broker.pairs.of_connection(NAME)
            assert (traffic.to_client, traffic.to_connector, traffic.pairs) == (1050, 5, 0)


async def test_a_pair_outlives_several_relays(tmp_path: Path, store: SQLiteStore) -> None:
    pair = await JoinedPair.make(store)
    async with kept(tmp_path, pair) as first:
        left = [*first.left]
        for number in range(3):
            async with successor(tmp_path, store) as next_:
                await until(partial(next_.count, WorkerTakenOver))
                await left[-1].process.wait()  # the pair has moved
                await pair.talk(b"x" * 10, b"y")
                session = next_.broker.pairs.index.get(NAME, pair.note.id)
                assert session is not None
                await until(partial(_has_moved, session, 110 + 10 * number))
                await next_.keep_pairs()
                await until(partial(next_.count, RendezvousKept))
                assert next_.ends() == []
                left += next_.workers.left
        async with successor(tmp_path, store) as last:
            await until(lambda: last.count(WorkerTakenOver))
            assert last.broker.drop_pair(NAME, pair.note.id)
            await until(last.ends)
            assert last.ends() == [("dropped", Reason.ADMINISTRATOR_DROPPED, 130, 13)]
            await pair.expect_reset()
        await left[-1].process.wait()


def _has_moved(session: Pair, to_client: int) -> bool:
    return session.moved.to_client == to_client


def _revoke(rule: str) -> Callable[[SQLiteStore], object]:
    return lambda store: store.revoke_key(NAME, rule, KeySlot.PRIMARY)


def _recreate(store: SQLiteStore) -> None:
    rules = store.snapshot()[NAME].rules
    store.delete(NAME)
    store.create(NAME, [HOST], rules)


CHANGES: dict[str, tuple[Callable[[SQLiteStore], object], str, Reason]] = {
    "sender's key revoked": (_revoke("sender"), "revoked", Reason.KEY_REVOKED),
    "listener's key revoked": (_revoke("listener"), "revoked", Reason.KEY_REVOKED),
    "deleted": (lambda store: store.delete(NAME), "revoked", Reason.KEY_REVOKED),
    "deleted and created again": (_recreate, "revoked", Reason.KEY_REVOKED),
    "disabled": (lambda store: store.change(NAME, disabled=True), "disabled", Reason.CONNECTION_DISABLED),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_pair_that_is_no_longer_allowed_ends_at_once(tmp_path: Path, store: SQLiteStore, change: str) -> None:
    apply, outcome, reason = CHANGES[change]
    pair = await JoinedPair.make(store)
    async with kept(tmp_path, pair):
        apply(store)
        async with successor(tmp_path, store) as next_:
            await until(next_.ends)
            assert next_.ends() == [(outcome, reason, 100, 10)]
            assert next_.count(RendezvousTakenOver) == 1
            await pair.expect_reset()
            assert next_.broker.statistics()["joined_pairs"] == 0
            assert next_.broker.pairs.has(NAME) is (change != "deleted")


async def test_a_revoked_key_ends_a_pair_that_was_taken_over(tmp_path: Path, store: SQLiteStore) -> None:
    pair = await JoinedPair.make(store)
    async with kept(tmp_path, pair):
        async with successor(tmp_path, store) as next_:
            await until(lambda: next_.count(WorkerTakenOver))
            store.revoke_key(NAME, "sender", KeySlot.PRIMARY)
            update(next_.broker, store)
            await until(next_.ends)
            assert next_.ends() == [("revoked", Reason.KEY_REVOKED, 100, 10)]
            await pair.expect_reset()


async def test_pairs_for_which_there_is_no_room_end(tmp_path: Path, store: SQLiteStore) -> None:
    pairs = [await JoinedPair.make(store, number) for number in range(1, 4)]
    async with kept(tmp_path, *pairs):
        async with successor(tmp_path, store, max_pairs=2) as next_:
            await until(next_.ends)
            assert next_.ends() == [("displaced", Reason.LIMIT, 100, 10)]
            await until(lambda: next_.broker.statistics()["joined_pairs"] == 2)


async def test_a_relay_without_workers_moves_the_pairs_itself(tmp_path: Path, store: SQLiteStore) -> None:
    pair = await JoinedPair.make(store)
    async with kept(tmp_path, pair) as first, successor(tmp_path, store, count=0) as next_:
        await first.left[0].process.wait()
        assert next_.workers.pairs == 0
        await pair.talk(b"x" * 100_000, b"y" * 100_000)
        session = next_.broker.pairs.index.get(NAME, pair.note.id)
        assert session is not None
        assert session.moved.to_client == 100_100


async def test_a_pair_with_a_rate_limit_moves_to_the_relay_itself(tmp_path: Path, store: SQLiteStore) -> None:
    pair = await JoinedPair.make(store)
    async with kept(tmp_path, pair) as first:
        store.change(NAME, quota=Quota(limits=Limits(bytes_per_second=10_000_000)))
        async with successor(tmp_path, store) as next_:
            await first.left[0].process.wait()
            assert next_.workers.pairs == 0
            await pair.talk(b"x" * 100_000, b"y")


async def test_many_pairs_move_to_the_new_workers(tmp_path: Path, store: SQLiteStore) -> None:
    pairs = [await JoinedPair.make(store, number) for number in range(1, 101)]
    async with kept(tmp_path, *pairs) as first, successor(tmp_path, store) as next_:
        await first.left[0].process.wait()
        await until(lambda: next_.workers.pairs == 100)
        for pair in pairs:
            await pair.talk(b"x", b"y")
        assert next_.ends() == []


async def test_a_pair_that_ended_meanwhile_is_reported_by_the_next_relay(tmp_path: Path, store: SQLiteStore) -> None:
    pairs = [await JoinedPair.make(store, number) for number in (1, 2)]
    async with kept(tmp_path, *pairs):
        for far in (pairs[0].connector, pairs[0].client):
            await far.send_eof()
            await receive_all(pairs[0].client if far is pairs[0].connector else pairs[0].connector)
        async with successor(tmp_path, store) as next_:
            await until(next_.ends)
            assert next_.ends() == [("finished", Reason.NO_ERROR, 100, 10)]
            await pairs[1].talk(b"x", b"y")


async def test_if_no_other_relay_is_started_the_worker_resets_its_pairs(tmp_path: Path, store: SQLiteStore) -> None:
    pair = await JoinedPair.make(store)
    async with kept(tmp_path, pair, seconds=0.5):
        await pair.expect_reset()


async def test_a_worker_that_is_stuck_keeps_no_pairs(tmp_path: Path, store: SQLiteStore) -> None:
    """The relay stops nevertheless. The worker does not go on later, when nobody knows of its pairs."""
    pair, events = await JoinedPair.make(store), list[Event]()
    with trio.fail_after(patience(60)):
        async with (
            open_workers(1, EventStream(events.append), retention=PairRetention(60.0, tmp_path)) as workers,
            trio.open_nursery() as nursery,
        ):
            await until(lambda: workers.running)
            nursery.start_soon(pair.run, workers)
            await until(lambda: workers.pairs == 1)
            (worker,) = workers._running
            os.kill(worker.process.pid, signal.SIGSTOP)
            await workers.keep_pairs()
            assert (workers.left, events) == ([], [])
            nursery.cancel_scope.cancel()
        assert worker.process.returncode == -signal.SIGKILL
        assert pair.results == []
        await pair.expect_reset()
        await pair.aclose()


async def test_a_pair_is_established_at_the_next_relay_if_it_was_before(tmp_path: Path, store: SQLiteStore) -> None:
    pairs = [await JoinedPair.make(store, number) for number in (1, 2)]
    pairs[0].handover.establish()
    async with kept(tmp_path, *pairs), successor(tmp_path, store) as next_:
        await until(lambda: next_.count(WorkerTakenOver))
        places = next_.broker._rendezvous._places.of(key_of(store, "sender"))
        assert {place.owner: place.is_established for place in places} == {
            pairs[0].note.id: True,
            pairs[1].note.id: False,
        }


_PROGRAM = """
import os, socket, struct, sys, time
sys.path[:0] = sys.argv[3].splitlines()
from hybridrelay.relay.worker.messages import *
from hybridrelay.relay.service.worker_memory import WorkerMemory
os.chdir(sys.argv[1])
memory = WorkerMemory.allocate()
mapped = WorkerMemory(memory)
note = sys.argv[2].encode()
control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
control.connect(SOCKET_NAME)
def hello(version=VERSION, descriptor=memory):
    send(control, Kind.HELLO, 0, version, (descriptor,))
    assert control.recv(100)
def has(*slots):
    for slot in slots:
        send(control, Kind.HAS, slot)
    send(control, Kind.READY, 0)
{what}
time.sleep(1000)
"""
BROKEN = {
    "another version": ("hello(VERSION + 1)", "version"),
    "no memory": ("control.send(struct.pack('=BIQ', Kind.HELLO, 0, VERSION))", "memory is missing"),
    "memory of another size": ("hello(descriptor=os.memfd_create('x', 3))", "not sealed"),
    "a file": ("hello(descriptor=os.open('/proc/self/exe', os.O_RDONLY))", "not sealed"),
    "garbage after HELLO": ("hello(); control.send(b'x')", ""),
    "another message": ("hello(); send(control, Kind.PONG, 0)", "in the list"),
    "descriptors in the list": ("hello(); send(control, Kind.RETURNED, 0, 0, (0, 0))", "in the list"),
    "a slot twice": ("hello(); mapped.begin(1, note); has(1, 1)", "twice"),
    "no note": ("hello(); has(1)", ""),
    "garbage as a note": ("hello(); mapped.begin(1, b'x' * 100); has(1)", ""),
    "the same pair twice": ("hello(); mapped.begin(1, note); mapped.begin(2, note); has(1, 2)", "known"),
    "counts that fall": (
        "hello(); mapped.begin(1, note); mapped._counters[SETTLED + 2] = 5; has(1)",
        "counts",
    ),
    "counts beyond all bounds": (
        "hello(); mapped.begin(1, note); mapped._counters[2] = mapped._counters[SETTLED + 2] = 1 << 63; has(1)",
        "counts",
    ),
    "silence": ("hello()", "does not answer"),
}


@asynccontextmanager
async def program(directory: Path, what: str, note: PairNote) -> AsyncIterator[trio.Process]:
    arguments = [os.fspath(directory), note.encode().decode(), "\n".join(sys.path)]
    command = [sys.executable, "-c", _PROGRAM.replace("{what}", what), *arguments]
    process = await trio.lowlevel.open_process(command, stdin=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        await process.wait()


@pytest.mark.parametrize("case", BROKEN)
async def test_a_broken_worker_is_ended_and_nothing_else_is_affected(
    tmp_path: Path, store: SQLiteStore, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hybridrelay.relay.service.takeover._LIST_SECONDS", 1.0 if case == "silence" else 60.0)
    what, detail = BROKEN[case]
    pair = await JoinedPair.make(store)
    async with kept(tmp_path, pair), successor(tmp_path, store) as next_:
        await until(lambda: next_.count(WorkerTakenOver))
        other = attrs.evolve(pair.note, id="f" * 32)
        async with program(tmp_path, what, other) as process:
            with trio.fail_after(60):
                await process.wait()
        (event,) = [one for one in next_.events if isinstance(one, WorkerNotTakenOver)]
        assert detail in event.detail
        assert event.pid == process.pid
        await pair.talk(b"x", b"y")
        assert next_.ends() == []


async def test_a_worker_is_not_blamed_for_the_time_that_others_take(autojump_clock: trio.testing.MockClock) -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    near.setblocking(False)
    memory = WorkerMemory.allocate()
    send(far, Kind.HELLO, 0, VERSION, (memory,))
    send(far, Kind.READY, 0)
    os.close(memory)
    nobody: Any = None  # nothing is taken over
    takeover = Takeover(near, nobody, nobody, EventStream())
    attempt = _Attempt(near, AdoptedProcess(os.getpid()))
    with near, far, contextlib.closing(attempt):
        async with trio.open_nursery() as nursery:
            async with takeover._taking:  # as while the pairs of another worker are taken over
                nursery.start_soon(takeover._try_to_attach, attempt, nursery)
                await trio.sleep(10 * _LIST_SECONDS)
                assert takeover._taking.statistics().tasks_waiting == 1
                nursery.cancel_scope.cancel()


async def test_a_pair_that_the_relay_has_already_is_not_taken_over(tmp_path: Path, store: SQLiteStore) -> None:
    pair = await JoinedPair.make(store)
    async with kept(tmp_path, pair), successor(tmp_path, store) as next_:
        await until(lambda: next_.count(WorkerTakenOver))
        async with program(tmp_path, "hello(); mapped.begin(1, note); has(1)", pair.note) as process:
            with trio.fail_after(60):
                await process.wait()
        assert next_.count(WorkerNotTakenOver) == 1
        await pair.talk(b"x", b"y")


async def test_a_program_that_is_not_a_worker_is_left_alone(tmp_path: Path, store: SQLiteStore) -> None:
    pair = await JoinedPair.make(store)
    async with successor(tmp_path, store) as next_:
        async with program(tmp_path, "control.send(b'x'); assert not control.recv(1); sys.exit(3)", pair.note) as one:
            with trio.fail_after(60):
                assert await one.wait() == 3
        assert next_.events == []
    await pair.aclose()
    for near in pair.near:
        await near.aclose()


#: Greets as a worker does, and ends with 3 if there is no answer.
_REFUSED = """
try:
    send(control, Kind.HELLO, 0, VERSION, (memory,))
    answer = control.recv(100)
except ConnectionError:
    answer = b""
sys.exit(1 if answer else 3)
"""


async def test_a_program_of_another_user_is_not_taken_over(
    tmp_path: Path, store: SQLiteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only root can connect to the socket of another user."""
    monkeypatch.setattr(
        "hybridrelay.relay.service.takeover.peer_of", lambda control: (peer_of(control)[0], os.geteuid() + 1)
    )
    pair = await JoinedPair.make(store)
    async with successor(tmp_path, store) as next_:
        async with program(tmp_path, _REFUSED, pair.note) as one:
            with trio.fail_after(60):
                assert await one.wait() == 3
        assert next_.events == []
    await pair.aclose()
    for near in pair.near:
        await near.aclose()


@pytest.mark.parametrize("is_open", [True, False])
def test_a_process_is_killed_only_while_its_end_of_the_socket_is_open(is_open: bool) -> None:
    """Otherwise it may have ended before it was adopted, and its id may belong to another process."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with near, far, subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        if not is_open:
            far.close()
        attempt = _Attempt(near, AdoptedProcess(process.pid))
        attempt.kill()
        attempt.close()
        process.terminate()
        assert process.wait(60) == -(signal.SIGKILL if is_open else signal.SIGTERM)


def test_the_path_of_the_socket_may_be_long(tmp_path: Path) -> None:
    directory = tmp_path / ("x" * 100) / ("y" * 100)
    directory.mkdir(parents=True)
    with listen_for_workers(directory, EventStream()) as listener:
        assert listener is not None
        assert (directory / SOCKET_NAME).is_socket()
        assert (directory / SOCKET_NAME).stat().st_mode & 0o777 == 0o600
    assert not (directory / SOCKET_NAME).exists()


def test_a_socket_that_a_killed_relay_has_left_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as context, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as left:
        context.chdir(tmp_path)  # the whole path may be too long
        left.bind(SOCKET_NAME)
    assert (tmp_path / SOCKET_NAME).is_socket()
    with listen_for_workers(tmp_path, EventStream()) as listener:
        assert listener is not None


@pytest.mark.parametrize("is_link", [False, True])
def test_a_file_in_place_of_the_socket_is_not_deleted(tmp_path: Path, is_link: bool) -> None:
    file = tmp_path / ("other" if is_link else SOCKET_NAME)
    file.write_text("precious", "utf-8")
    if is_link:
        (tmp_path / SOCKET_NAME).symlink_to(file)
    events: list[Event] = []
    with listen_for_workers(tmp_path, EventStream(events.append)) as listener:
        assert listener is None
    assert [type(event) for event in events] == [WorkersNotKept]
    assert (tmp_path / SOCKET_NAME).read_text("utf-8") == "precious"


def test_where_no_socket_is_possible_an_event_says_so(tmp_path: Path) -> None:
    (tmp_path / SOCKET_NAME).mkdir()
    events: list[Event] = []
    with listen_for_workers(tmp_path, EventStream(events.append)) as listener:
        assert listener is None
    assert [type(event) for event in events] == [WorkersNotKept]
