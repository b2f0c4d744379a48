"""The interface of directories."""

from __future__ import annotations

from typing import Protocol

import attrs

__all__ = ["Directory", "DirectoryEntry"]


@attrs.frozen(order=True)
class DirectoryEntry:
    """A registration of a listener at a relay."""

    connection: str
    instance: str
    #: The id of the relay, `RELAY_ID_SIZE` bytes. A listener may be registered at several relays.
    relay_id: bytes


class Directory(Protocol):
    """Which listeners are registered at which relays. Relays share a directory, and each changes only its own
    entries.

    The methods do not wait: an implementation that uses another process sends changes in the background, and answers
    from the last state that it has received.
    """

    def add(self, entry: DirectoryEntry) -> None:
        """Add a listener that has registered. Does nothing if the entry already exists."""

    def remove(self, entry: DirectoryEntry) -> None:
        """Remove a listener that has left. Does nothing if there is no such entry."""

    def remove_relay(self, relay_id: bytes) -> None:
        """Remove all entries of a relay that has stopped."""

    def find(self, connection: str) -> frozenset[DirectoryEntry]:
        """Return all listeners of a hybrid connection, at all relays."""
