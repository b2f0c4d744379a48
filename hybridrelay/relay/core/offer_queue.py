"""In which order the offers of a relay are sent to a listener over one control channel. Pure.

A listener reads only some 200 frames a second from a control channel (`mux/pace.py`), for all its hybrid connections
together. If a relay sent offers as fast as clients request sessions, the clients of one hybrid connection could delay
the offers for all other hybrid connections until no client waits for them any more. Therefore:

1. At most `MAX_UNANSWERED` offers are unanswered at a time. The listener reads these in about an eighth of
   a second, and the relay reads its answers in as much time again.
2. The other offers wait. Hybrid connections take turns. When it is a hybrid connection's turn, its keys take turns;
   when it is a key's turn, the networks from which it is used do, and in the same way the addresses of a network. So
   a key has no more turns because it is used from many addresses. A holder's offers are sent in the order in which
   they were added.
3. An offer that was sent counts as unanswered even if nobody waits for the answer any more, because the listener may
   not have read it yet. This ends after `FORGET_SECONDS`, for a listener that never answers.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import attrs

__all__ = ["FORGET_SECONDS", "MAX_UNANSWERED", "OfferQueue"]

MAX_UNANSWERED: Final = 24
FORGET_SECONDS: Final = 10.0


@attrs.define(eq=False)
class _Waiting:
    """The offers that wait and have the same owner, or owners that begin with the same parts."""

    #: By the next part of the owner. The one whose turn is next comes first. Empty if the owner has no more parts.
    parts: OrderedDict[str, _Waiting] = attrs.field(factory=OrderedDict)
    #: The ids of the offers, if the owner has no more parts.
    offers: dict[int, None] = attrs.field(factory=dict[int, None])


class OfferQueue:
    """The offers of one control channel, by their ids; see the module's docstring."""

    def __init__(self) -> None:
        self._waiting = _Waiting()
        #: The owner of each offer that waits: its hybrid connection, and the parts of its holder's name.
        self._owners: dict[int, tuple[str, ...]] = {}
        #: The offers that were sent and not answered, and when they were sent: the earliest first.
        self._sent: dict[int, float] = {}
        #: How many answers there were.
        self.answers = 0

    def __len__(self) -> int:
        """Return how many offers wait."""
        return len(self._owners)

    def add(self, id_: int, connection: str, holder: str) -> None:
        """Add an offer, which waits for its turn.

        Args:
            id_: the id of the offer; no two offers have the same.
            connection: the name of the hybrid connection.
            holder: see `control.Offer.holder`. All names have the same number of parts.
        """
        owner = self._owners[id_] = (connection, *holder.split("/"))
        waiting = self._waiting
        for part in owner:
            waiting = waiting.parts.setdefault(part, _Waiting())
        waiting.offers[id_] = None

    def next(self, now: float) -> int | None:
        """Return the offer that is to be sent now, which counts as unanswered from here on; None if there is none.

        Args:
            now: seconds, on a monotonic clock.
        """
        while self._sent and now - next(iter(self._sent.values())) >= FORGET_SECONDS:
            del self._sent[next(iter(self._sent))]
        if not self._owners or len(self._sent) >= MAX_UNANSWERED:
            return None
        waiting = self._waiting
        while waiting.parts:
            part = next(iter(waiting.parts))
            waiting.parts.move_to_end(part)
            waiting = waiting.parts[part]
        id_ = next(iter(waiting.offers))
        self._stop_waiting(id_)
        self._sent[id_] = now
        return id_

    def drop(self, id_: int) -> None:
        """Remove an offer that was not sent: one that waits, or one that `next` has returned."""
        self._sent.pop(id_, None)
        self._stop_waiting(id_)

    def _stop_waiting(self, id_: int) -> None:
        owner = self._owners.pop(id_, None)
        if owner is None:
            return
        way = [self._waiting]
        for part in owner:
            way.append(way[-1].parts[part])
        del way[-1].offers[id_]
        for part, above, below in zip(reversed(owner), reversed(way[:-1]), reversed(way), strict=False):
            if below.parts or below.offers:
                break
            del above.parts[part]

    def answered(self, id_: int) -> None:
        """Note that an offer was answered. Does nothing if it was not sent, or was forgotten (rule 3)."""
        if self._sent.pop(id_, None) is not None:
            self.answers += 1
