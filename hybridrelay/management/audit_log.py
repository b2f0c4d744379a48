"""The audit log of the management API: its calls and their callers, in files that the API itself can show.

It subscribes to the events of the API. A task writes the files in a thread, so that no request waits for the disk.
Calls by unknown callers are in separate files, so that strangers cannot displace the other entries.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import attrs
import msgspec
import trio

from .._shortage import shortage_of
from .._threads import run_in_thread
from ..events import (
    Event,
    EventStream,
    ManagementCalled,
    ManagementCallRefused,
    StateFileNotWritten,
    StateFileWritten,
)
from ..relay.snapshot import FileProblem
from .audit_files import AuditFiles, Line

__all__ = ["AuditEntry", "AuditFilter", "AuditLog", "AuditPage", "read_audit"]

DIRECTORY: Final = "audit"
#: For calls by known callers, and for those by unknown ones: the size of a file (bytes), and how many are kept.
_CALLED, _REFUSED = (8 * 1024 * 1024, 8), (1024 * 1024, 2)
#: The most entries that may wait to be written. If the disk is full, further ones are lost here, but are in the log.
_MAX_WAITING = 10_000
#: How long to wait before a failed write is tried again (seconds).
_RETRY_SECONDS = 60.0
#: The most lines that one request examines.
_MAX_SCANNED = 20_000
#: By how much the first number grows for each second of the clock. Numbers therefore increase across restarts even if
#: files were deleted.
_PER_SECOND = 1_000_000


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A call that changes something or shows keys, including one that was refused."""

    #: Increases with every entry, even if the clock steps back.
    number: int
    #: Seconds since 1970.
    time: float
    #: The id of the operation in the description of the API.
    operation: str
    #: The kind and the name of the caller, such as ``local uid 1000``; empty if the caller is unknown.
    caller: str = ""
    role: str = ""
    #: The network address of the caller; ``local`` on the Unix socket.
    peer: str
    #: The hybrid connection, the rule and the id of the token that the call was about; otherwise empty.
    connection: str = ""
    rule: str = ""
    token: str = ""
    #: The status of the response; 0 if there was none, because the client had disconnected or the relay was stopping.
    status: int
    #: The id of the request, which is also in the response and in the log.
    request_id: str


@attrs.frozen
class AuditFilter:
    """Selects entries. Empty strings and None accept all."""

    #: Callers that begin with this, such as ``token`` or ``token ci``.
    caller: str = ""
    operation: str = ""
    connection: str = ""
    #: Seconds since 1970.
    since: float | None = None
    #: Returns whether the reader may see entries about a hybrid connection, or, for None, about no hybrid connection.
    may_see: Callable[[str | None], bool] = lambda _name: True

    def accepts(self, entry: AuditEntry) -> bool:
        """Whether an entry is selected."""
        return (
            entry.caller.startswith(self.caller)
            and self.operation in ("", entry.operation)
            and self.connection in ("", entry.connection)
            and self.may_see(entry.connection or None)
        )


@attrs.frozen
class AuditPage:
    """A page of entries, the latest first."""

    entries: tuple[AuditEntry, ...]
    #: Continue before this number; None if there are no further entries.
    next_before: int | None


@attrs.define(eq=False)
class _Waiting:
    """An entry that is not in the files yet."""

    #: Whether the caller is known.
    known: bool
    entry: AuditEntry
    #: With its number, once there was an attempt to write it.
    line: Line | None = None


