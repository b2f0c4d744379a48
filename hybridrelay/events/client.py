"""Events of the client: its sessions, its relays, and the connections of applications.

``activity_id`` is the session's id in events of sessions. In events of streams, it identifies the application's
request, which may have to wait for a session. Once there is a session, ``stream_id`` is the stream's id in the
connector's events.
"""

# This module is long because it has a class for each event, and all that the client publishes is in one place.

from __future__ import annotations

from typing import ClassVar

import attrs

from ..protocol.reasons import Reason
from .base import Event, Level

__all__ = [
    "ApplicationNotRedirected",
    "ConnectionsCutOff",
    "ConnectorPassedOver",
    "ConnectorReplaced",
    "DatagramsDropped",
    "FlowNotOpened",
    "FlowsUsedUp",
    "ForwardOpenToOthers",
    "ForwardPortClosed",
    "ForwardStillUnavailable",
    "ForwardUnavailable",
    "JoinRightEnded",
    "OwnPortNotOpened",
    "PortsLeftOut",
    "SessionInterrupted",
    "SessionLeaving",
    "SessionLost",
    "SessionMoved",
    "SessionNotMoved",
    "SessionNotOpened",
    "SessionNotResumedYet",
    "StreamFailed",
    "StreamNotOpened",
    "StreamRequested",
]


# --- fields that several events have


@attrs.frozen(kw_only=True)
class _Session(Event):
    connection: str
    activity_id: str
    #: The label of the connector's identity, from its certificate.
    label: str = ""


@attrs.frozen(kw_only=True)
class _Unavailable(Event):
    connection: str
    reason: Reason
    detail: str
    #: The next attempt begins after this time (seconds).
    retry_seconds: float


# --- sessions


@attrs.frozen(kw_only=True)
class SessionNotOpened(Event):
    """No session could be opened. There are no other events of this session; the caller gets an exception."""

    name: ClassVar = "session.not-opened"
    level: ClassVar = Level.DEBUG
    summary: ClassVar = "A session could not be opened"

    connection: str
    #: The label of the connector's identity, if a connector was tried.
    label: str = ""
    #: ``not-opened`` or ``cancelled``.
    outcome: str
    reason: Reason
    detail: str = ""


@attrs.frozen(kw_only=True)
class ConnectorReplaced(Event):
    """A connector could not connect to the target, and the client has opened a session with another one for new
    streams. The streams of the earlier session continue."""

    name: ClassVar = "connector.replaced"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A connector cannot reach the target, and new streams use another one"

    connection: str
    #: The instance of the earlier connector, and that of the one that is used now.
    instance: str
    successor: str
    #: Why the earlier one has refused a stream.
    reason: Reason


@attrs.frozen(kw_only=True)
class ConnectorPassedOver(Event):
    """A connector cannot be used for a new session. The client asks a relay for another one, and avoids this one for
    up to ten minutes.

    These are the causes: the connector did not open its data channel; the data channel was lost, or the end-to-end
    handshake took too long; one of the two sides does not accept the identity of the other; or the connector sent no
    HELLO, or refused the session. ``reason`` and ``detail`` say which. If the client asks for no other connector,
    `SessionNotOpened` is published instead.
    """

    name: ClassVar = "connector.passed-over"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A connector cannot be used, and the client asks for another one"

    connection: str
    instance: str
    reason: Reason
    detail: str


@attrs.frozen(kw_only=True)
class SessionInterrupted(_Session):
    """A session has lost its data channel. Its streams wait until the session resumes or ends."""

    name: ClassVar = "session.interrupted"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A session has lost its data channel, and is being resumed"

    #: The route of the data channel that was lost: ``tcp at relay.example.com``.
    route: str


@attrs.frozen(kw_only=True)
class SessionNotResumedYet(_Session):
    """An attempt to resume has failed, and another one follows. Published only when the detail has changed."""

    name: ClassVar = "session.not-resumed-yet"
    level: ClassVar = Level.INFO
    summary: ClassVar = "A session could not be resumed yet"

    reason: Reason
    detail: str


