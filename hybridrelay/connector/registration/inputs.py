"""The inputs of the registration machine. `channel` and `request` are the numbers in the machine's commands."""

from __future__ import annotations

import enum
from typing import TypeAlias

import attrs

from ..._value import Value
from ...connectivity.discovery import Candidate
from ...errors import HybridRelayError
from ...protocol import control
from ...protocol.reasons import Reason
from ...security import ConnectionString

#: Identifies one run of one relay, whatever its host name: the pin of its public key, and its instance.
RelayIdentity: TypeAlias = tuple[str, str]


class SessionHealth(enum.Enum):
    """The state of the sessions whose data channels go through this relay."""

    NONE = "none"
    #: All of them have a data channel, as far as is known.
    CONNECTED = "connected"
    #: At least one has lost its data channel, and its client may be waiting for the connector to come back.
    INTERRUPTED = "interrupted"


@attrs.frozen
class Start(Value):
    """Begin. Before this, only `Publish` is useful."""


@attrs.frozen
class Publish(Value):
    """Register this hybrid connection in addition to the others."""

    name: str
    string: ConnectionString


@attrs.frozen
class Unpublish(Value):
    """Stop registering this hybrid connection. When the last one is removed, the machine stops."""

    name: str


@attrs.frozen
class StringChanged(Value):
    """This hybrid connection has another connection string from now on, perhaps with another key."""

    name: str
    string: ConnectionString


@attrs.frozen
class ChannelOpened(Value):
    """A control channel is open."""

    channel: int
    #: Its route.
    route: Candidate
    relay: RelayIdentity


@attrs.frozen
class OpeningFailed(Value):
    """A control channel could not be opened."""

    channel: int
    error: HybridRelayError


@attrs.frozen
class ChannelEnded(Value):
    """A control channel that was open has ended, for whatever reason."""

    channel: int


@attrs.frozen
class RequestGranted(Value):
    """The relay has registered what a request asked for."""

    channel: int
    request: int
    #: For how long (seconds).
    seconds: float


@attrs.frozen
class RequestRefused(Value):
    """The relay has refused what a request asked for."""

    channel: int
    request: int
    error: HybridRelayError


@attrs.frozen
class RequestFailed(Value):
    """A request was not answered: the control channel was lost, or the relay is silent."""

    channel: int
    request: int
    error: HybridRelayError


@attrs.frozen
class SameRelay(Value):
    """A request was not made: the hybrid connection is already registered at this relay, under another host name."""

    channel: int
    request: int
    #: The other name.
    host: str


@attrs.frozen
class Confirmed(Value):
    """The relay has answered a request positively. This input keeps its place among the relay's other messages:
    offers after it are authorized by the key of that request."""

    channel: int
    request: int


@attrs.frozen
class Offered(Value):
    """The relay offers a rendezvous with an application."""

    channel: int
    offer: control.Offer


@attrs.frozen
class EndedByRelay(Value):
    """The relay has ended a registration."""

    channel: int
    name: str
    reason: Reason


@attrs.frozen
class DrainAnnounced(Value):
    """The relay has announced that it is draining, or about to stop."""

    channel: int
    #: How long to wait before the next attempt, counted from the end of the control channel (seconds).
    retry_after: float


@attrs.frozen
class MoveToRoute(Value):
    """The prober has found a better route than the one in use, and it works. Answered by `commands.AnswerRoute`."""

    route: Candidate


@attrs.frozen
class RoutesUncertain(Value):
    """The known routes may be outdated, because this machine was suspended, or is in another network."""


@attrs.frozen
class CheckChannels(Value):
    """A data channel was lost, so the control channels may be lost, too, without this having been detected yet."""


@attrs.frozen
class CheckRefusals(Value):
    """No other relay accepts this connector: repeat requests whose refusal is not recent."""


@attrs.frozen
class SessionsChanged(Value):
    """The state of the sessions through this relay has changed."""

    sessions: SessionHealth


@attrs.frozen
class ReplacementExpected(Value):
    """Whether another registration machine is about to register everything at the same relay, because the connection
    strings now describe that relay differently. The relay then ends this machine's control channel, which must not be
    treated as a loss."""

    is_expected: bool


@attrs.frozen
class Due(Value):
    """The time `Machine.deadline` has been reached."""


@attrs.frozen
class Stop(Value):
    """Close everything. Later inputs have no effect."""


Input: TypeAlias = (
    Start
    | Publish
    | Unpublish
    | StringChanged
    | ChannelOpened
    | OpeningFailed
    | ChannelEnded
    | RequestGranted
    | RequestRefused
    | RequestFailed
    | SameRelay
    | Confirmed
    | Offered
    | EndedByRelay
    | DrainAnnounced
    | MoveToRoute
    | RoutesUncertain
    | CheckChannels
    | CheckRefusals
    | SessionsChanged
    | ReplacementExpected
    | Due
    | Stop
)
