"""The audit log of the management API: its calls and their callers, in files that the API itself can show.

It subscribes to the events of the API. A task writes the files in a thread, so that no request waits for the disk.
Calls by unknown callers, calls without any effect, calls by callers with a scope, and logins are in separate files,
so that they cannot displace the other entries.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import attrs
import msgspec
import trio

from .._threads import run_in_thread
from ..events.base import Event
from ..events.claims import ClaimRefused, ClaimTaken, ClaimTakenAgain, ClaimUnknown
from ..events.management import ManagementCalled, ManagementCallRefused
from ..events.relay_resources import StateFileNotWritten, StateFileWritten
from ..events.stream import EventStream
from ..protocol.reasons import Reason
from ..relay.snapshot import FileProblem
from .audit_entries import (
    DIRECTORY,
    AuditEntry,
    AuditFilter,
    AuditPage,
    Kind,
    files_of,
    next_number,
    read_entries,
    remedy_of,
)
from .audit_files import Line
from .problem_kinds import Problem
from .rates import Buckets
from .request_ids import new_request_id

__all__ = ["ManagementAuditLog"]

#: The most entries of each kind that may wait to be written. If there are more, because the disk is full, the oldest
#: of this kind are lost here, but are in the log of the relay.
_MAX_WAITING = 5000
#: How long to wait before a failed write is tried again (seconds).
_RETRY_SECONDS = 60.0
#: Logins and logouts can be repeated without limit, and each has an effect. Those of one caller count as calls with
#: an effect only up to this rate per second and this burst.
_LOGIN_PAGES = frozenset({"logIn", "logOut"})
_LOGINS_PER_SECOND, _LOGINS_BURST = 1 / 60, 20


@attrs.define(eq=False)
class _Waiting:
    """An entry that is not in the files yet."""

    kind: Kind
    entry: AuditEntry
    #: Its place in the order of all entries that have waited.
    order: int
    #: The line with the entry's number, which the first attempt to write it determines; None before.
    line: Line | None = None


class ManagementAuditLog:
    """A subscriber of the events of the management API.

    Args:
        state_dir: the relay's state directory.
        clock: returns seconds since 1970.
        events: the stream to which it publishes that it cannot write.
    """

    def __init__(self, state_dir: Path, *, clock: Callable[[], float], events: EventStream) -> None:
        self._directory = state_dir / DIRECTORY
        self._clock = clock
        self._events = events
        #: Set while entries cannot be written.
        self.problem: FileProblem | None = None
        #: The number of the next entry; None until it has been read from the files.
        self._next_number: int | None = None
        self._order = itertools.count()
        self._waiting: dict[Kind, deque[_Waiting]] = {kind: deque(maxlen=_MAX_WAITING) for kind in Kind}
        self._published = trio.Event()
        #: Held while the files are written, and by readers while they search for the latest entries.
        self._writing = trio.Lock()
        self._reading = trio.CapacityLimiter(1)
        self._logins = Buckets(rate=_LOGINS_PER_SECOND, burst=_LOGINS_BURST)

    def __call__(self, event: Event) -> None:
        """Record an event, if it is about a call of the API, or about a claim."""
        if isinstance(event, ClaimTaken | ClaimTakenAgain | ClaimRefused | ClaimUnknown):
            self._record(*_attempt_to_take(event, self._clock()))
            return
        if not isinstance(event, ManagementCalled | ManagementCallRefused):
            return
        kind = self._kind_of(event)
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
            claim=event.claim,
            unchanged=isinstance(event, ManagementCalled) and event.unchanged,
            status=event.status,
            request_id=event.request_id,
        )
        self._record(kind, entry)

    def _record(self, kind: Kind, entry: AuditEntry) -> None:
        self._waiting[kind].append(_Waiting(kind, entry, next(self._order)))
        self._published.set()

    def _kind_of(self, event: ManagementCalled | ManagementCallRefused) -> Kind:
        """Return where the entry about a call belongs.

        A call with the status 0 or 5xx may have had an effect.
        """
        if isinstance(event, ManagementCallRefused):
            return Kind.REFUSED
        if event.unchanged or 400 <= event.status < 500:
            return Kind.WITHOUT_EFFECT
        if event.operation_id in _LOGIN_PAGES and self._logins.take(event.caller, time.monotonic()) > 0:
            return Kind.WITHOUT_EFFECT
        if event.has_scope:
            return Kind.SCOPED
        return Kind.LOGINS if event.operation_id in _LOGIN_PAGES else Kind.CALLS

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
                    event = StateFileNotWritten(file=file, detail=exc.strerror or str(exc), remedy=remedy_of(exc))
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

        Writing cannot be cancelled: it ends first.
        """
        async with self._writing:
            batch = self._in_order()
            self._published = trio.Event()
            try:
                await run_in_thread(self._write, batch)
            except OSError as exc:
                self._published.set()
                why = f"{exc.strerror or exc}; {len(batch)} entries are waiting"
                detail = f"the audit log of the management API is not written: {why}"
                self.problem = FileProblem("audit", detail, remedy_of(exc))
                raise
            except BaseException:
                self._published.set()
                raise
            self.problem = None
            for one in batch:
                waiting = self._waiting[one.kind]
                if waiting and waiting[0] is one:
                    waiting.popleft()

    def _in_order(self) -> list[_Waiting]:
        return sorted(itertools.chain.from_iterable(self._waiting.values()), key=lambda one: one.order)

    async def read(self, wanted: AuditFilter, limit: int, before: int | None = None) -> AuditPage:
        """Return the latest entries, or those before a number, even while entries cannot be written.

        Args:
            wanted: which entries.
            limit: the maximum number of entries to return.
            before: only entries with lower numbers.

        Raises:
            OSError: the files cannot be read.
        """
        if before is None and any(self._waiting.values()):
            with contextlib.suppress(OSError):  # `run` reports it
                await self.flush()
        waiting = [one.line for one in self._in_order() if one.line is not None]
        return await run_in_thread(
            read_entries, self._directory, wanted, limit, before, waiting, limiter=self._reading
        )

    def _write(self, batch: list[_Waiting]) -> None:
        """Append entries to the files. Runs in a thread; never twice at the same time."""
        if self._next_number is None:
            self._next_number = next_number(self._directory, self._clock)
        for one in batch:
            if one.line is None:
                number, self._next_number = self._next_number, self._next_number + 1
                one.line = Line(number, msgspec.json.encode(msgspec.structs.replace(one.entry, number=number)))
        for kind in Kind:
            lines = [one.line for one in batch if one.kind is kind and one.line is not None]
            if lines:
                files = files_of(self._directory, kind)
                # After a failure, some of them may already be in the files.
                last = files.last_number()
                files.append(line for line in lines if line.number > last)


