"""Reporting the ends of a session's streams, in batches, so that many of them do not delay other tasks.

A peer can make many streams end at the same time: it can end many sessions, or acknowledge thousands of streams. Only
the first `BATCH` ends are then reported immediately. A task of the session reports the rest, and takes turns with
others.

A stream that was closed on this side may wait for the peer's acknowledgement before its end is reported. This module
also limits how long it waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice

import trio

from ..protocol import events
from ..streams.turns import MAX_FRAMES, SharedTurns
from .stream_base import SettlingStream

__all__ = ["StreamEnds"]

#: When a stream was closed on this side, the report of its end waits this long for the peer's acknowledgement
#: (seconds).
SETTLING_SECONDS = 5.0
#: How many ends of streams are reported at a time. After each batch, other tasks run.
BATCH = 32
#: The end of a stream counts as this many frames in `SharedTurns`, so that one batch takes a whole turn.
_FRAMES_PER_END = MAX_FRAMES // BATCH


class StreamEnds:
    """Reports the ends of the streams of one session.

    Args:
        turns: the turns of all sessions with the same peer. None: the session does not share its turns.
    """

    def __init__(self, turns: SharedTurns | None) -> None:
        self._turns = turns
        #: Runs `_report_later` and `_stop_waiting`; None unless the session runs.
        self._nursery: trio.Nursery | None = None
        #: Ends that wait to be reported, because many streams ended at the same time.
        self._later: deque[events.StreamAborted | events.StreamSettled] = deque()
        #: Closed streams that wait for an acknowledgement, and the time at which each stops waiting (on Trio's
        #: clock), which increases.
        self._unsettled: dict[SettlingStream, float] = {}
        #: The scope of `_stop_waiting`, while it runs.
        self._waiting: trio.CancelScope | None = None

    def started(self, nursery: trio.Nursery) -> None:
        """Run tasks in `nursery` from now on, until `stopped`."""
        self._nursery = nursery
        self._start_waiting()

    def session_ended(self) -> None:
        """No longer wait for acknowledgements. Ends that wait to be reported are still reported."""
        if self._waiting is not None:
            self._waiting.cancel()

    def stopped(self) -> None:
        """Note that the nursery has ended. From now on, every end is reported immediately."""
        self._nursery = None

    def limit_settling(self, stream: SettlingStream) -> None:
        """Call `stop_waiting` of the stream after `SETTLING_SECONDS`, unless `settled` is called or the session ends
        first. Has no effect if the stream waits already. If the session does not run yet, `stop_waiting` is not
        called before it does."""
        self._unsettled.setdefault(stream, trio.current_time() + SETTLING_SECONDS)
        self._start_waiting()

    def _start_waiting(self) -> None:
        if self._nursery is not None and self._unsettled and self._waiting is None:
            self._waiting = trio.CancelScope()
            self._nursery.start_soon(self._stop_waiting, self._waiting)

    def settled(self, stream: SettlingStream) -> None:
        """Note that the stream no longer waits; see `limit_settling`."""
        self._unsettled.pop(stream, None)

    async def _stop_waiting(self, scope: trio.CancelScope) -> None:
        """Call `stop_waiting` of each waiting stream at its time, until no stream waits."""
        with scope:
            while self._unsettled:
                await trio.sleep_until(next(iter(self._unsettled.values())))
                await self._wait_for_turn()
                now = trio.current_time()
                over = [stream for stream, deadline in islice(self._unsettled.items(), BATCH) if deadline <= now]
                for stream in over:
                    self.settled(stream)
                    stream.stop_waiting()
                    self._count_end()
        self._waiting = None

    def defer(self, happened: Sequence[events.SessionEvent]) -> Sequence[events.SessionEvent]:
        """Take out the ends that are to be reported later. Returns the other events.

        The first `BATCH` ends are not taken out, unless earlier ones still wait, or the turn that sessions with the
        same peer share is over.
        """
        behind = bool(self._later) or self._is_turn_over
        if self._nursery is None or not (behind or len(happened) > BATCH):
            return happened
        ends = [event for event in happened if isinstance(event, events.StreamAborted | events.StreamSettled)]
        later = ends if behind else ends[BATCH:]
        if not later:
            return happened
        if not self._later:
            self._nursery.start_soon(self._report_later)
        self._later.extend(later)
        deferred = {id(event) for event in later}
        return [event for event in happened if id(event) not in deferred]

    def report(self, event: events.StreamAborted | events.StreamSettled) -> None:
        """Report an end to its stream now."""
        if isinstance(event, events.StreamAborted):
            event.stream.observer.on_aborted()
        else:
            event.stream.observer.on_settled()
        self._count_end()

    async def _report_later(self) -> None:
        """Report the ends that `defer` has taken out, in batches. It is shielded from cancellation, so that every
        stream learns of its end."""
        with trio.CancelScope(shield=True):
            while self._later:
                await trio.lowlevel.checkpoint()
                await self._wait_for_turn()
                for _ in range(min(BATCH, len(self._later))):
                    self.report(self._later.popleft())

    def _count_end(self) -> None:
        if self._turns is not None:
            self._turns.count(_FRAMES_PER_END)

    @property
    def _is_turn_over(self) -> bool:
        return self._turns is not None and self._turns.is_over

    async def _wait_for_turn(self) -> None:
        """If the turn that sessions with the same peer share is over, wait for the next one."""
        if self._turns is not None and self._turns.is_over:
            await self._turns.next()
