"""The inputs of the session machine. Attempts have the numbers that the machine gave them."""

from __future__ import annotations

import enum
from typing import TypeAlias

import attrs

from ...errors import HybridRelayError
from ...protocol.reasons import Reason


class MoveCause(enum.Enum):
    """Why a session is to move to another data channel."""

    BETTER_ROUTE = "better-route"
    #: The relay is about to stop.
    RELAY_DRAINING = "relay-draining"
    #: The data channel is old, or has carried much.
    RENEWAL = "renewal"
    #: The connection string was changed: another key, or other relays.
    STRING_CHANGED = "string-changed"


@attrs.frozen
class Channel:
    """What the machine knows about an open data channel."""

    #: ``tcp at relay.example.com``.
    route: str
    #: The connector's instance, and the label and serial of its identity.
    instance: str
    label: str = ""
    serial: str = ""


@attrs.frozen
class Start:
    """Begin; the first input."""


@attrs.frozen
class ChannelOpened:
    """A data channel is open, and nothing was said on it."""

    attempt: int
    channel: Channel


@attrs.frozen
class AttemptFailed:
    """A data channel could not be opened."""

    attempt: int
    error: HybridRelayError
    #: Every relay was tried, also those that are about to stop.
    tried_every_relay: bool = True


@attrs.frozen
class Greeted:
    """The connector has greeted on the data channel that the session was given last."""


@attrs.frozen
class Rejected:
    """The connector did not greet on the first data channel, or does not accept the session."""

    error: HybridRelayError


@attrs.frozen
class ChannelLost:
    """The session has lost its data channel, and may resume over another one."""


@attrs.frozen
class MoveWanted:
    """The session is to move to another data channel, if it has one now. Answered by `commands.AnswerMove`."""

    cause: MoveCause


@attrs.frozen
class MoveWithdrawn:
    """Nobody waits for the move any more."""


@attrs.frozen
class SessionOver:
    """The session has ended, on either side's account or because its deadline to resume has passed."""

    reason: Reason
    text: str = ""
    by_connector: bool = False


@attrs.frozen
class Cancelled:
    """What runs the session was cancelled, or has failed."""


@attrs.frozen
class Due:
    """The time `deadline` has come."""

    #: When the first of the relays may be called again that have all announced their restart; in the past if one of
    #: them may be called now.
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
