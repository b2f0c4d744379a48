"""Runs Trio until the work is done or a signal stops it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator
from types import FrameType

import trio

from .._collector import short_collections
from .._descriptors import raise_descriptor_limit
from .._memory import keep_freed_memory
from .._nursery import FlatNursery
from .._statistics import program_statistics
from ..events.plain_log import plainly_logged_events
from . import async_output, exits, output
from .logs import flush_logs, log_python_messages
from .sd_notify import SystemdNotifier

statistics_logger = logging.getLogger("hybridrelay.statistics")
# The statistics that SIGUSR1 requests are logged at any log level.
statistics_logger.setLevel(logging.INFO)


def _no_cleanup() -> None:
    pass


#: How long after its grace period a program may take to end, before it is cancelled (seconds).
_GRACE_MARGIN = 10.0
#: How long a program that is ended at once waits for the reader of its log (seconds).
_ABORT_FLUSH_SECONDS = 0.2


class GracefulStop:
    """Stops a program gracefully: open connections may continue for a while.

    Until it is armed, there are no connections, and the first signal cancels the program.

    Args:
        grace: how long open connections may continue, in seconds.
    """

    def __init__(self, grace: float) -> None:
        self.grace = grace
        #: Set when the program is to stop.
        self.event = trio.Event()
        self.armed = False
        #: Gets notifications about the state of the program.
        self.systemd = SystemdNotifier()
        #: The status line that systemd shows while the program serves; empty before.
        self._status = ""
        #: Whether systemd waits for the end of a reload, which the next `SystemdNotifier.ready` reports.
        self._is_reloading = False

    def arm(self) -> None:
        """Let the first signal stop the program gracefully, because it is serving now."""
        self.armed = True

    async def say_ready(self, role: str, fields: Iterable[tuple[str, str]]) -> None:
        """Arm the graceful stop, and print the ready line. Stops printing when the program is to stop."""
        self.arm()
        fields = tuple(fields)
        self._status = output.ready_line(role, fields)
        self.systemd.ready(self._status)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cancel_when_stopped, nursery.cancel_scope)
            await async_output.say_ready(role, fields)
            nursery.cancel_scope.cancel()

    def say_changed(self, role: str, fields: Iterable[tuple[str, str]]) -> None:
        """Tell the service manager that the program serves something else now. The arguments are as for
        `say_ready`."""
        if self._status and not self.event.is_set():
            self._status = output.ready_line(role, fields)
            if not self._is_reloading:
                self.systemd.ready(self._status)

    async def _cancel_when_stopped(self, scope: trio.CancelScope) -> None:
        await self.event.wait()
        scope.cancel()

    def unless_stopping(self, reload: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        """Wrap `reload` so that it does nothing when the program is stopping."""

        async def maybe() -> None:
            if self.event.is_set():
                from ..events.program import ReloadSkipped  # imported here, because it is rarely needed

                plainly_logged_events().publish(ReloadSkipped(detail="the program is stopping"))
            elif self._status:
                self.systemd.reloading()
                self._is_reloading = True
                try:
                    await reload()
                finally:
                    self._is_reloading = False
                    # If the program is to stop, this is omitted: systemd would assume that it serves again.
                    if not self.event.is_set():
                        self.systemd.ready(self._status)
            else:
                await reload()

        return maybe


def run_until_stopped(
    main: Callable[[], Awaitable[None]],
    *,
    stop: GracefulStop | None = None,
    on_abort: Callable[[], None] = _no_cleanup,
    reloads: Callable[[], Awaitable[None]] | None = None,
) -> signal.Signals | None:
    """Run `main` in Trio. The first SIGTERM or SIGINT stops it gracefully; the second ends the process at once.

    Without `reloads`, SIGHUP has the same effect. SIGUSR1, on systems that have it, logs `program_statistics`.

    Args:
        main: the function to run. It has to end soon after it is cancelled.
        stop: stopped by the first signal if it is armed. If it is not armed, or None, `main` is cancelled instead.
        on_abort: called before a second signal ends the process at once, to remove what must not be left behind.
        reloads: serves requests to reload (`ReloadRequests.serve`) while `main` runs, and is cancelled when `main`
            returns. SIGHUP is then not handled here.

    Returns:
        The signal that stopped it, or None if it ended by itself.

    Raises:
        exits.EndedWhileServing: `main` has raised an exception, and `stop` is armed.
        Exception: what `main` has raised, if `stop` is not armed.
    """
    keep_freed_memory()
    raise_descriptor_limit()
    stopper = _Stopper(on_abort, stop, reloads)
    with stopper.handlers(), log_python_messages(), short_collections():
        try:
            trio.run(stopper.supervise, main)
        except Exception as exc:
            if stop is None or not stop.armed:
                raise
            raise exits.EndedWhileServing from exc
    return stopper.received


class _Stopper:
    def __init__(
        self,
        on_abort: Callable[[], None],
        stop: GracefulStop | None,
        reloads: Callable[[], Awaitable[None]] | None,
    ) -> None:
        self.received: signal.Signals | None = None
        self._on_abort = on_abort
        self._graceful = stop
        self._reloads = reloads
        self._scope = trio.CancelScope()
        self._token: trio.lowlevel.TrioToken | None = None

    async def supervise(self, main: Callable[[], Awaitable[None]]) -> None:
        self._token = trio.lowlevel.current_trio_token()
        if self.received is not None:  # the signal arrived while Trio was starting
            self._end()
        with self._scope:
            async with FlatNursery() as nursery:
                if self._reloads is not None:
                    nursery.start_soon(self._reloads)
                if self._graceful is not None:
                    nursery.start_soon(self._graceful.systemd.keep_watchdog)
                await main()
                nursery.cancel_scope.cancel()

    @contextlib.contextmanager
    def handlers(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._handle) for number in self._signals()}
        if sys.platform != "win32":
            before[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, self._handle_statistics_request)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _signals(self) -> list[signal.Signals]:
        found = [signal.SIGTERM]
        # A shell without job control makes background processes ignore SIGINT, because Ctrl-C is not meant for them.
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            found.append(signal.SIGINT)
        if sys.platform != "win32" and self._reloads is None:
            # A program that was started with nohup should survive the end of its terminal.
            if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
                found.append(signal.SIGHUP)
        return found

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            self._on_abort()
            flush_logs(_ABORT_FLUSH_SECONDS)
            os._exit(exits.SIGNAL + number)
        self.received = signal.Signals(number)
        if self._token is not None:
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._stop)

    def _handle_statistics_request(self, number: int, frame: FrameType | None) -> None:
        if self._token is not None:
            with contextlib.suppress(trio.RunFinishedError):
                # Signals that arrive before Trio calls this are combined into one request.
                self._token.run_sync_soon(_log_statistics, idempotent=True)

    def _stop(self) -> None:
        assert self.received is not None
        from ..events.program import StopRequested  # imported here, because it is rarely needed

        plainly_logged_events().publish(StopRequested(signal=self.received.name))
        if self._graceful is not None:
            self._graceful.systemd.stopping()
        self._end()

    def _end(self) -> None:
        graceful = self._graceful
        if graceful is None or not graceful.armed:
            self._scope.cancel()
        else:
            graceful.event.set()
            self._scope.deadline = trio.current_time() + graceful.grace + _GRACE_MARGIN


def _log_statistics() -> None:
    try:
        found = program_statistics().as_dict()
    except Exception:
        # This is a bug, but a request for statistics must not end the program, so it must not propagate into Trio.
        statistics_logger.exception("the statistics could not be collected")
    else:
        statistics_logger.info("%s", json.dumps(found), extra={"fields": found})
