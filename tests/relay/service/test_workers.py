"""Pairs that a worker process moves: they behave as in the pump, and what happens when a worker or a pair ends."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

import hybridrelay
from hybridrelay.events.base import Event
from hybridrelay.events.relay_resources import SpliceUnavailable, WorkerEnded, WorkerNotStarted
from hybridrelay.events.stream import EventStream
from hybridrelay.relay.service import worker_process
from hybridrelay.relay.service.pace import Pace, PairPace
from hybridrelay.relay.service.pump import Moved, PumpOutcome, abort, pump
from hybridrelay.relay.service.splice import PipePool
from hybridrelay.relay.service.worker_memory import WorkerMemory
from hybridrelay.relay.service.worker_process import WorkerPair, WorkerProcess
from hybridrelay.relay.service.workers import _MOVE_SECONDS, _MOVED_AT_A_TIME, Workers, open_workers
from hybridrelay.relay.worker.messages import Kind, Message, receive, send
from hybridrelay.streams import receive_exactly
from hybridrelay.streams.turns import SharedTurns
from hybridrelay.testing import tcp_pair

from ...receiving import receive_all
from ...resets import resets_on_close
from ...waiting import async_wait_until
from ...wrapped_streams import WrappedHalfCloseableStream

MIB = 1024 * 1024

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="workers need epoll and memfd_create"),
    pytest.mark.usefixtures("no_descriptor_leaks"),
]

each_end = pytest.mark.parametrize("a_first", [True, False], ids=["a", "b"])


async def until(happened: Callable[[], object]) -> None:
    async def condition() -> bool:
        return bool(happened())

    await async_wait_until(condition, seconds=30, what="a step of the test")


@attrs.define(eq=False)
class Scene:
    """Workers, and the events that they have published."""

    workers: Workers
    events: list[Event]
    pipes: PipePool

    async def move(self, pair: JoinedPair) -> PumpOutcome:
        return await self.workers.move(
            pair.near_a, pair.near_b, moved=pair.moved, pipes=self.pipes, pace=PairPace(pair.pace)
        )

    @asynccontextmanager
    async def pair(self) -> AsyncIterator[JoinedPair]:
        """A pair that a worker moves. At the end of the block, it has to end."""
        (far_a, near_a), (far_b, near_b) = await tcp_pair(), await tcp_pair()
        pair = JoinedPair(near_a, near_b, far_a, far_b)
        before = self.workers.pairs

        async def run() -> None:
            with pair.moving:
                pair.results.append(await self.move(pair))

        with trio.fail_after(60):
            async with far_a, far_b, trio.open_nursery() as nursery:
                nursery.start_soon(run)
                await until(lambda: self.workers.pairs > before)
                yield pair


@attrs.define(eq=False)
class JoinedPair:
    near_a: trio.SocketStream
    near_b: trio.SocketStream
    far_a: trio.SocketStream
    far_b: trio.SocketStream
    pace: Pace = attrs.field(factory=Pace)
    moved: Moved = attrs.field(factory=Moved)
    moving: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    results: list[PumpOutcome] = attrs.field(factory=list)

    def in_order(self, a_first: bool) -> tuple[trio.SocketStream, trio.SocketStream]:
        return (self.far_a, self.far_b) if a_first else (self.far_b, self.far_a)

    @property
    def total(self) -> tuple[int, int]:
        return self.moved.total_a_to_b, self.moved.total_b_to_a


@asynccontextmanager
async def scene(count: int = 1) -> AsyncIterator[Scene]:
    events: list[Event] = []
    stream = EventStream()
    stream.subscribe(events.append)
    with PipePool() as pipes:
        async with open_workers(count, stream) as workers:
            await until(lambda: workers.running == count)
            yield Scene(workers, events, pipes)


async def expect_broken(stream: trio.abc.ReceiveStream) -> None:
    with pytest.raises(trio.BrokenResourceError):
        await receive_all(stream)


async def expect_broken_by(act: Callable[[trio.SocketStream], Awaitable[object]], stream: trio.SocketStream) -> None:
    with pytest.raises(trio.BrokenResourceError):
        await act(stream)


async def send_and_end(stream: trio.abc.HalfCloseableStream, data: bytes) -> None:
    await stream.send_all(data)
    await stream.send_eof()


async def test_carries_everything_both_ways_at_once() -> None:
    there, back = os.urandom(9 * MIB), os.urandom(7 * MIB + 1)
    got: dict[str, str] = {}

    async def receive(name: str, stream: trio.abc.ReceiveStream) -> None:
        got[name] = hashlib.sha256(await receive_all(stream)).hexdigest()

    async with scene() as scene_:
        async with scene_.pair() as pair, trio.open_nursery() as nursery:
            nursery.start_soon(send_and_end, pair.far_a, there)
            nursery.start_soon(send_and_end, pair.far_b, back)
            nursery.start_soon(receive, "there", pair.far_b)
            nursery.start_soon(receive, "back", pair.far_a)
        assert scene_.workers.pairs == 0
    assert got == {"there": hashlib.sha256(there).hexdigest(), "back": hashlib.sha256(back).hexdigest()}
    assert pair.results == [PumpOutcome.FINISHED]
    assert pair.total == (len(there), len(back))
    assert scene_.events == []


async def test_bytes_are_counted_while_they_flow() -> None:
    async with scene() as scene_, scene_.pair() as pair:
        await pair.far_a.send_all(b"x" * 1000)
        assert len(await receive_exactly(pair.far_b, 1000)) == 1000
        await until(lambda: pair.total == (1000, 0))
        await pair.far_b.send_all(b"x" * 10)
        assert len(await receive_exactly(pair.far_a, 10)) == 10
        await until(lambda: pair.total == (1000, 10))
        pair.moving.cancel()
    assert pair.total == (1000, 10)


@each_end
async def test_a_reply_still_flows_after_one_side_has_ended(a_first: bool) -> None:
    async with scene() as scene_, scene_.pair() as pair:
        asks, answers = pair.in_order(a_first)
        await send_and_end(asks, b"question")
        assert await receive_all(answers) == b"question"
        answer = os.urandom(MIB)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_and_end, answers, answer)
            assert await receive_all(asks) == answer
    assert pair.results == [PumpOutcome.FINISHED]


@each_end
async def test_a_break_of_one_stream_never_looks_like_an_end_to_the_other(a_first: bool) -> None:
    async with scene() as scene_, scene_.pair() as pair:
        breaks, other = pair.in_order(a_first)
        await breaks.send_all(b"half of it")
        assert await other.receive_some() == b"half of it"
        await abort(breaks)
        await expect_broken(other)
    assert pair.results == [PumpOutcome.A_BROKE if a_first else PumpOutcome.B_BROKE]


@each_end
async def test_a_stream_that_breaks_while_the_other_one_stalls(a_first: bool) -> None:
    # Nothing can be passed on to the second stream, so that the first one is not read when it breaks.
    async with scene() as scene_, scene_.pair() as pair:
        breaks, stalls = pair.in_order(a_first)
        with trio.move_on_after(0.2):
            while True:
                await breaks.send_all(bytes(MIB))
        await abort(breaks)
        await until(lambda: pair.results)
        await expect_broken(stalls)
    assert pair.results == [PumpOutcome.A_BROKE if a_first else PumpOutcome.B_BROKE]


async def test_a_receiver_that_stalls_stalls_the_sender() -> None:
    total, sent = 64 * MIB, 0

    async def send(stream: trio.SocketStream) -> None:
        nonlocal sent
        for _ in range(total // 8192):
            await stream.send_all(bytes(8192))
            sent += 8192
        await stream.send_eof()

    async with scene() as scene_, scene_.pair() as pair, trio.open_nursery() as nursery:
        nursery.start_soon(send, pair.far_a)
        await trio.testing.wait_all_tasks_blocked(0.2)
        assert 0 < sent < total / 2
        received = 0
        async for block in pair.far_b:
            received += len(block)
        assert received == total
        await pair.far_b.aclose()
    assert pair.results == [PumpOutcome.FINISHED]
    assert pair.total == (total, 0)


@pytest.mark.parametrize("data", [b"", b"x", bytes(20 * MIB)], ids=["idle", "a byte", "stalled"])
async def test_a_pair_that_is_cancelled_is_reset(data: bytes) -> None:
    async with scene() as scene_, scene_.pair() as pair, trio.open_nursery() as nursery:

        async def send() -> None:
            with pytest.raises(trio.BrokenResourceError):
                await pair.far_a.send_all(data)

        if len(data) > 1:
            nursery.start_soon(send)
        else:
            await pair.far_a.send_all(data)
        await until(lambda: not data or pair.total[0])
        pair.moving.cancel()
        await until(lambda: not scene_.workers.pairs)
        if len(data) <= 1:  # otherwise the task that sends has seen it
            await expect_broken(pair.far_a)
        await expect_broken(pair.far_b)
    assert pair.results == []
    assert 0 <= pair.total[0] <= len(data)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, "SIGKILL"), (40, "signal 40")])
async def test_a_worker_that_is_killed_resets_its_pairs_and_is_replaced(number: int, status: str) -> None:
    async with scene() as scene_:
        async with scene_.pair() as pair:
            await pair.far_a.send_all(b"x" * 1000)
            await receive_exactly(pair.far_b, 1000)
            await until(lambda: pair.total == (1000, 0))
            (worker,) = scene_.workers._running
            os.kill(worker.process.pid, number)
            await expect_broken(pair.far_a)
            await expect_broken(pair.far_b)
            await until(lambda: pair.results)
        assert pair.results == [PumpOutcome.WORKER_ENDED]
        assert pair.total == (1000, 0)
        await until(lambda: scene_.events and scene_.workers.running)
        (event,) = scene_.events
        assert isinstance(event, WorkerEnded)
        assert (event.status, event.pairs) == (status, 1)
        async with scene_.pair() as another:
            await another.far_a.send_all(b"x")
            assert await another.far_b.receive_some() == b"x"
            another.moving.cancel()


@pytest.mark.parametrize(
    "kind",
    [
        Kind.MOVE,
        Kind.ABORT,
        Kind.RETURN,
        Kind.PING,
        Kind.ENDED,
        Kind.RETURNED,
        Kind.COPIES,
        Kind.KEPT,
        Kind.HAS,
        Kind.HELLO,
        None,
    ],
)
async def test_a_worker_that_does_not_follow_the_protocol_is_ended(
    kind: Kind | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    process = await trio.lowlevel.open_process([sys.executable, "-c", "import time; time.sleep(1000)"])
    start, is_first = WorkerProcess.start, True

    async def first_this_one(events: EventStream, **options: Any) -> WorkerProcess:
        nonlocal is_first
        if not is_first:
            return await start(events, **options)
        is_first = False
        memory = WorkerMemory.allocate()
        try:
            return WorkerProcess(process, ours, WorkerMemory(memory), events)
        finally:
            os.close(memory)

    monkeypatch.setattr(WorkerProcess, "start", first_this_one)
    monkeypatch.setattr(worker_process, "END_SECONDS", 0.1)
    with theirs:
        # There is no such pair. The report that splice fails needs none.
        descriptors = (0, 1) if kind in (Kind.MOVE, Kind.RETURNED) else (0,) if kind is Kind.HELLO else ()
        if kind is None:
            theirs.send(b"what is this?")
        else:
            send(theirs, kind, 5, 1, descriptors)
        if kind is Kind.COPIES:  # this is allowed
            send(theirs, Kind.ENDED, 5)
        async with scene() as scene_:
            assert process.returncode is not None
            events = [type(event) for event in scene_.events]
            assert events == ([SpliceUnavailable] if kind is Kind.COPIES else []) + [WorkerEnded]


class Ending:
    """A worker that ends after some time."""

    def __init__(self, seconds: float) -> None:
        self.pairs: dict[int, WorkerPair] = {}
        self.ready = trio.Event()
        self.status = "exit code 1"
        self.is_released = self.keeps_pairs = False
        self.process = self
        self.pid = 1
        self._seconds = seconds

    async def receive(self) -> None:
        self.ready.set()
        await trio.sleep(self._seconds)

    async def send_unsent(self) -> None:
        await trio.sleep_forever()

    watch = send_unsent

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


async def test_when_workers_that_end_are_replaced(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After half a second, then after twice the previous pause, at most 30 seconds. After a worker that has run for
    longer than ten seconds, the pause is half a second again. In `lives`, None means that it cannot be started."""
    lives = [0.0, 5.0, None, None, 0.0, 0.0, 0.0, 0.0, 10.5, 0.0, 1e9]
    pauses = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 0.5, 1.0]
    starts: list[float] = []
    events: list[tuple[type[Event], float]] = []

    async def start(_: EventStream, **__: Any) -> Ending:
        seconds = lives[len(starts)]
        starts.append(trio.current_time())
        if seconds is None:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        return Ending(seconds)

    def note(event: Event) -> None:
        assert isinstance(event, (WorkerEnded, WorkerNotStarted))
        events.append((type(event), event.retry_seconds))

    monkeypatch.setattr(WorkerProcess, "start", start)
    async with open_workers(1, EventStream(note)) as workers:
        await trio.sleep(1000)
        assert workers.running == 1
    kinds = [WorkerNotStarted if life is None else WorkerEnded for life in lives[:-1]]
    assert events == list(zip(kinds, pauses, strict=True))
    ran = [life or 0.0 for life in lives]
    assert [after - before for before, after in pairwise(starts)] == pytest.approx(
        [life + pause for life, pause in zip(ran, pauses, strict=False)]
    )


