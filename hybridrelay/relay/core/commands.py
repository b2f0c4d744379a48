"""What the broker wants from its shell: commands, and the next step of a join."""

from __future__ import annotations

from typing import Generic, TypeAlias

import attrs

from ...protocol.reasons import Reason
from .join import Join
from .listener import HandleT, Listener

__all__ = [
    "AskListener",
    "CheckListener",
    "Command",
    "EndControlChannel",
    "EndRegistration",
    "JoinFailed",
    "JoinMade",
    "JoinStep",
    "StopMoving",
    "TurnAway",
]


@attrs.frozen
class CheckListener(Generic[HandleT]):
    """A listener did not answer an offer: find out whether it is alive."""

    listener: Listener[HandleT]


@attrs.frozen
class EndRegistration(Generic[HandleT]):
    """Tell a listener that its registration is over."""

    listener: Listener[HandleT]
    reason: Reason


@attrs.frozen
class EndControlChannel(Generic[HandleT]):
    """End a control channel, whose place another one has now."""

    handle: HandleT
    reason: Reason


@attrs.frozen
class TurnAway:
    """Give a reason to the data channel that waits for this rendezvous, if there is one, and close it."""

    rendezvous_id: str
    reason: Reason


@attrs.frozen
class StopMoving:
    """Abort both data channels of this rendezvous, and report the end with `Broker.moving_ended`."""

    rendezvous_id: str


Command: TypeAlias = (
    CheckListener[HandleT] | EndRegistration[HandleT] | EndControlChannel[HandleT] | TurnAway | StopMoving
)


# --- the next step of a join, for the task that serves the sender


@attrs.frozen
class AskListener(Generic[HandleT]):
    """Offer a rendezvous to this listener, and report what it answers with `Broker.answered`."""

    join: Join[HandleT]
    listener: Listener[HandleT]
    rendezvous_id: str
    ticket: bytes = attrs.field(repr=False)
    #: `control.Offer.sender`: tells senders apart, and says nothing else about them.
    sender: str


@attrs.frozen
class JoinMade:
    """A listener comes."""

    ticket: bytes = attrs.field(repr=False)
    #: The listener's instance.
    instance: str


@attrs.frozen
class JoinFailed:
    """The sender gets no listener."""

    reason: Reason
    detail: str = ""


JoinStep: TypeAlias = AskListener[HandleT] | JoinMade | JoinFailed