@attrs.frozen(kw_only=True)
class SessionMoved(_Session):
    """A session has moved to another data channel, without a pause."""

    name: ClassVar = "session.moved"
    level: ClassVar = Level.INFO
    summary: ClassVar = "A session has moved to another data channel"

    #: The route of the new data channel.
    route: str
    #: As in `SessionOpened`.
    rendezvous: str = ""
    #: Why it has moved: ``better-route``, ``relay-draining``, ``renewal`` or ``string-changed``.
    cause: str


@attrs.frozen(kw_only=True)
class SessionNotMoved(_Session):
    """A session was to move to another data channel, but failed to. Its current data channel stays in use.

    Published only when the cause or the detail has changed, since some moves are attempted again and again.
    """

    name: ClassVar = "session.not-moved"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A session could not move to another data channel and keeps the current one"

    #: As in `SessionMoved`.
    cause: str
    reason: Reason
    detail: str


@attrs.frozen(kw_only=True)
class SessionLeaving(Event):
    """The session for new streams accepts no further ones, for example because the connector is stopping."""

    name: ClassVar = "session.leaving"
    level: ClassVar = Level.INFO
    summary: ClassVar = "A session accepts no further streams, and another one is opened"

    connection: str


@attrs.frozen(kw_only=True)
class SessionLost(_Session):
    """A session has ended although neither side intended it. Streams that were open were reset.

    For every session that was opened, exactly one event of this class or `SessionEnded` is published, whatever the
    cause.
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
    """A relay has ended this client's right to join, for example because the key was revoked."""

    name: ClassVar = "join-right.ended"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A relay has ended the right of this client to join"

    connection: str
    host: str
    reason: Reason


# --- forwarding


@attrs.frozen(kw_only=True)
class ForwardUnavailable(_Unavailable):
    """There is no session for connections of applications. Published when the reason changes, and every minute."""

    name: ClassVar = "forward.unavailable"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "Connections cannot be forwarded at the moment"


@attrs.frozen(kw_only=True)
class ForwardStillUnavailable(_Unavailable):
    """Connections still cannot be forwarded, for the same reason as in the last `ForwardUnavailable`."""

    name: ClassVar = "forward.still-unavailable"
    level: ClassVar = Level.DEBUG
    summary: ClassVar = "Connections still cannot be forwarded"


@attrs.frozen(kw_only=True)
class ForwardOpenToOthers(Event):
    """A forward listens at addresses that other machines may reach. Published once, when it listens."""

    name: ClassVar = "forward.open-to-others"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "Other machines can connect: everyone who can reach the address can reach the target"

    connection: str
    #: The listening addresses that are not loopback addresses, with their ports.
    addresses: tuple[str, ...]


@attrs.frozen(kw_only=True)
class ForwardPortClosed(Event):
    """Every relay refuses a connection string that a forward or run serves. What is served with others continues. (If
    a forward has no other, it ends instead.)"""

    name: ClassVar = "forward.port-closed"
    level: ClassVar = Level.ERROR
    summary: ClassVar = "Every relay refuses a connection string, and the local port for it is closed"

    connection: str
    reason: Reason
    detail: str
    remedy: str = ""


@attrs.frozen(kw_only=True)
class ConnectionsCutOff(Event):
    """The forward was stopped while connections of applications were open."""

    name: ClassVar = "forward.connections-cut-off"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "Connections that were still open were reset, because the forward is stopping"

    connection: str
    #: How many were reset.
    connections: int


@attrs.frozen(kw_only=True)
class FlowsUsedUp(Event):
    """A forward drops datagrams, because they come from more source addresses than it serves at a time. Published
    again only after the number of these addresses has fallen to half."""

    name: ClassVar = "forward.flows-used-up"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "Datagrams of further source addresses are dropped, because there are too many flows"

    connection: str
    #: How many flows a local port may have.
    limit: int


@attrs.frozen(kw_only=True)
class FlowNotOpened(Event):
    """The datagrams of an application were dropped, because no flow could be opened for them. The application is not
    told, because an ordinary program cannot refuse datagrams. `StreamNotOpened` is published as well."""

    name: ClassVar = "forward.flow-not-opened"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "The datagrams of an application were dropped, because no flow could be opened for them"

    connection: str
    #: The address of the application.
    application: str
    reason: Reason
    detail: str


