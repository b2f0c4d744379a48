"""The audit log of a program: a subscriber of its events, which passes records to all sinks."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

import trio

from .._nursery import FlatNursery
from .._threads import from_any_thread, run_in_thread
from ..errors import ConfigurationError
from ..events.audit import (
    AuditCheckpoint,
    AuditFileNotCompressed,
    AuditRecordsLeftOut,
    AuditRecordsUnwritten,
    AuditSinkRemoved,
)
from ..events.base import Event
from ..events.plain_log import also_subscribed
from ..events.stream import EventStream
from .chain import Checkpoint
from .record import ADD_SINK, NotRecordedError, SinkProblem, record_of
from .sinks.sink import Sink, SinkKind
from .source_limit import SourceLimit
from .witnessing import Witnessing
from .writer import SinkWriter

if TYPE_CHECKING:  # loaded only by programs that have such a sink
    from .sinks.files import FileSink

__all__ = ["AuditLog"]

#: How long the program waits at its end until everything is written (seconds).
_FINISH_SECONDS = 5.0
#: How often to look for files that can be compressed (seconds).
_COMPRESS_SECONDS = 30.0
#: How often to publish how many records were left out (seconds).
_LEFT_OUT_SECONDS = 60.0


class AuditLog:
    """The audit log of a program: its sinks.

    Args:
        sinks: any number; without one, nothing is recorded.
        required: the kinds of sinks without which no stream may be opened; see `wait_recorded`.
        clock: returns seconds since 1970.

    Raises:
        ConfigurationError: there is no sink of a required kind.
    """

    def __init__(
        self,
        sinks: Sequence[Sink],
        *,
        required: Collection[SinkKind] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        _check_required(sinks, required)
        self._sinks = tuple(sinks)
        self._required: frozenset[str] = frozenset(required)
        #: Further kinds that the policy of the machine requires now.
        self._required_by_policy: frozenset[str] = frozenset()
        self._clock = clock
        self._source_limit = SourceLimit()
        #: Sends checkpoints to relays, and knows which of them have confirmed them.
        self.witnessing = Witnessing()
        #: One for each sink; empty unless the audit log is open.
        self._writers: tuple[SinkWriter, ...] = ()
        #: Runs the writers; None unless the audit log is open.
        self._nursery: trio.Nursery | None = None
        self._events: EventStream | None = None
        self._changing = trio.Lock()

    @property
    def has_sinks(self) -> bool:
        """Whether anything is recorded."""
        return bool(self._sinks)

    def __call__(self, event: Event) -> None:
        """Record an event, if it belongs in the audit log. Never waits."""
        if isinstance(event, AuditCheckpoint):
            self.witnessing.signed(
                Checkpoint(event.log, event.last, event.head, event.signed_at, event.key, event.signature)
            )
        if not self._writers:
            return
        record = record_of(event, self._clock())
        if record is not None and self._source_limit.admits(record, trio.current_time()):
            for writer in self._writers:
                writer.put(record)

    @property
    def problems(self) -> tuple[SinkProblem, ...]:
        """The sinks that cannot be written at the moment, and those that the policy requires and that are missing."""
        failed = [problem for one in self._writers if (problem := one.sink_problem()) is not None]
        return (*failed, *map(SinkProblem.missing, sorted(self._missing())))

    def _missing(self) -> frozenset[str]:
        """Return the kinds that the policy requires and for which there is no sink."""
        return self._required_by_policy - {one.kind for one in self._sinks if one.notices_loss}

    def require(self, kinds: Collection[str]) -> None:
        """Set which kinds of sinks the policy of the machine requires from now on, in addition to those that are
        always required."""
        self._required_by_policy = frozenset(kinds)
        for writer in self._writers:
            writer.is_required = self._is_required(writer.sink)

    def _is_required(self, sink: Sink) -> bool:
        return sink.notices_loss and (sink.kind in self._required or sink.kind in self._required_by_policy)

    async def wait_recorded(self) -> None:
        """Wait until everything that was published so far is in all required sinks, and on the disk if there are
        files.

        Files are waited for even if they are not required. Sinks are waited for one after the other, for up to
        `writer.WAIT_SECONDS` each. Streams that wait at the same time wait for the disk together.

        Raises:
            NotRecordedError: a required sink cannot be written, or there is none. Its text names the sink. Other
                sinks that cannot be written are not waited for.

        The records are written even if this is cancelled.
        """
        if self._nursery is None:
            raise NotRecordedError("the audit log is not open")
        if missing := self._missing():
            raise NotRecordedError(f"the policy requires an audit log in {' and '.join(sorted(missing))}")
        for writer in self._writers:
            if not (writer.is_required or writer.sink.kind is SinkKind.FILE):
                continue
            try:
                await writer.wait_written()
            except NotRecordedError as exc:
                if writer.is_required:
                    raise NotRecordedError(f"{writer.sink.name}: {exc}") from exc

    @asynccontextmanager
    async def opened(self, events: EventStream) -> AsyncIterator[None]:
        """Record the events of a stream during the block. At its end, everything is written, and the sinks are
        closed.

        Args:
            events: the stream, on which problems of sinks are published as well. What this process publishes only in
                its log (`plainly_logged_events`), such as a reload, is recorded, too.

        Raises:
            ConfigurationError, OSError: a sink cannot be used.
        """
        async with FlatNursery() as nursery:
            self._nursery, self._events = nursery, events
            try:
                # A subscriber even without sinks, because there may be some later.
                with events.subscribed(self), also_subscribed(from_any_thread(self)):
                    for sink in self._sinks:
                        self._writers += (writer := self._writer_of(sink),)
                        await nursery.start(self._run, writer)
                    nursery.start_soon(self._report_left_out, events)
                    try:
                        yield
                    finally:
                        self._publish_left_out(events)
                        await self._finish(self._writers)
            finally:
                self._writers, self._nursery, self._events = (), None, None
            nursery.cancel_scope.cancel()

    async def use(self, sinks: Sequence[Sink], *, required: Collection[SinkKind] = ()) -> None:
        """Record in these sinks from now on. Those that were used before continue; new ones are opened before
        removed ones are closed.

        Args:
            sinks: may contain sinks that are in use.
            required: see `AuditLog`.

        Raises:
            ConfigurationError, OSError: a sink cannot be used, or there is none of a required kind. Nothing was
                changed.

        If cancelled, what was used before may still be in use.
        """
        _check_required(sinks, required)
        async with self._changing:
            opened: list[SinkWriter] = []
            if self._nursery is not None:
                try:
                    for sink in sinks:
                        if sink not in self._sinks:
                            writer = self._writer_of(sink)
                            await self._nursery.start(self._run, writer)
                            opened.append(writer)
                except BaseException:
                    await self._end(opened)
                    raise
            gone = [one for one in self._writers if one.sink not in sinks]
            if self._events is not None:
                for writer in gone:  # the removed sink records this, too
                    self._events.publish(AuditSinkRemoved(sink=writer.sink.name))
            self._sinks, self._required = tuple(sinks), frozenset(required)
            if self._nursery is None:  # it is not open, or has been closed meanwhile
                await self._end(opened)
                return
            every = {writer.sink: writer for writer in (*self._writers, *opened)}
            self._writers = tuple(every[sink] for sink in sinks)
            for writer in self._writers:
                writer.is_required = self._is_required(writer.sink)
            await self._end(gone)

    def _writer_of(self, sink: Sink) -> SinkWriter:
        assert self._events is not None
        return SinkWriter(sink, is_required=self._is_required(sink), events=self._events, clock=self._clock)

    async def _run(
        self, writer: SinkWriter, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Write to a sink until it has ended, or until cancelled. `task_status.started` is called when it is open.

        Raises:
            ConfigurationError, OSError: it cannot be opened.
        """
        async with FlatNursery() as nursery:
            await nursery.start(writer.run)
            if writer.sink.kind is SinkKind.FILE:
                assert self._events is not None
                nursery.start_soon(_compress, cast("FileSink", writer.sink), self._events)
            task_status.started()
            await writer.ended.wait()
            nursery.cancel_scope.cancel()

    async def _end(self, writers: Sequence[SinkWriter]) -> None:
        """Write everything that is queued for some sinks, and close them."""
        await self._finish(writers)
        for writer in writers:
            writer.ended.set()

    async def _report_left_out(self, events: EventStream) -> None:
        """Publish how many records were left out, until cancelled."""
        while True:
            await trio.sleep(_LEFT_OUT_SECONDS)
            self._publish_left_out(events)

    def _publish_left_out(self, events: EventStream) -> None:
        for connection, records in self._source_limit.take_left_out(trio.current_time()).items():
            events.publish(AuditRecordsLeftOut(connection=connection, records=records))

    async def _finish(self, writers: Sequence[SinkWriter]) -> None:
        """Write everything that is queued, and close the sinks. Takes `_FINISH_SECONDS` at most."""
        with trio.move_on_after(_FINISH_SECONDS, shield=True):
            async with FlatNursery() as nursery:
                for writer in writers:
                    nursery.start_soon(writer.finish)
        for event in [
            AuditRecordsUnwritten(sink=writer.sink.name, records=writer.unwritten)
            for writer in writers
            if writer.unwritten
        ]:
            assert self._events is not None
            self._events.publish(event)


def _check_required(sinks: Sequence[Sink], required: Collection[SinkKind]) -> None:
    """Check that there is a sink of each required kind.

    Raises:
        ConfigurationError: there is none.
    """
    missing = set(required) - {sink.kind for sink in sinks if sink.notices_loss}
    if missing:
        raise ConfigurationError(
            f"an audit log in {' and '.join(sorted(missing))} is required, but the program writes none there",
            remedy=ADD_SINK,
        )


async def _compress(sink: FileSink, events: EventStream) -> None:
    """Compress files that have ended, until cancelled."""
    limiter = trio.CapacityLimiter(1)
    failed = False
    while True:
        try:
            while await run_in_thread(sink.directory.compress_next, limiter=limiter, abandon_on_cancel=True):
                failed = False
        except OSError as exc:
            if not failed:
                events.publish(AuditFileNotCompressed(directory=sink.name, detail=exc.strerror or str(exc)))
            failed = True
        await trio.sleep(_COMPRESS_SECONDS)
