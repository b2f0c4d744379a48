"""Prints to standard output from an event loop: if the reader stalls, only the task that prints waits."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import stat
import sys
from collections.abc import Iterable

import trio

from . import output

logger = logging.getLogger("hybridrelay.cli")

#: How many bytes are written to a terminal or socket after the system has reported that it is writable.
_CHUNK_BYTES = 512
#: How many bytes are written to a regular file at a time. Writing to a file never waits for a reader.
_FILE_CHUNK_BYTES = 64 * 1024


async def say(text: str = "", *, end: str = "\n") -> None:
    """Print and flush, as `output.say` does. If cancelled, part of the text may have been printed."""
    output.remember(await _print(output.without_controls(text) + end))


async def draw(text: str) -> None:
    """Print text that controls the terminal, and flush. All parts of it must come from this program."""
    output.remember(await _print(text))


async def say_ready(role: str, fields: Iterable[tuple[str, str]]) -> None:
    """Print `output.ready_line`. If it cannot be written, it is logged instead, and the program continues."""
    line = output.ready_line(role, fields)
    if (failure := await _print(line + "\n")) is not None:
        logger.warning("standard output cannot be written to (%s); the text was: %s", failure.strerror, line)


def maybe_say(text: str, *, end: str = "\n") -> None:
    """Print unimportant text, such as progress, and drop it if that would block. On Windows, where this cannot be
    known, all of it is dropped."""
    try:
        if sys.platform != "win32" and _is_writable(sys.stdout.fileno()):
            output.say(text, end=end)
    except (OSError, ValueError):
        pass


async def _print(text: str) -> OSError | None:
    """Print. Returns the error if that failed, or None; a closed pipe is not an error."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):  # the stream is closed, or exists only in memory
        output.say(text, end="")
        return None
    data = text.encode(sys.stdout.encoding or "utf-8", "backslashreplace")
    try:
        if sys.platform == "win32":
            # An abandoned thread does not keep the process from ending.
            await trio.to_thread.run_sync(_write_all, descriptor, data, abandon_on_cancel=True)
        else:
            await _write(descriptor, data)
    except OSError as exc:
        return output.give_up(exc)
    return None


async def _write(descriptor: int, data: bytes) -> None:
    view, size = memoryview(data), _chunk_size(descriptor)
    while view:
        with contextlib.suppress(PermissionError):  # epoll does not support regular files, which are always writable
            await trio.lowlevel.wait_writable(descriptor)
        try:
            view = view[os.write(descriptor, view[:size]) :]
        except BlockingIOError:
            continue


def _chunk_size(descriptor: int) -> int:
    """Return how many bytes can be written without blocking, once the descriptor is writable."""
    assert sys.platform != "win32"
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return _FILE_CHUNK_BYTES
    # POSIX guarantees this number of bytes for a pipe.
    return select.PIPE_BUF if stat.S_ISFIFO(mode) else _CHUNK_BYTES


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _is_writable(descriptor: int) -> bool:
    assert sys.platform != "win32"
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(0))
