"""Rendezvous: bringing the two data channels of one join together by one-time tickets. Pure.

The rules:

1. A rendezvous has two tickets, one for each side: the relay's id, and 224 random bits. A ticket is good for one use,
   within the lifetime. A use that comes second, or late, is refused and changes nothing.
2. Only hashes of tickets are kept: a lookup takes as long for a ticket that is nearly right as for any other, and a
   copy of the relay's memory opens no channel. The relay's id is not secret, and is compared openly.
3. A rendezvous is *open* from its creation until both sides have come, and counts against limits of its own then.
   Until it ends, it has one of the places for pairs of data channels (`Places`), which its sender's key takes.
4. Every rendezvous ends in exactly one `Outcome`: the unit of the relay's log and of its statistics.

The transitions are the table below; a pair that is not in it is impossible and changes nothing. Time and randomness
are arguments. Times are seconds of any clock that does not run backwards.
"""

from __future__ import annotations

import enum
import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping

import attrs

from ...errors import RendezvousError
from ...protocol.errors import RemoteProtocolError
from ...protocol.preamble import NO_RELAY, RELAY_ID_SIZE, TICKET_SIZE, relay_of_ticket
from ...protocol.reasons import Reason
from ..limits import OPEN_RENDEZVOUS, OPEN_RENDEZVOUS_PER_SENDER_KEY, TICKET_LIFETIME_SECONDS
from ..model import KeyId
from .places import Places

__all__ = ["TRANSITIONS", "Ended", "Event", "Leg", "Outcome", "Rendezvous", "RendezvousTable", "Side", "State"]


class Side(enum.Enum):
    """The two sides of a rendezvous."""

    LISTENER = "listener"
    SENDER = "sender"


class State(enum.Enum):
    """Where a rendezvous stands."""

    #: Nobody has come.
    OFFERED = "offered"
    LISTENER_WAITS = "listener waits"
    SENDER_WAITS = "sender waits"
    #: Both have come, and their channels are being pumped.
    JOINED = "joined"
    ENDED = "ended"


class Event(enum.Enum):
    """What can happen to a rendezvous, apart from the arrival of a side, which needs a ticket."""

    #: The ticket's lifetime is over.
    EXPIRES = "expires"
    #: The one that waited hung up.
    WAITING_LEAVES = "waiting leaves"
    #: The relay gave up: the listener was passed over, or could not dial.
    WITHDRAWN = "withdrawn"
    #: A key by which one of the two was authorized has gone.
    REVOKED = "revoked"
    #: Both directions came to their end of file.
    FINISHES = "finishes"
    #: One of the two joined channels broke.
    BREAKS = "breaks"
    #: The relay stops.
    SHUTDOWN = "shutdown"


class Outcome(enum.Enum):
    """How a rendezvous ended."""

    FINISHED = "finished"
    BROKEN = "broken"
    NOBODY_CAME = "nobody came"
    LISTENER_ABSENT = "listener absent"
    SENDER_ABSENT = "sender absent"
    WAITING_LEFT = "waiting left"
    WITHDRAWN = "withdrawn"
    REVOKED = "revoked"
    SHUT_DOWN = "shut down"


#: What a side that waits is told. REVOKED is for the side whose own key it was; see `RendezvousTable.revoke`.
_REASONS = {
    Outcome.FINISHED: Reason.NO_ERROR,
    Outcome.BROKEN: Reason.SESSION_LOST,
    Outcome.NOBODY_CAME: Reason.PEER_ABSENT,
    Outcome.LISTENER_ABSENT: Reason.PEER_ABSENT,
    Outcome.SENDER_ABSENT: Reason.PEER_ABSENT,
    Outcome.WAITING_LEFT: Reason.PEER_ABSENT,
    Outcome.WITHDRAWN: Reason.LISTENER_CANNOT_DIAL,
    Outcome.REVOKED: Reason.KEY_REVOKED,
    Outcome.SHUT_DOWN: Reason.GOING_AWAY,
}

_OPEN = (State.OFFERED, State.LISTENER_WAITS, State.SENDER_WAITS)
_ENDS_ANYWHERE: Mapping[tuple[State, Side | Event], tuple[State, Outcome | None]] = {
    (state, event): (State.ENDED, outcome)
    for state in (*_OPEN, State.JOINED)
    for event, outcome in ((Event.REVOKED, Outcome.REVOKED), (Event.SHUTDOWN, Outcome.SHUT_DOWN))
}

