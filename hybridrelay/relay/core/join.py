"""The states of one join: which listener is asked next, and what its answer means for the sender. Pure.

A sender asks for a listener. The relay chooses one and offers it a rendezvous. If that listener does not accept, the
relay asks another one, up to `MAX_ASKED`. The transitions are in the table below.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping
from typing import Generic

import attrs

from ...protocol.reasons import Reason
from .authorization import Grant
from .holders import Holder
from .listener import HandleT, Listener

__all__ = ["MAX_ASKED", "RELAYED_REASONS", "TRANSITIONS", "Answer", "Join", "JoinState"]

#: How many listeners are asked for one join. Each has a second for its answer. During the first five seconds of
#: the join, an offer may wait for its turn. The client waits for 20 seconds.
MAX_ASKED = 8

#: The reasons of a listener's refusal that are passed on, with the reason that the client is given for each. Any
#: other becomes LISTENER_DECLINED, because a listener must not be able to speak for the relay, for example to say
#: that the client's key is invalid.
RELAYED_REASONS = {
    Reason.LISTENER_ABSENT: Reason.LISTENER_ABSENT,
    Reason.LISTENER_CANNOT_DIAL: Reason.LISTENER_CANNOT_DIAL,
    Reason.LIMIT: Reason.LIMIT,
    Reason.BUSY: Reason.LIMIT,
    Reason.GOING_AWAY: Reason.GOING_AWAY,
}


class JoinState(enum.Enum):
    """The states of a join."""

    #: The next listener has to be chosen.
    CHOOSING = "choosing"
    #: A listener was asked and has not answered.
    ASKING = "asking"
    #: A listener has accepted: the sender gets its ticket.
    JOINED = "joined"
    #: There is no listener to ask, or the sender no longer waits.
    OVER = "over"


class Answer(enum.Enum):
    """The inputs of a join."""

    #: A listener was chosen, and a rendezvous was created for it.
    CHOSEN = "chosen"
    #: There is no listener to ask.
    NO_LISTENER = "no listener"
    ACCEPTED = "accepted"
    DECLINED = "declined"
    #: The listener did not answer in time.
    TIMEOUT = "timeout"
    #: The control channel of the listener has ended.
    LOST = "lost"
    #: The sender no longer waits.
    CANCELLED = "cancelled"


TRANSITIONS: Mapping[tuple[JoinState, Answer], JoinState] = {
    (JoinState.CHOOSING, Answer.CHOSEN): JoinState.ASKING,
    (JoinState.CHOOSING, Answer.NO_LISTENER): JoinState.OVER,
    (JoinState.ASKING, Answer.ACCEPTED): JoinState.JOINED,
    (JoinState.ASKING, Answer.DECLINED): JoinState.CHOOSING,
    (JoinState.ASKING, Answer.TIMEOUT): JoinState.CHOOSING,
    (JoinState.ASKING, Answer.LOST): JoinState.CHOOSING,
    (JoinState.ASKING, Answer.CANCELLED): JoinState.OVER,
}


@attrs.define(eq=False)
class Join(Generic[HandleT]):
    """One join. Only `Joins` changes it; the shell uses it to identify the join."""

    grant: Grant
    #: The only instance that is acceptable, or None for any.
    wanted: str | None
    #: Instances that are not asked; without effect if `wanted` names one.
    avoid: Collection[str]
    sender: Holder
    #: The sender's instance.
    instance: str = ""
    state: JoinState = JoinState.CHOOSING
    asked: int = 0
    #: Instances that were asked and have not accepted.
    passed_over: set[str] = attrs.field(factory=set)
    #: Why the last of them has not accepted.
    why: Reason = Reason.LISTENER_SILENT
    listener: Listener[HandleT] | None = None
    rendezvous_id: str = ""
    sender_ticket: bytes = attrs.field(default=b"", repr=False)

    @property
    def connection(self) -> str:
        """The name of the hybrid connection."""
        return self.grant.connection.name

    def apply(self, answer: Answer) -> bool:
        """Make a transition. Returns False if there is none for this input."""
        after = TRANSITIONS.get((self.state, answer))
        if after is None:
            return False
        self.state = after
        return True
