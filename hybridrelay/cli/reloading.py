"""Handles SIGHUP in relay, connector and forward: it makes them reload their files, and does not end them.

This module is imported before anything that is slow to import, so that an early signal does not end the program.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import trio

    from ..errors import HybridRelayError


class ReloadRequests:
    """Requests to reload. They are accepted from the start of a program, and served one after the other.

    Requests that arrive while one is waiting to be served, or before Trio runs, are combined into one. Files are
    always read after the latest request, so changes that were made before it are not missed.

    SIGHUP is caught even if the program was started with it ignored (``nohup``). Closing the terminal then causes a
    reload, which is harmless, and ``kill -HUP`` works as usual.
    """

    def __init__(self) -> None:
        self._pending = False
        self._woken: trio.Event | None = None
        self._token: trio.lowlevel.TrioToken | None = None

    @contextlib.contextmanager
    def caught(self) -> Iterator[None]:
        """Treat SIGHUP as a request during the block. Does nothing on Windows, which has no SIGHUP."""
        if sys.platform == "win32":
            yield
            return
        before = signal.signal(signal.SIGHUP, self._handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGHUP, before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.request()

    def request(self) -> None:
        """Request a reload. May be called from a signal handler, and before Trio runs."""
        self._pending = True
        if self._token is not None:
            import trio

            with contextlib.suppress(trio.RunFinishedError):  # there is nothing to reload any more
                self._token.run_sync_soon(self._wake, idempotent=True)

    def _wake(self) -> None:
        if self._woken is not None:
            self._woken.set()

    async def serve(self, reload: Callable[[], Awaitable[None]]) -> None:
        """Call `reload` for each request until cancelled.

        An exception that `reload` raises is a bug: it is published as an event, and serving continues. Cancellation
        also cancels a reload that is in progress.
        """
        import trio

        from .._unexpected_failure import unexpected_failure
        from ..events.plain_log import plainly_logged_events

        self._token = trio.lowlevel.current_trio_token()
        while True:
            self._woken = trio.Event()
            if not self._pending:
                await self._woken.wait()
            self._pending = False
            try:
                await reload()
            except Exception as exc:  # noqa: BLE001
                plainly_logged_events().publish(unexpected_failure("the reload", exc))


def publish_not_reloaded(error: HybridRelayError) -> None:
    """Publish, only to the log, that something was not reloaded, and why."""
    from ..events.plain_log import plainly_logged_events
    from ..events.program import ReloadFailed

    plainly_logged_events().publish(ReloadFailed(detail=str(error), remedy=error.remedy or ""))
