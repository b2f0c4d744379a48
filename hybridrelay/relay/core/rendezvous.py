"""Rendezvous: match the two data channels of a join by one-time tickets. Pure.

The rules:

1. A rendezvous has two tickets, one for each side: the relay's id and 224 random bits. A ticket can be used once,
   before it expires. A second or late use is refused and changes nothing.
2. Only hashes of tickets are stored. So the time of a lookup reveals nothing about a ticket that is nearly right, and
   a copy of the relay's memory does not allow anybody to open a channel. The relay's id in a ticket is not secret, so
   it need not be compared in constant time.
3. A rendezvous is *open* from its creation until both tickets have been used. While it is open, it has one of the
   places for open rendezvous, and until it ends, it also has one of the places for pairs of data channels. Both count
   for its sender's key.
4. The place of a pair is *established* when the listener reports that the sender has proved its identity. A
   rendezvous may be displaced by another one of its hybrid connection; or, if the relay has no place left, by one of
   a hybrid connection that has fewer places. Those with established places are displaced last (`places.py` has the
   rules). When a pair with an established place ends without the relay having ended it, the place is kept for a while
   for the next rendezvous of the same key from the same instance or address, so that the session can be resumed.
5. The relay may not know yet that a pair has ended, because its data channel broke silently. So when an instance is
   refused a rendezvous, the relay notes how much the senders of the instance's pairs have sent. If the instance asks
   again after `SILENT_SECONDS`, and one of the senders has sent nothing in the meantime, its pair is ended, and the
   place is used for the new one. An instance does not get more places in this way.
6. The two data channels may become ready in an order other than that in which their tickets were used: after a
   channel has presented its ticket, it may still have to wait for its handshake.
7. Every rendezvous ends in exactly one `Outcome`, whatever the cause. One whose channels are joined ends only when
   the relay has stopped moving bytes between them, so that its last event contains the final number of bytes.
8. A joined rendezvous may outlive the main process (`Outcome.KEPT`): the next main process takes it over with the
   same id.

The transitions are in `rendezvous_states.py`. Time and randomness are arguments. Times are seconds of a monotonic
clock.
"""

# This module is long because all of its rules change the same entries.

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Collection, Mapping

import attrs

from ..._value import Value
from ...errors import RendezvousError
from ...protocol.errors import RemoteProtocolError
from ...protocol.preamble import NO_RELAY, RELAY_ID_SIZE, TICKET_SIZE, relay_of_ticket
from ...protocol.reasons import Reason
from ..limits import KEPT_AFTER_BREAK_SECONDS, KEPT_AFTER_END_SECONDS, TICKET_LIFETIME_SECONDS
from ..model import KeyId
from .holders import Holder
from .pair_note import PairNote
from .places import Place, Places
from .presence import Presence
from .rendezvous_states import OPEN, REASONS, TRANSITIONS, Input, Outcome, Side, State

__all__ = ["EXPIRED_AT_A_TIME", "SILENT_SECONDS", "Arrival", "Ended", "Rendezvous", "RendezvousTable", "Stopping"]

#: A pair is ended if its instance was refused another pair, and its sender has sent nothing for this long since then
#: (seconds). This is shorter than the time for which a session waits to be resumed, even if the first attempt to
#: resume it is made late. A client sends a PING every 10 seconds (`SessionConfig.ping_interval`), so a pair that
#: works is never silent for this time, even if its session is idle. If the network is slow, and the client is moving
#: to another route at this moment, a pair may be ended by mistake. The session is then resumed over the new pair.
SILENT_SECONDS = 15.0
#: How many pairs of an instance are observed for rule 5. An honest program has one or two.
_MAX_LOOKED_AT = 8
#: How many rendezvous one call of `RendezvousTable.expire` ends.
EXPIRED_AT_A_TIME = 50


@attrs.frozen
class Rendezvous(Value):
    """A new rendezvous. The tickets are not printed, and are stored nowhere else."""

    #: 32 random hexadecimal digits. Not secret: it may be logged.
    id: str
    #: The name of the hybrid connection.
    connection: str
    expires_at: float
    listener_ticket: bytes = attrs.field(repr=False)
    sender_ticket: bytes = attrs.field(repr=False)
    #: The rendezvous that this one has displaced.
    displaced: tuple[Ended | Stopping, ...] = ()


