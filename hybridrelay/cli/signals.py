"""What signals do to a command, from its first moment to its last.

1. While the arguments are parsed, it is not known which command this is. Signals are remembered until it is.
2. A service (relay, connector, forward) that is not running yet ends with exit code 0 at SIGTERM or SIGINT. SIGHUP
   asks it to reload. While its event loop runs, `hybridrelay.cli.running` has its own handlers for them.
3. Every other command ends with 128 and the number of the signal, and undoes what it has prepared. From the moment at
   which it changes something (`Signals.hold`), it first completes the change and reports it.
4. At the end, when only output is left to be written, a signal that ends a command does so at once.
5. SIGUSR1 never ends a command: it is a question to services.

This module is imported before anything that takes long, and imports nothing that does.
"""

from __future__ import annotations

import contextlib
import enum
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from . import exits

_Handler = Callable[[int, FrameType | None], object] | int | None


class _Phase(enum.Enum):
    """What is done with a signal that ends commands."""

    #: It is remembered.
    HOLDING = enum.auto()
    #: It ends the command by an exception.
    ENDING = enum.auto()
    #: It ends the process.
    FINISHED = enum.auto()


class Signals:
    """Handlers of the signals that a command may get."""

    def __init__(self) -> None:
        self._phase = _Phase.HOLDING
        self._is_service = False
        #: The first signal that was to end the command, and has not been obeyed yet.
        self._pending: signal.Signals | None = None
        self._reload_requested = False

    def install(self) -> dict[signal.Signals, _Handler]:
        """Handle signals from now on. Does nothing in a thread other than the main one, which gets none.

        Returns:
            What handled them before.
        """
        if threading.current_thread() is not threading.main_thread():
            return {}
        return {number: signal.signal(number, self._handle) for number in _wanted()}

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Handle signals during the block."""
        before = self.install()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def command_is_known(self, *, is_service: bool) -> bool:
        """Obey what was remembered while the arguments were parsed.

        Args:
            is_service: whether it runs until it is stopped, and reloads at SIGHUP.

        Returns:
            Whether a reload was requested meanwhile.

        Raises:
            SystemExit, KeyboardInterrupt: the command is to end.
        """
        self._is_service = is_service
        if is_service and self._pending is not None and self._pending.name == "SIGHUP":
            self._pending, self._reload_requested = None, True
        self._obey()
        return self._reload_requested

    def hold(self) -> None:
        """From now on, only remember signals: the command changes something that must be completed and reported."""
        self._phase = _Phase.HOLDING

    def release(self) -> None:
        """Obey what was remembered since `hold`.

        Raises:
            SystemExit, KeyboardInterrupt: the command is to end.
        """
        if self._phase is _Phase.HOLDING:
            self._obey()

    def finish(self) -> None:
        """The command has ended, and only output is left to be written."""
        self._phase = _Phase.FINISHED

    def leave(self) -> None:
        """Ignore what must not change the exit code while the interpreter ends."""
        if sys.platform != "win32" and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
            if self._is_service:
                signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def _obey(self) -> None:
        self._phase = _Phase.ENDING
        pending, self._pending = self._pending, None
        if pending is not None:
            self._end(pending)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        got = signal.Signals(number)
        if got.name == "SIGUSR1" or (got.name == "SIGHUP" and self._is_service):
            return
        match self._phase:
            case _Phase.HOLDING:
                self._pending = self._pending or got
            case _Phase.ENDING:
                self._end(got)
            case _Phase.FINISHED:
                os._exit(exits.SIGNAL + number)

    def _end(self, number: signal.Signals) -> None:
        if self._is_service:
            raise SystemExit(exits.OK)
        if number is signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(exits.SIGNAL + number)


def _wanted() -> list[signal.Signals]:
    found = [signal.SIGTERM, signal.SIGINT]
    if sys.platform != "win32":
        found += [signal.SIGHUP, signal.SIGUSR1]
    # nohup ignores SIGHUP, and a shell without job control ignores SIGINT for what it starts in the background.
    return [number for number in found if signal.getsignal(number) is not signal.SIG_IGN]
