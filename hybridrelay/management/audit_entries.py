"""The entries of the audit log of the management API, and how they are read from its files.

There are several kinds of files (`Kind`), so that none can displace the entries of another. All functions block.
"""

from __future__ import annotations

import enum
import errno
import heapq
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import attrs
import msgspec

from .._shortage import remedy_or
from .._value import Value
from .audit_files import AuditFiles, Line

__all__ = [
    "DIRECTORY",
    "AuditEntry",
    "AuditFilter",
    "AuditPage",
    "Kind",
    "files_of",
    "next_number",
    "read_audit",
    "read_entries",
    "remedy_of",
]

#: The directory of the files, in the state directory.
DIRECTORY: Final = "audit"
#: The maximum number of lines that one request examines, and after how many of them other threads may run: the event
#: loop would otherwise wait for up to 5 ms each time.
_MAX_SCANNED = 2_000
_AT_A_TIME = 50
#: By how much the first number grows for each second of the clock. Numbers therefore increase across restarts even if
#: files were deleted.
_PER_SECOND = 1_000_000
_MIB = 1024 * 1024


class Kind(enum.Enum):
    """The kinds of files: the prefix of their names, the size of each (bytes), and how many are kept."""

    #: By callers whose scope is the whole relay.
    CALLS = ("calls", 8 * _MIB, 8)
    #: By callers with a scope. These cannot displace the entries of the others.
    SCOPED = ("scoped", 8 * _MIB, 8)
    #: Logins and logouts, however many there are, of callers whose scope is the whole relay. They need no other role
    #: than viewer.
    LOGINS = ("logins", 2 * _MIB, 4)
    #: By known callers, without any effect: refused, impossible, or not needed. They can be repeated without limit.
    #: Also logins and logouts of a caller who logs in too often.
    WITHOUT_EFFECT = ("without-effect", _MIB, 4)
    #: Refused before the caller was known.
    REFUSED = ("refused", _MIB, 2)
    #: By commands that have used the store, because no relay ran.
    LOCAL = ("local", 8 * _MIB, 8)


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A call that changes something or shows keys, or an attempt to take a claim; including those that were refused.

    An attempt to take a claim has the operation ``takeClaim``, and the caller ``claim``.
    """

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
    #: The hybrid connection, the rule, and the ids of the token and the claim that the call was about or has created;
    #: empty if there is none.
    connection: str = ""
    rule: str = ""
    token: str = ""
    claim: str = ""
    #: Whether nothing was changed because everything was already as the call asks.
    unchanged: bool = False
    #: The status of the response; 0 if there was none, because the client had disconnected or the relay was stopping.
    status: int
    #: The id of the request, which is also in the response and in the log.
    request_id: str


@attrs.frozen
class AuditFilter(Value):
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
        """Return whether an entry is selected, apart from `since`, which `read_entries` compares."""
        return (
            entry.caller.startswith(self.caller)
            and self.operation in ("", entry.operation)
            and self.connection in ("", entry.connection)
            and self.may_see(entry.connection or None)
        )


@attrs.frozen
class AuditPage(Value):
    """A page of entries, the latest first."""

    entries: tuple[AuditEntry, ...]
    #: Continue before this number; None if there are no further entries.
    next_before: int | None


def files_of(directory: Path, kind: Kind) -> AuditFiles:
    """Return the files of one kind in the directory of the audit log."""
    return AuditFiles(directory, *kind.value)


def next_number(directory: Path, clock: Callable[[], float]) -> int:
    """Return a number for the next entry: higher than all in the files, even if the clock was set back.

    Raises:
        OSError: the files cannot be read.
    """
    last = max(files_of(directory, kind).last_number() for kind in Kind)
    return max(int(clock()) * _PER_SECOND, last + 1)


def read_audit(state_dir: Path, wanted: AuditFilter, limit: int, before: int | None = None) -> AuditPage:
    """Read the files of a relay that is not running; see `read_entries`."""
    return read_entries(state_dir / DIRECTORY, wanted, limit, before)


def read_entries(
    directory: Path, wanted: AuditFilter, limit: int, before: int | None = None, waiting: Sequence[Line] = ()
) -> AuditPage:
    """Read the latest entries, or those before a number.

    Args:
        directory: the directory of the files.
        wanted: which entries.
        limit: the maximum number of entries to return.
        before: only entries with lower numbers.
        waiting: further entries in order of their numbers, which may be in the files as well.

    Raises:
        OSError: the files cannot be read.
    """
    found: list[AuditEntry] = []
    number = 2**63 if before is None else before
    sources = [files_of(directory, kind).before(number) for kind in Kind]
    sources.append(line for line in reversed(waiting) if line.number < number)
    previous: Line | None = None
    for scanned, line in enumerate(heapq.merge(*sources, key=lambda line: line.number, reverse=True)):
        if scanned == _MAX_SCANNED or len(found) == limit:
            return AuditPage(tuple(found), number)
        if line == previous:
            continue  # the entry is also in `waiting`: an attempt that failed has written it
        previous, number = line, line.number
        if scanned % _AT_A_TIME == 0:
            time.sleep(0)
        try:
            entry = msgspec.json.decode(line.data, type=AuditEntry)
        except (msgspec.MsgspecError, RecursionError):
            continue  # it was written by a later version
        if (wanted.since is None or entry.time >= wanted.since) and wanted.accepts(entry):
            found.append(entry)
    return AuditPage(tuple(found), None)


def remedy_of(exc: OSError) -> str:
    """Return what to do if a file cannot be written."""
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free space on the disk of the state directory"
    return remedy_or(exc, "make the state directory writable")
