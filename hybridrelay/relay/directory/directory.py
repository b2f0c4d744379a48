"""What relays need of a directory."""

from __future__ import annotations

from typing import Protocol

import attrs

__all__ = ["Directory", "DirectoryEntry"]


@attrs.frozen(order=True)
class DirectoryEntry:
    """A listener that is registered somewhere."""

    connection: str
    instance: str
    #: `RELAY_ID_SIZE` bytes: the relay at which it is registered. It may be registered at several.
    relay_id: bytes


class Directory(Protocol):
    """Which listeners are registered at which relays. Relays share one, and each changes only its own entries.

    The methods return at once: a directory in another process sends changes in the background, and answers from what
    it has heard last.
    """

    def add(self, entry: DirectoryEntry) -> None:
        """A listener has registered. Harmless when the entry is there already."""

    def remove(self, entry: DirectoryEntry) -> None:
        """A listener has left. Harmless when there is no such entry."""

    def remove_relay(self, relay_id: bytes) -> None:
        """A relay has stopped: remove all its entries."""

    def find(self, connection: str) -> frozenset[DirectoryEntry]:
        """All listeners of a hybrid connection, at all relays."""
