"""The states and inputs of the relay's side of a control channel, and the table of transitions. Pure."""

from __future__ import annotations

import enum
from collections.abc import Mapping

__all__ = ["TRANSITIONS", "ChannelInput", "ChannelState"]


class ChannelState(enum.Enum):
    """The states of a control channel."""

    #: The peer has not sent its hello.
    NEW = "new"
    #: The peer has not presented a valid token.
    GREETED = "greeted"
    AUTHORIZED = "authorized"
    #: The last key that had authorized the channel is no longer valid. The peer is notified, and the channel ends.
    REVOKED = "revoked"
    OVER = "over"


class ChannelInput(enum.Enum):
    """The inputs of a control channel."""

    HELLO = "hello"
    #: A token was valid.
    GRANT = "grant"
    #: The keys that have authorized it are no longer valid.
    KEYS_GONE = "keys gone"
    #: The channel has ended.
    LOST = "lost"


TRANSITIONS: Mapping[tuple[ChannelState, ChannelInput], ChannelState] = {
    (ChannelState.NEW, ChannelInput.HELLO): ChannelState.GREETED,
    (ChannelState.GREETED, ChannelInput.GRANT): ChannelState.AUTHORIZED,
    (ChannelState.AUTHORIZED, ChannelInput.GRANT): ChannelState.AUTHORIZED,
    (ChannelState.AUTHORIZED, ChannelInput.KEYS_GONE): ChannelState.REVOKED,
    # The peer has presented another valid token before the channel ended.
    (ChannelState.REVOKED, ChannelInput.GRANT): ChannelState.AUTHORIZED,
    **{(state, ChannelInput.LOST): ChannelState.OVER for state in ChannelState if state is not ChannelState.OVER},
    # A token was still being verified when the channel was lost.
    (ChannelState.OVER, ChannelInput.GRANT): ChannelState.OVER,
    # `lost` may be called again.
    (ChannelState.OVER, ChannelInput.LOST): ChannelState.OVER,
    (ChannelState.OVER, ChannelInput.KEYS_GONE): ChannelState.OVER,
}