class AuditLog:
    """A subscriber of the events of the management API.

    Args:
        state_dir: the relay's state directory.
        clock: seconds since 1970.
        events: the stream to which it publishes that it cannot write.
    """

    def __init__(self, state_dir: Path, *, clock: Callable[[], float], events: EventStream) -> None:
        self._directory = state_dir / DIRECTORY
        self._clock = clock
        self._events = events
        #: Set while entries cannot be written.
        self.problem: FileProblem | None = None
        #: The number of the next entry; None until the files have been looked at.
        self._next_number: int | None = None
        self._waiting: deque[_Waiting] = deque(maxlen=_MAX_WAITING)
        self._published = trio.Event()
        #: Held while the files are written, and by readers while they search for the latest entries.
        self._writing = trio.Lock()
        self._reading = trio.CapacityLimiter(1)

    def __call__(self, event: Event) -> None:
        """Record an event, if it is about a call of the API."""
        if not isinstance(event, ManagementCalled | ManagementCallRefused):
            return
        known = isinstance(event, ManagementCalled)
        entry = AuditEntry(
            number=0,  # until it is written
            time=round(self._clock(), 3),
            operation=event.operation_id,
            caller=event.caller if isinstance(event, ManagementCalled) else "",
            role=event.role if isinstance(event, ManagementCalled) else "",
            peer=event.peer,
            connection=event.connection,
            rule=event.rule,
            token=event.token,
            status=event.status,
            request_id=event.request_id,
        )
        self._waiting.append(_Waiting(known, entry))
        self._published.set()

    async def run(self) -> None:
        """Write entries whenever there are any, until cancelled."""
        failed = False
        file = str(self._directory)
        while True:
            await self._published.wait()
            try:
                await self.flush()
            except OSError as exc:
                if not failed:
                    event = StateFileNotWritten(file=file, detail=exc.strerror or str(exc), remedy=_remedy(exc))
                    self._events.publish(event)
                failed = True
                await trio.sleep(_RETRY_SECONDS)
            else:
                if failed:
                    self._events.publish(StateFileWritten(file=file))
                failed = False

    async def flush(self) -> None:
        """Write the entries that are waiting.

        Raises:
            OSError: they cannot be written. They are kept, and some of them may be in the files.

        Cancelled while it writes, it waits until they are written.
        """
        async with self._writing:
            batch = list(self._waiting)
            self._published = trio.Event()
            try:
                await run_in_thread(self._write, batch)
            except OSError as exc:
                self._published.set()
                detail = f"the audit log is not written: {exc.strerror or exc}; {len(batch)} entries are waiting"
                self.problem = FileProblem("audit", detail, _remedy(exc))
                raise
            except BaseException:
                self._published.set()
                raise
            self.problem = None
            for one in batch:
                if self._waiting and self._waiting[0] is one:
                    self._waiting.popleft()

    async def read(self, wanted: AuditFilter, limit: int, before: int | None = None) -> AuditPage:
        """Return the latest entries, or those before a number, also while entries cannot be written.

        Args:
            wanted: which entries.
            limit: the maximum number of entries to return.
            before: only entries with lower numbers.

        Raises:
            OSError: the files cannot be read.
        """
        if before is None and self._waiting:
            with contextlib.suppress(OSError):  # `run` reports it
                await self.flush()
        waiting = [one.line for one in self._waiting if one.line is not None]
        return await run_in_thread(_read, self._directory, wanted, limit, before, waiting, limiter=self._reading)

    def _write(self, batch: list[_Waiting]) -> None:
        """In a thread, one at a time."""
        both = {known: _files(self._directory, known=known) for known in (True, False)}
        if self._next_number is None:
            # The clock may be behind what it was when the last entry was written.
            last = max(files.last_number() for files in both.values())
            self._next_number = max(int(self._clock()) * _PER_SECOND, last + 1)
        for one in batch:
            if one.line is None:
                number, self._next_number = self._next_number, self._next_number + 1
                one.line = Line(number, msgspec.json.encode(msgspec.structs.replace(one.entry, number=number)))
        for known, files in both.items():
            lines = [one.line for one in batch if one.known is known and one.line is not None]
            if lines:
                # After a failure, some of them may be in the files already.
                last = files.last_number()
                files.append(line for line in lines if line.number > last)


def read_audit(state_dir: Path, wanted: AuditFilter, limit: int, before: int | None = None) -> AuditPage:
    """Read the files of a relay that is not running. This blocks; otherwise it is like `AuditLog.read`."""
    return _read(state_dir / DIRECTORY, wanted, limit, before)


def _remedy(exc: OSError) -> str:
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free space on the disk of the state directory"
    shortage = shortage_of(exc)
    return "make it possible to write there" if shortage is None else shortage.remedy


def _files(directory: Path, *, known: bool) -> AuditFiles:
    size, kept = _CALLED if known else _REFUSED
    return AuditFiles(directory, "calls" if known else "refused", size, kept)


def _read(
    directory: Path, wanted: AuditFilter, limit: int, before: int | None, waiting: Sequence[Line] = ()
) -> AuditPage:
    """Read the files, and entries that may not be there yet, in order of their numbers."""
    found: list[AuditEntry] = []
    number = 2**63 if before is None else before
    sources = [_files(directory, known=kind).before(number) for kind in (True, False)]
    sources.append(line for line in reversed(waiting) if line.number < number)
    for scanned, line in enumerate(heapq.merge(*sources, key=lambda line: line.number, reverse=True), 1):
        if line.number == number:
            continue  # a failed attempt has written it
        number = line.number
        try:
            entry = msgspec.json.decode(line.data, type=AuditEntry)
        except (msgspec.MsgspecError, RecursionError):
            continue  # it was written by a later version
        if (wanted.since is None or entry.time >= wanted.since) and wanted.accepts(entry):
            found.append(entry)
        if len(found) == limit or scanned == _MAX_SCANNED:
            return AuditPage(tuple(found), number)
    return AuditPage(tuple(found), None)