class UsedTurns(SharedTurns):
    """Turns that note whether they were used."""

    is_used = False

    def use(self, frames: int, size: int) -> bool:
        self.is_used = True
        return super().use(frames, size)


@pytest.mark.parametrize("why", ["there is no worker", "it has a limit", "it was returned", "it is not a socket"])
async def test_a_pair_that_is_moved_here_uses_the_pipes_and_the_turns_of_this_process(why: str) -> None:
    turns = UsedTurns()
    async with scene(0 if why == "there is no worker" else 1) as scene_, trio.open_nursery() as nursery:
        (far_a, near_a), (far_b, near_b) = await tcp_pair(), await tcp_pair()
        pace, moved = Pace(), Moved()
        if why == "it has a limit":
            pace.change(1 << 30)
        pace_was_set = why in ("it has a limit", "it was returned")
        pair_pace = PairPace(pace, turns=turns)
        first = WrappedHalfCloseableStream(near_a) if why == "it is not a socket" else near_a
        move = partial(scene_.workers.move, first, near_b, moved=moved, pipes=scene_.pipes, pace=pair_pace)
        nursery.start_soon(move)
        async with far_a, far_b:
            if why == "it was returned":
                await until(lambda: scene_.workers.pairs)
                pace.change(1 << 30)
                scene_.workers.take_back()
                await until(lambda: not scene_.workers.pairs)
            if why != "there is no worker":  # the bytes are copied
                nursery.start_soon(far_a.send_all, bytes(MIB))
                await receive_exactly(far_b, MIB)
                assert turns.is_used
                pace.change(None)
            if why != "it is not a socket":
                nursery.start_soon(far_a.send_all, bytes(MIB))
                await receive_exactly(far_b, MIB)
                await until(lambda: scene_.pipes.idle + scene_.pipes.borrowed)
            await until(lambda: moved.total_a_to_b == MIB * (2 if pace_was_set else 1))
            nursery.cancel_scope.cancel()


