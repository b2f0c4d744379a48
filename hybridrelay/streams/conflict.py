"""Detecting that a task calls an operation of a stream while another task is in it, which is not allowed."""

from __future__ import annotations

from types import TracebackType

import trio


class ConflictDetector:
    """A context manager that raises `trio.BusyResourceError` if another task is inside. It never waits."""

    __slots__ = ("_held", "_message")

    def __init__(self, message: str) -> None:
        self._message = message
        self._held = False

    @property
    def held(self) -> bool:
        """Whether a task is inside now."""
        return self._held

    def __enter__(self) -> None:
        if self._held:
            raise trio.BusyResourceError(self._message)
        self._held = True

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._held = False
