"""Watches the application from the client's process: whether it stops, continues or ends."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import trio

from .following import Messages

__all__ = ["ignore_signals", "watch_application"]


def ignore_signals() -> None:
    """Keep signals that may be meant for the application from ending or stopping the client's process.

    The client's process has to outlive the application.

    A service manager may send SIGTERM to all processes of a service, for example. Handlers are installed, instead of
    ignoring the signals, because programs that this process starts would ignore them as well.
    """
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGTSTP", "SIGUSR1", "SIGUSR2"):
        signal.signal(getattr(signal, name), lambda _number, _frame: None)
    # It is not in the terminal's foreground, and must not be stopped when it writes to the terminal.
    for name in ("SIGTTIN", "SIGTTOU"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())


async def watch_application(pid: int, first: int, messages: Messages, *, reaps: bool) -> int:
    """Wait until the application has ended, and reap it. Return its status, as `os.waitpid` does.

    If cancelled, the application is not affected.

    Args:
        pid: its process, which is a child of this one.
        first: the first process. It is continued when the application is.
        messages: tells the first process what the application does.
        reaps: whether processes of the application may become children of this process, which then reaps them. All
            other children of this process are reaped as well.
    """
    with trio.open_signal_receiver(signal.SIGCHLD) as signals:
        while True:
            if reaps:
                _reap_orphans(pid)
            found, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)  # noqa: ASYNC222 - does not wait
            if not found:
                await anext(signals)
            elif os.WIFSTOPPED(status):
                messages.stopped(os.WSTOPSIG(status))
            elif os.WIFCONTINUED(status):
                # Somebody has continued only the application. The program that has started the first process has to
                # see that.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(first, signal.SIGCONT)
            else:
                return status


def _reap_orphans(application: int) -> None:
    """Reap processes whose parent has ended, and which have become children of this process because of that."""
    for pid in _children():
        if pid != application:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def _children() -> list[int]:
    """Return the children of this process; empty if the kernel does not tell."""
    found: list[int] = []
    for file in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, file.read_text(encoding="ascii").split())
    return found
