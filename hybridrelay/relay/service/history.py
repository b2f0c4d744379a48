"""Recording the history of a relay: taking samples, keeping the last hour in memory, and writing one-minute rows to a
file.

`core.history.HistoryMachine` computes the rows. The tables in memory and the file are used only in worker threads, so
that the relay neither waits for the file nor fails because of it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import trio

from ..._nursery import FlatNursery
from ..._threads import OutOfThreads, run_in_thread, run_in_thread_if_possible
from ...errors import StateError
from ...events.base import Event
from ...events.relay import ListenerLeft, RendezvousEnded, RendezvousJoined, SenderRefused, TokenInvalid, TokenRefused
from ...events.relay_resources import StateFileNotWritten, StateFileSetAside
from ...events.stream import EventStream
from ..core.history import HistoryMachine, Sample, delay_until_sample
from ..core.known import KnownConnections
from ..core.pairs import Traffic
from ..history import RECENT, RESOLUTIONS, TOTAL, WRITTEN, HistoryQuery, Row, Subject
from ..snapshot import FileProblem
from ..store.expendable import ExpendableFileError
from ..store.history import KEPT_SECONDS, HistoryTables, ReadTooLong, history_file, recent_history
from .batches import write_batch
from .broker import BrokerService
from .file_reports import FileReports
from .traffic import traffic_of

__all__ = ["HistoryService"]


_Groups = Sequence[tuple[int, Mapping[Subject, Row]]]

#: How many hybrid connections are examined before other tasks may run: about half a millisecond's work.
_AT_A_TIME: Final = 50
#: How long the last write may take when the relay stops (seconds).
_FINISH_SECONDS: Final = 5.0
#: How long closing the file may take after that (seconds).
_CLOSE_SECONDS: Final = 1.0
#: After this time (seconds), a write that has not ended is reported as a problem.
_LONG_SECONDS: Final = 60.0
#: Outcomes of rendezvous that count as failed joins. A rendezvous that a listener has declined is not counted:
#: another listener may accept the join, and if none does, the sender is refused, which is counted.
_FAILED: Final = frozenset({"left", "both absent", "listener absent", "sender absent"})


_MORE_MEMORY: Final = "free memory, or raise MemoryMax= and TasksMax= of the relay's unit"


class _Counts:
    """Counts what has happened to one hybrid connection since the relay started."""

    __slots__ = ("disconnects", "joins", "joins_failed")

    def __init__(self) -> None:
        self.joins = self.joins_failed = self.disconnects = 0


class HistoryService:
    """Records the history; see the module's docstring. It subscribes to the events of its relay.

    Args:
        state_dir: the state directory of the relay.
        broker: the broker of the relay, which knows its listeners, senders and pairs.
        clock: returns seconds since 1970.
        events: the stream to which events are published.
        max_bytes: the maximum size of the file. 0 means no file: only the last hour is kept, in memory.
    """

    def __init__(
        self,
        state_dir: Path,
        broker: BrokerService,
        *,
        clock: Callable[[], float],
        events: EventStream,
        max_bytes: int,
    ) -> None:
        self._broker = broker
        self._clock = clock
        self._events = events
        self._max_bytes = max_bytes
        self._file = history_file(state_dir, max_bytes)
        self._machine = HistoryMachine()
        #: The counts by name of the hybrid connection.
        self._counts: dict[str, _Counts] = {}
        #: The revision of the hybrid connections at the last sample, and what they were.
        self._seen: int | None = None
        self._subjects: list[Subject] = []
        #: The same hybrid connections, if they have changed since the file was last written. The second attribute is
        #: the same for the tables in memory.
        self._existing_for_file: frozenset[Subject] | None = None
        self._existing_for_recent: frozenset[Subject] | None = None
        self._recent: HistoryTables | None = None
        self._tables: HistoryTables | None = None
        #: Each allows one thread at a time.
        self._recent_limiter = trio.CapacityLimiter(1)
        self._file_limiter = trio.CapacityLimiter(1)
        self._read_limiter = trio.CapacityLimiter(1)
        self._scope = trio.CancelScope()
        self._has_run = False
        self._reports = FileReports(
            "history", self._file.path, events, what="the history is not written", remedy=_MORE_MEMORY
        )
        self._memory_is_short = False
        self._writing_since: float | None = None

    def __call__(self, event: Event) -> None:
        """Count an event."""
        match event:
            case RendezvousJoined(connection=name):
                if (counts := self._counted(name)) is not None:
                    counts.joins += 1
            case RendezvousEnded(connection=name, seconds=seconds, outcome=outcome):
                if seconds == 0 and outcome in _FAILED and (counts := self._counted(name)) is not None:
                    counts.joins_failed += 1
            case SenderRefused(connection=name):
                if (counts := self._counted(name)) is not None:
                    counts.joins_failed += 1
            case TokenInvalid(connection=name, right="send") | TokenRefused(connection=name, right="send"):
                if (counts := self._counted(name)) is not None:
                    counts.joins_failed += 1
            case ListenerLeft(connection=name):
                if (counts := self._counted(name)) is not None:
                    counts.disconnects += 1

    def _counted(self, name: str) -> _Counts | None:
        # Strangers can send any name, so count only hybrid connections that exist.
        if name not in self._broker.authorization.connections:
            return None
        return self._counts.setdefault(name, _Counts())

    @property
    def problem(self) -> FileProblem | None:
        """The reason why the file is not written at the moment; None if it is written."""
        since = self._writing_since
        if since is not None and trio.current_time() - since > _LONG_SECONDS:
            return FileProblem(
                "history",
                f"{self._file.what} {self._file.path} is not written: the file system does not answer",
                "check whether the disk is failing, or a network file system cannot be reached",
            )
        return self._reports.problem

    # --- recording

    async def run(self) -> None:
        """Record until cancelled, or until `finish` is called."""
        self._has_run = True
        with self._scope:
            await self._record()

    async def _record(self) -> None:
        async with FlatNursery() as nursery:
            if self._max_bytes:
                nursery.start_soon(self._write_regularly)
            while True:
                await trio.sleep(delay_until_sample(self._clock()))
                await self._sample()

    async def finish(self) -> None:
        """Take a last sample, write what has not been written yet, and close the file. Takes at most a few seconds.

        Does nothing if `run` was not called, because then there is nothing to record.
        """
        if not self._has_run:
            return
        try:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _FINISH_SECONDS):
                self._scope.cancel()
                await self._sample()
                if self._max_bytes:
                    await self._write()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _CLOSE_SECONDS):
                async with trio.open_nursery() as nursery:  # both at the same time
                    in_thread = partial(run_in_thread, abandon_on_cancel=True)
                    nursery.start_soon(partial(in_thread, self._close_recent, limiter=self._recent_limiter))
                    nursery.start_soon(partial(in_thread, self._close_file, limiter=self._file_limiter))

    def _close_recent(self) -> None:
        if self._recent is not None:
            self._recent.close()

    def _close_file(self) -> None:
        if self._tables is not None:
            self._tables.close()

    async def _sample(self) -> None:
        """Take a sample of all hybrid connections. Other tasks run in the meantime."""
        self._machine.begin(self._clock(), trio.current_time())
        connections = self._broker.authorization.connections
        if connections.revision != self._seen:
            await self._look_at(connections)
        for number, subject in enumerate(self._subjects):
            if number % _AT_A_TIME == 0:
                await trio.lowlevel.checkpoint()
            sample = await self._sample_of(subject.name)
            if sample is not None:
                self._machine.observe(subject, sample)
        time, rows = self._machine.finish()
        if rows:
            await self._keep(time, rows)

    async def _look_at(self, connections: KnownConnections) -> None:
        """Note which hybrid connections exist now."""
        subjects: list[Subject] = []
        revision = connections.revision
        for number, (name, connection) in enumerate(list(connections.items())):
            if number % _AT_A_TIME == 0:
                await trio.lowlevel.checkpoint()
            subjects.append(Subject(name, connection.created_at))
        self._seen, self._subjects = revision, subjects
        self._existing_for_file = self._existing_for_recent = frozenset(subjects)
        self._machine.keep_only(self._existing_for_file)
        for name in [name for name in self._counts if name not in connections]:
            del self._counts[name]

    async def _sample_of(self, name: str) -> Sample | None:
        """Return the sample of a hybrid connection; None if nothing has happened to it since the relay started."""
        broker, counts = self._broker, self._counts.get(name)
        listeners, senders = broker.listeners.index.count(name), broker.senders.count(name)
        traffic = await traffic_of(broker.pairs, name)
        if not (listeners or senders or traffic != Traffic() or counts):
            return None
        moved = traffic.pairs, traffic.to_connector, traffic.to_client
        if counts is None:
            return Sample(listeners, senders, *moved)
        return Sample(
            listeners,
            senders,
            *moved,
            counts.joins,
            counts.joins_failed,
            counts.disconnects,
        )

    async def _keep(self, time: int, rows: Mapping[Subject, Row]) -> None:
        """Keep the rows of ten seconds in memory."""
        now, existing = self._clock(), self._existing_for_recent

        def write() -> None:
            if self._recent is None:
                self._recent = recent_history()
            self._recent.write([(time, rows)], now, existing)

        try:
            await run_in_thread_if_possible(write, limiter=self._recent_limiter)
        except (OutOfThreads, sqlite3.Error, MemoryError) as exc:
            # The rows are still written to the file.
            if not self._memory_is_short:
                detail = f"parts of the last hour of the history are not kept in memory: {exc}"
                self._events.publish(StateFileNotWritten(file="", detail=detail, remedy=_MORE_MEMORY))
            self._memory_is_short = True
        else:
            self._memory_is_short = False
            if self._existing_for_recent is existing:
                self._existing_for_recent = None

    # --- the file

    async def _write_regularly(self) -> None:
        while True:
            await self._write()
            await trio.sleep(WRITTEN)

    async def _write(self) -> None:
        """Write the rows that are waiting."""
        taken = self._machine.take()
        now = self._clock() if self._machine.may_prune else None
        existing = self._existing_for_file
        self._writing_since = trio.current_time()
        try:
            set_aside = await write_batch(
                taken,
                lambda taken: self._write_to_file(taken, now, existing),
                put_back=self._machine.put_back,
                limiter=self._file_limiter,
            )
        except (ExpendableFileError, OutOfThreads, MemoryError) as exc:
            self._reports.failed(exc)
        else:
            if self._existing_for_file is existing:
                self._existing_for_file = None
            if set_aside is not None:
                self._events.publish(set_aside)
            self._reports.worked()
        finally:
            self._writing_since = None

    def _write_to_file(
        self, groups: _Groups, now: float | None, existing: Collection[Subject] | None
    ) -> StateFileSetAside | None:
        """Write rows, to a new file if the current one is damaged. In a thread. Raises ExpendableFileError."""
        try:
            self._write_once(groups, now, existing)
        except ExpendableFileError as exc:
            if not exc.is_damaged:
                raise
            copy = self._file.set_aside()
            self._write_once(groups, now, existing)
            return StateFileSetAside(file=str(self._file.path), detail=str(exc), copy=str(copy))
        return None

    def _write_once(self, groups: _Groups, now: float | None, existing: Collection[Subject] | None) -> None:
        try:
            with self._file.errors():
                if self._tables is None:
                    self._tables = HistoryTables(self._file.open(), KEPT_SECONDS, self._max_bytes)
                self._tables.write(groups, now, existing)
        except ExpendableFileError:
            # Close the file. The next attempt opens it again.
            if self._tables is not None:
                self._tables.close()
                self._tables = None
            raise

    # --- reading

    async def read(self, query: HistoryQuery) -> list[tuple[int, Row]]:
        """See `LiveRelay.history`."""
        stored = RESOLUTIONS[query.resolution]
        subjects = frozenset([TOTAL]) if query.subjects is None else query.subjects
        arguments = stored, query.resolution, subjects, query.begin, query.end
        try:
            if stored == RECENT:
                return await run_in_thread_if_possible(self._read_recent, *arguments, limiter=self._recent_limiter)
            return await run_in_thread_if_possible(self._read_file, *arguments, limiter=self._read_limiter)
        except ReadTooLong:
            raise StateError(
                "reading the history has taken too long", remedy="ask for longer intervals, or for a shorter time"
            ) from None
        except (OutOfThreads, MemoryError, sqlite3.Error) as exc:
            raise StateError(f"the history cannot be read: {exc}", remedy="try again") from exc

    def _read_recent(
        self, stored: int, resolution: int, subjects: Collection[Subject], begin: int, end: int
    ) -> list[tuple[int, Row]]:
        return [] if self._recent is None else self._recent.read(stored, resolution, subjects, begin, end)

    def _read_file(
        self, stored: int, resolution: int, subjects: Collection[Subject], begin: int, end: int
    ) -> list[tuple[int, Row]]:
        if not self._max_bytes:
            return []
        # A connection of its own, so that reading and writing do not wait for each other.
        with self._file.errors():
            tables = HistoryTables(self._file.open(), KEPT_SECONDS, self._max_bytes)
            try:
                return tables.read(stored, resolution, subjects, begin, end)
            finally:
                tables.close()
