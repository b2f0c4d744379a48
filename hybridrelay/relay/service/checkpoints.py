"""Keeps the checkpoints of audit logs that peers send, in a file that is used only in a worker thread."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, Protocol, TypeVar, TypeVarTuple

import trio

from ..._threads import OutOfThreads, run_in_thread, run_in_thread_if_possible
from ...errors import StateError
from ...events.audit import CheckpointRefused, CheckpointsDeleted
from ...events.stream import EventStream
from ...protocol import control
from ...protocol.reasons import Reason
from ..checkpoints import CheckpointQuery, CheckpointsFull, KeptCheckpoint
from ..snapshot import FileProblem
from ..store.checkpoints import CheckpointFile
from .file_reports import FileReports

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

__all__ = ["CheckpointService", "Checkpoints", "NoCheckpoints"]

#: How often old checkpoints are looked for (seconds).
_SWEEP_SECONDS: Final = 3600.0
#: How many peers may wait for the file. Further ones are refused.
_MAX_WAITING: Final = 256
#: How long closing the file may take (seconds).
_FILE_SECONDS: Final = 5.0


class Checkpoints(Protocol):
    """What a control channel needs to keep checkpoints."""

    async def keep(
        self, request: control.Witness, instance: str, address: str, *, for_client: bool
    ) -> control.Witnessed | control.Failed:
        """Store a checkpoint for a peer, and return the answer to it.

        Args:
            request: what the peer has sent.
            instance: its instance.
            address: its address group.
            for_client: whether it may be a client; see `CheckpointFile.keep`.
        """


class _NotSigned(Exception):
    """A peer has sent a checkpoint without a valid signature."""


class NoCheckpoints:
    """A relay that keeps no checkpoints."""

    async def keep(
        self, request: control.Witness, instance: str, address: str, *, for_client: bool
    ) -> control.Witnessed | control.Failed:
        """See `Checkpoints.keep`."""
        return control.Failed(request.id, Reason.LIMIT, "this relay keeps no checkpoints of audit logs")


class CheckpointService:
    """Implements `Checkpoints` with a file in the state directory.

    Args:
        state_dir: the state directory.
        clock: returns seconds since 1970.
        events: the stream to which events are published.
    """

    def __init__(self, state_dir: Path, *, clock: Callable[[], float], events: EventStream) -> None:
        self._file = CheckpointFile(state_dir)
        self._reports = FileReports("checkpoints", self._file.file.path, events)
        self._clock = clock
        self._events = events
        self._limiter = trio.CapacityLimiter(1)
        self._waiting = 0

    @property
    def problem(self) -> FileProblem | None:
        """Why the file cannot be used at the moment; None if it can."""
        return self._reports.problem

    async def keep(
        self, request: control.Witness, instance: str, address: str, *, for_client: bool
    ) -> control.Witnessed | control.Failed:
        """See `Checkpoints.keep`. If cancelled, the checkpoint may still be stored."""
        if self._waiting >= _MAX_WAITING:
            return control.Failed(request.id, Reason.BUSY, "too many checkpoints of audit logs wait to be stored")
        checkpoint = KeptCheckpoint.of(request, instance, address, self._clock())
        self._waiting += 1
        try:
            await self._use(partial(self._keep, checkpoint, for_client=for_client))
        except (CheckpointsFull, _NotSigned) as exc:
            detail = str(exc)
            self._events.publish(
                CheckpointRefused(connection=request.connection, peer=address, instance=instance, detail=detail)
            )
            reason = Reason.LIMIT if isinstance(exc, CheckpointsFull) else Reason.PROTOCOL_ERROR
            return control.Failed(request.id, reason, detail)
        except StateError:
            return control.Failed(request.id, Reason.BUSY, "the relay cannot store checkpoints of audit logs now")
        finally:
            self._waiting -= 1
        return control.Witnessed(request.id)

    def _keep(self, checkpoint: KeptCheckpoint, *, for_client: bool) -> None:
        if not checkpoint.is_signed():
            raise _NotSigned("the checkpoint is not signed with the key that it names")
        self._file.keep(checkpoint, for_client=for_client)

    async def read(self, query: CheckpointQuery) -> list[KeptCheckpoint]:
        """Read a page of checkpoints. Raises StateError."""
        return await self._use(self._file.read, query)

    async def delete(self, connection: str, log: str) -> int:
        """Delete the checkpoints of a log; see `CheckpointFile.delete`. Raises StateError."""
        deleted = await self._use(self._file.delete, connection, log)
        if deleted:
            self._events.publish(CheckpointsDeleted(connection=connection, log=log, checkpoints=deleted))
        return deleted

    async def run(self) -> None:
        """Delete old checkpoints until cancelled."""
        while True:
            with contextlib.suppress(StateError):  # published by `_use`; they are deleted later
                await self._use(self._file.sweep, self._clock())
            await trio.sleep(_SWEEP_SECONDS)

    async def finish(self) -> None:
        """Close the file. Takes at most a few seconds."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _FILE_SECONDS):
            await run_in_thread(self._file.close, limiter=self._limiter, abandon_on_cancel=True)

    async def _use(self, function: Callable[[*Ts], T], *arguments: *Ts) -> T:
        """Call a method of the file in a thread.

        Raises:
            CheckpointsFull: see `CheckpointFile.keep`.
            StateError: the file cannot be used, or there is no thread. An event says why, once.
        """
        try:
            found = await run_in_thread_if_possible(function, *arguments, limiter=self._limiter)
        except (StateError, OutOfThreads, MemoryError) as exc:
            problem = self._reports.failed(exc)
            if isinstance(exc, StateError):
                raise
            raise StateError(problem.detail, remedy=problem.remedy) from exc
        self._reports.worked()
        self._reports.take_set_aside(self._file)
        return found
