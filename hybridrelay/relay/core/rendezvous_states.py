"""The states, inputs and outcomes of a rendezvous, and the table of transitions. Pure.

A pair of state and input that is not in the table has no effect.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

from ...protocol.reasons import Reason

__all__ = ["OPEN", "REASONS", "TRANSITIONS", "UNJOINED", "Input", "Outcome", "Side", "State"]


class Side(enum.Enum):
    """The two sides of a rendezvous."""

    LISTENER = "listener"
    SENDER = "sender"


class State(enum.Enum):
    """The states of a rendezvous."""

    #: No ticket has been used.
    OFFERED = "offered"
    #: The listener's ticket has been used, but not the sender's.
    LISTENER_WAITS = "listener waits"
    SENDER_WAITS = "sender waits"
    #: Both tickets have been used, and at least one of the data channels is not ready.
    MATCHED = "matched"
    #: Bytes are moved between the two data channels.
    JOINED = "joined"
    #: It has to end, but the relay has not stopped moving bytes yet.
    STOPPING = "stopping"
    ENDED = "ended"


class Input(enum.Enum):
    """The inputs of a rendezvous, except for the use of a ticket, which is a `Side`."""

    #: The second of the two data channels is ready.
    BOTH_READY = "both ready"
    #: The tickets have expired.
    EXPIRES = "expires"
    #: A side whose ticket was used has left before the two were joined.
    LEAVES = "leaves"
    #: The relay has turned to another listener, the listener reported that it cannot open a data channel, or the
    #: sender no longer waits.
    WITHDRAWN = "withdrawn"
    #: A key by which one of the two was authorized is no longer valid.
    REVOKED = "revoked"
    #: The hybrid connection was disabled.
    DISABLED = "disabled"
    #: A quota that ends sessions is used up.
    OVERDRAWN = "overdrawn"
    #: Both directions ended with an end of file.
    FINISHES = "finishes"
    #: One of the two joined channels broke.
    BREAKS = "breaks"
    #: The task that served one of the two joined channels was cancelled.
    CANCELLED = "cancelled"
    #: The main process ends, and a worker keeps the pair for the next main process.
    KEPT = "kept"
    #: Its place is needed for another rendezvous of the same hybrid connection.
    DISPLACED = "displaced"
    #: Its place is needed for another hybrid connection.
    DISPLACED_BY_OTHER = "displaced by other"
    #: An administrator has ended it.
    DROPPED = "dropped"
    #: The relay is stopping.
    SHUTDOWN = "shutdown"


class Outcome(enum.Enum):
    """How a rendezvous ended. docs/events.md explains them."""

    FINISHED = "finished"
    CLOSED = "closed by one side"
    BOTH_ABSENT = "both absent"
    LISTENER_ABSENT = "listener absent"
    SENDER_ABSENT = "sender absent"
    LEFT = "left"
    WITHDRAWN = "withdrawn"
    REVOKED = "revoked"
    DISABLED = "disabled"
    OVERDRAWN = "quota used up"
    CANCELLED = "cancelled"
    DISPLACED = "displaced"
    DISPLACED_BY_OTHER = "displaced by another hybrid connection"
    DROPPED = "dropped"
    SHUT_DOWN = "shut down"
    #: The main process and the worker have ended without reporting it; the next main process does. No transition
    #: has this.
    LOST = "lost"
    #: Not an end: the next main process takes it over.
    KEPT = "kept"


#: Why a rendezvous ended. This is also the status for a side that waits, except in one case; see
#: `RendezvousTable.revoke`.
REASONS = {
    Outcome.FINISHED: Reason.NO_ERROR,
    Outcome.CLOSED: Reason.SESSION_LOST,
    Outcome.BOTH_ABSENT: Reason.PEER_ABSENT,
    Outcome.LISTENER_ABSENT: Reason.PEER_ABSENT,
    Outcome.SENDER_ABSENT: Reason.PEER_ABSENT,
    Outcome.LEFT: Reason.PEER_ABSENT,
    Outcome.WITHDRAWN: Reason.LISTENER_CANNOT_DIAL,
    Outcome.REVOKED: Reason.KEY_REVOKED,
    Outcome.DISABLED: Reason.CONNECTION_DISABLED,
    Outcome.OVERDRAWN: Reason.TRANSFER_QUOTA,
    Outcome.CANCELLED: Reason.CANCELLED,
    Outcome.DISPLACED: Reason.LIMIT,
    Outcome.DISPLACED_BY_OTHER: Reason.LIMIT,
    Outcome.DROPPED: Reason.ADMINISTRATOR_DROPPED,
    Outcome.SHUT_DOWN: Reason.GOING_AWAY,
    Outcome.LOST: Reason.SESSION_LOST,
    Outcome.KEPT: Reason.GOING_AWAY,
}

#: States in which at least one ticket has not been used.
OPEN = (State.OFFERED, State.LISTENER_WAITS, State.SENDER_WAITS)
#: States before the data channels are joined.
UNJOINED = (*OPEN, State.MATCHED)
#: Inputs that may end a rendezvous at any time.
_FORCES = {
    Input.REVOKED: Outcome.REVOKED,
    Input.DISABLED: Outcome.DISABLED,
    Input.OVERDRAWN: Outcome.OVERDRAWN,
    Input.DISPLACED: Outcome.DISPLACED,
    Input.DISPLACED_BY_OTHER: Outcome.DISPLACED_BY_OTHER,
    Input.DROPPED: Outcome.DROPPED,
    Input.SHUTDOWN: Outcome.SHUT_DOWN,
}
#: Inputs that say that the relay no longer moves bytes.
_STOPS = {
    Input.FINISHES: Outcome.FINISHED,
    Input.BREAKS: Outcome.CLOSED,
    Input.CANCELLED: Outcome.CANCELLED,
    Input.KEPT: Outcome.KEPT,
}

#: The next state and, where it decides how the rendezvous ends, the outcome.
TRANSITIONS: Mapping[tuple[State, Side | Input], tuple[State, Outcome | None]] = {
    (State.OFFERED, Side.LISTENER): (State.LISTENER_WAITS, None),
    (State.OFFERED, Side.SENDER): (State.SENDER_WAITS, None),
    (State.LISTENER_WAITS, Side.SENDER): (State.MATCHED, None),
    (State.SENDER_WAITS, Side.LISTENER): (State.MATCHED, None),
    (State.MATCHED, Input.BOTH_READY): (State.JOINED, None),
    (State.OFFERED, Input.EXPIRES): (State.ENDED, Outcome.BOTH_ABSENT),
    (State.LISTENER_WAITS, Input.EXPIRES): (State.ENDED, Outcome.SENDER_ABSENT),
    (State.SENDER_WAITS, Input.EXPIRES): (State.ENDED, Outcome.LISTENER_ABSENT),
    (State.LISTENER_WAITS, Input.LEAVES): (State.ENDED, Outcome.LEFT),
    (State.SENDER_WAITS, Input.LEAVES): (State.ENDED, Outcome.LEFT),
    (State.MATCHED, Input.LEAVES): (State.ENDED, Outcome.LEFT),
    (State.OFFERED, Input.WITHDRAWN): (State.ENDED, Outcome.WITHDRAWN),
    (State.LISTENER_WAITS, Input.WITHDRAWN): (State.ENDED, Outcome.WITHDRAWN),
    (State.SENDER_WAITS, Input.WITHDRAWN): (State.ENDED, Outcome.WITHDRAWN),
    **{(state, force): (State.ENDED, outcome) for state in UNJOINED for force, outcome in _FORCES.items()},
    **{(State.JOINED, force): (State.STOPPING, outcome) for force, outcome in _FORCES.items()},
    **{(State.JOINED, stop): (State.ENDED, outcome) for stop, outcome in _STOPS.items()},
    # The outcome was decided when it began to stop.
    **{(State.STOPPING, stop): (State.ENDED, None) for stop in _STOPS},
}