@attrs.frozen
class Arrival(Value):
    """A data channel that has presented a valid ticket, which is now used up."""

    rendezvous_id: str
    connection: str
    side: Side


@attrs.frozen
class Stopping(Value):
    """A rendezvous whose bytes the relay has to stop moving. `Ended` follows when it has stopped."""

    rendezvous_id: str


@attrs.frozen
class Ended(Value):
    """A rendezvous that has ended."""

    rendezvous_id: str
    connection: str
    outcome: Outcome
    reason: Reason
    #: The status for a data channel that is waiting for the other one. It is the same as `reason`, with one
    #: exception: see `RendezvousTable.revoke`.
    status: Reason
    #: How long the two channels were joined (seconds); 0 if they were not.
    seconds: float = 0.0


@attrs.define(eq=False)
class _Entry:
    id: str
    connection: str
    #: The instance of the sender.
    instance: str
    keys: Mapping[Side, KeyId]
    expires_at: float
    #: Hashes of the tickets that have not been used yet.
    tickets: dict[Side, bytes] = attrs.field(repr=False)
    #: See rules 3 and 4.
    place: Place[str]
    #: The place for open rendezvous; None if the rendezvous was taken over from the previous main process.
    open_place: Place[str] | None
    state: State = State.OFFERED
    #: The sides whose data channel is ready.
    ready: set[Side] = attrs.field(factory=set)
    joined_at: float | None = None
    #: Set when the instance is refused another rendezvous: how many bytes the sender has sent, and when this number
    #: was first seen. See rule 5.
    heard: tuple[int, float] | None = None
    #: Whether its place has been given to another rendezvous of the same instance.
    has_given_place: bool = False
    #: Set once it is known how the rendezvous ends.
    outcome: Outcome | None = None


#: How long an established place is kept for its holder after each outcome (seconds); see rule 4. After other outcomes
#: it is not kept.
_KEPT_SECONDS = {
    Outcome.CLOSED: KEPT_AFTER_BREAK_SECONDS,
    Outcome.FINISHED: KEPT_AFTER_END_SECONDS,
    # These rendezvous ended before they could be established. But if one of them had taken a kept place, that place
    # is kept again, for the next attempt.
    **dict.fromkeys(
        (
            Outcome.BOTH_ABSENT,
            Outcome.LISTENER_ABSENT,
            Outcome.SENDER_ABSENT,
            Outcome.LEFT,
            Outcome.WITHDRAWN,
        ),
        0.0,
    ),
}


def _hash(ticket: bytes) -> bytes:
    return hashlib.sha256(ticket).digest()


