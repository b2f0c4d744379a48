"""Snapshots: the state of a connector or client at one moment, as frozen values for status, metrics and programs.
Pure.

Times are seconds since 1970. Byte counts are of the applications' data, without protocol overhead.
Taking a snapshot takes time in proportion to what it lists. The data path only adds to integer counters for it.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Literal

import attrs

from .._value import Value
from ..audit.record import SinkProblem
from ..errors import HybridRelayError
from ..protocol.control_states import TargetHealth
from .counters import EndpointCounters

__all__ = [
    "MAX_LISTED",
    "ConnectionSnapshot",
    "EndpointSnapshot",
    "FailureSnapshot",
    "RelaySnapshot",
    "RelayState",
    "RouteSnapshot",
    "SessionSnapshot",
    "SessionState",
    "StreamSnapshot",
    "StreamState",
    "TargetCheck",
    "UnappliedSnapshot",
    "UnkeptSnapshot",
    "UpdateStatus",
]

#: How many sessions, and how many streams, a snapshot lists by default.
MAX_LISTED = 1000


@attrs.frozen(kw_only=True)
class RouteSnapshot(Value):
    """How a channel leads to its relay."""

    #: ``tcp``, ``wss``, ``ws``, ``exec``.
    name: str
    #: The name of the transport: ``tcp``, ``websocket``, ``exec``.
    transport: str
    #: The port of the relay; 0 if the route has no network port.
    port: int
    #: ``http://proxy.example:3128``, without credentials; empty if there is none, or if it is not known.
    proxy: str = ""


@attrs.frozen(kw_only=True)
class FailureSnapshot(Value):
    """Why something failed."""

    #: The slug of a `Reason`.
    reason: str
    #: What happened, as a sentence, and what to do about it, which may be empty.
    detail: str
    remedy: str
    #: When; None if that is not known.
    at: float | None = None

    @classmethod
    def of(cls, error: HybridRelayError, at: float | None = None) -> FailureSnapshot:
        """Return the failure that an exception describes."""
        return cls(reason=error.reason.slug, detail=str(error), remedy=error.remedy or "", at=at)


class RelayState(enum.StrEnum):
    """The state of a hybrid connection of a connector or client at one relay."""

    #: A connector is registered there. A client has a control channel, over which it may join.
    REGISTERED = "registered"
    #: A connector is not registered, and tries again. A client's last attempt to connect has failed.
    FAILED = "failed"
    #: The relay refuses the connector for a permanent reason.
    REFUSED = "refused"
    #: A connector's first attempt has not ended. A client has not needed this relay yet.
    WAITING = "waiting"


@attrs.frozen(kw_only=True)
class RelaySnapshot(Value):
    """A hybrid connection at one of its relays."""

    #: The host as written in the connection string.
    host: str
    state: RelayState
    #: The instance of this program at the relay, which ``hybridrelay status`` of the relay shows.
    instance: str
    #: Since when it is registered; None if it is not.
    since: float | None = None
    #: The route of the control channel; None if there is none.
    route: RouteSnapshot | None = None
    #: The last failure at this relay, which may be over by now.
    failure: FailureSnapshot | None = None


@attrs.frozen(kw_only=True)
class UpdateStatus(Value):
    """The last update of a connection string."""

    sequence: int
    #: ``used``, ``waiting`` (it may be used later) or ``refused``.
    state: str
    #: Why it is not used.
    detail: str = ""


@attrs.frozen(kw_only=True)
class UnappliedSnapshot(Value):
    """Something in the files of a program that is not in use: it could not be reloaded, or it needs a restart."""

    #: ``reload-failed`` or ``restart-needed``.
    code: Literal["reload-failed", "restart-needed"]
    detail: str
    remedy: str


@attrs.frozen(kw_only=True)
class UnkeptSnapshot(Value):
    """What a program has received for a connection string, and could not store: it is only in memory."""

    #: ``key``, ``identity``, ``update``.
    parts: tuple[str, ...]
    #: Why it is not stored, and what to do about it.
    detail: str
    remedy: str


@attrs.frozen(kw_only=True)
class CredentialSnapshot(Value):
    """An identity or an issuer in a connection string."""

    #: ``identity``, ``renewable-identity`` (an issuer has signed it) or ``issuer``.
    kind: str
    #: The label of an identity; empty for an issuer.
    label: str
    serial: str
    expires_at: float
    #: Whether somebody should do something about it.
    is_problem: bool
    remedy: str
    #: Why the last attempt to renew it has failed; None if it has not.
    failure: FailureSnapshot | None = None


@attrs.frozen(kw_only=True)
class ConnectionSnapshot(Value):
    """One hybrid connection of a connector or client."""

    name: str
    relays: tuple[RelaySnapshot, ...]
    sessions: int
    streams: int
    #: ``host:port``, at a connector; empty at a client, which does not know it.
    target: str = ""
    #: At a connector: whether it can connect to the target; and, if not, why.
    target_health: TargetHealth = TargetHealth.UNKNOWN
    target_failure: FailureSnapshot | None = None
    #: The local addresses of a forward; empty otherwise.
    listening: tuple[str, ...] = ()
    #: The ports of the local name on which a forward could not listen.
    left_out: tuple[str, ...] = ()
    #: At a client: whether a stream can be opened without waiting for a session.
    is_connected: bool = False
    #: At a client: how many applications wait for a session.
    waiting: int = 0
    #: At a client: why the last attempt to open a session failed; None once one has succeeded.
    failure: FailureSnapshot | None = None
    #: The last update of its connection string; None if there was none.
    update: UpdateStatus | None = None
    #: What expires in its connection string.
    credentials: tuple[CredentialSnapshot, ...] = ()
    #: What a restart would lose; None if nothing.
    unkept: UnkeptSnapshot | None = None
    #: At a connector: the rule of the policy, with file and line, that does not allow it or its target; empty if
    #: there is none. It may still be registered, so that clients are told.
    denial: str = ""
    #: What to do about `denial`; empty if nothing more is known than that the policy has to be changed.
    denial_remedy: str = ""

    @property
    def is_registered(self) -> bool:
        """Whether the hybrid connection is registered at one relay or more."""
        return any(relay.state is RelayState.REGISTERED for relay in self.relays)


class SessionState(enum.StrEnum):
    """The state of a session."""

    OPEN = "open"
    #: It has lost its data channel, and waits for another one.
    RESUMING = "resuming"
    #: It accepts no further streams, and ends with its last one.
    ENDING = "ending"


@attrs.frozen(kw_only=True)
class SessionSnapshot(Value):
    """A session between client and connector."""

    #: ``activity_id`` in events, the same on both sides.
    id: str
    connection: str
    state: SessionState
    #: Label and serial of the other side's identity.
    label: str
    serial: str
    #: The connector's instance, at a client; empty at a connector, which does not know that of the client.
    instance: str
    #: The relay and the route of the current data channel, or of the last one while there is none.
    relay: str
    route: RouteSnapshot
    #: The id of its rendezvous, which ``hybridrelay status`` and the log of the relay show.
    rendezvous: str
    since: float
    #: How many times the session has continued over another data channel.
    resumptions: int
    streams: int
    bytes_to_target: int
    bytes_to_client: int
    #: How many bytes wait to be written to the data channel, and to be read by the application or target.
    queued: int
    unread: int
    #: Memory of frames that were written and are held until the other side acknowledges them (bytes).
    unacknowledged: int
    #: Receive windows that are promised to the other side (bytes).
    reserved: int
    #: The lowest round trip of the last minute (seconds); the last one if it is older; None if none was measured.
    round_trip: float | None = None


class StreamState(enum.StrEnum):
    """The state of a stream."""

    #: At a client: there is no session for it yet.
    WAITING = "waiting"
    #: The target has not answered yet.
    CONNECTING = "connecting"
    OPEN = "open"
    #: One of the directions has ended.
    HALF_CLOSED = "half-closed"


@attrs.frozen(kw_only=True)
class StreamSnapshot(Value):
    """One connection of an application."""

    #: ``activity_id`` in events of the connector, and ``stream_id`` in those of the client; empty without a session.
    id: str
    connection: str
    #: The id of its session; empty without one.
    session: str
    state: StreamState
    since: float
    #: The label of the application's identity, at a connector; empty at a client.
    label: str = ""
    #: ``host:port``, at a connector; empty at a client.
    target: str = ""
    #: The local address of the application, at a forward; empty otherwise.
    application: str = ""
    bytes_to_target: int = 0
    bytes_to_client: int = 0


@attrs.frozen
class TargetCheck(Value):
    """Whether the target of a hybrid connection could be reached."""

    connection: str
    #: ``host:port``.
    target: str
    #: The slug of a `Reason` and a sentence for people; empty if it could be reached.
    reason: str = ""
    detail: str = ""
    remedy: str = ""

    @property
    def ok(self) -> bool:
        """Whether the target could be reached."""
        return not self.reason


@attrs.frozen(kw_only=True)
class EndpointSnapshot(Value):
    """The state of a connector, of a client, or of several clients of one program."""

    connections: tuple[ConnectionSnapshot, ...]
    #: The oldest sessions, at most as many as were asked for; `session_count` is their total number.
    sessions: tuple[SessionSnapshot, ...]
    session_count: int
    streams: tuple[StreamSnapshot, ...]
    stream_count: int
    #: Sums over all sessions.
    queued: int
    unread: int
    unacknowledged: int
    reserved: int
    #: The transports that may be used, and whether each is in use.
    transports: dict[str, bool]
    #: Counters of what has happened so far.
    counters: EndpointCounters
    #: What is in the files of the program, and not in use.
    unapplied: tuple[UnappliedSnapshot, ...] = ()
    #: The sinks of a connector's audit log that cannot be written.
    audit: tuple[SinkProblem, ...] = ()

    @classmethod
    def merged(cls, several: Sequence[EndpointSnapshot], *, max_sessions: int, max_streams: int) -> EndpointSnapshot:
        """Combine the snapshots of several clients of one program. At most `max_sessions` and `max_streams` are
        listed."""
        counters, transports = EndpointCounters(), dict[str, bool]()
        for one in several:
            counters.add(one.counters)
            transports.update({name: transports.get(name, False) or used for name, used in one.transports.items()})
        sessions = sorted((item for one in several for item in one.sessions), key=lambda item: item.since)
        streams = sorted((item for one in several for item in one.streams), key=lambda item: item.since)
        return cls(
            connections=tuple(item for one in several for item in one.connections),
            sessions=tuple(sessions[:max_sessions]),
            session_count=sum(one.session_count for one in several),
            streams=tuple(streams[:max_streams]),
            stream_count=sum(one.stream_count for one in several),
            queued=sum(one.queued for one in several),
            unread=sum(one.unread for one in several),
            unacknowledged=sum(one.unacknowledged for one in several),
            reserved=sum(one.reserved for one in several),
            transports=transports,
            counters=counters,
        )
