"""Telling connections that the server is about to end."""

from __future__ import annotations

import trio

__all__ = ["Stop"]


class Stop:
    """A `trio.Event` that also cancels waits which would otherwise delay the end.

    One for all connections of a server. A connection that waits for a request needs no task of its own to be woken.
    """

    def __init__(self) -> None:
        self._event = trio.Event()
        self._idle: set[trio.CancelScope] = set()

    def set(self) -> None:
        """Tell everybody. What is idle is cancelled; requests that are being served go on. Idempotent."""
        self._event.set()
        for scope in self._idle:
            scope.cancel()

    def is_set(self) -> bool:
        """Whether the server is about to end."""
        return self._event.is_set()

    async def wait(self) -> None:
        """Wait until the server is about to end; a streamed response that never ends by itself has to end then."""
        await self._event.wait()

    def add_idle(self, scope: trio.CancelScope) -> None:
        """Cancel `scope` as soon as the server is about to end, until `discard_idle`."""
        self._idle.add(scope)
        if self._event.is_set():
            scope.cancel()

    def discard_idle(self, scope: trio.CancelScope) -> None:
        """`scope` is not idle any more. Nothing happens if it is not known."""
        self._idle.discard(scope)