def _attempt_to_take(
    event: ClaimTaken | ClaimTakenAgain | ClaimRefused | ClaimUnknown, now: float
) -> tuple[Kind, AuditEntry]:
    """Return the entry about an attempt to take a claim, and where it belongs.

    Attempts that can be repeated without limit are among what was refused, so that they displace no other entries.
    The others are among the calls of callers with a scope, because such callers can create any number of claims.
    """
    match event:
        case ClaimTaken():
            kind, status = Kind.SCOPED, 200
        case ClaimTakenAgain():
            kind, status = Kind.SCOPED, Problem.CHANGED.status
        case ClaimUnknown():
            kind, status = Kind.REFUSED, Problem.NOT_FOUND.status
        case ClaimRefused(reason=Reason.CLAIM_TAKEN | Reason.CLAIM_LOST):
            kind, status = Kind.REFUSED, Problem.CHANGED.status
        case ClaimRefused():
            kind, status = Kind.REFUSED, Problem.FORBIDDEN.status
    entry = AuditEntry(
        number=0,  # until it is written
        time=round(now, 3),
        operation="takeClaim",
        caller="" if isinstance(event, ClaimUnknown) else "claim",
        peer=event.peer,
        connection="" if isinstance(event, ClaimUnknown) else event.connection,
        claim="" if isinstance(event, ClaimUnknown) else event.claim,
        status=status,
        request_id=new_request_id(),
    )
    return kind, entry