#: What an event, or the coming of a side, does in each state: the next state, and the outcome where that is the end.
TRANSITIONS: Mapping[tuple[State, Side | Event], tuple[State, Outcome | None]] = {
    (State.OFFERED, Side.LISTENER): (State.LISTENER_WAITS, None),
    (State.OFFERED, Side.SENDER): (State.SENDER_WAITS, None),
    (State.LISTENER_WAITS, Side.SENDER): (State.JOINED, None),
    (State.SENDER_WAITS, Side.LISTENER): (State.JOINED, None),
    (State.OFFERED, Event.EXPIRES): (State.ENDED, Outcome.NOBODY_CAME),
    (State.LISTENER_WAITS, Event.EXPIRES): (State.ENDED, Outcome.SENDER_ABSENT),
    (State.SENDER_WAITS, Event.EXPIRES): (State.ENDED, Outcome.LISTENER_ABSENT),
    (State.LISTENER_WAITS, Event.WAITING_LEAVES): (State.ENDED, Outcome.WAITING_LEFT),
    (State.SENDER_WAITS, Event.WAITING_LEAVES): (State.ENDED, Outcome.WAITING_LEFT),
    (State.OFFERED, Event.WITHDRAWN): (State.ENDED, Outcome.WITHDRAWN),
    (State.LISTENER_WAITS, Event.WITHDRAWN): (State.ENDED, Outcome.WITHDRAWN),
    (State.SENDER_WAITS, Event.WITHDRAWN): (State.ENDED, Outcome.WITHDRAWN),
    (State.JOINED, Event.FINISHES): (State.ENDED, Outcome.FINISHED),
    (State.JOINED, Event.BREAKS): (State.ENDED, Outcome.BROKEN),
    **_ENDS_ANYWHERE,
}

_WAITING = {State.LISTENER_WAITS: Side.LISTENER, State.SENDER_WAITS: Side.SENDER}


@attrs.frozen
class Rendezvous:
    """What `RendezvousTable.create` made. The tickets do not print, and are kept nowhere else."""

    #: 32 hexadecimal digits that nobody can guess; not secret, fit for logs.
    id: str
    #: The name of the hybrid connection.
    connection: str
    listener_key: KeyId
    sender_key: KeyId
    expires_at: float
    listener_ticket: bytes = attrs.field(repr=False)
    sender_ticket: bytes = attrs.field(repr=False)


@attrs.frozen
class Leg:
    """A ticket was used: whose it was, and whether the other side is here already."""

    rendezvous_id: str
    connection: str
    side: Side
    #: True for the second of the two: now join them.
    joined: bool


@attrs.frozen
class Ended:
    """A rendezvous is over."""

    rendezvous_id: str
    connection: str
    outcome: Outcome
    #: The side that had come and waited, and is still to be told; None where there is none.
    waiting: Side | None
    #: What to tell it.
    reason: Reason


@attrs.define(eq=False)
class _Entry:
    id: str
    connection: str
    sender_key: KeyId
    keys: Mapping[Side, KeyId]
    expires_at: float
    #: Hashes of the tickets that nobody has used.
    tickets: dict[Side, bytes] = attrs.field(repr=False)
    state: State = State.OFFERED


def _hash(ticket: bytes) -> bytes:
    return hashlib.sha256(ticket).digest()


