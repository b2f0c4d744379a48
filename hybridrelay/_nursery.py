"""Structured concurrency, small things: a nursery that fails with a single exception; waiting to be told to stop."""

from __future__ import annotations

from types import TracebackType

import trio

from ._exception_groups import leaves


class FlatNursery:
    """``async with FlatNursery() as nursery``: a `trio.Nursery` for what runs behind somebody else's block.

    What the block raises leaves as itself, whatever else happened meanwhile; otherwise a single failure of a
    background task leaves as itself. Only several independent failures leave as a group: none may get lost.
    """

    def __init__(self) -> None:
        self._manager = trio.open_nursery()

    async def __aenter__(self) -> trio.Nursery:
        return await self._manager.__aenter__()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        try:
            return await self._manager.__aexit__(exc_type, exc, traceback)
        except BaseExceptionGroup as group:
            if exc is not None and not isinstance(exc, trio.Cancelled) and any(e is exc for e in group.exceptions):
                return False
            failures = [leaf for leaf in leaves(group) if not isinstance(leaf, trio.Cancelled)]
            if len(failures) != 1:
                raise
            failure = failures[0]
        # Outside of the handler, so that the group does not become the context of what it contained.
        try:
            raise failure
        finally:
            del failure


async def wait_stop(stop: trio.Event | None) -> None:
    """Wait until told to stop; for ever where nobody can say so."""
    if stop is None:
        await trio.sleep_forever()
    else:
        await stop.wait()
