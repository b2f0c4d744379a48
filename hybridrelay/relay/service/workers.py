"""Worker processes, which move the bytes of joined pairs of sockets; see `relay.worker`.

The main process passes the two sockets of a pair to a worker and waits for the end of the pair. It reads the bytes
that were moved from memory that it shares with the worker. A worker that ends by itself ends its pairs, whose
connections the kernel then resets, so that sessions resume. It is replaced.

When this process stops, workers may keep their pairs for the next one (`Workers.keep_pairs`). That process takes the
workers over (`takeover`) and moves their pairs to workers of its own, which run the current version of the program.
Then it ends the old workers.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import attrs
import trio

from ..._nursery import FlatNursery
from ..._value import Value
from ...events.relay_resources import WorkerEnded, WorkerNotStarted, WorkersKeepPairs
from ...events.stream import EventStream
from .adopted_process import AdoptedProcess
from .handover import PairHandover
from .pace import PairPace
from .pump import Moved, PumpOutcome, abort, pump
from .splice import PipePool, can_splice
from .worker_process import END_SECONDS, WorkerPair, WorkerProcess

__all__ = ["PairRetention", "Workers", "open_workers"]

#: A worker that has ended is replaced after this time (seconds); after twice this time if it ends again soon, and so
#: on, up to the maximum.
_REPLACE_SECONDS = 0.5
_MAX_REPLACE_SECONDS = 30.0
#: After a worker that ran for longer than this (seconds), the first of these times applies again.
_PROVEN_SECONDS = 10.0
#: How many pairs of a worker that was taken over are moved at the same time. Each needs two descriptors here for a
#: moment.
_MOVED_AT_A_TIME = 32
#: How long a pair may take to be moved before others are asked for, too (seconds). It takes longer if a receiver does
#: not read.
_MOVE_SECONDS = 0.5


@attrs.frozen
class PairRetention(Value):
    """How workers keep their pairs without a main process."""

    #: For how long (seconds). 0: not at all.
    seconds: float = 0.0
    #: The directory in which they look for the next main process.
    directory: Path | None = None


class Workers:
    """The workers of a relay. `open_workers` makes one."""

    def __init__(self, events: EventStream, retention: PairRetention | None = None) -> None:
        """Begin without a worker."""
        self._events = events
        self._retention = PairRetention() if retention is None else retention
        #: The workers that take pairs.
        self._running: list[WorkerProcess] = []
        #: These workers, and others that are starting, or were taken over.
        self._served: set[WorkerProcess] = set()
        #: Set, and then replaced, whenever a worker is removed from `_served`.
        self._served_less = trio.Event()
        #: How many workers there should be.
        self._count = 0
        #: Set when the first worker that this process has started takes pairs.
        self._first_runs = trio.Event()
        #: For the tasks that serve workers that were taken over.
        self._nursery: trio.Nursery | None = None
        self._is_stopping = False
        #: Workers that keep their pairs for the next main process.
        self.left: list[WorkerProcess] = []

    @property
    def running(self) -> int:
        """How many workers are running that take pairs."""
        return len(self._running)

    @property
    def pairs(self) -> int:
        """How many pairs workers have."""
        return sum(len(one.pairs) for one in self._served)

    async def move(
        self,
        a: trio.abc.HalfCloseableStream,
        b: trio.abc.HalfCloseableStream,
        *,
        moved: Moved,
        pipes: PipePool,
        pace: PairPace,
        handover: PairHandover | None = None,
    ) -> PumpOutcome:
        """Do what `pump` does, in a worker if there is one, both streams are sockets, and the pair has no rate limit.

        If the pair gets a rate limit later, it is moved back to this process, because the limit has to be shared with
        all other pairs; see `take_back`. If that takes too long, because a receiver does not read, both connections
        are reset, so that the session resumes. If the worker keeps the pair for the next main process, the outcome is
        `PumpOutcome.KEPT`.

        Args:
            a, b, moved, pipes, pace: as for `pump`.
            handover: what the next main process has to know about the pair. None: it will not be taken over.
        """
        ended = (False, False)
        while not any(ended):
            worker = min(self._running, key=lambda one: len(one.pairs), default=None)
            pair = None
            if worker is not None and pace.rate is None and can_splice(a, b):
                assert isinstance(a, trio.SocketStream)
                assert isinstance(b, trio.SocketStream)
                pair = worker.take(a, b, moved, pace, handover)
            if worker is None or pair is None:
                break
            outcome = await self._until_over(worker, pair, moved)
            if pair.returned is None:
                return outcome
            (a, b), ended = pair.returned, pair.ended
        return await pump(a, b, moved=moved, pipes=pipes, pace=pace, ended=ended)

    async def go_on(
        self, worker: WorkerProcess, pair: WorkerPair, *, moved: Moved, pipes: PipePool, handover: PairHandover
    ) -> PumpOutcome:
        """Do what `move` does, for a pair of a worker that was taken over."""
        outcome = await self._until_over(worker, pair, moved)
        if pair.returned is None:
            return outcome
        if any(pair.ended):
            return await pump(*pair.returned, moved=moved, pipes=pipes, pace=pair.pace, ended=pair.ended)
        return await self.move(*pair.returned, moved=moved, pipes=pipes, pace=pair.pace, handover=handover)

    async def _until_over(self, worker: WorkerProcess, pair: WorkerPair, moved: Moved) -> PumpOutcome:
        try:
            with pair.waiting:
                await pair.over.wait()
            if not pair.over.is_set():
                await _end(worker, pair)
        except BaseException:
            await _abort(worker, pair)
            raise
        finally:
            moved.fold_in()
        return pair.outcome

    def take_back(self) -> None:
        """Request all pairs whose hybrid connection has a rate limit from their workers, so that this process moves
        their bytes from then on."""
        for worker in self._served:
            for pair in list(worker.pairs.values()):
                if pair.pace.rate is not None:
                    worker.ask_back(pair)

    # --- the end

    async def keep_pairs(self) -> None:
        """Have workers keep their pairs for the next main process, because this one stops. Does nothing if they are
        not to keep them.

        Returns when the workers have answered, and after `END_SECONDS` at the latest. From then on, no worker takes a
        pair.
        """
        if not self._retention.seconds:
            return
        self._is_stopping = True
        self._running.clear()
        for worker in self._served:
            worker.release()
        with trio.move_on_after(END_SECONDS):
            while any(worker.is_released for worker in self._served):
                await self._served_less.wait()
        if kept := sum(worker.kept for worker in self.left):
            self._events.publish(WorkersKeepPairs(pairs=kept, seconds=self._retention.seconds))

    def kill(self) -> None:
        """Kill all workers, because this process ends at once, and pairs are not to be kept. Never waits."""
        for worker in (*self._served, *self.left):
            with suppress(OSError):
                worker.process.kill()

    # --- the processes

    async def run(self, count: int, started: trio.Event) -> None:
        """Keep this number of workers running, until cancelled. Their pairs then end, except those that were kept.

        `started` is set when each of them was started, or could not be started.
        """
        self._count = count
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for _ in range(count):
                nursery.start_soon(self._keep_one, await self._start(_REPLACE_SECONDS))
            started.set()
            await trio.sleep_forever()

    async def _keep_one(self, worker: WorkerProcess | None) -> None:
        """Serve a worker, and replace it when it has ended. None: it could not be started."""
        pause = _REPLACE_SECONDS
        while True:
            began = trio.current_time()
            if worker is not None:
                pairs = await self._serve(worker)
                if trio.current_time() - began > _PROVEN_SECONDS:
                    pause = _REPLACE_SECONDS
                if not worker.is_released:
                    self._publish_end(worker, pairs, pause)
            await trio.sleep(pause)
            if self._is_stopping:
                return
            pause = min(2 * pause, _MAX_REPLACE_SECONDS)
            worker = await self._start(pause)

    async def _start(self, retry_seconds: float) -> WorkerProcess | None:
        try:
            return await WorkerProcess.start(
                self._events, directory=self._retention.directory, keep=self._retention.seconds
            )
        except OSError as exc:
            self._events.publish(WorkerNotStarted(detail=exc.strerror or str(exc), retry_seconds=retry_seconds))
            return None

    def take_over(self, worker: WorkerProcess) -> None:
        """Serve a worker that an earlier main process has started, until its pairs have ended or were moved to
        other processes. Call this after `WorkerProcess.add_existing` for all of its pairs."""
        assert self._nursery is not None
        self._served.add(worker)
        worker.taken_over(self._retention.seconds)
        if self._is_stopping:
            worker.release()
        self._nursery.start_soon(self._serve_taken_over, worker)

    async def _serve_taken_over(self, worker: WorkerProcess) -> None:
        pairs = await self._serve(worker)
        if pairs and not worker.is_released:
            self._publish_end(worker, pairs, 0.0)

    async def _serve(self, worker: WorkerProcess) -> int:
        """Exchange messages with a worker until it ends. Returns how many pairs it had then."""
        self._served.add(worker)
        is_new = not worker.ready.is_set()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._use_when_ready if is_new else self._move_home, worker)
                nursery.start_soon(worker.send_unsent)
                nursery.start_soon(worker.watch)
                if not is_new:
                    nursery.start_soon(_end_without_pairs, worker, nursery.cancel_scope)
                await worker.receive()
                nursery.cancel_scope.cancel()
        finally:
            if worker in self._running:
                self._running.remove(worker)
            pairs = len(worker.pairs)
            if worker.keeps_pairs:
                worker.kept = pairs
                self.left.append(worker)
            await worker.aclose()
            self._served.discard(worker)
            self._served_less.set()
            self._served_less = trio.Event()
        return pairs

    async def _use_when_ready(self, worker: WorkerProcess) -> None:
        await worker.ready.wait()
        if not self._is_stopping:
            self._running.append(worker)
            self._first_runs.set()

    async def _move_home(self, worker: WorkerProcess) -> None:
        """Have a worker that was taken over return its pairs, which another worker or this process then moves.

        If one side of a pair does not read, the pair stays with the old worker until that side reads, unless the pair
        has a rate limit.
        """
        for pair in list(worker.pairs.values()):
            if pair.pace.rate is not None:
                worker.ask_back(pair)
        if self._count:
            await self._first_runs.wait()
        # Pairs, and until when others wait for them.
        asked: deque[tuple[WorkerPair, float]] = deque()
        for pair in list(worker.pairs.values()):
            if not pair.over.is_set():
                worker.ask_back(pair, math.inf)
                asked.append((pair, trio.current_time() + _MOVE_SECONDS))
            if len(asked) >= _MOVED_AT_A_TIME:
                first, until = asked.popleft()
                with trio.move_on_at(until):
                    await first.over.wait()

    def _publish_end(self, worker: WorkerProcess, pairs: int, retry_seconds: float) -> None:
        self._events.publish(
            WorkerEnded(pid=worker.process.pid, status=worker.status, pairs=pairs, retry_seconds=retry_seconds)
        )


async def _end_without_pairs(worker: WorkerProcess, scope: trio.CancelScope) -> None:
    await worker.has_no_pairs.wait()
    scope.cancel()


@asynccontextmanager
async def open_workers(
    count: int, events: EventStream, *, retention: PairRetention | None = None, takes_over: bool = False
) -> AsyncIterator[Workers]:
    """Run this number of workers during the block, or as many as the system allows. They end after the block, even if
    it is cancelled, so that `Workers.move` can end its pairs.

    Args:
        count: the number.
        events: the stream to which events are published.
        retention: how workers keep their pairs without a main process. None: not at all.
        takes_over: whether `Workers.take_over` may be called.
    """
    workers = Workers(events, retention)
    if not count and not takes_over:
        yield workers
        return
    scope, started = trio.CancelScope(shield=True), trio.Event()

    async def run() -> None:
        with scope:
            await workers.run(count, started)

    async with FlatNursery() as nursery:
        # Not `nursery.start`: if that is cancelled, it waits for the end of `run`, which only `scope` can end.
        nursery.start_soon(run)
        try:
            await started.wait()
            yield workers
        finally:
            scope.cancel()
    for worker in workers.left:
        if isinstance(worker.process, AdoptedProcess):
            worker.process.close()


async def _abort(worker: WorkerProcess, pair: WorkerPair) -> None:
    """Reset the connections of a pair, and wait until that has happened. Not cancelled with its caller."""
    with trio.CancelScope(shield=True):
        await _end(worker, pair)
        if pair.returned is not None:
            await abort(*pair.returned)


async def _end(worker: WorkerProcess, pair: WorkerPair) -> None:
    """Have a worker reset the connections of a pair, and wait until it no longer has the pair. It may return the pair
    at the same moment."""
    worker.abort(pair)
    if not await worker.answers(pair.over, END_SECONDS):
        worker.process.kill()  # it is stuck
        await pair.over.wait()
