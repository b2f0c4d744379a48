"""The decisions of a bridge between a stream and a TCP connection: which direction has ended, and how the bridge
ends.

Pure: `bridge.py` tells this module what happens. Each direction is a small state machine. *Outgoing* is from the TCP
connection into the stream, *incoming* from the stream into the TCP connection. Rules:

1. End of file is passed on separately in each direction. When both directions have ended, the bridge has finished,
   and both sides are closed. What is queued on the stream is still sent. The outcome is known when the peer has
   acknowledged everything, or can no longer do so. If neither happens within some seconds, the outcome says that it
   is not known whether everything has arrived.
2. If one side breaks, the bridge ends at once. The first reason is its outcome, with one exception: if the reason was
   that the peer has stopped reading, a break replaces it.
3. If the peer only stops reading, what the TCP connection sends is dropped, and what the peer had sent is still
   delivered, within a limited time. Then the bridge has finished, but its outcome has a reason.
4. If the program at the other end of the TCP connection is about to end, it will read nothing more. The bridge has
   then finished as soon as the outgoing direction has ended: what the program has sent is delivered, and what the
   peer still sends is not.
"""

from __future__ import annotations

import enum

import attrs

from .._value import Value
from ..protocol.reasons import NOT_CONNECTED, Reason

__all__ = ["BridgeMachine", "Bridged", "Command", "Incoming", "Input", "Outgoing", "Party"]


class Input(enum.Enum):
    """What happens to a bridge."""

    #: The peer has accepted the stream.
    ACCEPTED = enum.auto()
    #: The peer refused the stream, or did not answer in time.
    REFUSED = enum.auto()
    #: The TCP connection's end of file was passed on to the stream.
    LOCAL_ENDED = enum.auto()
    #: The peer has acknowledged everything that was sent, including the end of file.
    DELIVERED = enum.auto()
    #: Some seconds after the end of the bridge, the peer has not acknowledged everything that was sent.
    UNACKNOWLEDGED = enum.auto()
    #: Reading from or writing to the TCP connection failed.
    LOCAL_BROKE = enum.auto()
    #: Everything that the peer sent was written to the TCP connection, including the end of file.
    PEER_ENDED = enum.auto()
    #: The peer has stopped reading.
    PEER_STOPPED = enum.auto()
    STREAM_RESET = enum.auto()
    #: The stream was lost with its session.
    STREAM_LOST = enum.auto()
    #: The bridge was cut off by the caller, or because its scope was cancelled or left with an exception.
    CANCELLED = enum.auto()
    #: The program at the other end of the TCP connection is about to end, and will read nothing more.
    PROGRAM_ENDS = enum.auto()

    __hash__ = object.__hash__  # as in `protocol/states.py`


class Outgoing(enum.Enum):
    """The state of the direction from the TCP connection into the stream."""

    OPEN = enum.auto()
    #: The end of file was passed on. It may still be queued behind other bytes.
    ENDED = enum.auto()
    #: The peer has acknowledged everything, including the end of file.
    DELIVERED = enum.auto()
    #: The stream was refused, or it was reset or lost before the peer had acknowledged everything.
    UNDELIVERED = enum.auto()
    #: The peer has not acknowledged everything in time. Nothing has failed, and the rest may still arrive.
    UNCONFIRMED = enum.auto()
    #: The peer stopped reading before it had received everything. What the TCP connection sends is read and dropped.
    DROPPED = enum.auto()
    #: The TCP connection has failed. From now on, reading from it may seem to return end of file.
    BROKEN = enum.auto()

    __hash__ = object.__hash__


class Incoming(enum.Enum):
    """The state of the direction from the stream into the TCP connection."""

    #: The peer has not answered OPEN yet.
    AWAITING = enum.auto()
    OPEN = enum.auto()
    #: Everything was delivered, including the end of file.
    ENDED = enum.auto()

    __hash__ = object.__hash__


