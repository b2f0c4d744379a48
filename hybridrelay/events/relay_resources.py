"""Events of the relay's store, files and resources."""

from __future__ import annotations

from typing import ClassVar

import attrs

from .base import Event, Level

__all__ = [
    "FewDescriptors",
    "FewPairs",
    "PublicPortsNotSaved",
    "RelayIdNotSaved",
    "SpliceUnavailable",
    "StateFileNotRead",
    "StateFileNotWritten",
    "StateFileSetAside",
    "StateFileWritten",
    "StoreBegun",
    "StoreDiskFull",
    "StoreReadable",
    "StoreUnreadable",
    "WorkerEnded",
    "WorkerNotStarted",
    "WorkerNotTakenOver",
    "WorkerTakenOver",
    "WorkersKeepPairs",
    "WorkersNotKept",
]


@attrs.frozen(kw_only=True)
class _File(Event):
    file: str
    detail: str


@attrs.frozen(kw_only=True)
class StoreBegun(Event):
    """A registry was made in a state directory that a relay has used before, because there was none."""

    name: ClassVar = "store.begun"
    level: ClassVar = Level.WARNING
    summary: ClassVar = (
        "The state directory has the certificate of a relay, but no registry, so an empty one was made; if there was "
        "one, stop the relay and restore a backup"
    )

    file: str


@attrs.frozen(kw_only=True)
class StoreUnreadable(Event):
    """The store cannot be read, or its file was replaced or deleted. Changes to hybrid connections and keys are not
    noticed until it can be used again.
    """

    name: ClassVar = "store.unreadable"
    level: ClassVar = Level.ERROR
    summary: ClassVar = "Changes to hybrid connections and keys cannot be read"

    detail: str
    remedy: str


@attrs.frozen(kw_only=True)
class StoreReadable(Event):
    """The store can be read again, and changes are noticed again."""

    name: ClassVar = "store.readable"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "Hybrid connections and keys can be read again"


@attrs.frozen(kw_only=True)
class SpliceUnavailable(Event):
    """The operating system has refused to move bytes within the kernel."""

    name: ClassVar = "splice.unavailable"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "Bytes are copied, which takes more CPU time, because splice fails"

    detail: str
    #: The next attempt is made after this time (seconds).
    retry_seconds: float


@attrs.frozen(kw_only=True)
class FewDescriptors(Event):
    """The limit on open files is so low that the relay accepts fewer unauthenticated connections at a time."""

    name: ClassVar = "descriptors.few"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "The limit on descriptors of this process is too low: raise it (ulimit -Hn, LimitNOFILE)"

    #: The limit.
    descriptors: int
    #: How many unauthenticated connections may be open at a time.
    unauthenticated: int


@attrs.frozen(kw_only=True)
class FewPairs(Event):
    """The limit on open files is too low for the configured number of pairs of data channels."""

    name: ClassVar = "pairs.few"
    level: ClassVar = Level.WARNING
    summary: ClassVar = (
        "The limit on descriptors of this process is too low for --max-pairs: raise it (ulimit -Hn, LimitNOFILE)"
    )

    #: The limit.
    descriptors: int
    #: How many pairs are possible.
    pairs: int
    #: How many pairs were configured.
    wanted: int


@attrs.frozen(kw_only=True)
class PublicPortsNotSaved(_File):
    """The file with the relay's ports cannot be written."""

    name: ClassVar = "public-ports.not-saved"
    level: ClassVar = Level.ERROR
    summary: ClassVar = (
        "The file with the ports of this relay cannot be written, so 'connections create' does not know these "
        "ports; free disk space or correct the permissions of the file, then restart the relay"
    )


@attrs.frozen(kw_only=True)
class RelayIdNotSaved(_File):
    """The file with the relay's id cannot be written."""

    name: ClassVar = "relay-id.not-saved"
    level: ClassVar = Level.ERROR
    summary: ClassVar = (
        "The id of this relay cannot be saved, so the relay has a different one after its next start; free disk "
        "space or correct the permissions, then restart the relay"
    )


