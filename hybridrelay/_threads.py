"""Worker threads for short blocking work, and what happens where no thread can be started."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar, TypeVarTuple

import trio

__all__ = ["OutOfThreads", "run_in_thread", "thread_errors"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class OutOfThreads(OSError):
    """No thread can be started. Its number is EAGAIN, as pthread_create(3) has it."""

    def __init__(self) -> None:
        super().__init__(errno.EAGAIN, "no thread can be started")


async def run_in_thread(
    function: Callable[[*Ts], T],
    *arguments: *Ts,
    limiter: trio.CapacityLimiter | None = None,
    abandon_on_cancel: bool = False,
) -> T:
    """`trio.to_thread.run_sync`, or a plain call where no thread can be started.

    For short work on local files, which a slow disk can make long. Where there is no thread, it is better that
    everything waits for it than that a revoked key or a deny list goes unnoticed. Trio's own limit of threads does
    not apply: names are resolved within it, and a name server that does not answer can use it up.
    """
    if limiter is None:
        limiter = _own_limiter()
    started = False

    def run() -> T:
        nonlocal started
        started = True
        return function(*arguments)

    try:
        return await trio.to_thread.run_sync(run, limiter=limiter, abandon_on_cancel=abandon_on_cancel)
    except RuntimeError:
        if started:
            raise
    return run()


#: Of a Trio run.
_LIMITER: trio.lowlevel.RunVar[trio.CapacityLimiter] = trio.lowlevel.RunVar("hybridrelay file threads")
_THREADS = 8


def _own_limiter() -> trio.CapacityLimiter:
    try:
        return _LIMITER.get()
    except LookupError:
        limiter = trio.CapacityLimiter(_THREADS)
        _LIMITER.set(limiter)
        return limiter


@contextmanager
def thread_errors() -> Iterator[None]:
    """Around Trio's calls that resolve names, for which it starts a thread.

    Raises:
        OutOfThreads: none can be started.
    """
    try:
        yield
    except RuntimeError as exc:
        if "start new thread" in str(exc):
            raise OutOfThreads from exc
        raise
