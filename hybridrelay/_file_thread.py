"""Reading files in a thread while a program runs, because the file system may answer late, or never."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

import trio

from ._threads import run_in_thread
from .errors import ConfigurationError

__all__ = ["FILE_SECONDS", "FileThread"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

#: How long a file system may take (seconds). A network file system whose server is down may never answer.
FILE_SECONDS = 10.0


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
            ConfigurationError: the file system did not answer in time.
            Exception: any exception of the function.

        If cancelled, this returns at once; the function may continue, and its result is dropped.
        """
        if self._limiter is None:  # made here, because that needs a Trio run
            self._limiter = trio.CapacityLimiter(1)
        with trio.move_on_after(FILE_SECONDS):
            return await run_in_thread(function, *arguments, limiter=self._limiter, abandon_on_cancel=True)
        raise ConfigurationError(
            f"{self._what} cannot be read: the file system did not answer within {FILE_SECONDS:g} s",
            remedy="check whether a network file system cannot be reached",
        )
