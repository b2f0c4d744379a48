"""SIGHUP makes relay, connector and forward reload what can be changed while they run. It never ends them.

This module is imported before anything that takes long, so that a signal which arrives early does no harm.
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
    """Requests to reload, from the first moment of a program; served one after the other.

    Requests that arrive while one is waiting to be served, or before Trio runs, become a single one. What was changed
    before a request is always read after it.

    SIGHUP is caught even where it was inherited as ignored (``nohup``): a terminal that goes away then causes a
    reload, which is harmless, and ``kill -HUP`` works as everywhere else.
    """

    def __init__(self) -> None:
        self._pending = False
        self._woken: trio.Event | None = None
        self._token: trio.lowlevel.TrioToken | None = None

    @contextlib.contextmanager
    def caught(self) -> Iterator[None]:
        """Take SIGHUP as a request during the block (on Windows there is none)."""
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
        """Ask for a reload. May be called from a signal handler, and before Trio runs."""
        self._pending = True
        if self._token is not None:
            # Where Trio has ended, there is nothing left to be reloaded.
            with contextlib.suppress(RuntimeError):
                self._token.run_sync_soon(self._wake, idempotent=True)

    def _wake(self) -> None:
        if self._woken is not None:
            self._woken.set()

    async def serve(self, reload: Callable[[], Awaitable[None]]) -> None:
        """Call `reload` for each request until cancelled.

        An exception that `reload` raises is a bug: it is published, and ends nothing. Cancelled, a reload that is
        under way is cancelled as well.
        """
        import trio

        from ..events import InternalError
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
                plainly_logged_events().publish(InternalError(where="the reload", exception=exc))


def publish_not_reloaded(error: HybridRelayError) -> None:
    """Publish that something was not reloaded, and why. Only the log gets the event."""
    from ..events import ReloadFailed
    from ..events.plain_log import plainly_logged_events

    plainly_logged_events().publish(ReloadFailed(detail=str(error), remedy=error.remedy or ""))
