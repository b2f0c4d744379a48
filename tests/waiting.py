"""Waiting for conditions in other processes, which cannot be awaited: the only sleeps of the tests."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

T = TypeVar("T")

_PAUSE_SECONDS = 0.02


def wait_until(condition: Callable[[], T | None], *, seconds: float, what: str) -> T:
    """Poll until `condition` gives something true, and return that.

    Raises:
        TimeoutError: it gave nothing true within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(_PAUSE_SECONDS)
    return result


async def async_wait_until(condition: Callable[[], Awaitable[T | None]], *, seconds: float, what: str) -> T:
    """`wait_until` for a condition that takes its time, while other tasks run."""
    with trio.move_on_after(seconds):
        while not (result := await condition()):
            await trio.sleep(_PAUSE_SECONDS)
        return result
    raise TimeoutError(f"not within {seconds:g} s: {what}")
