"""The rendezvous that are joined, as values. Pure."""

from __future__ import annotations

from typing import Final

import attrs

from .._value import Value

__all__ = ["MAX_KEEP", "Batch", "Entry"]

#: The longest time for which a worker keeps pairs without a main process (seconds); see `RelayConfig.keep_pairs`.
MAX_KEEP: Final = 3600.0


@attrs.frozen
class Entry(Value):
    """A joined rendezvous."""

    id: str
    connection: str
    joined_at: float
    #: How long a worker keeps it if this main process ends (seconds).
    keep: float


@attrs.frozen
class Batch(Value):
    """Changes of the file."""

    put: tuple[Entry, ...] = ()
    delete: tuple[str, ...] = ()
    #: Whether `put` is everything that has to be in the file.
    is_whole: bool = False
