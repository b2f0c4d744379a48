"""The JSON values in the status of a connector, `forward` or `run`. Pure.

JSON is made from these classes, and ``/openapi.json`` contains their schemas. The values are those of
`hybridrelay.connectivity.snapshot`, which explains them; names are camelCase in JSON.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec

from ..connectivity.snapshot import MAX_LISTED, EndpointSnapshot, RelayState, SessionState, StreamState
from ..management.values import Body, Value
from ..protocol.control_states import TargetHealth

__all__ = [
    "ConnectionStatus",
    "FailureStatus",
    "ProblemStatus",
    "RelayStatus",
    "Role",
    "RouteStatus",
    "SessionStatus",
    "StatusQuery",
    "StatusValue",
    "StreamStatus",
]


#: The role of a program whose status is served.
Role: TypeAlias = Literal["connector", "forward", "client"]


class StatusQuery(Body, frozen=True):
    """The query of the status."""

    #: How many sessions, and how many streams, are listed at most. If there are more, the oldest are listed.
    limit: Annotated[int, msgspec.Meta(ge=0, le=MAX_LISTED)] = 100


class RouteStatus(Value, frozen=True):
    """How a channel leads to its relay."""

    name: str
    transport: str
    port: int
    proxy: str


class FailureStatus(Value, frozen=True):
    """Why something failed."""

    reason: str
    detail: str
    remedy: str
    #: Seconds since 1970.
    at: float | None


class RelayStatus(Value, frozen=True):
    """A hybrid connection at one of its relays."""

    host: str
    state: RelayState
    #: The instance of this program at the relay.
    instance: str
    #: Seconds since 1970; null if it is not registered.
    since: float | None
    #: The route of the control channel; null if there is none.
    route: RouteStatus | None
    #: The last failure at this relay. It may have been resolved since.
    failure: FailureStatus | None


class LastUpdate(Value, frozen=True):
    """An update of a connection string."""

    sequence: int
    #: ``used``, ``waiting`` (it may be used later) or ``refused``.
    state: str
    #: Why it is not used; empty if it is.
    detail: str


class CredentialStatus(Value, frozen=True):
    """An identity or an issuer in a connection string."""

    #: ``identity``, ``renewable-identity`` (an issuer has signed it, and it is renewed) or ``issuer``.
    kind: str
    #: The label of an identity; empty for an issuer.
    label: str
    serial: str
    #: Seconds since 1970.
    expires_at: float
    #: Why the last attempt to renew it has failed; null if it has not.
    failure: FailureStatus | None


class ConnectionStatus(Value, frozen=True):
    """One hybrid connection."""

    name: str
    #: At a connector, such as ``host:port``; empty at a client, which does not know it.
    target: str
    #: At a connector: ``unknown``, ``healthy`` or ``unhealthy``; and why it is unhealthy. (Its relays are told
    #: ``unhealthy`` also while it opens no streams, because a required audit log is missing.)
    target_health: TargetHealth
    target_failure: FailureStatus | None
    #: The local addresses of a forward.
    listening: tuple[str, ...]
    #: The ports of the local name on which a forward could not listen.
    left_out: tuple[str, ...]
    relays: tuple[RelayStatus, ...]
    sessions: int
    streams: int
    #: At a client: whether there is a session for new streams.
    is_connected: bool
    #: At a client: how many applications wait for a session.
    waiting: int
    #: At a client: why the last attempt to open a session failed; null once one has succeeded.
    failure: FailureStatus | None
    #: The last update of its connection string that the program has used, or that it does not use although it is
    #: later; null if there was none.
    update: LastUpdate | None
    #: What expires in its connection string.
    credentials: tuple[CredentialStatus, ...]


class SessionStatus(Value, frozen=True):
    """A session between client and connector."""

    #: The same as ``activityId`` in the logs of both sides.
    id: str
    connection: str
    state: SessionState
    #: The label of the other side's identity, followed by its serial.
    label: str
    serial: str
    #: The connector's instance; empty at a connector.
    instance: str
    #: The relay of the current data channel, or of the last one, followed by its route.
    relay: str
    route: RouteStatus
    #: The id of that data channel's rendezvous at the relay.
    rendezvous: str
    #: Seconds since 1970.
    since: float
    resumptions: int
    streams: int
    bytes_to_target: int
    bytes_to_client: int
    #: Bytes that wait to be written, that wait to be read, that are kept until they are acknowledged, and that are
    #: promised as receive windows.
    queued: int
    unread: int
    unacknowledged: int
    reserved: int
    #: Seconds: the lowest of the last minute, or the last one if it is older; null if none was measured.
    round_trip: float | None


class StreamStatus(Value, frozen=True):
    """One connection of an application."""

    #: The session and the number of the stream in it, as in the logs; empty while there is no session.
    id: str
    connection: str
    session: str
    state: StreamState
    #: Seconds since 1970.
    since: float
    #: At a connector: the label of the application's identity, and the target.
    label: str
    target: str
    #: At a forward: the address of the application.
    application: str
    bytes_to_target: int
    bytes_to_client: int


class ProblemStatus(Value, frozen=True):
    """A problem, and what an administrator can do about it."""

    code: Literal[
        "stopping",
        "denied-by-policy",
        "not-registered",
        "target-unhealthy",
        "relay-failed",
        "no-session",
        "not-listening",
        "ports-left-out",
        "session-resuming",
        "audit-failed",
        "update-not-used",
        "identity-expires",
        "string-not-kept",
        "reload-failed",
        "restart-needed",
    ]
    detail: str
    remedy: str
    #: The hybrid connection and the host of the relay that it concerns, if any.
    connection: str | None = None
    relay: str | None = None


class StatusValue(Value, frozen=True):
    """The status of a connector or forward."""

    role: Role
    version: str
    #: Seconds since 1970.
    started_at: float
    stopping: bool
    #: The most important first; empty if there are none.
    problems: tuple[ProblemStatus, ...]
    hybrid_connections: tuple[ConnectionStatus, ...]
    #: The oldest sessions, followed by how many there are in total.
    sessions: tuple[SessionStatus, ...]
    session_count: int
    streams: tuple[StreamStatus, ...]
    stream_count: int

    @classmethod
    def of(
        cls,
        snapshot: EndpointSnapshot,
        *,
        role: Role,
        version: str,
        started_at: float,
        stopping: bool,
        limit: int,
        problems: tuple[ProblemStatus, ...],
    ) -> StatusValue:
        """Make the value of a snapshot, with at most `limit` sessions and streams."""
        sessions, streams = snapshot.sessions[:limit], snapshot.streams[:limit]
        return cls(
            role=role,
            version=version,
            started_at=started_at,
            stopping=stopping,
            problems=problems,
            hybrid_connections=msgspec.convert(
                snapshot.connections, tuple[ConnectionStatus, ...], from_attributes=True
            ),
            sessions=msgspec.convert(sessions, tuple[SessionStatus, ...], from_attributes=True),
            session_count=snapshot.session_count,
            streams=msgspec.convert(streams, tuple[StreamStatus, ...], from_attributes=True),
            stream_count=snapshot.stream_count,
        )
