"""Handles signals from the start of a command to its end.

Until this module has been imported, about 50 ms after the start of the process, every signal has its default effect:
it ends the process. After that:

1. While the arguments are being parsed, the command is not known yet. Signals are remembered until it is.
2. A service (relay, connector, forward) that is not running yet ends with exit code 0 at SIGTERM or SIGINT. SIGHUP
   is remembered as a request to reload. While its event loop runs, `hybridrelay.cli.running` handles the signals.
3. Every other command ends with 128 plus the number of the signal, and undoes what it has prepared. Once it has begun
   to change something (`Signals.hold`), it first completes the change and reports it.
4. When only output is left to be written, a signal ends the process at once.
5. SIGUSR1 does not end a command: it requests statistics from a service.

This module is imported before anything that is slow to import, and imports nothing of that kind.
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
    """The effect of a signal that ends commands."""

    #: The signal is remembered.
    HOLDING = enum.auto()
    #: The signal ends the command with an exception.
    ENDING = enum.auto()
    #: The signal ends the process at once.
    FINISHED = enum.auto()


class Signals:
    """The handlers of the signals that a command may receive."""

    def __init__(self) -> None:
        self._phase = _Phase.HOLDING
        self._is_service = False
        #: The first remembered signal that ends the command; SIGHUP only if there was no other.
        self._pending: signal.Signals | None = None
        self._reload_requested = False

    def install(self) -> dict[signal.Signals, _Handler]:
        """Handle signals from now on. Does nothing outside the main thread, where Python does not handle them.

        Returns:
            The previous handlers.
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
        """Act on signals that were remembered while the arguments were parsed.

        Args:
            is_service: whether the command runs until it is stopped, and reloads at SIGHUP.

        Returns:
            Whether a reload was requested in the meantime.

        Raises:
            SystemExit, KeyboardInterrupt: a signal has ended the command.
        """
        self._is_service = is_service
        if is_service and self._pending is not None and self._pending.name == "SIGHUP":
            self._pending, self._reload_requested = None, True
        self._obey()
        return self._reload_requested

    def hold(self) -> None:
        """Only remember signals from now on: the command is making a change that it must complete and report."""
        self._phase = _Phase.HOLDING

    def release(self) -> None:
        """Act on signals that were remembered since `hold`.

        Raises:
            SystemExit, KeyboardInterrupt: a signal has ended the command.
        """
        if self._phase is _Phase.HOLDING:
            self._obey()

    def finish(self) -> None:
        """Let a signal end the process at once: the command has ended, and only output is left to be written."""
        self._phase = _Phase.FINISHED

    def leave(self) -> None:
        """Ignore signals that must not change the exit code while the interpreter shuts down."""
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
                # SIGHUP may turn out to be a request to reload, so another signal replaces it.
                if self._pending is None or self._pending.name == "SIGHUP":
                    self._pending = got
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
    # nohup ignores SIGHUP, and a shell without job control makes background processes ignore SIGINT.
    return [number for number in found if signal.getsignal(number) is not signal.SIG_IGN]
