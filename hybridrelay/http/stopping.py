"""The shutdown signal that all connections of a server share."""

from __future__ import annotations

import trio

__all__ = ["Stop"]


class Stop:
    """Requests a graceful shutdown: like a `trio.Event`, but it also cancels idle connections.

    All connections of a server share one object. Waking them needs no additional tasks.
    """

    def __init__(self) -> None:
        self._event = trio.Event()
        self._idle: set[trio.CancelScope] = set()

    def set(self) -> None:
        """Request the shutdown: idle connections are cancelled, and running requests continue. Idempotent."""
        self._event.set()
        for scope in self._idle:
            scope.cancel()

    def is_set(self) -> bool:
        """Return whether the shutdown was requested."""
        return self._event.is_set()

    async def wait(self) -> None:
        """Wait until the shutdown is requested. Streamed responses that never end by themselves should end then."""
        await self._event.wait()

    def add_idle(self, scope: trio.CancelScope) -> None:
        """Cancel `scope` when the shutdown is requested, or now if it already was. `discard_idle` undoes this."""
        self._idle.add(scope)
        if self._event.is_set():
            scope.cancel()

    def discard_idle(self, scope: trio.CancelScope) -> None:
        """Stop cancelling `scope` at the shutdown. Does nothing if it is unknown."""
        self._idle.discard(scope)
