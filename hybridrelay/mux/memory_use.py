"""How much memory a session uses, as a value."""

from __future__ import annotations

import attrs

from .._value import Value

__all__ = ["MemoryUse"]


@attrs.frozen
class MemoryUse(Value):
    """The memory that a session uses at one moment (bytes)."""

    #: Data that waits to be written to a channel.
    queued: int = 0
    #: Data that waits to be read by the application.
    unread: int = 0
    #: Memory of frames that were written, and are kept until the peer has acknowledged them.
    unacknowledged: int = 0
    #: Memory that is reserved for receive windows.
    reserved: int = 0

    def __add__(self, other: MemoryUse) -> MemoryUse:
        return MemoryUse(
            self.queued + other.queued,
            self.unread + other.unread,
            self.unacknowledged + other.unacknowledged,
            self.reserved + other.reserved,
        )