async def test_the_signals_of_its_group_do_not_end_a_worker() -> None:
    async with scene() as scene_, scene_.pair() as pair:
        (worker,) = scene_.workers._running
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            os.kill(worker.process.pid, number)
        await pair.far_a.send_all(b"x")
        assert await pair.far_b.receive_some() == b"x"
        assert worker.process.returncode is None
        pair.moving.cancel()


async def test_a_worker_has_nothing_of_the_main_process_but_its_memory_and_its_socket() -> None:
    async with scene() as scene_:
        (worker,) = scene_.workers._running
        pid = worker.process.pid
        opened = {name: os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")}
        assert opened.pop("0") == "/dev/null"
        kinds = {path.partition(":")[0] for name, path in opened.items() if name not in "12"}
        assert kinds == {"/memfd", "anon_inode", "socket"}
        assert os.getpgid(pid) == pid, "so that Ctrl-C sends no signal to it"


@pytest.mark.parametrize("begun", [0, 1])
async def test_the_program_may_be_stopped_while_its_workers_start(
    begun: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of them has been started yet, or one of two."""
    calls = 0
    processes: list[int] = []
    start = WorkerProcess.start
    is_starting = trio.Event()

    async def slowly(*args: Any, **options: Any) -> WorkerProcess:
        nonlocal calls
        calls += 1
        if calls > begun:
            is_starting.set()
        worker = await start(*args, **options)
        processes.append(worker.process.pid)
        return worker

    monkeypatch.setattr(WorkerProcess, "start", slowly)

    async def run() -> None:
        async with open_workers(2, EventStream()):
            raise AssertionError("the block was entered")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await is_starting.wait()
        nursery.cancel_scope.cancel()
    assert len(processes) > begun
    assert not [pid for pid in processes if os.path.exists(f"/proc/{pid}")]


async def test_a_worker_gets_no_pair_before_it_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "_PROGRAM", "import time; time.sleep(0.5)")
    events: list[Event] = []
    async with open_workers(1, EventStream(events.append)) as workers:
        (far_a, near_a), (far_b, near_b) = await tcp_pair(), await tcp_pair()
        pair = JoinedPair(near_a, near_b, far_a, far_b)
        async with far_a, far_b, trio.open_nursery() as nursery:
            with PipePool() as pipes:
                nursery.start_soon(Scene(workers, events, pipes).move, pair)
                await until(lambda: events)
                assert (workers.running, workers.pairs) == (0, 0)
                await far_a.send_all(b"x")
                assert await far_b.receive_some() == b"x"
                nursery.cancel_scope.cancel()
    assert isinstance(events[0], WorkerEnded)
    assert events[0].status == "exit code 0"


@pytest.mark.parametrize("is_ready", [True, False])
async def test_a_worker_that_is_stuck_is_killed(is_ready: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = 0

    def counting(sock: socket.socket) -> Message | None:
        nonlocal answers
        message = receive(sock)
        answers += message is not None and message.kind is Kind.PONG
        return message

    monkeypatch.setattr(worker_process, "receive", counting)
    for name, seconds in (("_PING_SECONDS", 0.1), ("_STUCK_SECONDS", 0.3), ("_START_SECONDS", 0.3)):
        monkeypatch.setattr(worker_process, name, seconds)
    if is_ready:
        async with scene() as scene_, scene_.pair() as pair:
            (worker,) = scene_.workers._running
            await until(lambda: answers >= 2)
            os.kill(worker.process.pid, signal.SIGSTOP)
            await expect_broken(pair.far_a)
            await expect_broken(pair.far_b)
            await until(lambda: scene_.events)
            event = scene_.events[0]
    else:
        monkeypatch.setattr(worker_process, "_PROGRAM", "import time; time.sleep(1000)")
        events: list[Event] = []
        async with open_workers(1, EventStream(events.append)):
            await until(lambda: events)
        event = events[0]
    assert isinstance(event, WorkerEnded)
    assert event.status == "SIGKILL"


async def test_a_worker_that_answers_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    pings = 0

    def counting(sock: socket.socket, kind: Kind, *args: Any) -> None:
        nonlocal pings
        pings += kind is Kind.PING
        send(sock, kind, *args)

    monkeypatch.setattr(worker_process, "_PING_SECONDS", 0.001)
    monkeypatch.setattr("hybridrelay.relay.service.worker_process.send", counting)
    async with scene() as scene_, scene_.pair() as pair:
        await until(lambda: pings >= 20)
        await pair.far_a.send_all(b"x")
        assert await pair.far_b.receive_some() == b"x"
        assert scene_.events == []
        pair.moving.cancel()


@pytest.fixture
def slow_clock() -> trio.testing.MockClock:
    """A clock that runs slowly, so that deadlines pass only when the test lets them pass."""
    return trio.testing.MockClock(rate=0.05)


async def test_many_pairs_end_at_once_although_this_process_is_slow(
    slow_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other tasks of this process take so long that it handles one message of its worker a minute."""
    number = 50
    ends = 0

    def slowly(sock: socket.socket) -> Message | None:
        nonlocal ends
        message = receive(sock)
        if message is not None and message.kind is Kind.ENDED:
            ends += 1
            slow_clock.jump(60)
        return message

    monkeypatch.setattr(worker_process, "receive", slowly)
    monkeypatch.setattr(worker_process, "_MAX_MESSAGES", 1)
    async with scene() as scene_:
        fars = []
        async with trio.open_nursery() as nursery:
            for _ in range(number):
                (far_a, near_a), (far_b, near_b) = await tcp_pair(), await tcp_pair()
                fars += [far_a, far_b]
                nursery.start_soon(scene_.move, JoinedPair(near_a, near_b, far_a, far_b))
            await until(lambda: scene_.workers.pairs == number)
            nursery.cancel_scope.cancel()
        assert ends == number, "the worker itself has ended the pairs"
        assert scene_.events == []
        for far in fars:
            await expect_broken(far)
            await far.aclose()


async def test_a_half_closed_pair_whose_other_end_has_arrived_is_finished_here() -> None:
    answer = os.urandom(3 * MIB)
    async with scene() as scene_, scene_.pair() as pair, trio.open_nursery() as nursery:
        await send_and_end(pair.far_b, b"question")
        assert await receive_all(pair.far_a) == b"question"
        nursery.start_soon(send_and_end, pair.far_a, answer)
        await until(lambda: pair.total[0] > 0)
        pair.pace.change(1 << 30)
        scene_.workers.take_back()
        assert await receive_all(pair.far_b) == answer
        await until(lambda: pair.results)
    assert pair.results == [PumpOutcome.FINISHED]
    assert pair.total == (len(answer), len(b"question"))


async def test_a_direction_that_has_ended_is_not_ended_again() -> None:
    class Ended(WrappedHalfCloseableStream):
        async def send_eof(self) -> None:
            raise trio.BrokenResourceError

    (far_a, near_a), (far_b, near_b) = await tcp_pair(), await tcp_pair()
    async with far_a, far_b, trio.open_nursery() as nursery:
        nursery.start_soon(send_and_end, far_b, b"answer")
        moved = Moved()
        outcome = await pump(near_a, Ended(near_b), moved=moved, ended=(True, False))
        assert await receive_all(far_a) == b"answer"
    assert (outcome, moved.a_to_b, moved.b_to_a) == (PumpOutcome.FINISHED, 0, len(b"answer"))


async def test_without_memfd_create_a_file_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    async with scene() as scene_, scene_.pair() as pair:
        await pair.far_a.send_all(b"x")
        assert await pair.far_b.receive_some() == b"x"
        await until(lambda: pair.total == (1, 0))
        pair.moving.cancel()


def test_a_worker_finds_the_package_where_the_main_process_has_found_it(tmp_path: Path) -> None:
    """The package need not be installed."""
    here = [str(Path(hybridrelay.__file__).parents[1]), *(one for one in sys.path if one.endswith("site-packages"))]
    program = f"""
import sys
sys.path += {here!r}
import trio
from hybridrelay.events.stream import EventStream
from hybridrelay.relay.service.workers import open_workers
async def main():
    async with open_workers(1, EventStream(print)) as workers:
        with trio.fail_after(60):
            while not workers.running:
                await trio.sleep(0.01)
trio.run(main)
"""
    for name in ("signal", "socket", "struct"):  # a worker does not look for modules in the current directory
        (tmp_path / f"{name}.py").write_text("raise SystemExit('this must not run')")
    command = [sys.executable, "-I", "-S", "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


async def test_a_worker_that_is_stuck_is_killed_when_a_pair_has_to_end() -> None:
    async with scene() as scene_, scene_.pair() as pair:
        (worker,) = scene_.workers._running
        os.kill(worker.process.pid, signal.SIGSTOP)
        pair.moving.cancel()
        await until(lambda: not scene_.workers.pairs)
        await expect_broken(pair.far_a)
        await expect_broken(pair.far_b)
        await until(lambda: scene_.events)


async def test_when_the_workers_end_their_pairs_are_reset() -> None:
    async with scene() as scene_:
        (far_a, near_a), (far_b, near_b) = await tcp_pair(), await tcp_pair()
        pair = JoinedPair(near_a, near_b, far_a, far_b)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scene_.move, pair)
            await until(lambda: scene_.workers.pairs)
            (worker,) = scene_.workers._running
            nursery.cancel_scope.cancel()
    for far in (far_a, far_b):
        await expect_broken(far)
        await far.aclose()
    assert worker.process.returncode == 0
    assert scene_.events == []


@pytest.mark.parametrize("how", ["idle", "half closed", "busy"])
async def test_a_pair_whose_hybrid_connection_gets_a_limit_is_moved_here(how: str) -> None:
    first, second = os.urandom(5 * MIB), os.urandom(3 * MIB)
    async with scene() as scene_, scene_.pair() as pair, trio.open_nursery() as nursery:
        received = b""
        if how == "half closed":
            await send_and_end(pair.far_b, b"the end")
            assert await receive_all(pair.far_a) == b"the end"
        if how == "busy":
            nursery.start_soon(pair.far_a.send_all, first)
            received = await receive_exactly(pair.far_b, MIB)
        pair.pace.change(1 << 30)
        scene_.workers.take_back()
        scene_.workers.take_back()  # which changes nothing
        if how == "busy":
            received += await receive_exactly(pair.far_b, 4 * MIB)
            assert received == first
        await until(lambda: not scene_.workers.pairs)
        nursery.start_soon(send_and_end, pair.far_a, second)
        assert await receive_all(pair.far_b) == second
        if how != "half closed":
            await send_and_end(pair.far_b, b"the end")
            assert await receive_all(pair.far_a) == b"the end"
        await until(lambda: pair.results)
    total = len(second) + (len(first) if how == "busy" else 0)
    assert pair.results == [PumpOutcome.FINISHED]
    assert pair.total == (total, len(b"the end"))


@each_end
async def test_a_pair_with_a_limit_that_cannot_be_moved_here_is_reset(
    a_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One receiver does not read, so the worker would keep the pair forever."""
    monkeypatch.setattr(worker_process, "_RETURN_SECONDS", 0.5)

    async def send(stream: trio.SocketStream) -> None:
        while True:
            await stream.send_all(bytes(MIB))

    async def receive(stream: trio.SocketStream) -> None:
        # An error of a socket is reported once, here to the task that sends.
        with suppress(trio.BrokenResourceError):
            await receive_all(stream)

    async with scene() as scene_, scene_.pair() as pair:
        stalls, reads = pair.in_order(a_first)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect_broken_by, send, reads)
            await trio.testing.wait_all_tasks_blocked(0.2)
            nursery.start_soon(expect_broken_by, send, stalls)
            nursery.start_soon(receive, reads)
            await until(lambda: pair.total[not a_first] > 20 * MIB)
            pair.pace.change(1 << 16)
            scene_.workers.take_back()
        await until(lambda: pair.results)
        assert pair.results == [PumpOutcome.WORKER_ENDED]
        assert scene_.events == [], "the worker has not ended"
        async with scene_.pair() as another:
            await another.far_a.send_all(b"x")
            assert await another.far_b.receive_some() == b"x"
            another.moving.cancel()


async def test_a_pair_that_is_returned_too_late_is_moved_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker has returned it before it received the message that it is too late."""
    monkeypatch.setattr(worker_process, "_RETURN_SECONDS", 0.0)
    async with scene() as scene_, scene_.pair() as pair:
        pair.pace.change(1 << 30)
        scene_.workers.take_back()
        await send_and_end(pair.far_a, b"question")
        assert await receive_all(pair.far_b) == b"question"
        await send_and_end(pair.far_b, b"answer")
        assert await receive_all(pair.far_a) == b"answer"
        await until(lambda: pair.results)
    assert pair.results == [PumpOutcome.FINISHED]
    assert pair.total == (8, 6)


async def test_a_pair_with_a_limit_is_not_passed_to_a_worker() -> None:
    async with scene() as scene_:
        (far_a, near_a), (far_b, near_b) = await tcp_pair(), await tcp_pair()
        pair = JoinedPair(near_a, near_b, far_a, far_b)
        pair.pace.change(1 << 30)
        async with far_a, far_b, trio.open_nursery() as nursery:
            nursery.start_soon(scene_.move, pair)
            await far_a.send_all(b"x")
            assert await far_b.receive_some() == b"x"
            assert scene_.workers.pairs == 0
            nursery.cancel_scope.cancel()


async def test_pairs_are_divided_among_the_workers_and_slots_are_used_again() -> None:
    async with scene(2) as scene_:
        for _ in range(3):
            async with scene_.pair() as first, scene_.pair() as second:
                assert [len(worker.pairs) for worker in scene_.workers._running] == [1, 1]
                for pair in (first, second):
                    await pair.far_a.send_all(b"x" * 10)
                    await receive_exactly(pair.far_b, 10)
                await until(lambda: first.total == second.total == (10, 0))
                for pair in (first, second):
                    pair.moving.cancel()


async def test_many_pairs_end_at_once() -> None:
    async with scene() as scene_, trio.open_nursery() as nursery:
        fars = []
        for _ in range(300):
            (far_a, near_a), (far_b, near_b) = await tcp_pair(), await tcp_pair()
            fars += [far_a, far_b]
            nursery.start_soon(scene_.move, JoinedPair(near_a, near_b, far_a, far_b))
        await until(lambda: scene_.workers.pairs == 300)
        nursery.cancel_scope.cancel()
    for far in fars:
        await expect_broken(far)
        await far.aclose()


@pytest.mark.parametrize(
    ("where", "error", "detail"),
    [
        (trio.lowlevel, OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), os.strerror(errno.ENOMEM)),
        (trio.lowlevel, RuntimeError("can't start new thread"), "no thread can be started"),
        (os, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), os.strerror(errno.ENOSPC)),
    ],
    ids=["process", "thread", "memory"],
)
async def test_a_worker_that_cannot_be_started_is_tried_again(
    where: Any, error: Exception, detail: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sockets and its memory are released at once, although the traceback of the error refers to them."""
    name = "open_process" if where is trio.lowlevel else "ftruncate"
    works, fails = getattr(where, name), True

    def sometimes(*args: Any, **kwargs: Any) -> Any:
        nonlocal fails
        if fails:
            fails = False
            raise error
        return works(*args, **kwargs)

    monkeypatch.setattr(where, name, sometimes)
    async with scene() as scene_:
        (event,) = scene_.events
        assert isinstance(event, WorkerNotStarted)
        assert event.detail == detail


@pytest.mark.parametrize("executable", ["", None])
async def test_without_a_known_interpreter_there_are_no_workers(
    executable: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    events: list[Event] = []
    async with open_workers(1, EventStream(events.append)) as workers:
        assert workers.running == 0
    (event,) = events
    assert isinstance(event, WorkerNotStarted)
    assert "interpreter" in event.detail


async def test_without_workers_this_process_moves_everything() -> None:
    async with scene(0) as scene_:
        (far_a, near_a), (far_b, near_b) = await tcp_pair(), await tcp_pair()
        async with far_a, far_b, trio.open_nursery() as nursery:
            nursery.start_soon(partial(scene_.move, JoinedPair(near_a, near_b, far_a, far_b)))
            await far_a.send_all(b"x")
            assert await far_b.receive_some() == b"x"
            nursery.cancel_scope.cancel()


async def test_a_pair_that_is_cancelled_while_it_is_returned_is_reset() -> None:
    async with scene() as scene_:
        for _ in range(5):
            async with scene_.pair() as pair:
                pair.pace.change(1 << 30)
                scene_.workers.take_back()
                pair.moving.cancel()
                await expect_broken(pair.far_a)
                await expect_broken(pair.far_b)
            assert pair.results == []
        assert scene_.workers.pairs == 0


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EPIPE, errno.ETOOMANYREFS])
async def test_a_pair_that_a_worker_does_not_take_is_moved_here(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    refusals = 1

    def full(sock: socket.socket, kind: Kind, *args: Any) -> None:
        nonlocal refusals
        if kind is Kind.MOVE and refusals:
            refusals -= 1
            raise OSError(number, os.strerror(number))
        send(sock, kind, *args)

    monkeypatch.setattr("hybridrelay.relay.service.worker_process.send", full)
    async with scene() as scene_:
        (far_a, near_a), (far_b, near_b) = await tcp_pair(), await tcp_pair()
        async with far_a, far_b, trio.open_nursery() as nursery:
            nursery.start_soon(scene_.move, JoinedPair(near_a, near_b, far_a, far_b))
            await far_a.send_all(b"x")
            assert await far_b.receive_some() == b"x"
            assert scene_.workers.pairs == 0
            for near in (near_a, near_b):
                assert not resets_on_close(near.socket)
            async with scene_.pair() as another:
                (worker,) = scene_.workers._running
                assert list(worker.pairs) == [0], "the slot was not lost"
                another.moving.cancel()
            nursery.cancel_scope.cancel()


async def test_pairs_that_do_not_return_delay_the_others_only_for_a_moment(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Those that are asked for at the same time are waited for together, and not one after the other."""

    class Stuck:
        """A worker that was taken over and returns nothing."""

        def __init__(self, count: int) -> None:
            nothing: Any = None
            self.pairs = {slot: WorkerPair(slot, PairPace(), nothing) for slot in range(count)}
            self.asked_at: list[float] = []

        def ask_back(self, _pair: WorkerPair, _seconds: float) -> None:
            self.asked_at.append(trio.current_time())

    worker: Any = Stuck(10 * _MOVED_AT_A_TIME)
    began = trio.current_time()
    await Workers(EventStream())._move_home(worker)
    assert len(worker.asked_at) == len(worker.pairs)
    assert worker.asked_at[-1] - began <= 10 * _MOVE_SECONDS
