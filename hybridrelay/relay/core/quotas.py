"""Deciding what the quotas of hybrid connections admit, and reporting quotas that are nearly or fully used. Pure.

The rules:

1. When a quota is used up, further requests are refused with a reason that says so. Nothing is ended, unless the
   limits have `end_at_limit`: then sessions end when the bytes of the period are used up.
2. For an existing session, a quota of control channels or pairs may be exceeded, up to twice the limit: the session
   may need a new one when the relay has not noticed yet that the earlier one is dead.
3. There is an event when four fifths of a quota are used, and another when all of it is used. Use must fall below
   seven tenths before the quota can cause such an event again. The same event is not repeated within
   `REPEAT_SECONDS`.

Listeners are admitted by `listeners.py`, because they may displace each other. The transitions are the table below.
Times are seconds of a monotonic clock.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Collection, Iterator, Mapping

import attrs

from ..._value import Value
from ...errors import RendezvousError
from ...events.base import Event
from ...events.quotas import QuotaNear, QuotaReached, RelayQuotaNear, RelayQuotaReached
from ...protocol.reasons import Reason
from ..quotas import NO_EDITIONS, Editions, Limits
from .known import KnownConnections

__all__ = ["REPEAT_SECONDS", "TRANSITIONS", "Level", "QuotaKind", "Quotas", "Use", "classify"]

#: The same event about the same quota is not published again before this time has passed (seconds).
REPEAT_SECONDS = 3600.0


class QuotaKind(enum.Enum):
    """The kinds of quotas."""

    LISTENERS = "listeners"
    SENDERS = "senders"
    SESSIONS = "sessions"
    BYTES = "bytes"
    #: The number of hybrid connections of the relay. Enforced by the store.
    CONNECTIONS = "hybrid connections"


class Level(enum.Enum):
    """The states of a quota."""

    FREE = "free"
    #: Four fifths are used, and this was published.
    NEAR = "near"
    #: All of it is used, and this was published.
    REACHED = "reached"


class Use(enum.Enum):
    """The inputs of a quota: how much of it is used now."""

    #: Less than seven tenths.
    LITTLE = "little"
    #: Four fifths or more.
    MUCH = "much"
    ALL = "all"


#: Inputs that are not in the table change nothing.
TRANSITIONS: Mapping[tuple[Level, Use], Level] = {
    (Level.FREE, Use.MUCH): Level.NEAR,
    (Level.FREE, Use.ALL): Level.REACHED,
    (Level.NEAR, Use.LITTLE): Level.FREE,
    (Level.NEAR, Use.ALL): Level.REACHED,
    (Level.REACHED, Use.LITTLE): Level.FREE,
}

_REASONS = {
    QuotaKind.SENDERS: Reason.SENDER_QUOTA,
    QuotaKind.SESSIONS: Reason.SESSION_QUOTA,
    QuotaKind.BYTES: Reason.TRANSFER_QUOTA,
}
#: The key of the relay as a whole, in place of the name of a hybrid connection.
_RELAY = None


def classify(used: int, limit: int) -> Use | None:
    """Return how much of a quota is used; None between seven tenths and four fifths. `limit` is at least 1."""
    if used >= limit:
        return Use.ALL
    if used * 5 >= limit * 4:
        return Use.MUCH
    return Use.LITTLE if used * 10 < limit * 7 else None


@attrs.frozen
class _Key(Value):
    """Identifies one quota."""

    #: The name of the hybrid connection; None for the relay.
    connection: str | None
    kind: QuotaKind


class Quotas:
    """The quotas of a relay; see the module's docstring.

    Args:
        connections: the hybrid connections. `update` says when they have changed.
        editions: the editions, and the one that the relay uses.
    """

    def __init__(self, connections: KnownConnections, editions: Editions = NO_EDITIONS) -> None:
        #: Until this time, every join that names a listener counts as a join for an existing session. A relay that
        #: has just started does not know the sessions that are about to resume.
        self.lenient_until = -math.inf
        self._connections = connections
        self._editions = editions
        self._levels: dict[_Key, Level] = {}
        #: How much is used of quotas that are not `Level.FREE`, and their limits.
        self._uses: dict[_Key, tuple[int, int]] = {}
        #: When the last event was published, by quota, level and limit.
        self._published: dict[tuple[_Key, Level, int], float] = {}
        self._events: list[Event] = []
        #: The bytes that were moved in this period, by hybrid connection, and for all of them.
        self._bytes: Mapping[str, int] = {}
        self._all_bytes = 0

    def take(self) -> list[Event]:
        """Return the events that have occurred since the last call."""
        events, self._events = self._events, []
        return events

    @property
    def limited(self) -> tuple[str, ...]:
        """The names of hybrid connections for which any limit is set."""
        return tuple(self._connections.limited)

    def update(self, changed: Collection[str], editions: Editions | None, now: float) -> None:
        """Note that the limits of hybrid connections have changed, or those of editions.

        Args:
            changed: the names of hybrid connections that were changed or deleted.
            editions: all editions; None if they have not changed.
            now: the time.
        """
        if editions is not None:
            self._editions = editions
        # Limits may have been removed or raised, so compare the same use with the new limits.
        if editions is not None:
            keys = list(self._uses)
        else:
            keys = [key for name in changed for kind in QuotaKind if (key := _Key(name, kind)) in self._uses]
        for key in keys:
            used, _ = self._uses[key]
            self._note(key, used, self._limit_of(key), now)

    def limits(self, connection: str) -> Limits:
        """Return the limits that are set for a hybrid connection, directly or by its edition."""
        known = self._connections.get(connection)
        return Limits() if known is None else self._editions.set_limits(known.quota)

    # --- use

    def count_bytes(self, by_connection: Mapping[str, int], total: int, now: float) -> None:
        """Note how many bytes were moved in this period, in both directions, by hybrid connection and in total. Call
        `note_bytes` for each of `limited` afterwards."""
        self._bytes, self._all_bytes = by_connection, total
        self._published = {one: at for one, at in self._published.items() if now - at < REPEAT_SECONDS}
        for kind, used in ((QuotaKind.BYTES, total), (QuotaKind.CONNECTIONS, len(self._connections))):
            key = _Key(_RELAY, kind)
            self._note(key, used, self._limit_of(key), now)

    def note_bytes(self, connection: str, now: float) -> None:
        """Note how much a hybrid connection has used of its quota of bytes, according to the last `count_bytes`."""
        self.note(connection, QuotaKind.BYTES, self._bytes.get(connection, 0), now)

    def note(self, connection: str, kind: QuotaKind, used: int, now: float) -> None:
        """Note how much of a quota of a hybrid connection is used now."""
        key = _Key(connection, kind)
        self._note(key, used, self._limit_of(key), now)

    def most_used(self) -> Iterator[tuple[str | None, QuotaKind, int, int]]:
        """Yield the quotas that are not `Level.FREE`: hybrid connection (None: the relay), kind, use and limit."""
        for key, (used, limit) in self._uses.items():
            yield key.connection, key.kind, used, limit

    def is_overdrawn(self, connection: str) -> bool:
        """Return whether the sessions of a hybrid connection have to end, because its bytes are used up."""
        return any(used >= limit and ends for used, limit, ends, _ in self._byte_quotas(connection))

    # --- admission

    def check_sender(self, connection: str, used: int, now: float, *, for_session: bool) -> None:
        """Check whether there may be another control channel of a client.

        Args:
            connection: the hybrid connection.
            used: how many there already are.
            now: the time.
            for_session: whether an existing session needs it; see rule 2.

        Raises:
            RendezvousError: the quota is used up; `reason` and the text say which.
        """
        self._check(connection, QuotaKind.SENDERS, used, now, for_session=for_session)

    def check_session(self, connection: str, used: int, now: float, *, for_session: bool) -> None:
        """Check whether there may be another pair of data channels; see `check_sender`."""
        for moved, limit, ends, is_of_relay in self._byte_quotas(connection):
            if moved >= limit and (ends or not for_session):
                # The refusal must not reveal to users of one hybrid connection how much the others have moved.
                raise _refusal_for_relay() if is_of_relay else _refusal(QuotaKind.BYTES, moved, limit)
        self._check(connection, QuotaKind.SESSIONS, used, now, for_session=for_session)

    def _check(self, connection: str, kind: QuotaKind, used: int, now: float, *, for_session: bool) -> None:
        limit = self._limit(connection, kind)
        if limit is not None and used >= (2 * limit if for_session else limit):
            self.note(connection, kind, used, now)  # so that the status shows why at once
            raise _refusal(kind, used, limit)

    # --- private

    def _limit_of(self, key: _Key) -> int | None:
        if key.connection is not _RELAY:
            return self._limit(key.connection, key.kind)
        edition = self._editions.of_relay
        if edition is None:
            return None
        return edition.connections if key.kind is QuotaKind.CONNECTIONS else edition.limits.bytes_per_month

    def _limit(self, connection: str, kind: QuotaKind) -> int | None:
        limits = self.limits(connection)
        match kind:
            case QuotaKind.LISTENERS:
                return limits.listeners
            case QuotaKind.SENDERS:
                return limits.senders
            case QuotaKind.SESSIONS:
                return limits.sessions
            case QuotaKind.BYTES:
                return limits.bytes_per_month
            case QuotaKind.CONNECTIONS:
                return None

    def _byte_quotas(self, connection: str) -> Iterator[tuple[int, int, bool, bool]]:
        """Yield the quotas of bytes that apply to a session: the used bytes, the limit, whether sessions end, and
        whether it is the quota of the relay for all hybrid connections."""
        limits = self.limits(connection)
        if limits.bytes_per_month is not None:
            yield self._bytes.get(connection, 0), limits.bytes_per_month, limits.end_at_limit is True, False
        edition = self._editions.of_relay
        if edition is not None and edition.limits.bytes_per_month is not None:
            yield self._all_bytes, edition.limits.bytes_per_month, edition.limits.end_at_limit is True, True

    def _note(self, key: _Key, used: int, limit: int | None, now: float) -> None:
        use = Use.LITTLE if limit is None else classify(used, limit)
        before = self._levels.get(key, Level.FREE)
        after = before if use is None else TRANSITIONS.get((before, use), before)
        if after is not Level.FREE and limit is not None:
            self._uses[key] = used, limit
        if after is before:
            return
        self._levels[key] = after
        if after is Level.FREE:
            del self._levels[key]
            self._uses.pop(key, None)
        elif limit is not None and now - self._published.get((key, after, limit), -math.inf) >= REPEAT_SECONDS:
            self._published[key, after, limit] = now
            self._events.append(_event(key, after, used, limit))


def _event(key: _Key, level: Level, used: int, limit: int) -> Event:
    kind = key.kind.value
    if key.connection is _RELAY:
        of_relay = RelayQuotaNear if level is Level.NEAR else RelayQuotaReached
        return of_relay(quota=kind, used=used, limit=limit)
    of_connection = QuotaNear if level is Level.NEAR else QuotaReached
    return of_connection(connection=key.connection, quota=kind, used=used, limit=limit)


def _refusal(kind: QuotaKind, used: int, limit: int) -> RendezvousError:
    return RendezvousError(f"{used} of {limit} {kind.value}", reason=_REASONS[kind])


def _refusal_for_relay() -> RendezvousError:
    text = "all hybrid connections together have used up the bytes that the edition of the relay allows this month"
    return RendezvousError(text, reason=_REASONS[QuotaKind.BYTES])
