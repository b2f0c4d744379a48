"""The interface of an object that a stream informs of everything that happens to it."""

from __future__ import annotations

from typing import Protocol

__all__ = ["StreamWatcher"]


class StreamWatcher(Protocol):
    """Is informed of what happens to a stream, in place of tasks that wait for it. The methods must neither wait nor
    raise."""

    def on_data(self) -> None:
        """Note that data or the end of file has arrived."""

    def on_room(self) -> None:
        """Note that the send queue has room again after `has_room` returned False, or that the peer has stopped
        reading."""

    def on_changed(self) -> None:
        """Note that the stream was accepted, or that it was refused, reset or lost."""
