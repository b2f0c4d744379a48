"""Data channels whose peer has not proved an identity: their number is limited, and a newcomer may displace another.

Anyone with a key that has the right *Send* can make a connector dial data channels, with or without an identity. The
number of such channels is therefore limited, and channels that never prove an identity do not lock out newcomers:

1. While there is a free place, every newcomer is admitted.
2. When all places are taken, the oldest channel of the holder with the most channels is displaced: at once if the
   newcomer's holder has at least two fewer, otherwise only if that channel is `TENURE_SECONDS` old. Holders are first
   compared by key. If the newcomer's key has the most, its holders are compared by network, and if the newcomer's
   network has the most of these, by address. So a key has no more places because it is used from many addresses.
3. If it is younger, the newcomer is refused. Honest channels need their place for much less time, so this happens
   only while many arrive at the same time, and clients soon try again.
4. A channel that ends without a proof keeps its place until it is `TENURE_SECONDS` old. Otherwise, channels that fail
   immediately could be dialed without a rate limit.
5. While very many channels of the same relay fail, for whatever hybrid connections, no place becomes free by its age.
   So a relay that lies does not make the connector dial more often because it has more hybrid connections.
6. While rule 5 applies, a holder without a place still displaces a channel that is `TENURE_SECONDS` old, unless a
   channel of its own has failed in the last `REMEMBERED_SECONDS`. All hybrid connections of the relay together get
   `FAILURES_PER_SECOND` such places each second, in equal shares. So holders whose channels fail do not keep others
   out.

A holder that has the most channels thus displaces only its own, however often it asks, and no channel keeps its place
by being silent. Holders are distinguished by the name that the relay gives them (`control.Offer.holder`), whose parts
are for key, network and address. If a relay gives no names, all holders count as one.

Rule 5 harms nobody at an honest relay that is busy. Only failures count. A hybrid connection whose channels do not
fail has free places, and one holder's failures do not take the places of another holder (rule 2). If the channels of
at least `MAX_UNPROVEN_CHANNELS` holders of one hybrid connection fail, rule 6 lets others in.
"""

from __future__ import annotations

import math
from collections import Counter

import attrs
import trio

#: How long a channel keeps its place although it has failed, or although a holder with as many channels, or with one
#: fewer, wants another one (seconds). One holder can thus make the connector dial at most limit / TENURE_SECONDS
#: times per second.
TENURE_SECONDS = 1.0
#: So many channels of one relay may fail each second, on average, and so many in a burst, before rule 5 applies.
FAILURES_PER_SECOND = 16.0
MAX_FAILURES = 64.0
#: How long a holder's failure counts in rule 6 (seconds), and how many holders of a hybrid connection are remembered.
REMEMBERED_SECONDS = 30.0
MAX_REMEMBERED = 1024
#: A hybrid connection has a share in the places of rule 6 for this long after it has asked for one (seconds).
ASKING_SECONDS = 10.0


class FairPlaces:
    """The places of rule 6: `FAILURES_PER_SECOND` each second for all hybrid connections of a relay, in equal shares
    for those that ask for them. Times are on Trio's clock."""

    def __init__(self) -> None:
        #: When each hybrid connection has last asked, the longest ago first; and when it may have another place.
        self._asked: dict[object, float] = {}
        self._next: dict[object, float] = {}
        #: When the next place is due, as if they were given out at equal intervals.
        self._due = -math.inf

    def take(self, asking: object, now: float) -> bool:
        """Return whether a hybrid connection may have a place now, which it then has taken."""
        self._asked.pop(asking, None)
        self._asked[asking] = now
        while now - self._asked[oldest := next(iter(self._asked))] > ASKING_SECONDS:
            del self._asked[oldest]
            self._next.pop(oldest, None)
        if now < self._next.get(asking, now) or now < self._due:
            return False
        self._next[asking] = now + len(self._asked) / FAILURES_PER_SECOND
        self._due = max(self._due, now - TENURE_SECONDS) + 1 / FAILURES_PER_SECOND
        return True


class Failures:
    """How many data channels of one relay have ended without a proof, for all its hybrid connections: a count that
    falls by `FAILURES_PER_SECOND`. Times are on Trio's clock."""

    def __init__(self) -> None:
        self.fair_places = FairPlaces()
        self._count = 0.0
        self._counted_at = -math.inf

    def add(self, now: float) -> None:
        """Count one more."""
        self._count = self._left(now) + 1.0
        self._counted_at = now

    def are_too_many(self, now: float) -> bool:
        """Return whether rule 5 applies."""
        return self._left(now) > MAX_FAILURES

    def _left(self, now: float) -> float:
        return max(0.0, self._count - (now - self._counted_at) * FAILURES_PER_SECOND)


