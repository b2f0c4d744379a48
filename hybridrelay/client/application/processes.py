"""Starts the application's process, prepares it, and executes the application in it.

The process is forked before Trio and threads start, because only a process with one thread can enter a user
namespace, and because a fork copies only one thread. Before it executes the application, it waits for a message on a
socket whose other end only its parent has. If the parent ends, it ends as well: while it waits, because the socket
ends, and at any time because the kernel kills it (`die_with_parent`).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any, Final, NoReturn

import attrs

from ..._environment import SECRET_VARIABLES
from . import linux
from .addresses import Published
from .namespaces import enter_mounts, enter_namespaces, open_private_listeners
from .networks import NetworkSetup
from .seccomp import UnsupportedMachine, filter_program

__all__ = [
    "NOT_EXECUTABLE",
    "NOT_FOUND",
    "NotPrepared",
    "Prepared",
    "begin_application",
    "execute",
    "without_signals",
]

#: The exit codes of shells for an application that cannot be executed, and for one that does not exist.
NOT_EXECUTABLE: Final = 126
NOT_FOUND: Final = 127
#: Messages are JSON, and shorter than this (bytes).
_MAX_MESSAGE = 16 * 1024
#: The limit of the kernel for one message (SCM_MAX_FD).
_MAX_DESCRIPTORS = 253
#: The message with the last descriptors, and the one after which more follow.
_LAST, _MORE = b"{}", b'{"more": true}'
_SHELL = "/bin/sh"
#: Python ignores these signals, and other programs do not expect that.
_IGNORED_BY_PYTHON = ("SIGPIPE", "SIGXFZ", "SIGXFSZ")


class NotPrepared(Exception):
    """The application's process could not be prepared. `step` names what has failed."""

    def __init__(self, step: str, number: int, text: str) -> None:
        super().__init__(f"{step}: {text}")
        self.step = step
        self.number = number
        self.text = text


def without_signals() -> set[signal.Signals]:
    """Block all signals of this thread, and return those that were blocked before.

    Signals that report an error of the process itself cannot be blocked usefully, and are left out.
    """
    errors = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSYS, signal.SIGTRAP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - errors)
    return {signal.Signals(number) for number in before}


@attrs.define
class Prepared:
    """The application's process, which waits until it may execute the application."""

    pid: int
    #: A pidfd: it refers to this process even after the process id was given to another one.
    descriptor: int
    #: A listener for each published address, if the process has a network of its own.
    listeners: list[socket.socket]
    #: The socket of the name server in that network; None if there is no such network.
    names: socket.socket | None
    #: The descriptor with notifications about its calls of connect(2); None if they are not intercepted.
    notifications: int | None
    _channel: socket.socket

    def release(self) -> None:
        """Let the process execute the application. Does not wait. `failure` says later if it could not."""
        # If this fails, the process was killed, which is noticed by waiting for its end.
        with contextlib.suppress(OSError):
            self._channel.send(b"{}")

    def channel(self) -> socket.socket:
        """Return the socket that ends when the application is executed, or has a message if it cannot be executed."""
        return self._channel

    def failure(self) -> OSError | None:
        """Return why the application could not be executed; None if it was, or if the process has ended.

        Waits until one of these is known.
        """
        try:
            message = self._channel.recv(_MAX_MESSAGE)
        except ConnectionResetError:
            return None
        if not message:
            return None
        found = json.loads(message)
        return OSError(found["errno"], os.strerror(found["errno"]))

    def close(self) -> None:
        """Close what belongs to this process. The process ends if it was not released."""
        self._channel.close()
        for one in (*self.listeners, *(() if self.names is None else (self.names,))):
            one.close()
        for number in (self.descriptor, *(() if self.notifications is None else (self.notifications,))):
            os.close(number)


