"""Threads for short blocking work, and what to do if no thread can be started."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar, TypeVarTuple, cast

import attrs
import trio

from ._thread_memory import has_memory_for_thread

__all__ = ["OutOfThreads", "from_any_thread", "run_in_thread", "run_in_thread_if_possible", "thread_errors"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class OutOfThreads(OSError):
    """No thread can be started, or none for which there is enough memory. Its errno is EAGAIN, as in
    pthread_create(3)."""

    def __init__(self) -> None:
        super().__init__(errno.EAGAIN, "no thread can be started")


def _check_memory() -> None:
    """Raise OutOfThreads if a thread might run out of memory before it has begun."""
    if not has_memory_for_thread():
        raise OutOfThreads


@attrs.frozen
class _WithMemory:
    """A limiter for `trio.to_thread.run_sync`, which checks the memory just before a thread is started."""

    _limiter: trio.CapacityLimiter

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        await self._limiter.acquire_on_behalf_of(borrower)
        try:
            _check_memory()
        except OutOfThreads:
            self._limiter.release_on_behalf_of(borrower)
            raise

    def release_on_behalf_of(self, borrower: object) -> None:
        self._limiter.release_on_behalf_of(borrower)


def _with_memory(limiter: trio.CapacityLimiter) -> trio.CapacityLimiter:
    # Trio uses only the two methods.
    return cast(trio.CapacityLimiter, _WithMemory(limiter))


def from_any_thread(function: Callable[[T], object]) -> Callable[[T], None]:
    """Return a thread-safe form of `function`: calling it from any thread schedules a call of `function` in the
    thread of this Trio run. After the end of the run, it does nothing."""
    token = trio.lowlevel.current_trio_token()

    def call(argument: T) -> None:
        with contextlib.suppress(trio.RunFinishedError):
            token.run_sync_soon(function, argument)

    return call


async def run_in_thread(
    function: Callable[[*Ts], T],
    *arguments: *Ts,
    limiter: trio.CapacityLimiter | None = None,
    abandon_on_cancel: bool = False,
) -> T:
    """Call a function in a thread, or if no thread can be started, in the calling thread.

    For work on local files that is short, except on a slow disk. Without a thread, it is better that
    everything waits for this work than that a revoked key or a deny list has no effect. Trio's own limit of threads
    does not apply: name resolution shares it, and a name server that does not answer could use it up.

    Args:
        function: called with `arguments`.
        limiter: limits the number of threads; None means a limiter for all such work of the Trio run.
        abandon_on_cancel: see `trio.to_thread.run_sync`.

    Raises:
        Exception: any exception of `function`.
    """
    if limiter is None:
        limiter = _own_limiter()
    started = False

    def run() -> T:
        nonlocal started
        started = True
        return function(*arguments)

    try:
        return await trio.to_thread.run_sync(run, limiter=_with_memory(limiter), abandon_on_cancel=abandon_on_cancel)
    except OutOfThreads:
        if started:
            raise
    except RuntimeError as exc:
        if started or not _is_shortage(exc):
            raise
    return run()


async def run_in_thread_if_possible(
    function: Callable[[*Ts], T], *arguments: *Ts, limiter: trio.CapacityLimiter
) -> T:
    """Call a function in a thread, for work that can be left undone if no thread can be started.

    Args:
        function: called with `arguments`.
        limiter: limits the number of threads.

    Raises:
        OutOfThreads: no thread can be started.
        Exception: any exception of `function`.

    If cancelled, it returns at once, and the function continues.
    """
    with thread_errors():
        return await trio.to_thread.run_sync(
            function, *arguments, limiter=_with_memory(limiter), abandon_on_cancel=True
        )


#: The limiter of a Trio run.
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
    """Translate the errors of calls that start a thread, such as Trio's calls that resolve names or start processes.
    If there may be too little memory for a thread, `OutOfThreads` is raised before the block is entered.

    Raises:
        OutOfThreads: no thread can be started.
    """
    _check_memory()
    try:
        yield
    except RuntimeError as exc:
        if _is_shortage(exc):
            raise OutOfThreads from exc
        raise


def _is_shortage(error: RuntimeError) -> bool:
    """Return whether no thread can be started. Only the text says so."""
    return "start new thread" in str(error)
