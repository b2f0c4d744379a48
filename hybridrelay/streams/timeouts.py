"""Callbacks that are all called after the same time. They share one task, and adding or removing one takes constant
time."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable

import trio

__all__ = ["Timeouts"]

_logger = logging.getLogger(__name__)


class Timeouts:
    """Callbacks that are each called once, `seconds` after they were added, unless they are removed before.

    Args:
        nursery: runs the task, which exists while there are callbacks.
        seconds: the time after which a callback is called.
    """

    def __init__(self, nursery: trio.Nursery, seconds: float) -> None:
        self._nursery = nursery
        self._seconds = seconds
        #: When each is to be called, on Trio's clock: earlier ones come first, since all wait for the same time.
        #: Finding the first one takes constant time, which it does not in a dict that was emptied from its beginning.
        self._pending: OrderedDict[Callable[[], None], float] = OrderedDict()
        self._is_running = False

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, `seconds` from now. If it was already added, the earlier time no longer applies.
        `callback` must neither wait nor raise."""
        self._pending.pop(callback, None)  # added at the end, because the others are called earlier
        self._pending[callback] = trio.current_time() + self._seconds
        if not self._is_running:
            self._is_running = True
            self._nursery.start_soon(self._run)

    def remove(self, callback: Callable[[], None]) -> None:
        """Do not call `callback`. Has no effect if it was already called, or never added."""
        self._pending.pop(callback, None)

    async def _run(self) -> None:
        try:
            while self._pending:
                await trio.sleep_until(next(iter(self._pending.values())))
                now = trio.current_time()
                while self._pending:
                    if next(iter(self._pending.values())) > now:
                        break
                    callback, _ = self._pending.popitem(last=False)
                    try:
                        callback()
                    except Exception:  # above all, if memory has run out; the other callbacks have to be called
                        _logger.exception("a timeout callback has failed")
        finally:
            self._is_running = False
