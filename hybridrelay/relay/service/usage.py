"""Counting the usage of hybrid connections, having the broker compare it with their quotas, and saving it in a file.

`core.usage.UsageMachine` decides what counts. The file is used only in a worker thread, so that the relay neither
waits for it nor fails because of it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

from ..._threads import OutOfThreads, run_in_thread, run_in_thread_if_possible
from ...errors import StateError
from ...events.base import Event
from ...events.quotas import UsageClockBehind
from ...events.relay_resources import WorkerTakenOver
from ...events.stream import EventStream
from ..core.usage import UsageMachine
from ..snapshot import FileProblem
from ..store.expendable import ExpendableFileError
from ..store.usage import UsageFile
from ..usage import TOTAL, PastUsage
from .batches import write_batch
from .broker import BrokerService
from .file_reports import FileReports
from .traffic import traffic_of

__all__ = ["SAMPLE_SECONDS", "SAVE_SECONDS", "UsageService"]


#: How often usage is compared with quotas (seconds).
SAMPLE_SECONDS: Final = 5.0
#: How often usage is saved (seconds). A relay that is killed loses no more than this.
SAVE_SECONDS: Final = 10.0
#: How long to wait for the pairs of a worker that was taken over, and for other workers (seconds).
_TAKING_SECONDS: Final = 0.5
#: How long reading the file at the start, and the last write, may take (seconds).
_FILE_SECONDS: Final = 5.0
#: How many hybrid connections are examined before other tasks may run: about half a millisecond's work.
_AT_A_TIME: Final = 50
#: The same for the quotas of a hybrid connection.
_QUOTAS_AT_A_TIME: Final = 20


class UsageService:
    """Counts and saves usage; see the module's docstring.

    Args:
        state_dir: the state directory of the relay.
        broker: the broker of the relay. It owns the machine (`BrokerService.usage`), and reports joins and uses of
            keys to it.
        clock: returns seconds since 1970.
        events: the stream to which events are published.
    """

    def __init__(
        self, state_dir: Path, broker: BrokerService, *, clock: Callable[[], float], events: EventStream
    ) -> None:
        self._broker = broker
        self._machine: UsageMachine = broker.usage
        self._clock = clock
        self._events = events
        self._file = UsageFile(state_dir)
        self._reports = FileReports("usage", self._file.file.path, events, what="the usage is not saved")
        self._limiter = trio.CapacityLimiter(1)
        self._scope = trio.CancelScope()
        self._is_loaded = False
        #: Set when a worker was taken over.
        self._taken_over = trio.Event()
        self._is_behind = False
        #: The revision of the hybrid connections with which the keys in the file were last compared.
        self._seen: int | None = None

    @property
    def problem(self) -> FileProblem | None:
        """Why the file is not written at the moment; None if it is written."""
        return self._reports.problem

    @property
    def machine(self) -> UsageMachine:
        """The machine that counts."""
        return self._machine

    async def load(self) -> None:
        """Read what an earlier run has saved. If this fails now, it is tried again before anything is saved."""
        with trio.move_on_after(_FILE_SECONDS):
            await self._save()
        await self._sample()

    def __call__(self, event: Event) -> None:
        """Count and save soon what a worker has moved without a main process: otherwise this would be lost if this
        process were killed soon, too."""
        if isinstance(event, WorkerTakenOver):
            self._taken_over.set()

    async def run(self) -> None:
        """Count and save until cancelled, or until `finish` is called."""
        with self._scope:
            saved_at = trio.current_time()
            while True:
                with trio.move_on_after(SAMPLE_SECONDS):
                    await self._taken_over.wait()
                has_taken_over = self._taken_over.is_set()
                if has_taken_over:
                    await trio.sleep(_TAKING_SECONDS)
                    self._taken_over = trio.Event()
                await self._sample()
                if has_taken_over or trio.current_time() - saved_at >= SAVE_SECONDS:
                    saved_at = trio.current_time()
                    await self._save()

    async def finish(self) -> None:
        """Count for the last time, save everything, and close the file. Takes at most a few seconds."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _FILE_SECONDS):
            self._scope.cancel()
            await self._sample()
            await self._save()
            await run_in_thread(self._file.close, limiter=self._limiter, abandon_on_cancel=True)

    async def past(self, connection: str) -> list[PastUsage]:
        """Return the usage of earlier periods, the latest first. Raises StateError."""
        if not self._is_loaded:
            raise StateError("the usage of earlier months cannot be read", remedy="see the problems of the relay")
        period = self._machine.period
        try:
            found = await run_in_thread_if_possible(self._file.past, connection, limiter=self._limiter)
        except (OutOfThreads, MemoryError) as exc:
            raise StateError(f"the usage of earlier months cannot be read: {exc}", remedy="try again") from exc
        return [one for one in found if one.period < period]

    async def _sample(self) -> None:
        """Count what was moved, and compare it with the quotas. Other tasks run in the meantime."""
        broker, machine = self._broker, self._machine
        is_behind = machine.advance(self._clock())
        if is_behind and not self._is_behind:
            self._events.publish(UsageClockBehind(period=str(machine.period)))
        self._is_behind = is_behind
        for number, name in enumerate(broker.pairs.connections):
            if number % _AT_A_TIME == 0:
                await trio.lowlevel.checkpoint()
            traffic = await traffic_of(broker.pairs, name)
            if broker.pairs.has(name):  # the hybrid connection may have been deleted in the meantime
                machine.observe(name, traffic.to_client, traffic.to_connector)
        checks = broker.core.check_quotas(machine.bytes_by_connection(), machine.of(TOTAL).bytes, trio.current_time())
        for number, _ in enumerate(checks, 1):
            if number % _QUOTAS_AT_A_TIME == 0:
                broker.carry_out()
                await trio.lowlevel.checkpoint()
        broker.carry_out()

    async def _save(self) -> None:
        """Save the usage, after that of an earlier run has been read."""
        connections = self._broker.authorization.connections
        revision = connections.revision
        existing = None if revision == self._seen else frozenset(connections)
        try:
            if not self._is_loaded:
                saved = await run_in_thread_if_possible(self._file.load, limiter=self._limiter)
                self._machine.restore(saved.period, saved.usage, saved.keys)
                self._machine.keep_keys(connections)
                self._is_loaded = True
            batch = self._machine.take()
            if batch or existing is not None:
                await write_batch(
                    batch,
                    lambda batch: self._file.save(batch, existing),
                    put_back=self._machine.put_back,
                    limiter=self._limiter,
                )
        except (ExpendableFileError, OutOfThreads, MemoryError) as exc:
            self._reports.failed(exc)
        else:
            self._seen = revision
            self._reports.worked()
        self._reports.take_set_aside(self._file)
