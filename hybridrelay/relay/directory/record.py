"""Keeps a directory up to date with the events of a relay."""

from __future__ import annotations

from ...events.base import Event
from ...events.relay import ListenerLeft, ListenerRegistered
from .directory import Directory, DirectoryEntry

__all__ = ["DirectoryRecorder"]


class DirectoryRecorder:
    """A subscriber of events, which adds listeners that register at a relay and removes those that leave.

    Args:
        directory: the directory to be kept up to date.
        relay_id: the id of the relay whose events it gets.
    """

    def __init__(self, directory: Directory, relay_id: bytes) -> None:
        self._directory = directory
        self._relay_id = relay_id

    def __call__(self, event: Event) -> None:
        """Handle one event."""
        match event:
            case ListenerRegistered(connection=connection, instance=instance):
                self._directory.add(DirectoryEntry(connection, instance, self._relay_id))
            case ListenerLeft(connection=connection, instance=instance):
                self._directory.remove(DirectoryEntry(connection, instance, self._relay_id))