class RendezvousTable:
    """All rendezvous of a relay that have not ended. The methods are of four kinds:

    - `create`, `use`, `ready` and `establish` are for requests and reports of peers.
    - `take_over` is for pairs of the previous main process.
    - `expire`, `end`, `revoke`, `end_connections` and `end_all` are for everything else that happens; they return
      what ends because of it.
    - `count`, `connections`, `has_pair`, `knows`, `next_deadline`, `open` and `joined` change nothing.
    """

    def __init__(
        self,
        relay_id: bytes,
        *,
        token_bytes: Callable[[int], bytes],
        places: Places[str],
        open_places: Places[str],
        lifetime: float = TICKET_LIFETIME_SECONDS,
        bytes_from_sender: Callable[[str], int] = lambda _: 0,
    ) -> None:
        """Make an empty table.

        Args:
            relay_id: the id of this relay, `RELAY_ID_SIZE` bytes.
            token_bytes: returns the given number of unpredictable random bytes: `secrets.token_bytes`.
            places: places for all rendezvous that have not ended, see rule 3.
            open_places: places for those that are open.
            lifetime: how long a ticket is valid (seconds).
            bytes_from_sender: returns how many bytes the sender's channel of a joined rendezvous has delivered.
        """
        self._relay_id = relay_id
        self._token_bytes = token_bytes
        self._lifetime = lifetime
        self._places = places
        self._open_places = open_places
        self._entries: dict[str, _Entry] = {}
        #: The same, by hybrid connection.
        self._of_connection: dict[str, dict[_Entry, None]] = {}
        # In order of creation, which is also the order of expiry because all tickets have the same lifetime.
        self._open: dict[str, _Entry] = {}
        self._by_ticket: dict[bytes, tuple[_Entry, Side]] = {}
        self._presence = Presence()
        self._bytes_from_sender = bytes_from_sender
        #: The joined rendezvous, by the sender's key and instance.
        self._of_instance: dict[tuple[KeyId, str], dict[_Entry, None]] = {}

    @property
    def open(self) -> int:
        """The number of rendezvous with at least one unused ticket."""
        return len(self._open)

    @property
    def joined(self) -> int:
        """The number of rendezvous whose tickets have both been used."""
        return len(self._entries) - len(self._open)

    def count(self, connection: str) -> int:
        """Return the number of rendezvous of a hybrid connection that have not ended."""
        return self._presence.count(connection)

    @property
    def connections(self) -> list[str]:
        """The names of the hybrid connections that have any rendezvous."""
        return self._presence.connections

    def has_pair(self, connection: str, instance: str, now: float) -> bool:
        """Return whether a sender's instance has a pair, or had one in the last seconds; see `Presence.has_pair`."""
        return self._presence.has_pair(connection, instance, now)

    def create(
        self, connection: str, listener_key: KeyId, sender: Holder, now: float, *, instance: str = ""
    ) -> Rendezvous:
        """Create a rendezvous of a listener and a sender that have both been authorized.

        Args:
            connection: the name of the hybrid connection.
            listener_key: the key that authorized the listener.
            sender: the key that authorized the sender, and the sender's address.
            now: the time.
            instance: the sender's instance.

        Raises:
            RendezvousError: with `Reason.LIMIT`: there is no place for it. No rendezvous was created or ended.
        """
        displaced = self._make_room(sender, instance, now)
        made = Rendezvous(
            id=self._token_bytes(16).hex(),
            connection=connection,
            expires_at=now + self._lifetime,
            listener_ticket=self._new_ticket(),
            sender_ticket=self._new_ticket(),
            displaced=tuple(displaced),
        )
        tickets = {Side.LISTENER: _hash(made.listener_ticket), Side.SENDER: _hash(made.sender_ticket)}
        keys = {Side.LISTENER: listener_key, Side.SENDER: sender.key}
        place, open_place = (places.take(sender, made.id, instance) for places in (self._places, self._open_places))
        entry = _Entry(made.id, connection, instance, keys, made.expires_at, tickets, place, open_place)
        self._add(entry)
        self._open[made.id] = entry
        self._presence.begins(connection)
        for side, hashed in tickets.items():
            self._by_ticket[hashed] = (entry, side)
        return made

    def _make_room(self, sender: Holder, instance: str, now: float) -> list[Ended | Stopping]:
        """End the rendezvous that have the places which a new one of this sender needs. Raises the same as
        `create`."""
        displaced: list[Ended | Stopping] = []
        # The keys of the places that were given back; None stands for those of other hybrid connections.
        freed: set[KeyId | None] = set()
        # Choose before ending anything, because choosing may raise.
        chosen = [self._open_places.choose_displaced(sender, instance)]
        try:
            chosen.append(self._places.choose_displaced(sender, instance))
        except RendezvousError:
            if (silent := self._find_silent(sender.key, instance, now)) is None:
                raise
            displaced.append(self._give_place(silent, now))
        for place in chosen:
            if place is None:
                continue
            is_other = place.holder.key.connection != sender.key.connection
            # An open rendezvous that was ended also had a place for pairs, so there is already room for its key.
            if (whose := None if is_other else place.holder.key) in freed:
                continue
            if place.is_kept:  # only places for pairs are ever kept
                self._places.leave(place)
            else:
                entry = self._entries[place.owner]
                happened = Input.DISPLACED_BY_OTHER if is_other else Input.DISPLACED
                if (ended := self._end(entry, happened, now)) is not None:  # None: it is being stopped
                    displaced.append(ended)
                # Already now, although it may still be stopping: that takes only a moment.
                self._places.leave(entry.place)
            freed.add(whose)
        return displaced

    def _find_silent(self, key: KeyId, instance: str, now: float) -> _Entry | None:
        """Find a pair of this instance whose sender has sent nothing for `SILENT_SECONDS`; see rule 5."""
        for entry in itertools.islice(self._of_instance.get((key, instance), ()), _MAX_LOOKED_AT):
            sent = self._bytes_from_sender(entry.id)
            if entry.heard is None or entry.heard[0] != sent:
                entry.heard = sent, now
            elif now - entry.heard[1] >= SILENT_SECONDS:
                return entry
        return None

    def _give_place(self, entry: _Entry, now: float) -> Ended | Stopping:
        """End a joined pair, and give its place to the next rendezvous of its instance."""
        ended = self._end(entry, Input.DISPLACED, now)
        assert ended is not None
        self._places.keep(entry.place, KEPT_AFTER_BREAK_SECONDS)
        entry.has_given_place = True
        return ended

    def _new_ticket(self) -> bytes:
        return self._relay_id + self._token_bytes(TICKET_SIZE - RELAY_ID_SIZE)

    def use(self, ticket: bytes, now: float) -> Arrival:
        """Use a ticket that was in a preamble.

        Raises:
            RemoteProtocolError: the ticket is refused, and nothing has changed. With
                `Reason.TICKET_OF_ANOTHER_RELAY`, it names another relay; with `Reason.TICKET_UNKNOWN`, it is unknown,
                used, expired or withdrawn. The peer does not learn which of these.
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
        return Arrival(entry.id, entry.connection, side)

    def ready(self, arrival: Arrival, now: float) -> State:
        """Note that the data channel of an arrival is ready to be joined with the other one.

        Returns:
            `State.JOINED` if the other one is ready too, so that the two are joined from now on; `State.ENDED` if the
            rendezvous has already ended; with any other state, the data channel has to wait.
        """
        entry = self._entries.get(arrival.rendezvous_id)
        if entry is None:
            return State.ENDED
        entry.ready.add(arrival.side)
        if len(entry.ready) == len(Side):
            self._apply(entry, Input.BOTH_READY)
            self._joined(entry, now)
        return entry.state

    def _joined(self, entry: _Entry, now: float) -> None:
        entry.joined_at = now
        self._presence.joined(entry.connection, entry.instance)
        if entry.instance:
            program = entry.keys[Side.SENDER], entry.instance
            self._of_instance.setdefault(program, {})[entry] = None

    def knows(self, rendezvous_id: str) -> bool:
        """Return whether there is a rendezvous with this id that has not ended."""
        return rendezvous_id in self._entries

    def take_over(self, note: PairNote, joined_at: float, *, is_established: bool) -> bool:
        """Add a rendezvous that the previous main process had. Its id must not be in the table.

        Args:
            note: what the previous main process has noted about it.
            joined_at: when it was joined, on the clock of this table.
            is_established: whether its place is established.

        Returns:
            Whether there is room for it. It is entered in any case, and the caller ends it if there is none.
        """
        assert note.id not in self._entries
        keys = {Side.LISTENER: note.listener.key, Side.SENDER: note.sender.key}
        sender = Holder(note.sender.key, note.sender.address)
        has_room = self._places.has_room(sender)
        place = self._places.take(sender, note.id, note.sender.instance)
        if is_established:
            self._places.establish(place)
        entry = _Entry(note.id, note.connection, note.sender.instance, keys, joined_at, {}, place, None)
        entry.state, entry.ready = State.JOINED, set(Side)
        self._add(entry)
        self._presence.begins(note.connection)
        self._joined(entry, joined_at)
        return has_room

    def establish(self, rendezvous_id: str) -> None:
        """Note that the sender has proved its identity, as reported by the listener. Ignored if the channels are not
        joined."""
        entry = self._entries.get(rendezvous_id)
        if entry is not None and entry.state is State.JOINED:
            self._places.establish(entry.place)

    def next_deadline(self) -> float | None:
        """Return when `expire` has to be called next; None if no rendezvous is open."""
        return next((entry.expires_at for entry in self._open.values()), None)

    def expire(self, now: float) -> list[Ended]:
        """End rendezvous that did not get both of their data channels in time, at most `EXPIRED_AT_A_TIME` of them:
        thousands may expire at the same moment."""
        oldest = itertools.islice(self._open.values(), EXPIRED_AT_A_TIME)
        late = list(itertools.takewhile(lambda entry: entry.expires_at <= now, oldest))
        return [one for entry in late if isinstance(one := self._end(entry, Input.EXPIRES, now), Ended)]

    def end(self, rendezvous_id: str, happened: Input, now: float) -> Ended | Stopping | None:
        """End a rendezvous for a reason other than expired tickets or revoked keys.

        Returns:
            None if `happened` does not end a rendezvous in its current state, or if there is no such rendezvous,
            because it has already ended.
        """
        entry = self._entries.get(rendezvous_id)
        return None if entry is None else self._end(entry, happened, now)

    def revoke(self, keys: Collection[KeyId], now: float) -> list[Ended | Stopping]:
        """End every rendezvous that one of these keys had authorized, on either side, whether joined or not.

        A side that is waiting learns of the revocation only if its own key was revoked. If it was the other side's,
        the status says that the other side did not arrive.
        """
        of_keys = self._of({key.connection for key in keys})
        hit = [entry for entry in of_keys if any(key in keys for key in entry.keys.values())]
        ends = []
        for entry in hit:
            is_told = any(entry.keys[side] in keys for side in entry.ready)
            one = self._end(entry, Input.REVOKED, now)
            if isinstance(one, Ended) and not is_told:
                one = attrs.evolve(one, status=Reason.PEER_ABSENT)
            if one is not None:
                ends.append(one)
        for key in keys:
            self._places.drop_kept(key)
        return ends

    def end_connections(
        self, connections: Collection[str], happened: Input, keys: Collection[KeyId], now: float
    ) -> list[Ended | Stopping]:
        """End all rendezvous of these hybrid connections, whether joined or not. `keys` are all of their keys."""
        ends = [self._end(entry, happened, now) for entry in self._of(connections)]
        for key in keys:
            self._places.drop_kept(key)
        return [one for one in ends if one is not None]

    def end_all(self, now: float) -> list[Ended | Stopping]:
        """End everything, because the relay stops."""
        ends = [self._end(entry, Input.SHUTDOWN, now) for entry in list(self._entries.values())]
        return [one for one in ends if one is not None]

    def _of(self, connections: Collection[str]) -> list[_Entry]:
        return [entry for name in sorted(connections) for entry in self._of_connection.get(name, ())]

    def _add(self, entry: _Entry) -> None:
        self._entries[entry.id] = entry
        self._of_connection.setdefault(entry.connection, {})[entry] = None

    def _remove(self, entry: _Entry) -> None:
        del self._entries[entry.id]
        of_connection = self._of_connection[entry.connection]
        del of_connection[entry]
        if not of_connection:
            del self._of_connection[entry.connection]

    def _end(self, entry: _Entry, happened: Input, now: float) -> Ended | Stopping | None:
        if not self._apply(entry, happened):
            return None
        if entry.state is State.STOPPING:
            return Stopping(entry.id)
        self._presence.ended(entry.connection, entry.instance, now, was_joined=entry.joined_at is not None)
        assert entry.outcome is not None, "every transition to the end has an outcome, or had one before"
        seconds = 0.0 if entry.joined_at is None else now - entry.joined_at
        reason = REASONS[entry.outcome]
        return Ended(entry.id, entry.connection, entry.outcome, reason, reason, seconds)

    def _apply(self, entry: _Entry, happened: Side | Input) -> bool:
        """Make a transition, and update what depends on the state. Returns False if there is no such transition."""
        before = entry.state
        transition = TRANSITIONS.get((before, happened))
        if transition is None:
            return False
        entry.state, outcome = transition
        entry.outcome = outcome or entry.outcome
        if before in OPEN and entry.state not in OPEN:
            del self._open[entry.id]
            if entry.open_place is not None:
                self._open_places.leave(entry.open_place)
        if before is State.JOINED:
            self._forget_joined(entry)
        if entry.state is State.ENDED:
            self._remove(entry)
            assert entry.outcome is not None
            if entry.has_given_place:
                pass
            elif (seconds := _KEPT_SECONDS.get(entry.outcome)) is None:
                self._places.leave(entry.place)
            else:
                self._places.keep(entry.place, seconds)
            for hashed in entry.tickets.values():
                del self._by_ticket[hashed]
        return True

    def _forget_joined(self, entry: _Entry) -> None:
        program = entry.keys[Side.SENDER], entry.instance
        if (of_instance := self._of_instance.get(program)) is not None:
            of_instance.pop(entry, None)
            if not of_instance:
                del self._of_instance[program]
