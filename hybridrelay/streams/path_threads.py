"""Threads for short work on paths that are used often, on file systems of which some may not answer."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Final, TypeVar, cast

import attrs
import trio

from .._threads import run_in_thread_if_possible
from .._value import Value

__all__ = ["MAX_THREADS", "PATIENCE_SECONDS", "THREADS_PER_PATH", "PathSilent", "PathThreads"]

T = TypeVar("T")

#: How many threads may work on one path at a time. If its file system hangs, threads are left for other paths.
THREADS_PER_PATH: Final = 2
#: How many threads may work on all paths, so that many paths on a file system that hangs do not use up the threads of
#: this program.
MAX_THREADS: Final = 64
#: How long a call waits for a thread while no other call for its path ends (seconds).
PATIENCE_SECONDS: Final = 1.0


class PathSilent(TimeoutError):
    """The file system has not answered earlier calls for this path, or for many others. The errno is ETIMEDOUT."""

    def __init__(self, path: str) -> None:
        super().__init__(errno.ETIMEDOUT, "the file system does not answer", path)


class PathThreads:
    """Runs work on paths in threads: at most `THREADS_PER_PATH` for one path, and `MAX_THREADS` in all.

    A call that was cancelled keeps its thread until the file system answers. Further calls wait for a thread as long
    as earlier calls keep ending.
    """

    def __init__(self) -> None:
        self._paths: dict[str, _Threads] = {}
        self._all = _Threads("all paths", MAX_THREADS)

    async def run(self, path: str, function: Callable[[], T]) -> T:
        """Call a function in a thread.

        Args:
            path: what the function works on.
            function: called without arguments.

        Raises:
            PathSilent: all threads for this path, or for all paths, are in use, and none of their calls has ended for
                `PATIENCE_SECONDS`.
            OutOfThreads: no thread can be started.
            Exception: any exception of `function`.

        If cancelled, it returns at once, and the function continues.
        """
        # `run_sync` accepts any object with the two methods of `_Permits`, as its documentation says. Its annotation
        # is narrower.
        limiter = cast(trio.CapacityLimiter, _Permits(self, path))
        return await run_in_thread_if_possible(function, limiter=limiter)

    async def acquire(self, path: str, borrower: object) -> None:
        """Wait for a thread. Raises PathSilent. If cancelled, no thread is taken.

        `borrower` identifies the call, as for `trio.CapacityLimiter`.
        """
        threads = self._paths.get(path)
        if threads is None:
            threads = self._paths[path] = _Threads(path, THREADS_PER_PATH)
        threads.calls += 1
        try:
            await threads.acquire(borrower)
            try:
                await self._all.acquire(borrower)
            except BaseException:
                threads.release(borrower)
                raise
        except BaseException:
            self._call_ended(threads)
            raise

    def release(self, path: str, borrower: object) -> None:
        """Note that a thread has ended."""
        self._all.release(borrower)
        threads = self._paths[path]
        threads.release(borrower)
        self._call_ended(threads)

    def _call_ended(self, threads: _Threads) -> None:
        """Note that a call has ended, or waits no more. After the last one, the path is forgotten."""
        threads.calls -= 1
        if not threads.calls:
            del self._paths[threads.name]


class _Threads:
    """A limited number of threads, for which calls wait as long as other calls keep ending."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self._limiter = trio.CapacityLimiter(number)
        self._ended = 0
        #: How many calls have a thread, or wait for one.
        self.calls = 0

    async def acquire(self, borrower: object) -> None:
        while True:
            ended = self._ended
            with trio.move_on_after(PATIENCE_SECONDS):
                await self._limiter.acquire_on_behalf_of(borrower)
                return
            if ended == self._ended:
                raise PathSilent(self.name)

    def release(self, borrower: object) -> None:
        self._ended += 1
        self._limiter.release_on_behalf_of(borrower)


@attrs.frozen
class _Permits(Value):
    """The threads for one path, as a limiter for `trio.to_thread.run_sync`."""

    _threads: PathThreads
    _path: str

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        await self._threads.acquire(self._path, borrower)

    def release_on_behalf_of(self, borrower: object) -> None:
        self._threads.release(self._path, borrower)