@attrs.frozen(kw_only=True)
class StoreDiskFull(_File):
    """The disk of the store is full. Revoking and deleting still work, because space is reserved for them."""

    name: ClassVar = "store.disk-full"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "The disk of the store is full"


@attrs.frozen(kw_only=True)
class StateFileNotWritten(_File):
    """A file that the relay can do without, such as its history, cannot be written. The relay continues without it.

    Writing is tried again, at least once a minute. The content is kept in the meantime, up to a limit.
    """

    name: ClassVar = "state-file.not-written"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A file of the relay cannot be written; everything else works"

    remedy: str


@attrs.frozen(kw_only=True)
class StateFileWritten(Event):
    """A file for which `StateFileNotWritten` was published can be written again."""

    name: ClassVar = "state-file.written"
    level: ClassVar = Level.INFO
    summary: ClassVar = "A file of the relay can be written again"

    file: str


@attrs.frozen(kw_only=True)
class StateFileNotRead(_File):
    """A file that the relay can do without cannot be read. The relay continues without what is in it, and replaces
    the file."""

    name: ClassVar = "state-file.not-read"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A file of the relay cannot be read; the relay continues without what is in it"

    remedy: str


@attrs.frozen(kw_only=True)
class StateFileSetAside(_File):
    """A file that the relay can do without was damaged, or had a different format version. It was renamed, and a new
    one made."""

    name: ClassVar = "state-file.set-aside"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A damaged file of the relay was renamed, and a new one was made"

    #: The new name of the damaged file.
    copy: str


@attrs.frozen(kw_only=True)
class WorkerEnded(Event):
    """A worker process of the relay has ended by itself. Its connections were reset, so that sessions resume."""

    name: ClassVar = "relay.worker-ended"
    level: ClassVar = Level.ERROR
    summary: ClassVar = "A worker process has ended by itself, and its sessions resume"

    pid: int
    #: The signal or the exit code.
    status: str
    #: How many pairs of data channels it had.
    pairs: int
    #: It is replaced after this time (seconds); 0 if it was taken over from the previous main process, and is not
    #: replaced.
    retry_seconds: float


@attrs.frozen(kw_only=True)
class WorkerNotStarted(Event):
    """A worker process of the relay could not be started. Until it can, other processes move the bytes."""

    name: ClassVar = "relay.worker-not-started"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A worker process could not be started; other processes move the bytes"

    detail: str
    #: The next attempt is made after this time (seconds).
    retry_seconds: float


@attrs.frozen(kw_only=True)
class WorkersKeepPairs(Event):
    """The main process has stopped, and its workers keep the pairs that they have for the next main process."""

    name: ClassVar = "relay.workers-keep-pairs"
    level: ClassVar = Level.INFO
    summary: ClassVar = (
        "The relay has stopped; its workers keep their sessions for a limited time, until it is started again"
    )

    #: How many pairs of data channels they have.
    pairs: int
    #: After this time without a main process, they reset the connections and end (seconds).
    seconds: float


@attrs.frozen(kw_only=True)
class WorkerTakenOver(Event):
    """The main process has taken over a worker, with its pairs, of the previous one, which has stopped or was
    killed."""

    name: ClassVar = "relay.worker-taken-over"
    level: ClassVar = Level.INFO
    summary: ClassVar = "A worker process of the previous main process was taken over with its sessions"

    pid: int
    #: How many pairs of data channels it had.
    pairs: int


@attrs.frozen(kw_only=True)
class WorkerNotTakenOver(Event):
    """A worker of the previous main process cannot be taken over. It is ended, so that its sessions resume."""

    name: ClassVar = "relay.worker-not-taken-over"
    level: ClassVar = Level.WARNING
    summary: ClassVar = (
        "A worker process of the previous main process cannot be taken over, and is ended; its sessions resume"
    )

    pid: int
    detail: str


@attrs.frozen(kw_only=True)
class WorkersNotKept(Event):
    """The relay cannot listen for workers, so pairs end with the main process, and their sessions have to resume."""

    name: ClassVar = "relay.workers-not-kept"
    level: ClassVar = Level.WARNING
    summary: ClassVar = (
        "Sessions are interrupted when the main process ends, because workers could not reach the next one"
    )

    detail: str
