"""The JSON values in responses about a running relay. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, get_args

import msgspec

from .values import Body, Value

if TYPE_CHECKING:  # commands read these values, and only the relay makes them
    from ..relay.snapshot import (
        CertificateSnapshot,
        ConnectionSnapshot,
        ListenerSnapshot,
        PlacesSnapshot,
        SenderSnapshot,
        SessionSnapshot,
    )

__all__ = [
    "CertificateValue",
    "ConnectionState",
    "ConnectionStatePage",
    "Dropped",
    "EndValue",
    "ListenerPage",
    "ListenerValue",
    "LivePageQuery",
    "Places",
    "ProblemCode",
    "RelayEndpointValue",
    "RelayProblem",
    "RelayValue",
    "SenderPage",
    "SenderValue",
    "SessionPage",
    "SessionValue",
]


class LivePageQuery(Body, frozen=True):
    """The query for a page of a list."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100
    #: ``nextCursor`` of the previous page.
    cursor: Annotated[str, msgspec.Meta(min_length=1, max_length=1024, pattern=r"^[A-Za-z0-9_-]+$")] | None = None


class ConnectionState(Value, frozen=True):
    """The numbers of a hybrid connection's listeners, senders and sessions at this relay now."""

    name: str
    disabled: bool
    #: The number of connectors that are registered.
    listener_count: int
    #: The number of control channels of clients that may join.
    sender_count: int
    #: The number of pairs of data channels that are joined.
    session_count: int
    #: The bytes that were moved since the relay started.
    bytes_to_client: int
    bytes_to_connector: int

    @classmethod
    def of(cls, name: str, live: ConnectionSnapshot, *, disabled: bool) -> ConnectionState:
        """Make the value of a hybrid connection."""
        return cls(
            name=name,
            disabled=disabled,
            listener_count=live.listeners,
            sender_count=live.senders,
            session_count=live.sessions,
            bytes_to_client=live.bytes_to_client,
            bytes_to_connector=live.bytes_to_connector,
        )


class ConnectionStatePage(Value, frozen=True):
    """The states of hybrid connections, in order of their names."""

    value: tuple[ConnectionState, ...]
    #: The cursor of the next page; null on the last page.
    next_cursor: str | None


class ListenerValue(Value, frozen=True):
    """One registration of a connector at this relay."""

    connection: str
    instance: str
    #: The address of its control channel: an IPv4 address, or the /64 of an IPv6 address.
    address: str
    #: The transport of its control channel.
    transport: str
    #: Name and version, as stated by the connector.
    software: str
    rule: str
    slot: str
    #: Since when it has been registered without interruption (seconds since 1970).
    since: float
    #: The number of sessions that it has now, and the bytes that were moved for it. Its sessions also run while it is
    #: not registered, so these bytes may include some from before `since`.
    sessions: int
    bytes_to_client: int
    bytes_to_connector: int
    #: Whether it is drained: it is offered no new sessions.
    draining: bool = False
    #: What the connector has reported about its target: ``unknown`` (also if it has reported nothing), ``healthy``,
    #: or ``unhealthy`` (others are preferred for new sessions).
    target: str = "unknown"
    #: How often this relay has chosen it for a new session since it registered, by reason: ``only`` (no other one was
    #: left: there was none, or all others have declined, have not answered, or are avoided by the client),
    #: ``only-healthy`` (all others that were left are unhealthy), ``fewest-sessions``, ``random``, or ``drawn`` (at
    #: random, after others have declined or have not answered, or because the client avoids them).
    chosen: dict[str, int] = msgspec.field(default_factory=dict[str, int])
    #: The reason of the last time; null if it was never chosen.
    last_chosen: str | None = None

    @property
    def choices(self) -> str:
        """How often it was chosen, by reason, the most frequent first: ``7 fewest-sessions, 5 random``."""
        most_frequent = sorted(self.chosen.items(), key=lambda item: (-item[1], item[0]))
        return ", ".join(f"{number} {why}" for why, number in most_frequent)

    @classmethod
    def of(cls, one: ListenerSnapshot) -> ListenerValue:
        """Make the value of a registration."""
        return msgspec.convert(one, cls, from_attributes=True)


class ListenerPage(Value, frozen=True):
    """Listeners, in order of hybrid connection and instance."""

    value: tuple[ListenerValue, ...]
    #: The cursor of the next page; null on the last page.
    next_cursor: str | None


