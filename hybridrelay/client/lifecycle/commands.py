"""The commands of the session machine. A docstring such as "Open X: `A` or `B`" names the inputs that report the
result."""

from __future__ import annotations

from typing import TypeAlias

import attrs

from ..._value import Value
from ...errors import HybridRelayError
from ...events.base import Event
from ...protocol.reasons import Reason
from .inputs import MoveCause


@attrs.frozen
class Search(Value):
    """Open a data channel to any acceptable connector: `ChannelOpened` or `AttemptFailed`."""

    attempt: int


@attrs.frozen
class Resume(Value):
    """Open a data channel to the connector of the session: `ChannelOpened` or `AttemptFailed`."""

    attempt: int
    #: Whether the relay of the last data channel is tried before the others.
    same_relay_first: bool


@attrs.frozen
class OpenForMove(Value):
    """Open a data channel to the session's connector through one of the relays of a move: `ChannelOpened` or
    `AttemptFailed`."""

    attempt: int
    cause: MoveCause


@attrs.frozen
class Abandon(Value):
    """Give up an attempt. If its data channel has already been opened, it is closed. Nothing is reported."""

    attempt: int


@attrs.frozen
class RunSession(Value):
    """Run a new session over this attempt's data channel: `Greeted` or `Rejected`, and later `ChannelLost` and
    `SessionOver`."""

    attempt: int


@attrs.frozen
class UseChannel(Value):
    """Continue the session over this attempt's data channel: `Greeted` or `ChannelLost`."""

    attempt: int


@attrs.frozen
class CloseSession(Value):
    """End the session, because it cannot be resumed: `SessionOver`."""

    reason: Reason
    text: str


@attrs.frozen
class AnswerMove(Value):
    """The answer to `MoveWanted`."""

    #: Why the session has not moved; None if it has.
    error: HybridRelayError | None = None


@attrs.frozen
class CheckRelay(Value):
    """The last data channel was lost: probe the routes to its relay again, and check its control channel."""


@attrs.frozen
class TryRelayLater(Value):
    """Try the relay of the last data channel after the others for a while, because the connector did not greet over
    it."""


@attrs.frozen
class Fail(Value):
    """No session was opened: raise this error in the task that asked for one."""

    error: HybridRelayError


Command: TypeAlias = (
    Search
    | Resume
    | OpenForMove
    | Abandon
    | RunSession
    | UseChannel
    | CloseSession
    | AnswerMove
    | CheckRelay
    | TryRelayLater
    | Fail
)

#: What the machine returns: commands, to be executed in order, and events, to be published.
Output: TypeAlias = Command | Event