@attrs.define(eq=False)
class Newcomer:
    """One channel whose peer has not proved an identity yet."""

    holder: str
    #: When it was admitted, on Trio's clock.
    since: float
    #: Whether it has left because its peer has proved an identity, and whether it has ended without that.
    has_left: bool = False
    has_failed: bool = False
    #: Everything before the proof of identity runs inside this scope. It is cancelled when the channel is displaced.
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)


def choose_displaced(
    present: list[Newcomer], holder: str, now: float, tenure: float = TENURE_SECONDS
) -> Newcomer | None:
    """Return the channel that a newcomer displaces when all places are taken; None if the newcomer is refused.

    See rule 2.

    Args:
        present: the channels, the oldest first; at least one.
        holder: the holder of the newcomer.
        now: on the clock of `Newcomer.since`.
        tenure: how long a channel keeps its place against a holder that has as many channels as its own, or one fewer
            (seconds).
    """
    alike = present
    for length in range(1, holder.count("/") + 2):
        own = _first_parts(holder, length)
        held = Counter(_first_parts(one.holder, length) for one in alike)
        most = max(held.values())
        if held[own] < most:
            oldest = next(one for one in alike if held[_first_parts(one.holder, length)] == most)
            # Two holders with about the same number must not displace each other repeatedly.
            return oldest if held[own] < most - 1 or now - oldest.since >= tenure else None
        alike = [one for one in alike if _first_parts(one.holder, length) == own]
    return alike[0] if now - alike[0].since >= tenure else None


def _first_parts(holder: str, length: int) -> tuple[str, ...]:
    """Return the first parts of the name of a holder."""
    return tuple(holder.split("/", length)[:length])


class UnprovenChannels:
    """The set of channels whose peers have not proved an identity yet.

    `channels.py` uses it with the same rules for the channels of one identity that wait for HELLO.

    Args:
        failures: those of the relay; None: this set has a count of its own.
    """

    def __init__(self, failures: Failures | None = None) -> None:
        self._present: list[Newcomer] = []
        self._failures = Failures() if failures is None else failures
        #: When a channel of a holder has last failed, the longest ago first.
        self._failed_at: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._present)

    def admit(self, holder: str, limit: int) -> Newcomer | None:
        """Admit a newcomer, or return None to refuse it. If another channel is displaced, its scope is cancelled.

        Args:
            holder: the newcomer's holder; "" if it is not known.
            limit: how many channels there may be.
        """
        now = trio.current_time()
        tenure = self._tenure(now)
        self._present = [one for one in self._present if not one.has_failed or now - one.since < tenure]
        while len(self._present) >= limit:
            displaced = choose_displaced(self._present, holder, now, tenure) if self._present else None
            if displaced is None and tenure > TENURE_SECONDS:
                displaced = self._choose_for_newcomer(holder, now)
            if displaced is None:
                return None
            self._present.remove(displaced)
            displaced.scope.cancel()
        newcomer = Newcomer(holder, now)
        self._present.append(newcomer)
        return newcomer

    def _choose_for_newcomer(self, holder: str, now: float) -> Newcomer | None:
        """Return the channel that is displaced according to rule 6, or None."""
        has_failed = now - self._failed_at.get(holder, -math.inf) < REMEMBERED_SECONDS
        if has_failed or any(one.holder == holder for one in self._present):
            return None
        failed = (one for one in self._present if one.has_failed and now - one.since >= TENURE_SECONDS)
        chosen = next(failed, None) or choose_displaced(self._present, holder, now)
        return chosen if chosen is not None and self._failures.fair_places.take(self, now) else None

    def leave(self, one: Newcomer) -> None:
        """Remove a channel whose peer has proved its identity. Idempotent."""
        one.has_left = True
        if one in self._present:
            self._present.remove(one)

    def failed(self, one: Newcomer) -> None:
        """Note that a channel has ended. If it has not left before, that is a failure, and the channel may keep its
        place for a while. Called once for each channel."""
        if one.has_left:
            return
        now = trio.current_time()
        one.has_failed = True
        self._failures.add(now)
        self._failed_at.pop(one.holder, None)
        self._failed_at[one.holder] = now
        if len(self._failed_at) > MAX_REMEMBERED:
            del self._failed_at[next(iter(self._failed_at))]
        if one in self._present and now - one.since >= self._tenure(now):
            self._present.remove(one)

    def _tenure(self, now: float) -> float:
        return math.inf if self._failures.are_too_many(now) else TENURE_SECONDS
