"""Reading and writing files in a thread while a program runs, because the file system may answer late, or never."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar, TypeVarTuple

import trio

from ._threads import run_in_thread
from .errors import ConfigurationError

__all__ = ["FILE_SECONDS", "FileSilent", "FileThread", "side_by_side", "thread_of_file"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

#: How long a file system may take (seconds). A network file system whose server is down may never answer.
FILE_SECONDS = 10.0


#: The threads of the files that are used from several places, of a Trio run.
_THREADS: trio.lowlevel.RunVar[dict[str, FileThread]] = trio.lowlevel.RunVar("hybridrelay threads of files")


def thread_of_file(path: object) -> FileThread:
    """Return what runs work on a file: the same at every call in this Trio run, so that a file system that does not
    answer keeps one thread, however often the file is to be read or written.

    Args:
        path: the path, whose text names the file in errors.
    """
    try:
        threads = _THREADS.get()
    except LookupError:
        threads = {}
        _THREADS.set(threads)
    return threads.setdefault(str(path), FileThread(str(path)))


class FileSilent(ConfigurationError):
    """A file system did not answer in time."""


#: How many files are read side by side, at most, so that many of them do not need as many threads.
_AT_A_TIME = 64


async def side_by_side(reads: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
    """Call functions that read files, at most `_AT_A_TIME` at the same time, so that files whose file systems do not
    answer are waited for together, and not one after the other.

    Args:
        reads: the functions. They use different files.

    Returns:
        Their results, in the same order.

    Raises:
        ConfigurationError: the error of the first function that has failed, in their order. All others have ended
            then, or were not called because the file system of one has not answered.
    """
    results: dict[int, T] = {}
    errors: dict[int, ConfigurationError] = {}
    limiter = trio.CapacityLimiter(_AT_A_TIME)

    async def call(number: int, read: Callable[[], Awaitable[T]]) -> None:
        async with limiter:
            if any(isinstance(error, FileSilent) for error in errors.values()):
                return  # they would be waited for together, too, but after the others
            try:
                results[number] = await read()
            except ConfigurationError as exc:
                errors[number] = exc

    async with trio.open_nursery() as nursery:
        for number, read in enumerate(reads):
            nursery.start_soon(call, number, read)
    if errors:
        raise errors[min(errors)]
    return [results[number] for number in range(len(reads))]


class FileThread:
    """Runs short work on one file, or one group of files, in one thread at a time.

    Work that hangs keeps its thread, and until it returns, further work on the same file fails. Other files use other
    threads.
    """

    def __init__(self, what: str) -> None:
        """`what` names the file in errors."""
        self._what = what
        self._limiter: trio.CapacityLimiter | None = None

    async def run(self, function: Callable[[*Ts], T], *arguments: *Ts) -> T:
        """Call `function(*arguments)` in a thread.

        Raises:
            FileSilent: the file system did not answer in time.
            Exception: any exception of the function.

        If cancelled, this returns at once; the function may continue, and its result is dropped.
        """
        if self._limiter is None:  # made here, because that needs a Trio run
            self._limiter = trio.CapacityLimiter(1)
        with trio.move_on_after(FILE_SECONDS):
            return await run_in_thread(function, *arguments, limiter=self._limiter, abandon_on_cancel=True)
        raise FileSilent(
            f"{self._what} cannot be used: the file system did not answer within {FILE_SECONDS:g} s",
            remedy="check whether a network file system cannot be reached",
        )
