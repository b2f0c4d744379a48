"""How much work a task does at a time, before other tasks run."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from types import FrameType

import trio

__all__ = ["calls_at_a_time"]


async def calls_at_a_time(function: Callable[[], Awaitable[object]]) -> list[int]:
    """Return how many functions, including built-in ones, were called in each step of the task that calls this."""
    steps: list[int] = []
    task = trio.lowlevel.current_task()

    def count(frame: FrameType, event: str, argument: object) -> None:
        steps[-1] += event in ("call", "c_call")

    class Counting(trio.abc.Instrument):
        def before_task_step(self, stepping: trio.lowlevel.Task) -> None:
            if stepping is task:
                steps.append(0)
                sys.setprofile(count)

        def after_task_step(self, stepping: trio.lowlevel.Task) -> None:
            if stepping is task:
                sys.setprofile(before)

    before, counting = sys.getprofile(), Counting()
    trio.lowlevel.add_instrument(counting)
    try:
        await trio.lowlevel.checkpoint()
        await function()
    finally:
        sys.setprofile(before)
        trio.lowlevel.remove_instrument(counting)
    return steps
