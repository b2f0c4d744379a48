"""Watches the application from the client's process: whether it stops, continues or ends."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable

import trio

from . import linux
from .descendants import children, end_descendants
from .following import Messages

__all__ = ["end_with_first", "ignore_signals", "outlive_first", "watch_application"]


def ignore_signals() -> None:
    """Keep signals that may be meant for the application from ending or stopping the client's process.

    The client's process has to outlive the application.

    A service manager may send SIGTERM to all processes of a service, for example. Handlers are installed, instead of
    ignoring the signals, because programs that this process starts would ignore them as well.
    """
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGTSTP", "SIGUSR1", "SIGUSR2"):
        signal.signal(getattr(signal, name), lambda _number, _frame: None)
    # These two are ignored: this process is not in the terminal's foreground, and must not be stopped when it writes
    # to the terminal.
    for name in ("SIGTTIN", "SIGTTOU"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())


def outlive_first(first: int) -> None:
    """Let this process outlive the first one, so that it can end the programs that the application has started.

    Call it before the application is executed, and then `end_with_first`. Before this call, the kernel ends this
    process with the first one, and the application's process with this one, and there are no other processes.
    """
    linux.become_subreaper()
    linux.wake_with_parent(first)


async def end_with_first(messages: Messages) -> None:
    """Wait until the first process has ended. Then end the application, all programs that it has started, and this
    process."""
    await messages.wait_first_ended()
    # This blocks Trio, which does not matter: this process is about to kill itself.
    end_descendants()
    os.kill(os.getpid(), signal.SIGKILL)


async def watch_application(
    pid: int, first: int, messages: Messages, *, belongs_to_client: Callable[[int], bool]
) -> int:
    """Wait until the application has ended, and reap it. Return its status, as `os.waitpid` does.

    If cancelled, the application is not affected.

    Args:
        pid: its process, which is a child of this one.
        first: the first process. It is continued when the application is.
        messages: tells the first process what the application does.
        belongs_to_client: returns whether a child of this process was started by the client, which reaps it itself.
            All other children are programs of the application whose parents have ended. They are reaped here.
    """
    with trio.open_signal_receiver(signal.SIGCHLD) as signals:
        while True:
            _reap_orphans(pid, belongs_to_client)
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


def _reap_orphans(application: int, belongs_to_client: Callable[[int], bool]) -> None:
    """Reap processes whose parent has ended, and which have become children of this process because of that."""
    for pid in children():
        if pid != application and not belongs_to_client(pid):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