class SenderValue(Value, frozen=True):
    """The control channel of a client that may join a hybrid connection."""

    connection: str
    #: Assigned by the relay.
    id: str
    #: As stated by the client.
    instance: str
    address: str
    transport: str
    software: str
    rule: str
    slot: str
    #: Seconds since 1970.
    since: float
    #: The number of sessions that its instance has now, and the bytes that were moved for its instance.
    sessions: int
    bytes_to_client: int
    bytes_to_connector: int

    @classmethod
    def of(cls, one: SenderSnapshot) -> SenderValue:
        """Make the value of a control channel."""
        return msgspec.convert(one, cls, from_attributes=True)


class SenderPage(Value, frozen=True):
    """Senders, in order of hybrid connection and id."""

    value: tuple[SenderValue, ...]
    next_cursor: str | None


class EndValue(Value, frozen=True):
    """One end of a session."""

    instance: str
    address: str
    #: The transport of its data channel.
    transport: str
    rule: str
    slot: str


class SessionValue(Value, frozen=True):
    """A pair of data channels, between which the relay moves the bytes of a session."""

    connection: str
    #: The same as ``activity_id`` in events.
    id: str
    listener: EndValue
    sender: EndValue
    #: Seconds since 1970.
    since: float
    bytes_to_client: int
    bytes_to_connector: int

    @classmethod
    def of(cls, one: SessionSnapshot) -> SessionValue:
        """Make the value of a pair."""
        return msgspec.convert(one, cls, from_attributes=True)


class SessionPage(Value, frozen=True):
    """Sessions, in order of hybrid connection and id."""

    value: tuple[SessionValue, ...]
    next_cursor: str | None


class ListenerDrain(Value, frozen=True):
    """Whether the drain of a connector has begun, or ended."""

    #: False if it had before, or if the connector is not registered.
    changed: bool


class Dropped(Value, frozen=True):
    """The result of ending a listener, a sender or a session."""

    #: Whether something was ended. False if it had ended before, or the id is wrong.
    ended: bool


class Places(Value, frozen=True):
    """How many places there are, and how many are taken."""

    used: int
    total: int

    @classmethod
    def of(cls, places: PlacesSnapshot) -> Places:
        """Make the value of a snapshot."""
        return cls(used=places.taken, total=places.total)


class CertificateValue(Value, frozen=True):
    """A certificate of the relay that expires."""

    name: str
    pin: str
    #: Seconds since 1970.
    expires_at: float

    @classmethod
    def of(cls, one: CertificateSnapshot) -> CertificateValue:
        """Make the value of a snapshot."""
        return cls(name=one.name, pin=one.pin, expires_at=one.expires_at)


#: The codes of the relay's problems.
ProblemCode = Literal[
    "draining",
    "no-listener",
    "target-unhealthy",
    "certificate-expires",
    "certificate-expired",
    "certificate-not-renewed",
    "reload-failed",
    "restart-needed",
    "quota-near",
    "quota-reached",
    "pairs",
    "control-channels",
    "unauthenticated-slots",
    "claim-expires",
    "key-not-kept",
    "audit",
    "audit-failed",
    "checkpoints",
    "history",
    "registry",
    "rendezvous",
    "rolls",
    "usage",
]


class RelayProblem(Value, frozen=True):
    """A problem of the relay, and what an administrator can do about it."""

    #: A `ProblemCode`. (The type is ``str``, so that commands can read the answers of relays of later versions.)
    code: Annotated[str, msgspec.Meta(extra_json_schema={"enum": list(get_args(ProblemCode))})]
    detail: str
    remedy: str
    #: The hybrid connection that has the problem; null if it concerns the relay as a whole.
    connection: str | None = None


class RelayEndpointValue(Value, frozen=True):
    """The properties of this relay that connection strings contain, besides its host."""

    pin: str
    #: The ports that differ from the defaults, by name; null for a port that is not served.
    ports: dict[str, int | None]


class RelayValue(Value, frozen=True):
    """The state of the relay. A caller with a scope gets what concerns the hybrid connections of this scope."""

    version: str
    #: The relay's problems, the most important first. A caller with a scope gets those of its hybrid connections, and
    #: whether the relay is draining.
    problems: tuple[RelayProblem, ...]
    #: Since when the relay has been draining (seconds since 1970); null if it is not.
    draining_since: float | None
    #: The relay's pin. Connection strings contain it, so that nobody else can pose as this relay.
    pin: str
    #: The numbers of hybrid connections, and of their listeners, senders and sessions at this relay; for a caller
    #: with a scope, only of those in this scope.
    connection_count: int
    listener_count: int
    sender_count: int
    session_count: int
    #: The addresses at which the relay listens, by port name. This and all following members are null for a caller
    #: with a scope.
    ports: dict[str, tuple[str, ...]] | None
    #: The relay's certificates that expire. The certificate to which the pin belongs does not expire.
    certificates: tuple[CertificateValue, ...] | None
    unauthenticated: Places | None
    pairs: Places | None
    control_channels: Places | None
