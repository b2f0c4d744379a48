"""The transition tables of the registration machine.

There are two kinds of state. The *phase* says whether the connector has a control channel to the relay. Each control
channel also has a state of its own, because there can be several: while the connector moves to a better route, the
successor takes over the registrations before the current channel is closed. A pair of state and cause that is not in
a table cannot occur, whatever the relay sends, unless the machine has a bug.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

__all__ = ["CHANNELS", "PHASES", "ChannelCause", "ChannelState", "Phase", "PhaseCause"]


class Phase(enum.Enum):
    """The state of a connector at one relay."""

    #: Not started yet.
    IDLE = "idle"
    #: The first control channel is being opened.
    OPENING = "opening"
    #: At least one control channel is open.
    CONNECTED = "connected"
    #: No control channel is open; the next attempt is scheduled.
    WAITING = "waiting"
    #: The final phase.
    STOPPED = "stopped"


class PhaseCause(enum.Enum):
    """What changes the phase."""

    STARTED = "started"
    CHANNEL_OPENED = "channel opened"
    #: The first control channel could not be opened.
    OPENING_FAILED = "opening failed"
    #: The last control channel has ended, or nothing could be registered over the only one.
    NO_CHANNEL_LEFT = "no channel left"
    #: It is time to try again, or there is a reason to do so earlier.
    DUE = "due"
    STOPPED = "stopped"


PHASES: Mapping[tuple[Phase, PhaseCause], Phase] = {
    (Phase.IDLE, PhaseCause.STARTED): Phase.OPENING,
    (Phase.OPENING, PhaseCause.CHANNEL_OPENED): Phase.CONNECTED,
    (Phase.OPENING, PhaseCause.OPENING_FAILED): Phase.WAITING,
    # The successor has opened, in addition to the channel that it will replace.
    (Phase.CONNECTED, PhaseCause.CHANNEL_OPENED): Phase.CONNECTED,
    (Phase.CONNECTED, PhaseCause.NO_CHANNEL_LEFT): Phase.WAITING,
    (Phase.WAITING, PhaseCause.DUE): Phase.OPENING,
    **{(phase, PhaseCause.STOPPED): Phase.STOPPED for phase in Phase},
}


class ChannelState(enum.Enum):
    """The state of one control channel."""

    #: It is being opened.
    OPENING = "opening"
    #: It is open, and everything is being registered over it for the first time.
    TAKING_OVER = "taking over"
    #: It was the last channel to take over the registrations, and renews them.
    CURRENT = "current"
    #: A newer channel is current. This one still renews registrations that the relay refused over the newer one.
    EARLIER = "earlier"
    #: The connector has closed it, and it has not ended yet.
    CLOSING = "closing"
    #: It has ended, or was given up.
    CLOSED = "closed"


class ChannelCause(enum.Enum):
    """What changes the state of a control channel."""

    OPENED = "opened"
    #: Everything was registered over it, except what the relay has refused.
    TOOK_OVER = "took over"
    #: A newer channel has taken over.
    REPLACED = "replaced"
    #: The connector closes it.
    CLOSED_BY_US = "closed by us"
    #: The connector gives it up at once, whether it is open or not.
    ABANDONED = "abandoned"
    #: It could not be opened, or it has ended.
    ENDED = "ended"


_OPEN = (ChannelState.TAKING_OVER, ChannelState.CURRENT, ChannelState.EARLIER)

CHANNELS: Mapping[tuple[ChannelState, ChannelCause], ChannelState] = {
    (ChannelState.OPENING, ChannelCause.OPENED): ChannelState.TAKING_OVER,
    (ChannelState.OPENING, ChannelCause.ABANDONED): ChannelState.CLOSED,
    (ChannelState.OPENING, ChannelCause.ENDED): ChannelState.CLOSED,
    (ChannelState.TAKING_OVER, ChannelCause.TOOK_OVER): ChannelState.CURRENT,
    # Nothing could be registered over the channel, or it was given up first.
    (ChannelState.TAKING_OVER, ChannelCause.ABANDONED): ChannelState.CLOSED,
    (ChannelState.CURRENT, ChannelCause.REPLACED): ChannelState.EARLIER,
    **{(state, ChannelCause.CLOSED_BY_US): ChannelState.CLOSING for state in _OPEN},
    **{(state, ChannelCause.ENDED): ChannelState.CLOSED for state in (*_OPEN, ChannelState.CLOSING)},
}
