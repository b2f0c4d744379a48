"""Makes offers to a listener wait for their turns. `core/offer_queue.py` decides whose turn it is."""

from __future__ import annotations

import trio

from ..core.offer_queue import OfferQueue
from .patience import happens

__all__ = ["WAIT_SECONDS", "OfferTurns"]

#: How long after its beginning a join may still wait for a turn, whichever listener it is offered to (seconds).
#: Tickets are valid for longer, and clients wait longer for the answer.
WAIT_SECONDS = 5.0


class OfferTurns:
    """The turns of the offers over one control channel."""

    def __init__(self) -> None:
        self._queue = OfferQueue()
        #: The offers that wait.
        self._turns: dict[int, trio.Event] = {}
        self._is_lost = False

    async def take(self, number: int, connection: str, holder: str, *, silent_seconds: float, until: float) -> bool:
        """Wait until an offer may be sent. It then counts as unanswered until `answered` or `drop` is called, or
        `FORGET_SECONDS` have passed.

        Args:
            number: the id of the offer; no two offers have the same.
            connection: the name of the hybrid connection.
            holder: see `control.Offer.holder`.
            silent_seconds: how long to wait for a listener that answers nothing.
            until: until when to wait, on Trio's clock. An offer that need not wait may be sent even after this.

        Returns:
            Whether it may be sent; False if the listener has answered nothing for `silent_seconds`.

        Raises:
            trio.TooSlowError: it was not its turn in time, because there are too many others.
            trio.BrokenResourceError: `lost` was called.

        If cancelled, the offer no longer waits.
        """
        turn = self._turns[number] = trio.Event()
        self._queue.add(number, connection, holder)
        self._give()
        may_send = False
        try:
            may_send = await self._wait(turn, silent_seconds, until)
            return may_send
        finally:
            del self._turns[number]
            if not may_send:
                self.drop(number)

    async def _wait(self, turn: trio.Event, silent_seconds: float, until: float) -> bool:
        while not turn.is_set():
            answers, left = self._queue.answers, until - trio.current_time()
            if left > 0 and await happens(turn, min(silent_seconds, left)):
                break
            if left < silent_seconds:  # too short a wait to say that the listener answers nothing
                raise trio.TooSlowError
            if self._queue.answers == answers:
                return False
        if self._is_lost:
            raise trio.BrokenResourceError("the listener's control channel is gone")
        return True

    def drop(self, number: int) -> None:
        """Note that an offer was not sent, although `take` has returned True."""
        self._queue.drop(number)
        self._give()

    def answered(self, number: int) -> None:
        """Note that the listener has answered the offer with this number. Does nothing if no answer to it is
        expected."""
        self._queue.answered(number)
        self._give()

    def lost(self) -> None:
        """End all waits, because the control channel has ended."""
        self._is_lost = True
        for turn in self._turns.values():
            turn.set()

    def _give(self) -> None:
        while (number := self._queue.next(trio.current_time())) is not None:
            self._turns[number].set()
