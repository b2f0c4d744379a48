"""Writes records to one sink, in batches and in a thread. The event loop never waits for a disk or a server."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

import attrs
import trio

from .._shortage import remedy_or
from .._threads import run_in_thread
from ..errors import ConfigurationError
from ..events.audit import AuditRecordsLost, AuditSinkFailed, AuditSinkRestored
from ..events.base import Event
from ..events.stream import EventStream
from .record import NotRecordedError, Record, SinkProblem, record_of
from .sinks.sink import Sink

__all__ = ["MAX_WAITING", "WAIT_SECONDS", "SinkWriter"]

T = TypeVar("T")

#: The most records that wait for a sink. While it cannot be written, further ones are lost there, and counted.
MAX_WAITING = 20_000
#: How many records one write contains at most.
_BATCH = 1_000
#: How long records wait for others, unless somebody waits for them (seconds). Each batch waits for the disk once.
_GATHER_SECONDS = 0.2
#: How long a stream waits for its record to be written, before the sink counts as failed (seconds).
WAIT_SECONDS = 5.0
#: After a failure, when to try again (seconds): soon at first.
_RETRY_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0)


#: The errors of a full disk.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class SinkWriter:
    """Passes records to a sink, in their order.

    Args:
        sink: the sink.
        is_required: whether the program refuses new streams while the sink cannot be written.
        events: the stream to which it publishes that the sink cannot be written.
        clock: returns seconds since 1970.
    """

    def __init__(self, sink: Sink, *, is_required: bool, events: EventStream, clock: Callable[[], float]) -> None:
        self.sink = sink
        self.is_required = is_required
        self._events = events
        self._clock = clock
        self._waiting: deque[Record] = deque()
        #: How many records were put into the queue, and how many of these were written.
        self._put = 0
        self._written = 0
        #: How many records were lost and have not been reported in the sink yet.
        self._lost = 0
        #: Why the sink cannot be written; None if it can.
        self.problem: str | None = None
        #: What to do about it; empty if nothing special is known.
        self._remedy = ""
        #: Set when there are records.
        self._wake = trio.Event()
        #: Set when somebody waits for the records.
        self._urgent = trio.Event()
        #: Set, and replaced, when records were written or the sink has failed.
        self._progress = trio.Event()
        self._busy = trio.Lock()
        self._is_open = False
        self._is_closed = False
        #: Set by the owner when nothing more is to be written.
        self.ended = trio.Event()
        self._limiter = trio.CapacityLimiter(1)

    def sink_problem(self) -> SinkProblem | None:
        """Return the problem of the sink; None if it can be written."""
        if self.problem is None:
            return None
        problem = SinkProblem(self.sink.name, self.problem, self.is_required)
        return attrs.evolve(problem, remedy=self._remedy) if self._remedy else problem

    @property
    def unwritten(self) -> int:
        """How many records the sink does not have yet, those that were lost included."""
        return len(self._waiting) + self._lost

    def put(self, record: Record) -> None:
        """Queue a record. Never waits."""
        if len(self._waiting) >= MAX_WAITING:
            self._lost += 1
            return
        self._waiting.append(record)
        self._put += 1
        self._wake.set()

    async def wait_written(self) -> None:
        """Wait until the sink has everything that was queued until now.

        Raises:
            NotRecordedError: it cannot be written, or takes too long.

        If cancelled, the records stay in the queue.
        """
        wanted = self._put
        with trio.move_on_after(WAIT_SECONDS):
            while self._written < wanted or self._lost:
                if self.problem is not None:
                    raise NotRecordedError(self.problem)
                self._urgent.set()
                await self._progress.wait()
            return
        self._failed(f"it has not answered for {WAIT_SECONDS:g} s", "")
        raise NotRecordedError(self.problem)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Open the sink, and write records until cancelled. `task_status.started` is called when it is open, or when
        its disk is full: it is then opened later.

        Raises:
            ConfigurationError, OSError: the sink cannot be used until somebody corrects something.
        """
        try:
            await self._open()
        except OSError as exc:
            if exc.errno not in _FULL:
                raise
            self._failed(*_described(exc))
        task_status.started()
        failures = 0
        while True:
            await self._wait_for_work()
            if await self._work():
                failures = 0
            else:
                await trio.sleep(_RETRY_SECONDS[min(failures, len(_RETRY_SECONDS) - 1)])
                failures += 1

    async def _wait_for_work(self) -> None:
        """Wait for records, or for the next tick."""
        if self._waiting:
            return
        with trio.move_on_after(self.sink.tick_seconds or float("inf")):
            await self._wake.wait()
            with trio.move_on_after(_GATHER_SECONDS):
                await self._urgent.wait()

    async def _work(self) -> bool:
        """Write some records, or do what is due without any. Returns False if the sink failed."""
        async with self._busy:
            if self._is_closed:
                await trio.sleep_forever()
            batch = [self._waiting[index] for index in range(min(_BATCH, len(self._waiting)))]
            if len(batch) == len(self._waiting):
                self._wake = trio.Event()
                self._urgent = trio.Event()
            lost = self._lost if len(batch) == len(self._waiting) else 0
            try:
                await self._open()
                if batch or lost:
                    await self._write(batch, lost)
                else:
                    events = await self._in_thread(self.sink.tick)
                    self._succeeded(0)
                    self._publish(events)
            except (OSError, ConfigurationError) as exc:
                self._wake.set()
                self._failed(*_described(exc))
                return False
            if self._lost:
                self._wake.set()
            return True

    async def _write(self, batch: Sequence[Record], lost: int) -> None:
        """Write the oldest records of the queue, then how many are missing after them, and wake those who wait."""
        events = await self._in_thread(self.sink.write, [*batch, *self._report(lost)])
        for _ in batch:
            self._waiting.popleft()
        self._written += len(batch)
        self._lost -= lost
        self._succeeded(lost)
        self._publish(events)

    def _report(self, lost: int) -> list[Record]:
        """Return the record that says how many are missing before it."""
        event = AuditRecordsLost(sink=self.sink.name, records=lost)
        record = record_of(event, self._clock()) if lost else None
        return [] if record is None else [record]

    def _failed(self, detail: str, remedy: str) -> None:
        is_new, self.problem, self._remedy = self.problem is None, detail, remedy
        self._progressed()
        if is_new:
            if self.is_required:
                detail += "; new streams are refused until it can be written again"
            self._publish(
                [AuditSinkFailed(sink=self.sink.name, detail=detail, remedy=remedy, required=self.is_required)]
            )

    def _succeeded(self, lost: int) -> None:
        had_problem, self.problem = self.problem is not None, None
        self._progressed()
        if had_problem:
            self._publish([AuditSinkRestored(sink=self.sink.name, records_lost=lost)])

    def _progressed(self) -> None:
        progress, self._progress = self._progress, trio.Event()
        progress.set()

    def _publish(self, events: Sequence[Event]) -> None:
        for event in events:
            self._events.publish(event)

    async def finish(self) -> None:
        """Write everything that is queued, and close the sink. `run` is to be cancelled afterwards.

        Those who wait for records learn the result as always. The caller sets the deadline. What cannot be written is
        lost, and then counts as `unwritten`.
        """
        async with self._busy:
            self._is_closed = True
            try:
                await self._open()
                if self._waiting or self._lost:
                    await self._write(list(self._waiting), self._lost)
                await self._in_thread(self.sink.close)
            except (OSError, ConfigurationError) as exc:
                self._failed(*_described(exc))

    async def _open(self) -> None:
        if not self._is_open:
            events = await self._in_thread(self.sink.open)
            self._is_open = True
            self._publish(events)

    async def _in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        # The program can end even while the function hangs.
        return await run_in_thread(function, *arguments, limiter=self._limiter, abandon_on_cancel=True)


def _described(error: OSError | ConfigurationError) -> tuple[str, str]:
    """Return what has failed, and what to do about it."""
    if isinstance(error, ConfigurationError):
        return str(error), error.remedy or ""
    where = f": {error.filename}" if error.filename else ""
    return f"{error.strerror or error}{where}", remedy_or(error, "")
