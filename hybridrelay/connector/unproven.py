"""Data channels whose peer has not proved an identity: how many there may be, and which one makes room for another.

Anybody who holds a key with the right *Send* can make a connector dial data channels, with or without an identity. So
there are few such channels at a time, and a newcomer is not locked out by those that never prove anything:

1. While there is room, everybody is admitted.
2. When all places are taken, the oldest one of the sender that holds the most is closed: at once if the newcomer's
   sender holds fewer even with the newcomer, otherwise if it is `TENURE_SECONDS` old.
3. If it is younger, the newcomer is refused: honest channels take much less time, so this only happens while many
   arrive at once, and clients ask again after a moment.

So one sender displaces only itself, however often it asks, and no channel keeps a place by being silent. Senders are
distinguished by the name that the relay gives them (`control.Offer.sender`); an older relay gives none, and all count
as one sender.
"""

from __future__ import annotations

from collections import Counter

import attrs
import trio

#: How long a channel keeps its place although its sender asks for another (seconds). Bounds how often one sender can
#: make the connector dial: limit / TENURE_SECONDS.
TENURE_SECONDS = 1.0


@attrs.define(eq=False)
class Newcomer:
    """One channel that has not proved itself yet."""

    sender: str
    #: On trio's clock.
    since: float
    #: Cancelled when it has to make room; its owner does everything before the proof of identity inside this scope.
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)


def who_gives_way(present: list[Newcomer], sender: str, now: float) -> Newcomer | None:
    """The one that a newcomer of `sender` displaces when all places are taken; None refuses the newcomer.

    Args:
        present: the oldest first, at least one.
        sender: whose the newcomer is.
        now: on the clock of `Newcomer.since`.
    """
    held = Counter(one.sender for one in present)
    most = max(held.values())
    own = held[sender] == most
    oldest = next(one for one in present if (one.sender == sender if own else held[one.sender] == most))
    # Two senders that hold about the same must not displace each other without end.
    return oldest if held[sender] < most - 1 or now - oldest.since >= TENURE_SECONDS else None


class Unproven:
    """The channels of one kind that have not proved themselves yet."""

    def __init__(self) -> None:
        self._present: list[Newcomer] = []

    def __len__(self) -> int:
        return len(self._present)

    def admit(self, sender: str, limit: int) -> Newcomer | None:
        """Take a newcomer in, or refuse it (None). Where one gives way, its scope is cancelled at once.

        Args:
            sender: whose it is; "" where that is not known.
            limit: of those that may be present.
        """
        now = trio.current_time()
        while len(self._present) >= limit:
            displaced = who_gives_way(self._present, sender, now) if self._present else None
            if displaced is None:
                return None
            self.leave(displaced)
            displaced.scope.cancel()
        newcomer = Newcomer(sender, now)
        self._present.append(newcomer)
        return newcomer

    def leave(self, one: Newcomer) -> None:
        """It has proved itself, or is over. Idempotent."""
        if one in self._present:
            self._present.remove(one)
