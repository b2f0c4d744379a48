"""The inputs of the session machine. `attempt` is the number of an attempt, from the command that started it."""

from __future__ import annotations

import enum
from typing import TypeAlias

import attrs

from ..._value import Value
from ...errors import HybridRelayError
from ...protocol.reasons import Reason


class MoveCause(enum.Enum):
    """Why a session is to move to another data channel."""

    BETTER_ROUTE = "better-route"
    #: The relay is draining, or about to stop.
    RELAY_DRAINING = "relay-draining"
    #: The data channel is old, or has carried much.
    RENEWAL = "renewal"
    #: The connection string was changed: another key, or other relays.
    STRING_CHANGED = "string-changed"


@attrs.frozen
class Channel(Value):
    """What the machine knows about an open data channel."""

    #: For example ``tcp at relay.example.com``.
    route: str
    #: The connector's instance, and the label and serial of its identity.
    instance: str
    label: str = ""
    serial: str = ""
    #: The id of the channel's rendezvous, as stated by the relay; for events.
    rendezvous: str = ""


@attrs.frozen
class Start(Value):
    """Begin. This is the first input."""


@attrs.frozen
class ChannelOpened(Value):
    """A data channel is open, and nothing has been sent on it yet."""

    attempt: int
    channel: Channel


@attrs.frozen
class AttemptFailed(Value):
    """A data channel could not be opened."""

    attempt: int
    error: HybridRelayError
    #: Whether every relay was tried, including those that are draining or about to stop.
    tried_every_relay: bool = True


@attrs.frozen
class Greeted(Value):
    """The connector has greeted (its HELLO has arrived) on the data channel that the session was given last."""

    #: The session's id in events, which is known once the connector has greeted.
    activity_id: str


@attrs.frozen
class Rejected(Value):
    """The connector did not greet on the first data channel, or does not accept the session."""

    error: HybridRelayError


@attrs.frozen
class ChannelLost(Value):
    """The session has lost its data channel, and may resume over another one."""


@attrs.frozen
class MoveWanted(Value):
    """The session should move to another data channel, if it has one now. Answered by `commands.AnswerMove`."""

    cause: MoveCause


@attrs.frozen
class MoveWithdrawn(Value):
    """No caller is waiting for the move any more."""


@attrs.frozen
class SessionOver(Value):
    """The session has ended: one of the sides ended it, or its deadline to resume has passed."""

    reason: Reason
    text: str = ""
    #: Whether the connector has ended it, as opposed to this side or the deadline.
    by_connector: bool = False


@attrs.frozen
class Cancelled(Value):
    """The task that runs the session was cancelled, or has failed."""


@attrs.frozen
class Due(Value):
    """The machine's `deadline` has been reached."""

    #: If all relays have announced that they stop: when the first of them may be contacted again, by the clock of the
    #: machine's `deadline`. A time in the past if one of them may be contacted now.
    relays_away_until: float = float("-inf")


Input: TypeAlias = (
    Start
    | ChannelOpened
    | AttemptFailed
    | Greeted
    | Rejected
    | ChannelLost
    | MoveWanted
    | MoveWithdrawn
    | SessionOver
    | Cancelled
    | Due
)
