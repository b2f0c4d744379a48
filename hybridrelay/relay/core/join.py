"""One join: which listener is asked next, and what its answer means for the sender. Pure.

A sender asks for a listener. The relay picks one and offers it a rendezvous; if that one does not come, it asks the
next one, up to `MAX_ASKED`. The transitions are the table below.
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

__all__ = ["MAX_ASKED", "PASSED_ON", "TRANSITIONS", "Answer", "Join", "JoinState"]

#: Listeners that are asked for one join, a second each: the client waits for 20.
MAX_ASKED = 8

#: The reasons of a listener's refusal that the client hears. Any other becomes LISTENER_DECLINED: a listener must not
#: speak for the relay, and above all must not claim that the client's own key is not valid.
PASSED_ON = {
    Reason.LISTENER_ABSENT: Reason.LISTENER_ABSENT,
    Reason.LISTENER_CANNOT_DIAL: Reason.LISTENER_CANNOT_DIAL,
    Reason.LIMIT: Reason.LIMIT,
    Reason.BUSY: Reason.LIMIT,
    Reason.GOING_AWAY: Reason.GOING_AWAY,
}


class JoinState(enum.Enum):
    """Where a join stands."""

    #: The next listener is to be chosen.
    CHOOSING = "choosing"
    #: A listener was asked and has not answered.
    ASKING = "asking"
    #: A listener comes: the sender gets its ticket.
    JOINED = "joined"
    #: There is no listener to ask, or the sender does not wait any longer.
    OVER = "over"


class Answer(enum.Enum):
    """What can happen to a join."""

    #: A listener was chosen, and a rendezvous was made for it.
    CHOSEN = "chosen"
    #: There is no listener to ask.
    NO_LISTENER = "no listener"
    ACCEPTED = "accepted"
    DECLINED = "declined"
    #: The listener said nothing in time.
    TIMEOUT = "timeout"
    #: The control channel of the listener has ended.
    LOST = "lost"
    #: The sender does not wait any longer.
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
    """One join. Only `Broker` changes it; for the shell it identifies what a listener was asked."""

    grant: Grant
    #: The only instance that will do, or None for any.
    wanted: str | None
    #: Instances that are not asked, where any will do.
    avoid: Collection[str]
    sender: Holder
    #: Of the sender.
    instance: str = ""
    state: JoinState = JoinState.CHOOSING
    asked: int = 0
    #: Instances that were asked and do not come.
    passed_over: set[str] = attrs.field(factory=set)
    #: Why the last one does not come.
    why: Reason = Reason.LISTENER_SILENT
    listener: Listener[HandleT] | None = None
    rendezvous_id: str = ""
    sender_ticket: bytes = attrs.field(default=b"", repr=False)

    @property
    def connection(self) -> str:
        """The name of the hybrid connection."""
        return self.grant.connection.name

    def apply(self, answer: Answer) -> bool:
        """Make one transition; False where there is none."""
        after = TRANSITIONS.get((self.state, answer))
        if after is None:
            return False
        self.state = after
        return True
