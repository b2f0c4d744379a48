"""Helpers for structured concurrency: a nursery that raises a single exception, and waiting for a stop event."""

from __future__ import annotations

from types import TracebackType

import trio

from ._exception_groups import leaves


class FlatNursery:
    """``async with FlatNursery() as nursery``: a `trio.Nursery` that raises no exception group if it can avoid it.

    An exception of the block is raised alone, whatever else has failed. Otherwise, if one background task has failed,
    its exception is raised alone. Only independent failures of several tasks are raised as a group, so that none is
    lost.
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
        # Raised outside of the handler, so that the group does not become the `__context__` of its member.
        try:
            raise failure
        finally:
            del failure


async def wait_stop(stop: trio.Event | None) -> None:
    """Wait until `stop` is set; if it is None, wait until cancelled."""
    if stop is None:
        await trio.sleep_forever()
    else:
        await stop.wait()