@attrs.frozen(kw_only=True)
class DatagramsDropped(Event):
    """A forward has dropped datagrams of programs before they belonged to a flow of a session. Published at most
    every 30 seconds for each local port. What a flow drops later is in its `StreamClosed`.

    The numbers are those since the last such event.
    """

    name: ClassVar = "forward.datagrams-dropped"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A forward has dropped datagrams before they belonged to a flow"

    connection: str
    #: The local address and port.
    address: str
    #: There was no room: too many datagrams waited for a session, or the port had as many flows as it may have.
    queue: int
    #: They waited for a session for more than half a second.
    age: int
    #: They were too long.
    size: int
    #: This process did not receive them fast enough, so that the buffer of the socket was full.
    system: int
    #: Their flow could not be opened, or has failed less than a second ago.
    refused: int


@attrs.frozen(kw_only=True)
class PortsLeftOut(Event):
    """A forward cannot listen on some of the ports in a local name. It listens on the others."""

    name: ClassVar = "forward.ports-left-out"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A forward cannot listen on some ports of a local name, and leaves them out"

    #: The addresses and ports on which it does not listen; a range of ports is one of them.
    addresses: tuple[str, ...]
    detail: str
    remedy: str


@attrs.frozen(kw_only=True)
class OwnPortNotOpened(Event):
    """A forward listens on another port than the one in the local name, or than the first one there."""

    name: ClassVar = "forward.own-port-not-opened"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A forward cannot listen on the port of a local name, and listens on another port"

    #: The address and port that were wanted.
    address: str
    #: The port on which it listens.
    used_port: int
    detail: str
    remedy: str


@attrs.frozen(kw_only=True)
class ApplicationNotRedirected(Event):
    """A process of an application that ``hybridrelay run`` has started connects without being redirected, so that it
    does not reach what is published. Published once."""

    name: ClassVar = "application.not-redirected"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "Connections of a process of the application cannot be redirected"

    #: The id of the process, or of its thread.
    process: int
    detail: str


@attrs.frozen(kw_only=True)
class _Requested(Event):
    connection: str
    activity_id: str
    #: The label and serial of this client's identity, as the connector's audit log shows them.
    label: str = ""
    serial: str = ""
    #: As in `StreamClosed`.
    target: str = ""
    application: str = ""
    route: str = ""


@attrs.frozen(kw_only=True)
class StreamRequested(_Requested):
    """An application has connected to a forward or begun to send datagrams to it, or a program calls
    `Client.open_stream` or `Client.open_flow`.

    Exactly one `StreamClosed`, `StreamFailed` (of a connection to a forward) or `StreamNotOpened` (of a flow of
    datagrams, or a program) follows, whatever ends the stream.
    """

    name: ClassVar = "stream.requested"
    level: ClassVar = Level.DEBUG
    summary: ClassVar = "An application needs a stream"


@attrs.frozen(kw_only=True)
class StreamFailed(_Requested):
    """The connection of an application was reset, because no stream could be opened for it. (An application that uses
    a front gets a reply that says why, instead of a reset.)

    For every `StreamRequested` of a connection to a forward, exactly one event of this class or `StreamClosed` is
    published, whatever the cause.
    """

    name: ClassVar = "stream.failed"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "The connection of an application was reset, because no stream could be opened for it"

    reason: Reason
    detail: str = ""
    #: The time since the stream was requested (seconds).
    seconds: float
    #: As in `StreamClosed`.
    stream_id: str = ""


@attrs.frozen(kw_only=True)
class StreamNotOpened(_Requested):
    """`Client.open_stream` or `Client.open_flow` has opened no stream or flow: its caller gets an exception. With
    ``wait_opened=False``, the stream or flow that it has returned breaks."""

    name: ClassVar = "stream.not-opened"
    level: ClassVar = Level.DEBUG
    summary: ClassVar = "A stream could not be opened"

    reason: Reason
    detail: str = ""
    #: The time since the stream was requested (seconds).
    seconds: float
    #: As in `StreamClosed`.
    stream_id: str = ""
