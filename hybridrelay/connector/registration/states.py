"""The transition tables of the registration machine: everything that may happen, and when.

There are two kinds of machine. One *phase* per relay says whether the connector has a control channel there. Each
control channel has a state of its own, because there can be several: while the connector moves to a better route, the
successor takes the registrations over before the current channel is closed. A pair that is missing from a table is a
bug in the machine, never a mistake of the relay.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

__all__ = ["CHANNELS", "PHASES", "ChannelCause", "ChannelState", "Phase", "PhaseCause"]


class Phase(enum.Enum):
    """Where the connector stands at one relay."""

    #: Nothing was begun.
    IDLE = "idle"
    #: The first control channel is being opened.
    OPENING = "opening"
    #: At least one control channel is open.
    CONNECTED = "connected"
    #: No control channel is open; the next attempt begins when its time has come.
    WAITING = "waiting"
    #: Nothing more is done.
    STOPPED = "stopped"


class PhaseCause(enum.Enum):
    """What moves the phase."""

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
    # A successor is open besides the channel that it is to replace.
    (Phase.CONNECTED, PhaseCause.CHANNEL_OPENED): Phase.CONNECTED,
    (Phase.CONNECTED, PhaseCause.NO_CHANNEL_LEFT): Phase.WAITING,
    (Phase.WAITING, PhaseCause.DUE): Phase.OPENING,
    **{(phase, PhaseCause.STOPPED): Phase.STOPPED for phase in Phase},
}


class ChannelState(enum.Enum):
    """Where one control channel stands."""

    #: It is being opened.
    OPENING = "opening"
    #: It is open, and everything is being registered over it for the first time.
    TAKING_OVER = "taking over"
    #: It is the newest over which everything was registered; it renews the registrations.
    CURRENT = "current"
    #: A newer channel is current. This one renews what the relay did not register over that one.
    EARLIER = "earlier"
    #: The connector has closed it, and its end is awaited.
    CLOSING = "closing"
    #: It is over, or was given up.
    CLOSED = "closed"


class ChannelCause(enum.Enum):
    """What moves a control channel."""

    OPENED = "opened"
    #: Everything was registered over it, as far as the relay agrees.
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
    # Nothing could be registered over it, or it was given up meanwhile.
    (ChannelState.TAKING_OVER, ChannelCause.ABANDONED): ChannelState.CLOSED,
    (ChannelState.CURRENT, ChannelCause.REPLACED): ChannelState.EARLIER,
    **{(state, ChannelCause.CLOSED_BY_US): ChannelState.CLOSING for state in _OPEN},
    **{(state, ChannelCause.ENDED): ChannelState.CLOSED for state in (*_OPEN, ChannelState.CLOSING)},
}
