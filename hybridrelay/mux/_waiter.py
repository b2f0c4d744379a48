"""A place for one task to wait in: an event that can be set again and again, for a few hundred nanoseconds."""

from __future__ import annotations

import trio
from trio.lowlevel import Abort, RaiseCancelT


class Waiter:
    """At most one task waits; `wake` is synchronous and idempotent, and is not remembered."""

    __slots__ = ("_task",)

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None

    async def wait(self) -> None:
        """Sleep until `wake`. Cancellable at once; a checkpoint always."""
        assert self._task is None, "the stream's conflict detection lets only one task wait"
        self._task = trio.lowlevel.current_task()

        def abort(_: RaiseCancelT) -> Abort:
            self._task = None
            return Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def wake(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            trio.lowlevel.reschedule(task)