class Party(enum.Enum):
    """The party that ended a bridge, or a stream, before both directions had ended."""

    NOBODY = enum.auto()
    #: The TCP connection on this machine.
    LOCAL = enum.auto()
    #: The peer refused or reset the stream, did not answer in time, or stopped reading.
    PEER = enum.auto()
    #: The stream was lost with its session.
    SESSION = enum.auto()
    #: The caller: it has cut off the bridge, or the scope of the bridge was cancelled or left with an exception.
    CALLER = enum.auto()


class Command(enum.Enum):
    """What the caller has to do after an input."""

    CONTINUE = enum.auto()
    #: End both directions, unless that happens by itself within a limited time.
    LIMIT = enum.auto()
    #: End both directions now.
    STOP = enum.auto()


#: The transitions. An input that is not in the table does not change the state.
OUTGOING: dict[tuple[Outgoing, Input], Outgoing] = {
    (Outgoing.OPEN, Input.LOCAL_ENDED): Outgoing.ENDED,
    (Outgoing.OPEN, Input.PEER_STOPPED): Outgoing.DROPPED,
    (Outgoing.OPEN, Input.LOCAL_BROKE): Outgoing.BROKEN,
    (Outgoing.ENDED, Input.DELIVERED): Outgoing.DELIVERED,
    (Outgoing.ENDED, Input.PEER_STOPPED): Outgoing.DROPPED,
    (Outgoing.ENDED, Input.REFUSED): Outgoing.UNDELIVERED,
    (Outgoing.DELIVERED, Input.REFUSED): Outgoing.UNDELIVERED,
    (Outgoing.ENDED, Input.STREAM_RESET): Outgoing.UNDELIVERED,
    (Outgoing.ENDED, Input.STREAM_LOST): Outgoing.UNDELIVERED,
    (Outgoing.ENDED, Input.UNACKNOWLEDGED): Outgoing.UNCONFIRMED,
    (Outgoing.DROPPED, Input.LOCAL_BROKE): Outgoing.BROKEN,
}
INCOMING: dict[tuple[Incoming, Input], Incoming] = {
    (Incoming.AWAITING, Input.ACCEPTED): Incoming.OPEN,
    (Incoming.OPEN, Input.PEER_ENDED): Incoming.ENDED,
}
#: States in which the end of file was passed on.
_PASSED_ON = frozenset({Outgoing.ENDED, Outgoing.DELIVERED, Outgoing.UNDELIVERED, Outgoing.UNCONFIRMED})
#: Inputs that give the bridge a reason to end, and the party that caused it.
CAUSED_BY: dict[Input, Party] = {
    Input.REFUSED: Party.PEER,
    Input.LOCAL_BROKE: Party.LOCAL,
    Input.PEER_STOPPED: Party.PEER,
    Input.STREAM_RESET: Party.PEER,
    Input.STREAM_LOST: Party.SESSION,
    Input.CANCELLED: Party.CALLER,
}


@attrs.frozen
class Bridged(Value):
    """How a bridge ended, or its progress so far."""

    #: Bytes moved from the TCP connection into the stream, without those that were dropped. Unless `sent_all`, the
    #: last of them may not have arrived.
    sent: int
    #: Bytes moved from the stream into the TCP connection, that is, accepted by the kernel.
    received: int
    #: `Reason.NO_ERROR` if nothing has failed so far. That everything was delivered to the peer is certain only if
    #: `sent_all`.
    reason: Reason
    #: Why the stream was not accepted (refused, not answered in time, or lost before the answer); None otherwise.
    refusal: str | None = None
    #: Whether the peer has acknowledged the `sent` bytes, and the end of file after them.
    sent_all: bool = False
    #: Whether the end of file after the `received` bytes was passed on.
    received_all: bool = False
    #: Whether the peer has stopped reading before it had received everything; the rest was dropped.
    peer_stopped: bool = False
    ended_by: Party = Party.NOBODY
    #: Whether the bridge has ended without the rest of what the peer has sent, because the program that would have
    #: read it was about to end.
    program_ended: bool = False


