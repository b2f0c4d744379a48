"""What the main process sends to a worker, and how it handles messages, which the tests send in place of a worker."""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from unittest.mock import ANY

import pytest
import trio
import trio.testing

from hybridrelay.events.base import Event
from hybridrelay.events.stream import EventStream
from hybridrelay.relay.service import worker_process
from hybridrelay.relay.service.pace import PairPace
from hybridrelay.relay.service.pump import Moved, PumpOutcome
from hybridrelay.relay.service.splice import PipePool
from hybridrelay.relay.service.worker_memory import WorkerMemory
from hybridrelay.relay.service.worker_process import WorkerPair, WorkerProcess
from hybridrelay.relay.service.workers import Workers
from hybridrelay.relay.worker.messages import Ended, Kind, Message, receive, send
from hybridrelay.streams.sockets import NOTSENT_LOWAT
from hybridrelay.streams.turns import SharedTurns
from hybridrelay.testing import tcp_pair

from ...resets import resets_on_close

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="workers need epoll and memfd_create"),
    pytest.mark.usefixtures("no_descriptor_leaks"),
]


@asynccontextmanager
async def scripted_worker(
    *, events: EventStream | None = None, reads: bool = True
) -> AsyncIterator[tuple[WorkerProcess, socket.socket]]:
    """A worker whose messages the test sends. Unless `reads`, the main process does not read them."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = await trio.lowlevel.open_process(["sleep", "1000"])
    for one in (ours, theirs):
        one.setblocking(False)
    descriptor = WorkerMemory.allocate()
    worker = WorkerProcess(process, ours, WorkerMemory(descriptor), events or EventStream())
    os.close(descriptor)
    with theirs, trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            if reads:
                nursery.start_soon(worker.receive)
            nursery.start_soon(worker.send_unsent)
            yield worker, theirs
            nursery.cancel_scope.cancel()
        process.kill()
        await worker.aclose()


@asynccontextmanager
async def taken(
    worker: WorkerProcess, pace: PairPace | None = None
) -> AsyncIterator[tuple[WorkerPair | None, Moved]]:
    """Offer a pair to a worker. Yields None if it does not take it."""
    (far_a, near_a), (far_b, near_b) = await tcp_pair(), await tcp_pair()
    async with far_a, far_b, near_a, near_b:
        moved = Moved()
        yield worker.take(near_a, near_b, moved, pace or PairPace()), moved


def fill(worker: WorkerProcess) -> None:
    """Send messages to a worker until the next one would have to wait."""
    with suppress(BlockingIOError):
        while True:
            send(worker._control, Kind.PING, 0)


async def next_message(theirs: socket.socket) -> Message:
    """The next message that a scripted worker receives. Its descriptors are closed."""
    await trio.lowlevel.wait_readable(theirs)
    message = receive(theirs)
    assert message is not None
    for descriptor in message.descriptors:
        os.close(descriptor)
    return Message(message.kind, message.slot, message.value)


@pytest.mark.parametrize(
    ("end", "outcome"),
    [
        (Ended.FINISHED, PumpOutcome.FINISHED),
        (Ended.A_BROKE, PumpOutcome.A_BROKE),
        (Ended.B_BROKE, PumpOutcome.B_BROKE),
        (Ended.ABORTED, PumpOutcome.WORKER_ENDED),  # by the worker, which has no descriptors left
        (99, PumpOutcome.WORKER_ENDED),
        (None, PumpOutcome.WORKER_ENDED),  # returned, but the descriptors could not be received
    ],
)
async def test_how_a_pair_has_ended(end: int | None, outcome: PumpOutcome) -> None:
    async with scripted_worker() as (worker, theirs), taken(worker) as (pair, _):
        assert pair is not None
        assert (await next_message(theirs)).kind is Kind.MOVE
        if end is None:
            theirs.send(struct.pack("=BIQ", Kind.RETURNED, pair.slot, 3))
        else:
            send(theirs, Kind.ENDED, pair.slot, end)
        await pair.over.wait()
        assert (pair.outcome, pair.returned) == (outcome, None)
        assert not worker.pairs


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_SEQPACKET, socket.SOCK_STREAM, "pipe"], ids=str)
@pytest.mark.parametrize("good", [0, 1])
async def test_a_worker_that_returns_something_else_than_the_sockets_is_ended(
    kind: socket.SocketKind | str, good: int
) -> None:
    near, far = await tcp_pair()
    others = (
        os.pipe() if isinstance(kind, str) else tuple(s.detach() for s in socket.socketpair(socket.AF_UNIX, kind))
    )
    given = [near.socket.fileno(), *others][1 - good :][:2]
    async with near, far, scripted_worker(reads=False) as (worker, theirs), taken(worker) as (pair, _):
        assert pair is not None
        send(theirs, Kind.RETURNED, pair.slot, 0, (given[0], given[1]))
        await worker.receive()  # returns, so the worker is ended
        assert pair.over.is_set()
        assert (pair.outcome, pair.returned) == (PumpOutcome.WORKER_ENDED, None)
        assert not worker.pairs
    for descriptor in others:
        os.close(descriptor)


async def test_an_error_number_that_does_not_exist() -> None:
    events: list[Event] = []
    async with scripted_worker(events=EventStream(events.append)) as (worker, theirs), taken(worker) as (pair, _):
        assert pair is not None
        send(theirs, Kind.COPIES, 0, (1 << 64) - 1)
        send(theirs, Kind.ENDED, pair.slot, Ended.FINISHED)
        await pair.over.wait()
        assert len(events) == 1


async def test_a_worker_is_told_which_pairs_have_the_same_holder() -> None:
    first, second = SharedTurns(), SharedTurns()
    async with scripted_worker() as (worker, theirs), AsyncExitStack() as stack:
        holders = []
        for turns in (first, second, first):
            await stack.enter_async_context(taken(worker, PairPace(turns=turns)))
            holders.append((await next_message(theirs)).value)
        assert holders[0] == holders[2] != holders[1]


async def test_a_slot_is_used_again_and_its_counts_begin_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "SLOTS", 2)
    async with scripted_worker() as (worker, theirs), taken(worker) as (first, moved), taken(worker) as (second, _):
        assert first is not None
        assert second is not None
        for pair in (first, second):
            assert await next_message(theirs) == Message(Kind.MOVE, pair.slot, ANY)
        worker.memory._counters[2 * first.slot] = 7
        worker.memory._counters[2 * first.slot + 1] = 8
        async with taken(worker) as (third, _):
            assert third is None, "there is no free slot"
        send(theirs, Kind.ENDED, first.slot)
        await first.over.wait()
        async with taken(worker) as (third, moved_by_third):
            assert third is not None
            assert await next_message(theirs) == Message(Kind.MOVE, first.slot, ANY)
            assert (moved_by_third.total_a_to_b, moved_by_third.total_b_to_a) == (0, 0)
            worker.memory._counters[2 * first.slot] = 1
            assert (moved_by_third.total_a_to_b, moved_by_third.total_b_to_a) == (1, 0)
            assert (moved.total_a_to_b, moved.total_b_to_a) == (7, 8)


async def test_a_message_about_an_earlier_pair_never_reaches_the_next_one_in_its_slot() -> None:
    async with scripted_worker() as (worker, theirs), taken(worker) as (first, _):
        assert first is not None
        fill(worker)
        worker.abort(first)
        await trio.testing.wait_all_tasks_blocked()
        send(theirs, Kind.ENDED, first.slot, Ended.FINISHED)
        await first.over.wait()
        async with taken(worker) as (early, _):
            assert early is None
        first_messages = [await next_message(theirs)]
        while first_messages[-1].kind is not Kind.ABORT:
            first_messages.append(await next_message(theirs))
        async with taken(worker) as (second, _):
            assert second is not None
            assert second.slot == first.slot
            assert (await next_message(theirs)).kind is Kind.MOVE
            worker.abort(first)  # which is over
            worker.abort(second)
            assert (await next_message(theirs)).kind is Kind.ABORT
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(BlockingIOError):
                receive(theirs)


async def test_a_direction_that_a_worker_has_ended_is_not_ended_here() -> None:
    """A socket that has both sent and received an end of file cannot be ended again."""
    (far_a, near_a), (far_b, near_b) = await tcp_pair(), await tcp_pair()
    workers, results = Workers(EventStream()), list[PumpOutcome]()
    async with far_a, far_b, scripted_worker() as (worker, theirs), trio.open_nursery() as nursery:
        workers._running.append(worker)
        with PipePool() as pipes:

            async def move() -> None:
                results.append(await workers.move(near_a, near_b, moved=Moved(), pipes=pipes, pace=PairPace()))

            nursery.start_soon(move)
            await trio.lowlevel.wait_readable(theirs)
            message = receive(theirs)
            assert message is not None
            with socket.socket(fileno=message.descriptors[0]) as a, socket.socket(fileno=message.descriptors[1]):
                await far_b.send_eof()
                a.shutdown(socket.SHUT_WR)
                await far_a.send_eof()
                assert await far_a.receive_some() == b""
                await trio.lowlevel.wait_readable(a)
                send(theirs, Kind.RETURNED, message.slot, 2, message.descriptors)
            assert await far_b.receive_some() == b""
            while not results:
                await trio.lowlevel.checkpoint()
    assert results == [PumpOutcome.FINISHED]


async def test_sockets_that_were_returned_are_ready_for_use_here() -> None:
    (far_a, near_a), (far_b, near_b) = await tcp_pair(), await tcp_pair()
    async with far_a, far_b, scripted_worker() as (worker, theirs):
        pair = worker.take(near_a, near_b, Moved(), PairPace())
        assert pair is not None
        await trio.lowlevel.wait_readable(theirs)
        message = receive(theirs)
        assert message is not None
        send(theirs, Kind.RETURNED, pair.slot, 2, message.descriptors)
        for descriptor in message.descriptors:
            with socket.socket(fileno=descriptor) as sock:
                assert resets_on_close(sock), "even if the worker is killed before it has them"
        await pair.over.wait()
        assert pair.returned is not None
        assert pair.ended == (False, True)
        for stream, far in zip(pair.returned, (far_a, far_b), strict=True):
            assert not resets_on_close(stream.socket)
            assert stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == NOTSENT_LOWAT
            await far.send_all(b"x")
            async with stream:
                assert await stream.receive_some() == b"x"


async def test_the_sockets_of_a_pair_are_requested_once() -> None:
    async with scripted_worker() as (worker, theirs), taken(worker) as (pair, _):
        assert pair is not None
        for _ in range(2):
            worker.ask_back(pair)
        worker.abort(pair)
        kinds = [(await next_message(theirs)).kind for _ in range(3)]
        assert kinds == [Kind.MOVE, Kind.RETURN, Kind.ABORT]


async def test_a_worker_that_is_stuck_gets_only_as_many_pairs_as_fit_into_its_socket() -> None:
    async with scripted_worker() as (worker, _), AsyncExitStack() as stack:
        fill(worker)
        pair, moved = await stack.enter_async_context(taken(worker))
        assert (pair, moved.worker) == (None, None)


async def test_a_worker_that_has_sent_nothing_is_not_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """This holds even if the system has reported that there is a message."""
    is_first = True

    def nothing_at_first(sock: socket.socket) -> Message | None:
        nonlocal is_first
        if is_first:
            is_first = False
            raise BlockingIOError
        return receive(sock)

    monkeypatch.setattr(worker_process, "receive", nothing_at_first)
    async with scripted_worker() as (worker, theirs):
        send(theirs, Kind.READY, 0)
        await worker.ready.wait()
    assert not is_first


async def test_a_worker_whose_answer_comes_late_because_everything_was_suspended_is_left_alone(
    mock_clock: trio.testing.MockClock,
) -> None:
    async with scripted_worker() as (worker, theirs), trio.open_nursery() as nursery:
        send(theirs, Kind.READY, 0)
        nursery.start_soon(worker.watch)
        for _ in range(2):
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(worker_process._PING_SECONDS)
            assert await next_message(theirs) == Message(Kind.PING, 0)
            mock_clock.jump(worker_process._STUCK_SECONDS + 1)
            await trio.testing.wait_all_tasks_blocked()
            send(theirs, Kind.PONG, 0)
        await trio.testing.wait_all_tasks_blocked()
        assert worker.process.returncode is None
        mock_clock.jump(worker_process._PING_SECONDS)
        assert await next_message(theirs) == Message(Kind.PING, 0)
        mock_clock.jump(worker_process._STUCK_SECONDS)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(worker_process._STUCK_SECONDS / 2)
        assert await worker.process.wait() == -signal.SIGKILL


class Waiting:
    """A task that waits for an answer for ten seconds, and its result."""

    def __init__(self, worker: WorkerProcess, clock: trio.testing.MockClock) -> None:
        self._worker, self._clock = worker, clock
        self.answer = trio.Event()
        self.results: list[bool] = []

    async def run(self) -> None:
        self.results.append(await self._worker.answers(self.answer, 10.0))

    async def result_after(self, seconds: float) -> list[bool]:
        """Let the clock jump by so many seconds. Returns the result, if there is one by then."""
        await trio.testing.wait_all_tasks_blocked()
        self._clock.jump(seconds)
        await trio.testing.wait_all_tasks_blocked()
        return self.results


async def test_a_worker_that_sends_nothing_is_stuck(mock_clock: trio.testing.MockClock) -> None:
    async with scripted_worker() as (worker, _), trio.open_nursery() as nursery:
        waiting = Waiting(worker, mock_clock)
        nursery.start_soon(waiting.run)
        # If both processes were suspended, the worker gets another moment.
        assert await waiting.result_after(10) == []
        assert await waiting.result_after(6) == [False]


async def test_a_worker_that_sends_another_message_is_not_stuck(mock_clock: trio.testing.MockClock) -> None:
    async with scripted_worker() as (worker, theirs), trio.open_nursery() as nursery:
        waiting = Waiting(worker, mock_clock)
        nursery.start_soon(waiting.run)
        for _ in range(5):
            assert await waiting.result_after(6) == []
            send(theirs, Kind.PONG, 0)
        waiting.answer.set()
        assert await waiting.result_after(0) == [True]


@pytest.mark.parametrize("has_ended", [False, True])
async def test_a_worker_is_not_stuck_because_this_process_does_not_read(
    has_ended: bool, mock_clock: trio.testing.MockClock
) -> None:
    async with scripted_worker(reads=False) as (worker, theirs), trio.open_nursery() as nursery:
        waiting = Waiting(worker, mock_clock)
        nursery.start_soon(waiting.run)
        if has_ended:
            theirs.close()
        else:
            send(theirs, Kind.PONG, 0)
        for _ in range(5):
            assert await waiting.result_after(6) == []
        waiting.answer.set()
        assert await waiting.result_after(0) == [True]


async def test_a_worker_that_is_being_closed_is_not_stuck(mock_clock: trio.testing.MockClock) -> None:
    async with scripted_worker(reads=False) as (worker, _), trio.open_nursery() as nursery:
        waiting = Waiting(worker, mock_clock)
        nursery.start_soon(waiting.run)
        worker.process.kill()
        await worker.aclose()
        for _ in range(5):
            assert await waiting.result_after(6) == []
        waiting.answer.set()
        assert await waiting.result_after(0) == [True]


async def test_many_messages_of_a_worker_are_handled_at_once_but_other_tasks_get_their_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    number = 40
    monkeypatch.setattr(worker_process, "_MAX_MESSAGES", number)
    received: list[Event] = []
    events = EventStream(received.append)
    async with scripted_worker(events=events, reads=False) as (worker, theirs), trio.open_nursery() as nursery:
        for _ in range(3 * number):
            send(theirs, Kind.COPIES, 0, errno.EPERM)
        nursery.start_soon(worker.receive)
        while not received:
            await trio.lowlevel.checkpoint()
        assert number <= len(received) <= 2 * number
        while len(received) < 3 * number:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()


async def test_messages_to_a_worker_that_has_just_ended_are_lost() -> None:
    async with scripted_worker() as (worker, theirs), taken(worker) as (pair, _):
        assert pair is not None
        theirs.close()
        worker.ask_back(pair)
        worker.abort(pair)
        assert not worker._unsent
        async with taken(worker) as (another, _):
            assert another is None