def begin_application(
    argv: Sequence[str], published: Published, setup: NetworkSetup, *, mask: set[signal.Signals]
) -> Prepared:
    """Fork the application's process, and wait until it is prepared.

    Args:
        argv: the application and its arguments.
        published: the hosts that it is to see.
        setup: what is set up for it.
        mask: the signals that are blocked for the application.

    Raises:
        NotPrepared: a step failed. No process is left.
        OSError: no process can be started.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        parent = os.getpid()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            ours.close()
            _be_application(theirs, parent, argv, published, setup, mask)
        theirs.close()
        try:
            return _receive(ours, pid, published, setup)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise


def _receive(channel: socket.socket, pid: int, published: Published, setup: NetworkSetup) -> Prepared:
    rest: list[int] = []
    with contextlib.ExitStack() as opened:
        opened.callback(_close_all, rest)
        while _receive_some(channel, rest):
            pass
        duplicate = opened.enter_context(channel.dup())
        process = os.pidfd_open(pid)
        opened.pop_all()
    notifications = rest.pop() if setup.intercepts else None
    sockets = [socket.socket(fileno=number) for number in rest]
    assert len(sockets) == (len(published.addresses) + 1 if setup.has_network else 0)
    names = sockets.pop() if setup.has_network else None
    return Prepared(pid, process, sockets, names, notifications, duplicate)


def _close_all(descriptors: Sequence[int]) -> None:
    for number in descriptors:
        os.close(number)


def _receive_some(channel: socket.socket, descriptors: list[int]) -> bool:
    """Receive one message with descriptors, which are added. Returns whether more messages follow.

    Raises:
        NotPrepared: see `begin_application`.
    """
    try:
        data, some, _, _ = socket.recv_fds(channel, _MAX_MESSAGE, _MAX_DESCRIPTORS)
    except ConnectionResetError:
        data, some = b"", []
    descriptors += some
    if not data:
        raise NotPrepared("fork", errno.ECHILD, "the process was killed while it was being prepared")
    message = json.loads(data)
    if "step" in message:
        raise NotPrepared(message["step"], message["errno"], message["text"])
    for number in some:
        os.set_inheritable(number, False)  # Python does not do this for descriptors that are received
    return data == _MORE


def _send_descriptors(channel: socket.socket, descriptors: Sequence[int]) -> None:
    while len(descriptors) > _MAX_DESCRIPTORS:
        socket.send_fds(channel, [_MORE], descriptors[:_MAX_DESCRIPTORS])
        descriptors = descriptors[_MAX_DESCRIPTORS:]
    socket.send_fds(channel, [_LAST], descriptors)


def _be_application(
    channel: socket.socket,
    parent: int,
    argv: Sequence[str],
    published: Published,
    setup: NetworkSetup,
    mask: set[signal.Signals],
) -> NoReturn:
    """Prepare this process, wait, and execute the application."""
    code = NOT_EXECUTABLE
    try:
        linux.die_with_parent(parent)
        try:
            kept = _prepare(published, setup)
            # Once more, because entering a user namespace may have cleared this setting.
            linux.die_with_parent(parent)
        except UnsupportedMachine as exc:
            _send(channel, {"step": "seccomp", "errno": errno.ENOSYS, "text": str(exc)})
        except OSError as exc:
            step = str(exc.filename or "fork")
            _send(channel, {"step": step, "errno": exc.errno or 0, "text": exc.strerror or str(exc)})
        else:
            sockets, notifications = kept
            descriptors = [*(one.fileno() for one in sockets), *([] if notifications is None else [notifications])]
            _send_descriptors(channel, descriptors)
            for one in sockets:
                one.close()
            if notifications is not None:
                os.close(notifications)
            if channel.recv(_MAX_MESSAGE):
                for name in SECRET_VARIABLES:
                    os.environ.pop(name, None)
                _restore_signals(mask)
                failure = execute(argv)
                code = NOT_FOUND if failure.errno == errno.ENOENT else NOT_EXECUTABLE
                _send(channel, {"errno": failure.errno})
    finally:
        # Never return into the code of the parent, whose cleanup must not run in this process.
        os._exit(code)


def _prepare(published: Published, setup: NetworkSetup) -> tuple[list[socket.socket], int | None]:
    """Prepare this process for the application. Returns the listeners with the name server's socket, and the
    descriptor with notifications.

    Raises:
        OSError, UnsupportedMachine: a step failed.
    """
    sockets: list[socket.socket] = []
    if setup.has_mounts:
        enter_namespaces(network=setup.has_network)
        nameserver = enter_mounts(published, alone=setup.has_network)
        if setup.has_network:
            listeners, names = open_private_listeners(published.private_addresses, nameserver)
            sockets = [*listeners, names]
    linux.forbid_new_privileges()
    return sockets, linux.notify_listener(filter_program(platform.machine())) if setup.intercepts else None


def _send(channel: socket.socket, message: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # the parent has ended
        channel.send(json.dumps(message).encode())


def _restore_signals(mask: set[signal.Signals]) -> None:
    """Restore the dispositions of signals that they had when the program was started.

    Signals that Python handles get their default disposition. Those that were ignored stay ignored.
    """
    for name in _IGNORED_BY_PYTHON:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def execute(argv: Sequence[str]) -> OSError:
    """Execute a program in this process, as a shell does. Returns only if that is not possible, with the cause.

    A name without a slash is looked for in PATH. A file whose format the kernel does not know is run as a shell
    script.
    """
    name = argv[0]
    directories = [""] if "/" in name else os.get_exec_path()
    failure: OSError = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
    for directory in directories:
        path = os.path.join(directory, name) if directory or "/" in name else f"./{name}"
        try:
            os.execv(path, list(argv))  # noqa: S606
        except OSError as exc:
            if exc.errno == errno.ENOEXEC:
                try:
                    os.execv(_SHELL, [_SHELL, path, *argv[1:]])  # noqa: S606
                except OSError as shell_exc:
                    return shell_exc
            if exc.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
                return exc
            # As in a shell, a directory that this user may not enter counts as having no program. But there may be a
            # file that is not executable.
            if exc.errno == errno.EACCES and ("/" in name or os.path.isfile(path)):
                failure = exc  # perhaps it is in another directory
    return failure
