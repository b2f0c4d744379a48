"""Lets the first process stand in for the application, which runs in another process.

Three processes take part:

1. The first process, which was started as ``hybridrelay run``. It passes signals on, stops when the application
   stops, and ends as the application has ended.
2. The client's process, its child, which has a process group of its own. It keeps sessions alive while the
   application is stopped, and terminals do not send it signals.
3. The application's process, which is a child of the second one, and in the process group of the first one: so the
   terminal and the shell treat it as their own.

If the second one is killed, the kernel kills the application (`linux.die_with_parent`), and the first one ends the
programs that the application has started (`descendants.py`). If the first one is killed, the second one ends the
application and these programs. The second one tells the first one what the application does, in the messages below.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket
from collections.abc import Callable
from typing import Final

import trio

from . import linux
from .descendants import children, end_descendants
from .signals import ENDING, Group, is_passed_on

__all__ = ["Messages", "end_like", "follow", "start_client_process"]

#: Messages have this many bytes: a letter, and a number.
_MESSAGE_BYTES: Final = 5
_STARTED, _STOPPED, _ENDED = b"r", b"s", b"e"


class Messages:
    """The messages of the client's process to the first one.

    Args:
        channel: a socket of type SOCK_SEQPACKET.
    """

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel

    def started(self, pid: int, descriptor: int) -> None:
        """Say that the application is being executed in the process `pid`, to which `descriptor` refers."""
        with contextlib.suppress(OSError):  # the first process has ended: this one will, too
            socket.send_fds(self._channel, [_STARTED + pid.to_bytes(4, "big")], [descriptor])

    def stopped(self, number: int) -> None:
        """Say that the application was stopped by a signal."""
        self._send(_STOPPED, number)

    def ended(self, status: int) -> None:
        """Say that the application has ended, with its status as `os.waitpid` returns it."""
        self._send(_ENDED, status)

    async def wait_first_ended(self) -> None:
        """Wait until the first process has ended. It sends nothing."""
        await trio.lowlevel.wait_readable(self._channel)

    def _send(self, kind: bytes, number: int) -> None:
        with contextlib.suppress(OSError):
            self._channel.send(kind + number.to_bytes(4, "big"))


def start_client_process(run: Callable[[Messages], int]) -> tuple[int, socket.socket]:
    """Fork the client's process.

    Args:
        run: called in the new process, which ends with the exit code that it returns.

    Returns:
        The process id, and the socket on which `Messages` of the process arrive.

    Raises:
        OSError: no process can be started.
    """
    # If it is ignored, as a program that started this one may have left it, the status of a child cannot be read.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    linux.become_subreaper()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    first = os.getpid()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            linux.die_with_parent(first)
            ours.close()
            code = run(Messages(theirs))
        finally:
            # Never return into the code of the first process, whose cleanup must not run in this one.
            os._exit(code)
    theirs.close()
    return pid, ours


def follow(client: int, channel: socket.socket) -> tuple[int | None, int]:
    """Do what the application does, until the client's process has ended. All signals have to be blocked.

    If the client's process was killed, or has failed while the application ran, all descendants of this process are
    ended.

    Args:
        client: the client's process.
        channel: the socket with its messages.

    Returns:
        The status of the application, as `os.waitpid` returns it, or None if it was not started; and that of the
        client's process.
    """
    follower = _Follower(client, channel)
    # The program that has executed this one may have had children.
    spared = [pid for pid in children() if pid != client]
    waited = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
    signals = linux.open_signal_descriptor({int(number) for number in waited})
    try:
        poll = select.poll()
        poll.register(channel, select.POLLIN)
        poll.register(signals, select.POLLIN)
        while not follower.is_over:
            for descriptor, _ in poll.poll():
                if descriptor == signals:
                    while (found := signal.sigtimedwait(waited, 0)) is not None:
                        follower.received(found)
                else:
                    follower.heard()
        _, status = os.waitpid(client, 0)
        if follower.status is None or os.WIFSIGNALED(status):
            end_descendants(spared=spared)
    finally:
        os.close(signals)
        if follower.application is not None:
            os.close(follower.application)
    return follower.status, status


class _Follower:
    """The first process."""

    def __init__(self, client: int, channel: socket.socket) -> None:
        self._client = client
        self._channel = channel
        self._pid = 0
        #: Refers to the application's process; None before it is started.
        self.application: int | None = None
        #: The status of the application, when it has ended.
        self.status: int | None = None
        #: Whether the client's process has ended, or closed the socket.
        self.is_over = False

    def heard(self) -> None:
        """Receive a message of the client's process."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self._channel, _MESSAGE_BYTES, 1)
        except ConnectionResetError:
            data, descriptors = b"", []
        kind, number = data[:1], int.from_bytes(data[1:], "big")
        if kind == _STARTED:
            (self.application,) = descriptors
            os.set_inheritable(self.application, False)
            self._pid = number
        elif kind == _STOPPED:
            _stop_like(number)
        elif kind == _ENDED:
            self.status = number
        else:
            self.is_over = True

    def received(self, found: signal.struct_siginfo) -> None:
        """Act on a signal that this process got."""
        number = found.si_signo
        if number == signal.SIGCHLD:
            return
        if self.application is None or self.status is not None:
            if number in ENDING:
                # The application is not running, so the signal can only be meant for this process.
                if self.status is None:
                    self.status = number
                os.kill(self._client, signal.SIGKILL)
            return
        group = Group(os.getpgrp(), os.getpgrp() == os.getpid())
        if is_passed_on(
            code=found.si_code,
            sender=found.si_pid,
            sender_group=_group_of(found.si_pid),
            ours=(self._pid, self._client),
            group=group,
        ):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.application, number)


def _group_of(process: int) -> int | None:
    try:
        return os.getpgid(process) if process > 0 else None
    except ProcessLookupError:
        return None


def _stop_like(number: int) -> None:
    """Stop this process with a signal, so that the shell sees it stop. Returns when it continues."""
    if number == signal.SIGSTOP:
        os.kill(os.getpid(), signal.SIGSTOP)
        return
    os.kill(os.getpid(), number)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    signal.pthread_sigmask(signal.SIG_BLOCK, {number})


def end_like(status: int) -> int:
    """End this process by the signal that has ended the application, or return the exit code that it had.

    Args:
        status: as `os.waitpid` returns it.

    Returns:
        The exit code. It is 128 plus the signal's number if that signal cannot end this process, because it is the
        first one of a container.
    """
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return code
    number = -code
    # Write no core dump: if there is to be one, the application has already written it.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    return 128 + number
