"""The queue of streams that the peer wants to open and that have not been accepted or refused yet."""

from __future__ import annotations

from collections import deque
from typing import Generic, Protocol, TypeVar

import trio

__all__ = ["OfferQueue"]


class _Withdrawable(Protocol):
    @property
    def is_withdrawn(self) -> bool: ...


OfferT = TypeVar("OfferT", bound=_Withdrawable)


class OfferQueue(trio.abc.ReceiveChannel[OfferT], Generic[OfferT]):
    """A bounded queue whose entries the peer can withdraw. Withdrawn entries are never received and do not count.

    A peer may open and reset streams faster than they can be processed, by accident or on purpose. If withdrawn
    entries stayed in the queue, streams opened later would be refused because the queue is full.
    """

    def __init__(self, limit: int) -> None:
        """Make an empty queue for at most `limit` offers, at least 1."""
        self._limit = limit
        self._offers: deque[OfferT] = deque()
        self._is_closed = False
        self._changed = trio.Event()

    def put(self, offer: OfferT) -> bool:
        """Append an offer. Returns False if the queue is full or closed; the caller then has to refuse the offer."""
        if len(self._offers) >= self._limit:
            self._offers = deque(one for one in self._offers if not one.is_withdrawn)
        if self._is_closed or len(self._offers) >= self._limit:
            return False
        self._offers.append(offer)
        self._wake()
        return True

    def close(self) -> None:
        """Accept no more offers: `receive` raises once the queue is empty."""
        self._is_closed = True
        self._wake()

    async def receive(self) -> OfferT:
        """Wait for the next offer. If cancelled, no offer is taken from the queue.

        Raises:
            trio.EndOfChannel: the queue is empty, and the session has ended.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        waited = False
        while True:
            offer = self._next()
            if offer is not None or self._is_closed:
                if not waited:
                    await trio.lowlevel.cancel_shielded_checkpoint()
                if offer is None:
                    raise trio.EndOfChannel
                return offer
            await self._changed.wait()
            waited = True

    def _next(self) -> OfferT | None:
        while self._offers:
            offer = self._offers.popleft()
            if not offer.is_withdrawn:
                return offer
        return None

    async def aclose(self) -> None:
        """Accept no more offers. Those that are already in the queue can still be received."""
        self.close()
        await trio.lowlevel.checkpoint()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
