"""Worker processes, which move the bytes of joined pairs of sockets; see `relay.worker`.

The main process passes the two sockets of a pair to a worker and waits for its end. It reads the bytes that were
moved from memory that it shares with the worker. A worker that ends by itself ends its pairs, whose connections the
kernel then resets, so that sessions resume. It is replaced.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from ..._nursery import FlatNursery
from ...events.relay_resources import WorkerEnded, WorkerNotStarted
from ...events.stream import EventStream
from .pace import PairPace
from .pump import Moved, PumpResult, abort, pump
from .splice import PipePool, can_splice
from .worker_process import END_SECONDS, WorkerPair, WorkerProcess

__all__ = ["Workers", "open_workers"]

#: A worker that has ended is replaced after this time (seconds); after twice this time if it ends again soon, and so
#: on, up to the maximum.
_REPLACE_SECONDS = 0.5
_MAX_REPLACE_SECONDS = 30.0
#: After a worker that ran for longer than this (seconds), the first of these times applies again.
_PROVEN_SECONDS = 10.0


class Workers:
    """The workers of a relay. `open_workers` makes one."""

    def __init__(self, events: EventStream) -> None:
        """Begin without a worker."""
        self._events = events
        self._running: list[WorkerProcess] = []

    @property
    def running(self) -> int:
        """How many workers are running."""
        return len(self._running)

    @property
    def pairs(self) -> int:
        """How many pairs they have."""
        return sum(len(one.pairs) for one in self._running)

    async def move(
        self,
        a: trio.abc.HalfCloseableStream,
        b: trio.abc.HalfCloseableStream,
        *,
        moved: Moved,
        pipes: PipePool,
        pace: PairPace,
    ) -> PumpResult:
        """Do what `pump` does, in a worker if there is one, both streams are sockets, and the pair has no rate limit.

        If the pair gets a rate limit later, it is moved back to this process, because the limit has to be shared with
        all other pairs; see `take_back`. If that takes too long, because a receiver does not read, both connections
        are reset, so that the session resumes.
        """
        worker = min(self._running, key=lambda one: len(one.pairs), default=None)
        pair = None
        if worker is not None and pace.rate is None and can_splice(a, b):
            assert isinstance(a, trio.SocketStream)
            assert isinstance(b, trio.SocketStream)
            pair = worker.take(a, b, moved, pace)
        if worker is None or pair is None:
            return await pump(a, b, moved=moved, pipes=pipes, pace=pace)
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
        if pair.returned is None:
            return PumpResult(moved.a_to_b, moved.b_to_a, pair.outcome)
        return await pump(*pair.returned, moved=moved, pipes=pipes, pace=pace, ended=pair.ended)

    def take_back(self) -> None:
        """Move in this process, from now on, all pairs whose hybrid connection has a rate limit."""
        for worker in self._running:
            for pair in list(worker.pairs.values()):
                if pair.pace.rate is not None:
                    worker.ask_back(pair)

    async def run(self, count: int, task_status: trio.TaskStatus[None]) -> None:
        """Keep this number of workers running, until cancelled. Their pairs then end.

        `task_status.started` is called when each of them was started, or could not be started.
        """
        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(self._keep_one, await self._start(_REPLACE_SECONDS))
            task_status.started()

    async def _keep_one(self, worker: WorkerProcess | None) -> None:
        """Serve a worker, and replace it when it has ended. None: it could not be started."""
        pause = _REPLACE_SECONDS
        while True:
            began = trio.current_time()
            if worker is not None:
                pairs = await self._serve(worker)
                if trio.current_time() - began > _PROVEN_SECONDS:
                    pause = _REPLACE_SECONDS
                self._events.publish(
                    WorkerEnded(pid=worker.process.pid, status=worker.status, pairs=pairs, retry_seconds=pause)
                )
            await trio.sleep(pause)
            pause = min(2 * pause, _MAX_REPLACE_SECONDS)
            worker = await self._start(pause)

    async def _start(self, retry_seconds: float) -> WorkerProcess | None:
        try:
            return await WorkerProcess.start(self._events)
        except OSError as exc:
            self._events.publish(WorkerNotStarted(detail=exc.strerror or str(exc), retry_seconds=retry_seconds))
            return None

    async def _serve(self, worker: WorkerProcess) -> int:
        """Exchange messages with a worker until it ends. Returns how many pairs it had then."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._use_when_ready, worker)
                nursery.start_soon(worker.send_unsent)
                nursery.start_soon(worker.watch)
                await worker.receive()
                nursery.cancel_scope.cancel()
        finally:
            if worker in self._running:
                self._running.remove(worker)
            pairs = len(worker.pairs)
            await worker.aclose()
        return pairs

    async def _use_when_ready(self, worker: WorkerProcess) -> None:
        await worker.ready.wait()
        self._running.append(worker)


@asynccontextmanager
async def open_workers(count: int, events: EventStream) -> AsyncIterator[Workers]:
    """Run this number of workers during the block, or as many as the system allows. They end after the block, even if
    it is cancelled, so that `Workers.move` can end its pairs."""
    workers = Workers(events)
    if not count:
        yield workers
        return
    scope = trio.CancelScope(shield=True)

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        with scope:
            await workers.run(count, task_status)

    async with FlatNursery() as nursery:
        await nursery.start(run)
        try:
            yield workers
        finally:
            scope.cancel()


async def _abort(worker: WorkerProcess, pair: WorkerPair) -> None:
    """Reset the connections of a pair, and wait until that has happened. Not cancelled with its caller."""
    with trio.CancelScope(shield=True):
        await _end(worker, pair)
        if pair.returned is not None:
            await abort(*pair.returned)


async def _end(worker: WorkerProcess, pair: WorkerPair) -> None:
    """Have a worker reset the connections of a pair, and wait until it no longer has the pair, which it may have
    returned before."""
    worker.abort(pair)
    if not await worker.answers(pair.over, END_SECONDS):
        worker.process.kill()  # it is stuck
        await pair.over.wait()