class RendezvousTable:
    """All rendezvous of a relay that have not ended. The methods are of three kinds:

    - `create` and `use` answer a peer, and raise where it gets a refusal.
    - `expire`, `end`, `revoke` and `end_all` tell of something that happened; they return what ended by it.
    - `next_deadline`, `open` and `joined` only look.
    """

    def __init__(
        self,
        relay_id: bytes,
        *,
        token_bytes: Callable[[int], bytes],
        lifetime: float = TICKET_LIFETIME_SECONDS,
        max_open: int = OPEN_RENDEZVOUS,
        max_open_per_sender_key: int = OPEN_RENDEZVOUS_PER_SENDER_KEY,
        places: Places | None = None,
    ) -> None:
        """Make an empty table.

        Args:
            relay_id: of this relay, `RELAY_ID_SIZE` bytes.
            token_bytes: that many bytes that nobody can predict: `secrets.token_bytes`.
            lifetime: of a ticket, in seconds.
            max_open: limit on open rendezvous in total.
            max_open_per_sender_key: limit on open rendezvous that one sender key has asked for.
            places: for those that have not ended; None means that their number has no limit.
        """
        self._relay_id = relay_id
        self._token_bytes = token_bytes
        self._lifetime = lifetime
        self._max_open = max_open
        self._max_open_per_sender_key = max_open_per_sender_key
        self._places = places
        self._entries: dict[str, _Entry] = {}
        # In order of creation, which is the order of expiry because the lifetime is one constant.
        self._open: dict[str, _Entry] = {}
        self._open_by_sender_key: Counter[KeyId] = Counter()
        self._by_ticket: dict[bytes, tuple[_Entry, Side]] = {}

    @property
    def open(self) -> int:
        """Rendezvous that wait for one side or both."""
        return len(self._open)

    @property
    def joined(self) -> int:
        """Rendezvous whose two sides have come."""
        return len(self._entries) - len(self._open)

    def create(self, connection: str, listener_key: KeyId, sender_key: KeyId, now: float) -> Rendezvous:
        """Make a rendezvous between a listener and a sender that have both been authorized.

        Raises:
            RendezvousError: with `Reason.LIMIT` this sender key has too many open, or there is no place for this key
                or hybrid connection; with `Reason.BUSY` the relay has too many open. Nothing has changed.
        """
        if self._open_by_sender_key[sender_key] >= self._max_open_per_sender_key:
            raise RendezvousError(
                f"the key {sender_key.rule!r} has too many rendezvous that have not been joined", reason=Reason.LIMIT
            )
        if len(self._open) >= self._max_open:
            raise RendezvousError("the relay has too many open rendezvous", reason=Reason.BUSY)
        if self._places is not None:
            self._places.take(sender_key)
        made = Rendezvous(
            id=self._token_bytes(16).hex(),
            connection=connection,
            listener_key=listener_key,
            sender_key=sender_key,
            expires_at=now + self._lifetime,
            listener_ticket=self._new_ticket(),
            sender_ticket=self._new_ticket(),
        )
        tickets = {Side.LISTENER: _hash(made.listener_ticket), Side.SENDER: _hash(made.sender_ticket)}
        keys = {Side.LISTENER: listener_key, Side.SENDER: sender_key}
        entry = _Entry(made.id, connection, sender_key, keys, made.expires_at, tickets)
        self._entries[made.id] = self._open[made.id] = entry
        self._open_by_sender_key[sender_key] += 1
        for side, hashed in tickets.items():
            self._by_ticket[hashed] = (entry, side)
        return made

    def _new_ticket(self) -> bytes:
        return self._relay_id + self._token_bytes(TICKET_SIZE - RELAY_ID_SIZE)

    def use(self, ticket: bytes, now: float) -> Leg:
        """Use a ticket that came in a preamble.

        Raises:
            RemoteProtocolError: nothing has changed. With `Reason.TICKET_OF_ANOTHER_RELAY`, it names another relay;
                with `Reason.TICKET_UNKNOWN`, it is unknown, used, expired or withdrawn. The peer is not told which of
                these.
        """
        if relay_of_ticket(ticket) not in (self._relay_id, NO_RELAY):
            raise RemoteProtocolError(Reason.TICKET_OF_ANOTHER_RELAY.describe, reason=Reason.TICKET_OF_ANOTHER_RELAY)
        hashed = _hash(ticket)
        found = self._by_ticket.get(hashed)
        if found is None or now >= found[0].expires_at:
            raise RemoteProtocolError("the ticket is unknown, used or expired", reason=Reason.TICKET_UNKNOWN)
        entry, side = found
        del self._by_ticket[hashed]
        del entry.tickets[side]
        self._apply(entry, side)
        return Leg(entry.id, entry.connection, side, entry.state is State.JOINED)

    def next_deadline(self) -> float | None:
        """When `expire` has something to do next; None while nothing is open."""
        return next((entry.expires_at for entry in self._open.values()), None)

    def expire(self, now: float) -> list[Ended]:
        """End what nobody came to in time."""
        late = list(itertools.takewhile(lambda entry: entry.expires_at <= now, self._open.values()))
        return self._end_each(late, Event.EXPIRES)

    def end(self, rendezvous_id: str, event: Event) -> Ended | None:
        """Something other than a use or a key happened; None where that cannot end the rendezvous in its state.

        A rendezvous that has ended already stays as it ended: its id is unknown here, and that is no error.
        """
        entry = self._entries.get(rendezvous_id)
        return None if entry is None else self._end(entry, event)

    def revoke(self, keys: Collection[KeyId]) -> list[Ended]:
        """End all that any of these keys had authorized on either side, joined or not.

        A side that waits is told of its own key only. That the other side's was revoked says nothing about its own
        rights, so for this side nobody came.
        """
        ended = []
        for entry in list(self._entries.values()):
            if any(key in keys for key in entry.keys.values()) and (one := self._end(entry, Event.REVOKED)):
                own = one.waiting is not None and entry.keys[one.waiting] in keys
                ended.append(one if own else attrs.evolve(one, reason=Reason.PEER_ABSENT))
        return ended

    def end_all(self) -> list[Ended]:
        """End everything, because the relay stops."""
        return self._end_each(list(self._entries.values()), Event.SHUTDOWN)

    def _end_each(self, entries: Iterable[_Entry], event: Event) -> list[Ended]:
        return [ended for entry in entries if (ended := self._end(entry, event)) is not None]

    def _end(self, entry: _Entry, event: Event) -> Ended | None:
        before = entry.state
        outcome = self._apply(entry, event)
        if outcome is None:
            return None
        waiting = None if event is Event.WAITING_LEAVES else _WAITING.get(before)
        return Ended(entry.id, entry.connection, outcome, waiting, _REASONS[outcome])

    def _apply(self, entry: _Entry, event: Side | Event) -> Outcome | None:
        """Make one transition, and keep the books that depend on the state."""
        before = entry.state
        entry.state, outcome = TRANSITIONS.get((before, event), (before, None))
        if before in _OPEN and entry.state not in _OPEN:
            del self._open[entry.id]
            self._open_by_sender_key[entry.sender_key] -= 1
            if not self._open_by_sender_key[entry.sender_key]:
                del self._open_by_sender_key[entry.sender_key]
        if entry.state is State.ENDED:
            del self._entries[entry.id]
            if self._places is not None:
                self._places.give_back(entry.sender_key)
            for hashed in entry.tickets.values():
                del self._by_ticket[hashed]
        return outcome
