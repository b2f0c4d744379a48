"""Events of the client: its sessions, its relays, and the connections of applications.

``activity_id`` is the session's id in the events of sessions, and the stream's in those of streams.
"""

from __future__ import annotations

from typing import ClassVar

import attrs

from ..protocol.reasons import Reason
from .base import Event, Level

__all__ = [
    "ConnectionsCutOff",
    "ConnectorPassedOver",
    "ForwardStillUnavailable",
    "ForwardUnavailable",
    "JoinRightEnded",
    "SessionInterrupted",
    "SessionLeaving",
    "SessionLost",
    "SessionMoved",
    "SessionNotMoved",
    "SessionNotOpened",
    "SessionNotResumedYet",
    "StreamFailed",
    "StreamRequested",
]


# --- fields that several events have


@attrs.frozen(kw_only=True)
class _Session(Event):
    connection: str
    activity_id: str
    #: Of the connector's identity, as its certificate has it.
    label: str = ""


@attrs.frozen(kw_only=True)
class _Unavailable(Event):
    connection: str
    reason: Reason
    detail: str
    #: The next attempt begins after this time.
    retry_seconds: float


# --- sessions


@attrs.frozen(kw_only=True)
class SessionNotOpened(_Session):
    """No session could be opened. It is the one event of that session; the caller gets an exception."""

    name: ClassVar = "session.not-opened"
    level: ClassVar = Level.DEBUG
    summary: ClassVar = "A session could not be opened"

    #: ``not-opened`` or ``cancelled``.
    outcome: str
    reason: Reason
    detail: str = ""


@attrs.frozen(kw_only=True)
class ConnectorPassedOver(Event):
    """A connector did not come, or does not accept this client. Another one may."""

    name: ClassVar = "connector.passed-over"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A connector cannot be used, and another one is asked for"

    connection: str
    instance: str
    reason: Reason
    detail: str


@attrs.frozen(kw_only=True)
class SessionInterrupted(_Session):
    """A session has lost its data channel. Its streams wait until it has another one, or is over."""

    name: ClassVar = "session.interrupted"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A session lost its data channel, and is being resumed"

    #: Of the data channel that was lost: ``tcp at relay.example.com``.
    route: str


@attrs.frozen(kw_only=True)
class SessionNotResumedYet(_Session):
    """An attempt to resume has failed, and another one follows. Published when the detail changes."""

    name: ClassVar = "session.not-resumed-yet"
    level: ClassVar = Level.INFO
    summary: ClassVar = "A session could not be resumed yet"

    reason: Reason
    detail: str


@attrs.frozen(kw_only=True)
class SessionMoved(_Session):
    """A session uses another data channel, without a pause."""

    name: ClassVar = "session.moved"
    level: ClassVar = Level.INFO
    summary: ClassVar = "A session moved to another data channel"

    route: str
    #: ``better-route``, ``relay-draining``, ``renewal`` or ``string-changed``.
    cause: str


@attrs.frozen(kw_only=True)
class SessionNotMoved(_Session):
    """A session should have moved, and its present data channel stays in use."""

    name: ClassVar = "session.not-moved"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A session could not move to another data channel, and keeps the present one"

    #: As in `SessionMoved`.
    cause: str
    reason: Reason
    detail: str


@attrs.frozen(kw_only=True)
class SessionLeaving(Event):
    """The session for new streams takes no further ones, because the connector stops, for instance."""

    name: ClassVar = "session.leaving"
    level: ClassVar = Level.INFO
    summary: ClassVar = "A session takes no further streams, and another one is opened"

    connection: str


@attrs.frozen(kw_only=True)
class SessionLost(_Session):
    """A session is over although neither side wanted that; streams that were open were reset.

    There is exactly one such event, or `SessionEnded`, for every session that was opened, whatever ended it.
    """

    name: ClassVar = "session.lost"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A session was lost"

    #: See docs/events.md.
    outcome: str
    reason: Reason
    detail: str = ""


# --- relays


@attrs.frozen(kw_only=True)
class JoinRightEnded(Event):
    """A relay has ended this client's right to ask for connectors: the key was revoked, for instance."""

    name: ClassVar = "join-right.ended"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A relay has ended the right of this client to join"

    connection: str
    host: str
    reason: Reason


# --- forwarding


@attrs.frozen(kw_only=True)
class ForwardUnavailable(_Unavailable):
    """There is no session for connections of applications. Published when the reason changes, and once a minute."""

    name: ClassVar = "forward.unavailable"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "Connections cannot be forwarded at the moment"


@attrs.frozen(kw_only=True)
class ForwardStillUnavailable(_Unavailable):
    """As `ForwardUnavailable`, for the same reason as before."""

    name: ClassVar = "forward.still-unavailable"
    level: ClassVar = Level.DEBUG
    summary: ClassVar = "Connections still cannot be forwarded"


@attrs.frozen(kw_only=True)
class ConnectionsCutOff(Event):
    """The forward has stopped while connections of applications were open."""

    name: ClassVar = "forward.connections-cut-off"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "Connections that were still open were reset, because the forward stops"

    connection: str
    connections: int


@attrs.frozen(kw_only=True)
class StreamRequested(Event):
    """An application has connected, and a stream is opened for it. Followed by `StreamClosed` or `StreamFailed`."""

    name: ClassVar = "stream.requested"
    level: ClassVar = Level.DEBUG
    summary: ClassVar = "An application has connected"

    connection: str
    activity_id: str


@attrs.frozen(kw_only=True)
class StreamFailed(Event):
    """The connection of an application was reset, because it got no stream.

    There is exactly one such event, or `StreamClosed`, for every `StreamRequested`, whatever ended it.
    """

    name: ClassVar = "stream.failed"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "The connection of an application was reset, because no stream could be opened for it"

    connection: str
    activity_id: str
    reason: Reason
    detail: str = ""
    seconds: float
