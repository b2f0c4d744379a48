"""The streams of this side that the peer has not answered yet, and the tasks that wait to open others."""

from __future__ import annotations

import trio

__all__ = ["MAX_UNANSWERED", "UnansweredStreams"]

#: How many streams of one session may wait for an answer before others wait to be opened: half of what the peer
#: accepts (`SessionConfig.max_backlog`).
MAX_UNANSWERED = 512


class UnansweredStreams:
    """Limits how many streams of a session wait for an answer. A peer that has very many to answer refuses others."""

    def __init__(self, limit: int = MAX_UNANSWERED) -> None:
        self._limit = limit
        self._ids: set[int] = set()
        #: The tasks that wait to open a stream.
        self._waiting = trio.lowlevel.ParkingLot()
        #: How many tasks have been woken but have not run yet.
        self._woken = 0
        self._is_over = False

    @property
    def may_open_now(self) -> bool:
        """Whether there are few enough, and no task waits to open another one."""
        return self._is_over or (not self._waiting and len(self._ids) + self._woken < self._limit)

    async def wait_to_open(self) -> None:
        """Wait until the caller may open another stream. Tasks that have waited longer come first. Always a
        checkpoint.

        The caller has to open the stream before its next checkpoint. If cancelled, nothing changes.
        """
        if self.may_open_now:
            await trio.lowlevel.checkpoint()
        else:
            await self._waiting.park()
            self._woken -= 1

    def opened(self, stream_id: int) -> None:
        """Note that a stream was opened."""
        self._ids.add(stream_id)

    def answered(self, stream_id: int) -> None:
        """Note that a stream was accepted or refused, or has ended before that. Has no effect on other streams."""
        self._ids.discard(stream_id)
        self._wake(self._limit - len(self._ids) - self._woken)

    def stop_waiting(self) -> None:
        """Let all tasks go on, now and later: the session opens no more streams, and raises an error that says so."""
        self._is_over = True
        self._wake(len(self._waiting))

    def _wake(self, most: int) -> None:
        count = min(most, len(self._waiting))
        if count > 0:
            self._woken += count
            self._waiting.unpark(count=count)
