"""Writing what a machine has collected to a file, in a thread, so that it is neither lost nor written twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import trio

from ..._threads import run_in_thread_if_possible

__all__ = ["write_batch"]

BatchT = TypeVar("BatchT")
T = TypeVar("T")


async def write_batch(
    batch: BatchT,
    write: Callable[[BatchT], T],
    *,
    put_back: Callable[[BatchT], object],
    limiter: trio.CapacityLimiter,
) -> T | None:
    """Write a batch that was taken from a machine.

    Args:
        batch: what was taken.
        write: writes it, in a thread.
        put_back: called with the batch if it was not written.
        limiter: allows one thread at a time.

    Returns:
        What `write` returns.

    Raises:
        OutOfThreads: no thread can be started.
        Exception: any exception of `write`.

    If cancelled, this returns immediately. A thread that has begun to write continues, and the batch counts as
    written; if none has begun, none will, and the batch is put back.
    """
    # Emptied by the thread or by the cancellation, whichever comes first: `list.pop` is atomic.
    unclaimed = [batch]

    def run() -> T | None:
        try:
            unclaimed.pop()
        except IndexError:
            return None  # nobody waits for the result
        return write(batch)

    try:
        return await run_in_thread_if_possible(run, limiter=limiter)
    except trio.Cancelled:
        try:
            unclaimed.pop()
        except IndexError:
            pass
        else:
            put_back(batch)
        raise
    except Exception:
        put_back(batch)
        raise
