"""Telling connections that the server is about to end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio

__all__ = ["Stop"]


class Stop:
    """A `trio.Event` that also ends waits which would otherwise delay the end.

    One for all connections of a server. A connection that waits for a request needs no task of its own to be woken.
    """

    def __init__(self) -> None:
        self._event = trio.Event()
        self._idle: set[trio.CancelScope] = set()

    def set(self) -> None:
        """Tell everybody. Waits inside `idle` are cancelled; requests that are being served go on. Idempotent."""
        self._event.set()
        for scope in self._idle:
            scope.cancel()

    def is_set(self) -> bool:
        """Whether the server is about to end."""
        return self._event.is_set()

    async def wait(self) -> None:
        """Wait until the server is about to end; a streamed response that never ends by itself has to end then."""
        await self._event.wait()

    @contextmanager
    def idle(self, scope: trio.CancelScope) -> Iterator[None]:
        """While inside, `scope` is cancelled as soon as the server is about to end."""
        if self._event.is_set():
            scope.cancel()
        self._idle.add(scope)
        try:
            yield
        finally:
            self._idle.discard(scope)
