"""Lets one task sleep until other code wakes it. Reusable, and costs a few hundred nanoseconds."""

from __future__ import annotations

import trio
from trio.lowlevel import Abort, RaiseCancelT


class Waiter:
    """At most one task waits. `wake` is synchronous and idempotent, and has no effect if no task waits."""

    __slots__ = ("_task",)

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None

    async def wait(self) -> None:
        """Sleep until `wake` is called. Always a checkpoint; can be cancelled."""
        assert self._task is None, "only one task waits at a time"
        self._task = trio.lowlevel.current_task()

        def abort(_: RaiseCancelT) -> Abort:
            self._task = None
            return Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def wake(self) -> None:
        """Wake the task that waits, if there is one."""
        task, self._task = self._task, None
        if task is not None:
            trio.lowlevel.reschedule(task)
