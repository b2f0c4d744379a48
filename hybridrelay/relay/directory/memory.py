"""A directory in memory: for one relay, or for several in one process."""

from __future__ import annotations

from .directory import DirectoryEntry

__all__ = ["MemoryDirectory"]


class MemoryDirectory:
    """Implements `Directory`."""

    def __init__(self) -> None:
        self._by_connection: dict[str, set[DirectoryEntry]] = {}

    def add(self, entry: DirectoryEntry) -> None:
        """See `Directory.add`."""
        self._by_connection.setdefault(entry.connection, set()).add(entry)

    def remove(self, entry: DirectoryEntry) -> None:
        """See `Directory.remove`."""
        entries = self._by_connection.get(entry.connection, set())
        entries.discard(entry)
        if not entries:
            self._by_connection.pop(entry.connection, None)

    def remove_relay(self, relay_id: bytes) -> None:
        """See `Directory.remove_relay`."""
        gone = [one for entries in self._by_connection.values() for one in entries if one.relay_id == relay_id]
        for entry in gone:
            self.remove(entry)

    def find(self, connection: str) -> frozenset[DirectoryEntry]:
        """See `Directory.find`."""
        return frozenset(self._by_connection.get(connection, ()))
