"""The outputs of the broker, for its shell to carry out: commands, and the next step of a join."""

from __future__ import annotations

from typing import Generic, TypeAlias

import attrs

from ..._value import Value
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
    "RefuseDataChannel",
    "StopMoving",
]


@attrs.frozen
class CheckListener(Generic[HandleT]):
    """Check whether a listener that has not answered an offer is alive."""

    listener: Listener[HandleT]


@attrs.frozen
class EndRegistration(Generic[HandleT]):
    """Notify a listener that its registration has ended."""

    listener: Listener[HandleT]
    reason: Reason


@attrs.frozen
class EndControlChannel(Generic[HandleT]):
    """End a control channel whose place was given to another one."""

    handle: HandleT
    reason: Reason


@attrs.frozen
class RefuseDataChannel(Value):
    """Refuse the data channel that is waiting for this rendezvous, if there is one, with this reason."""

    rendezvous_id: str
    reason: Reason


@attrs.frozen
class StopMoving(Value):
    """Abort both data channels of this rendezvous, and report the end with `Broker.moving_ended`."""

    rendezvous_id: str


Command: TypeAlias = (
    CheckListener[HandleT] | EndRegistration[HandleT] | EndControlChannel[HandleT] | RefuseDataChannel | StopMoving
)


# --- the next step of a join, for the task that serves the sender


@attrs.frozen
class AskListener(Generic[HandleT]):
    """Offer a rendezvous to this listener, and report its answer with `Broker.answered`."""

    join: Join[HandleT]
    listener: Listener[HandleT]
    rendezvous_id: str
    #: The listener's ticket.
    ticket: bytes = attrs.field(repr=False)
    #: `control.Offer.holder`: distinguishes holders, without revealing anything else about them.
    holder: str


@attrs.frozen
class JoinMade(Value):
    """A listener has accepted."""

    #: The sender's ticket.
    ticket: bytes = attrs.field(repr=False)
    #: The listener's instance.
    instance: str
    rendezvous_id: str


@attrs.frozen
class JoinFailed(Value):
    """No listener has accepted."""

    reason: Reason
    detail: str = ""


JoinStep: TypeAlias = AskListener[HandleT] | JoinMade | JoinFailed
