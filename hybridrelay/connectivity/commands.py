"""Commands whose standard input and output lead to a relay: the `Dialer.process` of this machine.

The command comes from this machine's operator. Nothing that a connection string or a peer says becomes a part of it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import trio

from .._nursery import FlatNursery
from .._printable import printable
from ..events import CommandFailed, CommandPrinted, EventStream, logged_events
from ..mux.pace import Pace

__all__ = ["Commands"]

#: How long a command may take to end after its standard input was closed, and again after SIGTERM (seconds).
_GRACE_SECONDS = 2.0
#: How long standard error is read after the command has ended (seconds): something that it started may keep it open.
_LAST_WORDS_SECONDS = 0.5
#: The longest line of standard error that is reported in one event (bytes).
_MAX_LINE = 500
#: How much of standard error is read before others run (bytes): at most so many lines, a few milliseconds of work.
_ERRORS_AT_A_TIME = 1024


class Commands:
    """Runs a command, once for each call of `dial`. Use it with `async with`: its processes belong to a nursery of
    the block, and at its end every one of them is killed and reaped.

    Args:
        command: the program and its arguments; no shell is involved. None: there is no command.
        events: where events go; None means the log.
    """

    def __init__(self, command: Sequence[str] | None, *, events: EventStream | None = None) -> None:
        self._events = logged_events() if events is None else events
        self._command = None if command is None else tuple(command)
        #: During the block.
        self._manager: FlatNursery | None = None
        self._nursery: trio.Nursery | None = None

    async def __aenter__(self) -> Self:
        self._manager = FlatNursery()  # it can be made only while Trio runs
        self._nursery = await self._manager.__aenter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        assert self._manager is not None
        assert self._nursery is not None
        self._nursery.cancel_scope.cancel()
        self._nursery = None
        return await self._manager.__aexit__(exc_type, exc, traceback)

    async def dial(self) -> trio.abc.HalfCloseableStream:
        """Start the command. This is a `hybridrelay.abc.DialProcess`.

        Raises:
            OSError: it cannot be started, there is none, or the block is over.

        Cancelled, no process is left.
        """
        if self._command is None or self._nursery is None:
            await trio.lowlevel.checkpoint()
            raise OSError(errno.EOPNOTSUPP, "no command is configured for reaching the relay")
        stream: trio.abc.HalfCloseableStream = await self._nursery.start(_run, self._command, self._events)
        return stream


class _CommandStream(trio.abc.HalfCloseableStream):
    """The standard input and output of a process."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self._stream = stream
        #: The user of this stream has closed it.
        self.closed = trio.Event()
        #: There is no process any more.
        self.reaped = trio.Event()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        """Close both, and wait until the process is gone; cancelled, it goes all the same."""
        self.closed.set()
        await self._stream.aclose()
        await self.reaped.wait()


async def _run(
    command: Sequence[str],
    events: EventStream,
    *,
    task_status: trio.TaskStatus[trio.abc.HalfCloseableStream],
) -> None:
    """Run one process until its stream is closed or it ends by itself. Cancelled, it is killed.

    Raises:
        OSError: it cannot be started.
    """
    process, below = await _start(command)
    group = _Group(process)
    stream = _CommandStream(below)
    ended = False
    try:
        task_status.started(stream)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_report_errors, group, events, command[0], nursery.cancel_scope)
            nursery.start_soon(_end_when_closed, group, stream)
            await group.wait()
            # Standard error may have something left to be reported.
            await trio.sleep(_LAST_WORDS_SECONDS)
            nursery.cancel_scope.cancel()
        ended = True
    finally:
        with trio.CancelScope(shield=True):
            failed_by_itself = ended and not stream.closed.is_set()
            group.kill()
            with trio.move_on_after(_GRACE_SECONDS):  # one that runs as another user cannot be killed
                await group.reap()
            if failed_by_itself and process.returncode:
                events.publish(CommandFailed(command=command[0], code=process.returncode))
            stream.reaped.set()
            assert process.stderr is not None
            await trio.aclose_forcefully(process.stderr)
            if not ended:  # cancelled: the stream may never have been returned, or may not be read to its end
                await trio.aclose_forcefully(below)


class _Group:
    """A process and, if possible, all that it has started: the processes of its group.

    Its number can be given to another process as soon as the process has been reaped and the group is empty. So
    signals are sent only before that: `wait` does not reap the process, where the system allows that.
    """

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        #: Becomes readable when the process ends; None where the system has no such thing.
        self._pidfd: int | None = None
        self._is_reaped = False
        #: `wait` has returned.
        self.ended = trio.Event()
        if sys.platform == "linux":
            with contextlib.suppress(OSError):
                self._pidfd = os.pidfd_open(process.pid)

    async def wait(self) -> None:
        """Wait until the process has ended."""
        if self._pidfd is None:
            await self.process.wait()
            self._is_reaped = True
        else:
            await trio.lowlevel.wait_readable(self._pidfd)
        self.ended.set()

    async def reap(self) -> None:
        """Wait until the process has ended, and release its number."""
        try:
            await self.process.wait()
        finally:
            self._is_reaped = True
            if self._pidfd is not None:
                trio.lowlevel.notify_closing(self._pidfd)
                os.close(self._pidfd)
                self._pidfd = None

    def terminate(self) -> None:
        """Ask all of them to end. Does nothing once the process has been reaped."""
        if not self._is_reaped:
            with contextlib.suppress(OSError):
                if sys.platform == "win32":
                    self.process.terminate()
                else:
                    os.killpg(self.process.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End all of them at once. Does nothing once the process has been reaped."""
        if not self._is_reaped:
            with contextlib.suppress(OSError):
                if sys.platform == "win32":
                    self.process.terminate()
                else:
                    os.killpg(self.process.pid, signal.SIGKILL)


async def _start(command: Sequence[str]) -> tuple[trio.Process, trio.abc.HalfCloseableStream]:
    if sys.platform == "win32":
        process = await trio.lowlevel.open_process(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdin is not None
        assert process.stdout is not None
        return process, trio.StapledStream(process.stdin, process.stdout)
    ours, theirs = socket.socketpair()
    try:
        # A session of its own: Ctrl-C at our terminal then reaches only this program, which ends the command in good
        # order; and the processes that the command starts can be ended with it.
        process = await trio.lowlevel.open_process(
            command, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, start_new_session=True
        )
        return process, trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()


async def _end_when_closed(group: _Group, stream: _CommandStream) -> None:
    await stream.closed.wait()
    await trio.sleep(_GRACE_SECONDS)
    group.terminate()
    await trio.sleep(_GRACE_SECONDS)
    group.kill()


async def _report_errors(group: _Group, events: EventStream, command: str, everything: trio.CancelScope) -> None:
    """Publish what the process prints to standard error, line by line, until it closes that.

    Ssh passes on what the other machine prints. A flood of lines is read with pauses, so that the command has to wait
    and this program does not.
    """
    stderr = group.process.stderr
    assert stderr is not None
    pace = Pace(trio.current_time())

    def report(line: bytes) -> None:
        if text := printable(line[:_MAX_LINE].decode("utf-8", "replace").strip()):
            events.publish(CommandPrinted(command=command, detail=text))

    line = b""
    while data := await stderr.receive_some(_ERRORS_AT_A_TIME):
        *lines, line = (line + data).split(b"\n")
        for one in lines:
            report(one)
        if len(line) > _MAX_LINE:
            report(line)
            line = b""
        await trio.sleep(pace.take(len(lines), len(data), trio.current_time()))
    if line:
        report(line)
    await group.ended.wait()
    everything.cancel()
