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
    "StoreDiskFull",
    "StoreReadable",
    "StoreUnreadable",
]


@attrs.frozen(kw_only=True)
class _File(Event):
    file: str
    detail: str


@attrs.frozen(kw_only=True)
class StoreUnreadable(Event):
    """Changes of hybrid connections and keys are not noticed until the store can be read again."""

    name: ClassVar = "store.unreadable"
    level: ClassVar = Level.ERROR
    summary: ClassVar = "Changes of hybrid connections and keys cannot be read"

    detail: str


@attrs.frozen(kw_only=True)
class StoreReadable(Event):
    """The store can be read again, and changes are noticed again."""

    name: ClassVar = "store.readable"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "Hybrid connections and keys can be read again"


@attrs.frozen(kw_only=True)
class SpliceUnavailable(Event):
    """The operating system refused to move bytes within the kernel."""

    name: ClassVar = "splice.unavailable"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "Bytes are copied, which takes more processor time, because splice fails"

    detail: str
    #: When it is tried again.
    retry_seconds: float


@attrs.frozen(kw_only=True)
class FewDescriptors(Event):
    """The limit of open files is so low that the relay accepts fewer new connections at a time."""

    name: ClassVar = "descriptors.few"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "The process may open few descriptors: raise the limit (ulimit -Hn, LimitNOFILE)"

    descriptors: int
    #: Connections that may be open at a time and have not authenticated.
    unauthenticated: int


@attrs.frozen(kw_only=True)
class FewPairs(Event):
    """The limit of open files is too low for as many pairs of data channels as were configured."""

    name: ClassVar = "pairs.few"
    level: ClassVar = Level.WARNING
    summary: ClassVar = (
        "The process may open too few descriptors for --max-pairs: raise the limit (ulimit -Hn, LimitNOFILE)"
    )

    descriptors: int
    #: How many are possible.
    pairs: int
    #: How many were configured.
    wanted: int


@attrs.frozen(kw_only=True)
class PublicPortsNotSaved(_File):
    """The file with the relay's ports cannot be written."""

    name: ClassVar = "public-ports.not-saved"
    level: ClassVar = Level.ERROR
    summary: ClassVar = (
        "The file with the ports of this relay cannot be written, and 'connections create' does not know them; make "
        "room or correct its permissions, then restart the relay"
    )


@attrs.frozen(kw_only=True)
class RelayIdNotSaved(_File):
    """The file with the relay's id cannot be written."""

    name: ClassVar = "relay-id.not-saved"
    level: ClassVar = Level.ERROR
    summary: ClassVar = (
        "The id of this relay cannot be written, and it has another one after its next start; make room or correct "
        "the permissions, then restart the relay"
    )


@attrs.frozen(kw_only=True)
class StoreDiskFull(_File):
    """The disk of the store is full. Keys and hybrid connections can still be ended, with reserved space."""

    name: ClassVar = "store.disk-full"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "The disk of the store is full"