@attrs.define
class BridgeMachine:
    """The state of one bridge. `apply` is the only way to change it."""

    outgoing: Outgoing = attrs.field(default=Outgoing.OPEN, init=False)
    incoming: Incoming = attrs.field(default=Incoming.AWAITING, init=False)
    #: Why the bridge ends, or NO_ERROR.
    reason: Reason = attrs.field(default=Reason.NO_ERROR, init=False)
    #: The party that caused `reason`.
    ended_by: Party = attrs.field(default=Party.NOBODY, init=False)
    #: Whether the peer has stopped reading before it had received everything.
    peer_stopped: bool = attrs.field(default=False, init=False)
    #: Whether nothing more will be read from the TCP connection by its program.
    program_ends: bool = attrs.field(default=False, init=False)
    _is_broken: bool = attrs.field(default=False, init=False)

    @property
    def has_finished(self) -> bool:
        """Whether everything was passed on that could be, so that the stream can be closed without a reset. So can
        the TCP connection, unless its program was about to end and has not read everything."""
        ended = self.outgoing in _PASSED_ON or self.peer_stopped
        return ended and (self.program_ends or self.incoming is Incoming.ENDED) and not self._is_broken

    @property
    def is_settled(self) -> bool:
        """Whether the outcome of a bridge that has ended is known, because nothing is waiting to be acknowledged."""
        return self.outgoing is not Outgoing.ENDED or self._is_broken

    def apply(self, cause: Input, reason: Reason = Reason.NO_ERROR) -> Command:
        """Take an input, and return what to do.

        Args:
            cause: what happened.
            reason: why, for the inputs in `CAUSED_BY`; see rule 2.
        """
        before = self.outgoing
        self.program_ends = self.program_ends or cause is Input.PROGRAM_ENDS
        self.outgoing = OUTGOING.get((before, cause), before)
        self.incoming = INCOMING.get((self.incoming, cause), self.incoming)
        party = CAUSED_BY.get(cause)
        if cause is Input.PEER_STOPPED and self.outgoing is Outgoing.DELIVERED:
            party = None  # the peer had received everything
        # A bridge that has finished can still fail to deliver what is queued.
        can_fail = not self.has_finished or (before is Outgoing.ENDED and self.outgoing is not before)
        only_stopped = self.peer_stopped and not self._is_broken and cause is not Input.PEER_STOPPED
        if party is not None and can_fail and (self.reason is Reason.NO_ERROR or only_stopped):
            self.reason, self.ended_by = reason, party
        if cause is Input.PEER_STOPPED:
            self.peer_stopped = self.peer_stopped or party is not None
        elif party is not None and not self.has_finished:
            self._is_broken = True
        if self._is_broken or (self.peer_stopped and self.incoming is Incoming.ENDED):
            return Command.STOP
        if self.program_ends and self.has_finished:
            return Command.STOP
        # Once the TCP connection has ended its own direction, there is nothing to drop, so there is no hurry.
        return Command.LIMIT if cause is Input.PEER_STOPPED and before is Outgoing.OPEN else Command.CONTINUE

    def outcome(self, sent: int, received: int, refusal: str | None = None) -> Bridged:
        """Return how the bridge ended, or its progress so far, given how many bytes were moved."""
        return Bridged(
            sent,
            received,
            self.reason,
            refusal,
            sent_all=self.outgoing is Outgoing.DELIVERED,
            received_all=self.incoming is Incoming.ENDED,
            peer_stopped=self.peer_stopped,
            ended_by=self.ended_by,
            program_ended=self.program_ends and self.incoming is not Incoming.ENDED and not self._is_broken,
        )

    def may_be_sent_again(self, refused_because: Reason, *, has_sent: bool) -> bool:
        """Return whether data that was sent on a refused stream may be sent on another one, because it was not
        processed.

        Args:
            refused_because: the reason of the refusal.
            has_sent: whether anything but an end of file was sent.
        """
        # GOING_AWAY means that the stream was not processed, and so do the reasons why there was no connection to the
        # target. If the session was lost instead, the peer may have accepted the stream, and its answer may have been
        # lost.
        if self.outgoing is Outgoing.BROKEN or self.incoming is not Incoming.AWAITING:
            return False
        return refused_because is Reason.GOING_AWAY or refused_because in NOT_CONNECTED or not has_sent
