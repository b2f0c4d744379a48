"""Running a command whose standard input and output lead to a relay: the implementation of `Dialer.process`.

The command is given by this machine's administrator. Nothing in it comes from a connection string or a peer.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import trio

from .._environment import without_secrets
from .._nursery import FlatNursery
from .._printable import printable
from .._threads import OutOfThreads, thread_errors
from ..events.connectivity import CommandFailed, CommandPrinted
from ..events.log import logged_events
from ..events.stream import EventStream
from ..mux.pace import Pace

__all__ = ["Commands"]

#: How long a command may take to end after its standard input was closed, and again after SIGTERM (seconds).
_GRACE_SECONDS = 2.0
#: How long standard error is read after the command has ended (seconds): a process that it started may keep it open.
_REST_OF_ERRORS_SECONDS = 0.5
#: The longest line of standard error that is reported as a whole (bytes). Of a longer one, parts are dropped.
_MAX_LINE = 500
#: How much of standard error is read before other tasks run (bytes): at most this many lines, which take a few
#: milliseconds.
_ERRORS_AT_A_TIME = 1024


class Commands:
    """Runs a command, once for each call of `dial`, in the environment of this program without its secrets
    (`_environment.without_secrets`). Use it with `async with`: its processes belong to a nursery of
    the block, and are killed and reaped at its end. (A process that runs as another user cannot be killed.)

    Args:
        command: the program and its arguments; no shell is involved. None: there is no command.
        events: the stream to which events are published; None means one that writes them to the log.
    """

    def __init__(self, command: Sequence[str] | None, *, events: EventStream | None = None) -> None:
        self._events = logged_events() if events is None else events
        self._command = None if command is None else tuple(command)
        self._processes = _Processes()
        #: These two are set during the block.
        self._manager: FlatNursery | None = None
        self._nursery: trio.Nursery | None = None

    @property
    def is_configured(self) -> bool:
        """Whether there is a command."""
        return self._command is not None

    def reaps(self, pid: int) -> bool:
        """Return whether a child of this program is, or may be, a process of the command. Nobody else may reap it:
        its number would no longer belong to it."""
        return self._processes.starting > 0 or pid in self._processes.pids

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
            OSError: the command cannot be started, none is configured, or the block has ended.

        If cancelled, no process is left.
        """
        if self._command is None or self._nursery is None:
            await trio.lowlevel.checkpoint()
            raise OSError(errno.EOPNOTSUPP, "no command is configured for reaching the relay")
        stream: trio.abc.HalfCloseableStream = await self._nursery.start(
            _run, self._command, self._events, self._processes
        )
        return stream


class _Processes:
    """The processes of a command that were not reaped yet."""

    def __init__(self) -> None:
        #: How many are being started, with process ids that are not known yet.
        self.starting = 0
        self.pids: set[int] = set()

    async def start(self, command: Sequence[str]) -> tuple[trio.Process, trio.abc.HalfCloseableStream]:
        """See `_start`. Raises OSError, also if no thread can be started for this."""
        self.starting += 1
        try:
            with thread_errors():
                process, stream = await _start(command)
            self.pids.add(process.pid)
        finally:
            self.starting -= 1
        return process, stream


