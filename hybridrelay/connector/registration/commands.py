"""The commands of the registration machine. A docstring such as "Do X: `A` or `B`" names the inputs that report the
result."""

from __future__ import annotations

from typing import TypeAlias

import attrs

from ..._value import Value
from ...connectivity.discovery import Candidate
from ...errors import HybridRelayError
from ...events.base import Event
from ...protocol import control
from ...protocol.reasons import Reason
from ...security import ConnectionString, Secret


@attrs.frozen
class OpenChannel(Value):
    """Open a control channel: `ChannelOpened` and later `ChannelEnded`, or `OpeningFailed`."""

    channel: int
    #: The route; None means the best one that is known, or that a probe finds.
    route: Candidate | None = None


@attrs.frozen
class CloseChannel(Value):
    """Close an open control channel gracefully: `ChannelEnded`."""

    channel: int


@attrs.frozen
class AbandonChannel(Value):
    """Cancel the opening or the use of a control channel. Its end may be reported, but that has no effect."""

    channel: int


@attrs.frozen
class CheckChannel(Value):
    """Send a ping to the relay at once. If it does not answer, the channel ends."""

    channel: int


@attrs.frozen
class RequestRegistration(Value):
    """Ask the relay to register this connector for a hybrid connection: `RequestGranted`, `RequestRefused`,
    `RequestFailed` or `SameRelay`."""

    channel: int
    request: int
    name: str
    #: The connection string whose key authorizes the request.
    string: ConnectionString


@attrs.frozen
class WithdrawRegistration(Value):
    """Inform the relay that a registration is no longer needed. Nothing is reported."""

    channel: int
    request: int
    name: str


@attrs.frozen
class OpenDataChannel(Value):
    """Accept the offer of a rendezvous and open a data channel, if another one is permitted."""

    channel: int
    offer: control.Offer
    #: The key that authorizes the offer; None if that is uncertain.
    key: Secret | None


@attrs.frozen
class DeclineOffer(Value):
    """Decline the offer of a rendezvous."""

    channel: int
    offer: control.Offer
    reason: Reason


@attrs.frozen
class UseKey(Value):
    """Prove possession of this key whenever a control channel is opened from now on."""

    key: Secret


@attrs.frozen
class ForgetRoute(Value):
    """Forget the route, so that routes are probed before the next control channel is opened."""

    #: Whether the reason is that the network may have changed, and not that the route failed; see `RelayLink.forget`.
    network_changed: bool = False


@attrs.frozen
class MoveSessions(Value):
    """Move the sessions that go through this relay to this route."""

    route: Candidate


@attrs.frozen
class AnswerRoute(Value):
    """The answer to `MoveToRoute`."""

    #: Why the route is not used; None if it is.
    error: HybridRelayError | None = None
    #: Whether to move the sessions to it now.
    move_sessions: bool = False


@attrs.frozen
class RenewInstance(Value):
    """Take a new instance if the relay has replaced this control channel with one of another process."""

    channel: int


@attrs.frozen
class ReportChange(Value):
    """Tell the connector that the state of registrations may have changed, or that an attempt has failed."""


Command: TypeAlias = (
    OpenChannel
    | CloseChannel
    | AbandonChannel
    | CheckChannel
    | RequestRegistration
    | WithdrawRegistration
    | OpenDataChannel
    | DeclineOffer
    | UseKey
    | ForgetRoute
    | MoveSessions
    | AnswerRoute
    | RenewInstance
    | ReportChange
)

#: What the machine returns: commands, to be executed in order, and events, to be published.
Output: TypeAlias = Command | Event
