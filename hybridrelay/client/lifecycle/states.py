"""The states of a session at the client, the transition table, and the ways in which a session may end.

A pair of state and cause that is not in the table cannot occur, whatever a relay or a connector does, unless the
machine has a bug.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

from ...protocol.reasons import Category, Reason

__all__ = ["TRANSITIONS", "Cause", "Outcome", "State", "outcome_of"]


class State(enum.Enum):
    """The states of a session."""

    #: A data channel to any acceptable connector is being opened.
    SEARCHING = "searching"
    #: The session has its first data channel, and the connector has not greeted yet.
    OPENING = "opening"
    #: The connector has greeted on the session's data channel.
    CONNECTED = "connected"
    #: As in CONNECTED; in addition, the data channel to which the session will move is being opened.
    MOVING = "moving"
    #: The session was given that data channel, and the connector has not greeted on it yet.
    SWITCHING = "switching"
    #: The session has lost its data channel, and waits for the time of its next attempt to open another one.
    LOST = "lost"
    #: Another data channel to the same connector is being opened.
    RESUMING = "resuming"
    #: The session was given that data channel, and the connector has not greeted on it yet.
    REATTACHING = "reattaching"
    #: Nothing more happens.
    ENDED = "ended"


class Cause(enum.Enum):
    """What moves a session from one state to another."""

    CHANNEL_OPENED = "data channel opened"
    #: The connector has greeted.
    GREETED = "connector greeted"
    #: The connector of the first data channel did not accept the session, and the search continues with another one.
    PASSED_OVER = "connector passed over"
    #: A caller asks to move the session to another data channel.
    MOVE_WANTED = "move wanted"
    #: The data channel for a move could not be opened, or the caller no longer waits for the move.
    MOVE_FAILED = "move failed"
    CHANNEL_LOST = "data channel lost"
    #: It is time for another attempt to resume.
    DUE = "due"
    #: The data channel for resuming could not be opened.
    ATTEMPT_FAILED = "attempt failed"
    #: The session has ended; `Outcome` says how.
    ENDED = "ended"


_ALIVE = tuple(state for state in State if state is not State.ENDED)

TRANSITIONS: Mapping[tuple[State, Cause], State] = {
    (State.SEARCHING, Cause.CHANNEL_OPENED): State.OPENING,
    (State.OPENING, Cause.GREETED): State.CONNECTED,
    (State.OPENING, Cause.PASSED_OVER): State.SEARCHING,
    (State.CONNECTED, Cause.MOVE_WANTED): State.MOVING,
    (State.MOVING, Cause.MOVE_FAILED): State.CONNECTED,
    (State.MOVING, Cause.CHANNEL_OPENED): State.SWITCHING,
    (State.SWITCHING, Cause.GREETED): State.CONNECTED,
    (State.CONNECTED, Cause.CHANNEL_LOST): State.LOST,
    (State.MOVING, Cause.CHANNEL_LOST): State.LOST,
    (State.SWITCHING, Cause.CHANNEL_LOST): State.LOST,
    (State.LOST, Cause.DUE): State.RESUMING,
    # A move had begun before the loss, and its data channel was the first to open.
    (State.LOST, Cause.CHANNEL_OPENED): State.REATTACHING,
    (State.RESUMING, Cause.ATTEMPT_FAILED): State.LOST,
    (State.RESUMING, Cause.CHANNEL_OPENED): State.REATTACHING,
    (State.REATTACHING, Cause.GREETED): State.CONNECTED,
    (State.REATTACHING, Cause.CHANNEL_LOST): State.LOST,
    **{(state, Cause.ENDED): State.ENDED for state in _ALIVE},
}


class Outcome(enum.Enum):
    """How a session ended. Each session has exactly one outcome."""

    #: No connector could be found that accepts the session.
    NOT_OPENED = "not-opened"
    #: This client closed it.
    CLOSED = "closed"
    #: The connector closed it, because it is stopping or because no stream is open.
    CLOSED_BY_CONNECTOR = "closed-by-connector"
    #: The task that runs the session was cancelled.
    CANCELLED = "cancelled"
    #: It lost its data channel, and could not be resumed in time.
    NOT_RESUMED = "not-resumed"
    #: It lost its data channel, and the session's own relay, or every relay, said that the connector will never come
    #: back.
    CONNECTOR_GONE = "connector-gone"
    #: It lost its data channel, and every relay refuses the key, for instance because it was revoked.
    KEY_REFUSED = "key-refused"
    #: A connector with another identity answers in place of the session's connector.
    IDENTITY_CHANGED = "identity-changed"
    #: The connector no longer accepts this client's identity.
    IDENTITY_REFUSED = "identity-refused"
    #: The connector no longer knows the session.
    FORGOTTEN = "forgotten"
    #: One of the two sides violated the protocol or failed in another way.
    FAILED = "failed"

    @property
    def is_in_order(self) -> bool:
        """Whether one of the two sides ended the session deliberately."""
        return self in (Outcome.CLOSED, Outcome.CLOSED_BY_CONNECTOR, Outcome.CANCELLED)


_ENDED_HERE: Mapping[Reason, Outcome] = {
    Reason.NO_ERROR: Outcome.CLOSED,
    Reason.GOING_AWAY: Outcome.CANCELLED,
    Reason.SESSION_LOST: Outcome.NOT_RESUMED,
    Reason.PEER_SILENT: Outcome.NOT_RESUMED,
}
_ENDED_BY_CONNECTOR: Mapping[Reason, Outcome] = {
    Reason.NO_ERROR: Outcome.CLOSED_BY_CONNECTOR,
    Reason.GOING_AWAY: Outcome.CLOSED_BY_CONNECTOR,
    Reason.SESSION_UNKNOWN: Outcome.FORGOTTEN,
}


def outcome_of(reason: Reason, *, by_connector: bool) -> Outcome:
    """Return the outcome of a session that ended with this reason."""
    if by_connector and reason.category is Category.IDENTITY:
        return Outcome.IDENTITY_REFUSED
    return (_ENDED_BY_CONNECTOR if by_connector else _ENDED_HERE).get(reason, Outcome.FAILED)