class _CommandStream(trio.abc.HalfCloseableStream):
    """The standard input and output of a process."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self._stream = stream
        #: The user of this stream has closed it.
        self.closed = trio.Event()
        #: The process has ended and was reaped.
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
        """Close standard input and output, and wait until the process has ended, which is enforced after a few
        seconds. If cancelled, this does not wait for that."""
        self.closed.set()
        await self._stream.aclose()
        await self.reaped.wait()


async def _run(
    command: Sequence[str],
    events: EventStream,
    processes: _Processes,
    *,
    task_status: trio.TaskStatus[trio.abc.HalfCloseableStream],
) -> None:
    """Run one process until its stream is closed or it ends by itself. If cancelled, the process is killed.

    Raises:
        OSError: the process cannot be started.
    """
    process, below = await processes.start(command)
    group = _Group(process)
    stream = _CommandStream(below)
    ended = False
    try:
        task_status.started(stream)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_report_errors, group, events, command[0], nursery.cancel_scope)
            nursery.start_soon(_end_when_closed, group, stream)
            await group.wait()
            # There may be more on standard error to report.
            await trio.sleep(_REST_OF_ERRORS_SECONDS)
            nursery.cancel_scope.cancel()
        ended = True
    finally:
        with trio.CancelScope(shield=True):
            failed_by_itself = ended and not stream.closed.is_set()
            group.kill()
            with trio.move_on_after(_GRACE_SECONDS):  # a process that runs as another user cannot be killed
                await group.reap()
            processes.pids.discard(process.pid)
            if failed_by_itself and process.returncode:
                events.publish(CommandFailed(command=command[0], code=process.returncode))
            stream.reaped.set()
            assert process.stderr is not None
            await trio.aclose_forcefully(process.stderr)
            if not ended:  # cancelled: the stream may not have been returned, or may never be read to its end
                await trio.aclose_forcefully(below)


class _Group:
    """A process and its process group, which contains the processes that it has started, unless they left the group.

    Once the process has been reaped and the group is empty, the system may give its number to another process.
    Signals are therefore sent only before that. Where the system allows it, `wait` does not reap the process.
    """

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        #: Becomes readable when the process ends; None if the system does not offer this.
        self._pidfd: int | None = None
        self._is_reaped = False
        #: `wait` has returned.
        self.ended = trio.Event()
        if sys.platform == "linux":
            with contextlib.suppress(OSError):
                self._pidfd = os.pidfd_open(process.pid)

    async def wait(self) -> None:
        """Wait until the process has ended."""
        if self._pidfd is not None:
            await trio.lowlevel.wait_readable(self._pidfd)
        elif not await _wait_exit(self.process.pid):
            await self.process.wait()
            self._is_reaped = True
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
        """Send SIGTERM to the group. Does nothing once the process has been reaped."""
        if not self._is_reaped:
            with contextlib.suppress(OSError):
                if sys.platform == "win32":
                    self.process.terminate()
                else:
                    os.killpg(self.process.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to the group. Does nothing once the process has been reaped."""
        if not self._is_reaped:
            with contextlib.suppress(OSError):
                if sys.platform == "win32":
                    self.process.terminate()
                else:
                    os.killpg(self.process.pid, signal.SIGKILL)


async def _wait_exit(pid: int) -> bool:
    """Wait, on a system without pidfd, until a child process has ended, and do not reap it.

    Returns:
        False, at once, if this is not possible here.
    """
    if sys.platform == "darwin":  # as Trio does before it reaps a process
        exits = select.kevent(
            pid, select.KQ_FILTER_PROC, select.KQ_EV_ADD | select.KQ_EV_ONESHOT, select.KQ_NOTE_EXIT
        )
        kqueue = trio.lowlevel.current_kqueue()

        def abort(_: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
            exits.flags = select.KQ_EV_DELETE
            kqueue.control([exits], 0)
            return trio.lowlevel.Abort.SUCCEEDED

        try:
            kqueue.control([exits], 0)
        except ProcessLookupError:  # it is ending at this moment
            return True
        await trio.lowlevel.wait_kevent(pid, select.KQ_FILTER_PROC, abort)
        return True
    waitid = getattr(os, "waitid", None)
    if waitid is None:
        return False
    try:
        with thread_errors():
            await trio.to_thread.run_sync(
                waitid, os.P_PID, pid, os.WEXITED | os.WNOWAIT,
                abandon_on_cancel=True, limiter=trio.CapacityLimiter(1),
            )  # fmt: skip
    except OutOfThreads:
        return False
    return True


async def _start(command: Sequence[str]) -> tuple[trio.Process, trio.abc.HalfCloseableStream]:
    if sys.platform == "win32":
        process = await trio.lowlevel.open_process(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=without_secrets()
        )
        assert process.stdin is not None
        assert process.stdout is not None
        return process, trio.StapledStream(process.stdin, process.stdout)
    ours, theirs = socket.socketpair()
    try:
        # In a session of its own, the command does not receive Ctrl-C from our terminal, so this program can end it
        # gracefully, together with the processes that the command has started.
        process = await trio.lowlevel.open_process(
            command, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, start_new_session=True,
            env=without_secrets(),
        )  # fmt: skip
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
    """Publish what the process prints to standard error, line by line, until standard error is closed.

    With ssh, this includes what the other machine prints. A flood of lines is read with pauses, so that it slows down
    the command rather than this program.
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
