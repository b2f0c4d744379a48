"""Reports the ends of rendezvous that were lost together with the main process.

A main process that is killed publishes nothing, and neither does a worker that ends without a main process. So the
main process keeps a list of the joined rendezvous in a file. The next main process takes over those that a worker
still has (`takeover`), and publishes the ends of the others.

This is a subscriber: it learns from the events what is joined, and `core.joined` decides.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import trio

from ..._threads import OutOfThreads, run_in_thread, run_in_thread_if_possible
from ...events.base import Event
from ...events.relay import RendezvousEnded, RendezvousJoined, RendezvousTakenOver
from ...events.stream import EventStream
from ..core.joined import JoinedRendezvous
from ..core.rendezvous_states import REASONS, Outcome
from ..joined import Batch
from ..snapshot import FileProblem
from ..store.expendable import ExpendableFileError
from ..store.joined import JoinedFile
from .batches import write_batch
from .file_reports import FileReports

__all__ = ["JoinedService"]

#: How long changes are collected before they are saved (seconds). If a rendezvous was joined less than this before a
#: kill, its end may not be reported.
_COLLECT_SECONDS: Final = 0.1
#: How often it is noted that the relay is running (seconds), and how soon saving is tried again after a failure.
_SEEN_SECONDS: Final = 10.0
#: How long reading at the start, and saving at the end, may take (seconds).
_FILE_SECONDS: Final = 5.0
#: The shortest duration of a rendezvous that was joined (seconds); 0 would say that it never was.
_SHORTEST: Final = 0.001
#: How many ends are published before other tasks may run.
_AT_A_TIME: Final = 50


class JoinedService:
    """Keeps the list; see the module's docstring.

    Args:
        state_dir: the state directory of the relay.
        keep: how long workers keep pairs without a main process (seconds).
        clock: returns seconds since 1970.
        events: the stream to which events are published. See `subscribed`.
    """

    def __init__(self, state_dir: Path, keep: float, *, clock: Callable[[], float], events: EventStream) -> None:
        self._machine = JoinedRendezvous(keep)
        self._clock = clock
        self._events = events
        self._file = JoinedFile(state_dir)
        self._reports = FileReports(
            "rendezvous", self._file.file.path, events, what="the list of joined rendezvous is not saved"
        )
        self._limiter = trio.CapacityLimiter(1)
        self._is_loaded = False
        #: When the previous main process last wrote to the file.
        self._seen_at = 0.0
        #: Set, and then replaced, when there is something to be saved.
        self._changed = trio.Event()

    @property
    def problem(self) -> FileProblem | None:
        """Why the file is not written at the moment; None if it is written."""
        return self._reports.problem

    def __call__(self, event: Event) -> None:
        """Note an event."""
        match event:
            case (
                RendezvousJoined(connection=name, activity_id=id_)
                | RendezvousTakenOver(connection=name, activity_id=id_)
            ):
                self._machine.joined(id_, name, self._clock())
            case RendezvousEnded(activity_id=id_):
                self._machine.ended(id_)
            case _:
                return
        self._changed.set()

    async def load(self) -> None:
        """Read what the previous main process has left. If this fails, it is tried again before anything is saved."""
        with trio.move_on_after(_FILE_SECONDS):
            await self._save()

    async def run(self) -> None:
        """Save changes, and report what was lost, until cancelled."""
        while True:
            loss = self._machine.next_loss()
            with trio.move_on_after(_SEEN_SECONDS), trio.move_on_at(math.inf if loss is None else loss):
                await self._changed.wait()
                await trio.sleep(_COLLECT_SECONDS)
            await self._report()
            if not self._is_loaded or self._machine.has_changed or not self._machine.is_empty:
                await self._save()

    @asynccontextmanager
    async def subscribed(self) -> AsyncIterator[None]:
        """Note events during the block. After it, save for the last time, and close the file, which takes at most a
        few seconds."""
        try:
            with self._events.subscribed(self):
                yield
        finally:
            await self._finish()

    async def _finish(self) -> None:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _FILE_SECONDS):
            await self._save()
            await run_in_thread(self._file.close, limiter=self._limiter, abandon_on_cancel=True)

    async def _report(self) -> None:
        """Publish the ends of what was lost."""
        for number, entry in enumerate(self._machine.lost(trio.current_time()), 1):
            self._events.publish(
                RendezvousEnded(
                    connection=entry.connection,
                    activity_id=entry.id,
                    outcome=Outcome.LOST.value,
                    reason=REASONS[Outcome.LOST],
                    bytes_to_client=0,
                    bytes_to_connector=0,
                    seconds=max(_SHORTEST, self._seen_at - entry.joined_at),
                )
            )
            if number % _AT_A_TIME == 0:
                await trio.lowlevel.checkpoint()

    async def _save(self) -> None:
        """Save what has changed, after what the previous main process has left was read."""
        self._changed = trio.Event()
        try:
            if not self._is_loaded:
                saved = await run_in_thread_if_possible(self._file.load, limiter=self._limiter)
                self._machine.restore(saved.entries, trio.current_time())
                self._seen_at = saved.seen_at
                self._is_loaded = True
            await write_batch(
                self._machine.take(), self._write, put_back=self._machine.put_back, limiter=self._limiter
            )
        except (ExpendableFileError, OutOfThreads, MemoryError) as exc:
            self._reports.failed(exc)
        else:
            self._reports.worked()
        if self._reports.take_set_aside(self._file):
            self._machine.save_everything()

    def _write(self, batch: Batch) -> None:
        self._file.save(batch, self._clock())
