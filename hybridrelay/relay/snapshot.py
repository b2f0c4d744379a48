"""The state of a relay at one moment, as frozen values: for the management API, metrics and tests.

Lists are returned in pages, sorted by hybrid connection and key, so that listing tens of thousands of listeners does
not delay the relay's other work.
"""

# This module is long because the interface through which all of this is read, `LiveRelay`, is here, too.

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

import attrs

from .._histogram import HistogramSnapshot
from .._value import Value
from .checkpoints import CheckpointQuery, KeptCheckpoint
from .history import HistoryQuery, Row
from .model import KeyId, KeyRoll
from .usage import NO_USAGE, PastUsage, Period, Usage

if TYPE_CHECKING:  # it imports all events, which a command that shows snapshots does not need
    from .counters import RelayCounters

__all__ = [
    "CertificateSnapshot",
    "ConnectionSnapshot",
    "EndSnapshot",
    "FileProblem",
    "FileProblemCode",
    "ListenerSnapshot",
    "LiveRelay",
    "PlacesSnapshot",
    "Position",
    "QuotaSnapshot",
    "RelaySnapshot",
    "Sees",
    "SenderSnapshot",
    "SessionSnapshot",
]

#: The end of a page: the hybrid connection and the `key` of its last value.
Position: TypeAlias = tuple[str, str]

#: Returns whether somebody may see what is about a hybrid connection, or, for None, about the relay as a whole.
Sees: TypeAlias = Callable[[str | None], bool]


@attrs.frozen
class EndSnapshot(Value):
    """A connector or a client: how it has connected, and with which key."""

    #: The instance. A connector has proved it; a client may claim any instance.
    instance: str
    #: An IPv4 address, or the /64 of an IPv6 address.
    address: str
    #: The name of the transport: ``tcp``, ``websocket``, ``exec``.
    transport: str
    rule: str
    #: ``primary`` or ``secondary``.
    slot: str


@attrs.frozen(kw_only=True)
class _Peer(EndSnapshot):
    connection: str
    #: Name and version, as stated by the peer.
    software: str
    #: Seconds since 1970.
    since: float
    #: The number of its current sessions, followed by the bytes that were moved for it so far, to clients and
    #: to connectors.
    sessions: int
    bytes_to_client: int
    bytes_to_connector: int


@attrs.frozen(kw_only=True)
class ListenerSnapshot(_Peer):
    """One registration of a connector. Its address and transport are those of the control channel."""

    #: Whether an administrator drains it, so that it is offered no new sessions.
    draining: bool = False
    #: What it has reported about its target: ``unknown``, ``healthy`` or ``unhealthy``.
    target: str = "unknown"
    #: How many times it was chosen for a new session since it registered, by reason (`core.choice.Why`), and the
    #: reason of the last time; None if it never was.
    chosen: Mapping[str, int] = attrs.field(factory=dict)
    last_chosen: str | None = None

    @property
    def key(self) -> str:
        """Identifies the listener among the listeners of the hybrid connection."""
        return self.instance


@attrs.frozen(kw_only=True)
class SenderSnapshot(_Peer):
    """The control channel of a client that may join a hybrid connection."""

    #: An id that the relay has chosen.
    id: str

    @property
    def key(self) -> str:
        """Identifies the sender among the senders of the hybrid connection."""
        return self.id


@attrs.frozen(kw_only=True)
class SessionSnapshot(Value):
    """A pair of data channels that are joined. The session over it may have had other pairs before."""

    #: ``activity_id`` in events.
    id: str
    connection: str
    #: The ends of the data channels.
    listener: EndSnapshot
    sender: EndSnapshot
    #: Seconds since 1970.
    since: float
    bytes_to_client: int
    bytes_to_connector: int

    @property
    def key(self) -> str:
        """Identifies the session among the sessions of the hybrid connection."""
        return self.id


@attrs.frozen
class ConnectionSnapshot(Value):
    """The current numbers of one hybrid connection, and its traffic since the relay started."""

    listeners: int = 0
    senders: int = 0
    sessions: int = 0
    bytes_to_client: int = 0
    bytes_to_connector: int = 0
    #: How many of the listeners report that their target is unhealthy.
    unhealthy_listeners: int = 0

    def __add__(self, other: ConnectionSnapshot) -> ConnectionSnapshot:
        return ConnectionSnapshot(
            self.listeners + other.listeners,
            self.senders + other.senders,
            self.sessions + other.sessions,
            self.bytes_to_client + other.bytes_to_client,
            self.bytes_to_connector + other.bytes_to_connector,
            self.unhealthy_listeners + other.unhealthy_listeners,
        )


@attrs.frozen
class PlacesSnapshot(Value):
    """How many places or slots are taken, and how many there are."""

    taken: int
    total: int


@attrs.frozen
class CertificateSnapshot(Value):
    """A certificate of the relay that expires. Its self-signed ones do not."""

    #: ``public`` for the certificate of ``--tls-certificate``.
    name: str
    pin: str
    #: Seconds since 1970.
    expires_at: float
    #: Why the files that are there now cannot be used in its place, and what to do about it; empty if they can.
    failure: str = ""
    remedy: str = ""


FileProblemCode: TypeAlias = Literal["audit", "checkpoints", "history", "registry", "rendezvous", "rolls", "usage"]


@attrs.frozen
class FileProblem(Value):
    """A file that the relay cannot use at the moment, while it goes on with what it has in memory."""

    #: The code of the problem in the management API.
    code: FileProblemCode
    detail: str
    remedy: str


@attrs.frozen
class QuotaSnapshot(Value):
    """A quota that is at least four fifths used."""

    #: The hybrid connection; None for a quota of the relay as a whole.
    connection: str | None
    #: ``listeners``, ``senders``, ``sessions`` or ``bytes``; if it is a quota of the relay, ``bytes`` or
    #: ``hybrid connections``.
    kind: str
    used: int
    limit: int

    @property
    def is_reached(self) -> bool:
        """Whether all of it is used."""
        return self.used >= self.limit


@attrs.frozen
class RelaySnapshot(Value):
    """Numbers about the whole relay. Making a snapshot takes constant time."""

    listeners: int = 0
    senders: int = 0
    sessions: int = 0
    #: Rendezvous with a ticket that has not been used yet.
    open_rendezvous: int = 0
    #: Slots for connections that have not authenticated.
    unauthenticated: PlacesSnapshot = PlacesSnapshot(0, 0)
    #: How many of these connections wait until they may begin a TLS handshake.
    waiting_handshakes: int = 0
    #: Places for pairs of data channels, including those that are kept for sessions that may resume.
    pairs: PlacesSnapshot = PlacesSnapshot(0, 0)
    #: Places for control channels that have authenticated.
    control_channels: PlacesSnapshot = PlacesSnapshot(0, 0)
    certificates: tuple[CertificateSnapshot, ...] = ()
    #: The usage of all hybrid connections in the current period.
    usage: Usage = NO_USAGE
    #: Quotas that are at least four fifths used; at most 100.
    quotas: tuple[QuotaSnapshot, ...] = ()
    #: Whether the relay is running.
    is_running: bool = False
    #: Since when the relay is draining (seconds since 1970). None if it accepts registrations and joins.
    draining_since: float | None = None
    file_problems: tuple[FileProblem, ...] = ()
    #: New keys that connected programs have only in memory; at most 100.
    unkept_keys: tuple[UnkeptKeySnapshot, ...] = ()


@attrs.frozen(kw_only=True)
class ProgramSnapshot(Value):
    """A program that has not kept the new key of a roll."""

    instance: str
    address: str
    #: ``connector`` or ``client``.
    role: str
    #: ``asked`` (it has not answered), ``memory`` or ``waiting``; see `control.KeptState`.
    state: str
    detail: str
    is_connected: bool


@attrs.frozen
class RollSnapshot(Value):
    """The progress of the roll of a key at this relay."""

    #: How many programs were seen during the roll, and how many of them have kept the new key.
    programs: int = 0
    kept: int = 0
    #: Some of those that have not.
    missing: tuple[ProgramSnapshot, ...] = ()
    #: Whether programs that were seen during the roll before the relay was restarted are no longer known.
    has_forgotten: bool = False
    #: Whether there was no room for others, which are not counted.
    is_crowded: bool = False


@attrs.frozen
class EndedRollSnapshot(Value):
    """A roll that is over, although programs have not stored the new key: they would fail after a restart."""

    roll: KeyRoll
    #: When the old key was revoked (seconds since 1970).
    ended_at: float
    #: How many programs were seen during the roll, and how many of them have stored the key.
    seen: int
    kept: int
    #: Some of those that have not.
    missing: tuple[ProgramSnapshot, ...]
    #: Since when programs were noted (seconds since 1970): later than the start of the roll if programs that were
    #: seen before the relay was restarted are no longer known.
    seen_since: float
    #: Whether there was no room for others, which are not counted.
    is_crowded: bool = False


@attrs.frozen
class UnkeptKeySnapshot(Value):
    """A new key that connected programs have only in memory."""

    connection: str
    rule: str
    #: How many.
    programs: int
    #: When the old key was revoked (seconds since 1970); None if the roll is in progress.
    ended_at: float | None = None


@attrs.frozen(kw_only=True)
class RecipientSnapshot(Value):
    """A program that has not kept an update."""

    instance: str
    address: str
    #: ``connector`` or ``client``.
    role: str
    #: ``asked`` (it has not answered), ``memory``, ``waiting`` or ``refused``; see `control.UpdateState`.
    state: str
    detail: str
    #: When it disconnected (seconds since 1970); None if it is connected.
    departed_at: float | None


@attrs.frozen(kw_only=True)
class UpdateSnapshot(Value):
    """The progress of an update at this relay."""

    #: ``connector`` or ``application``, and the serial of a single identity; empty for all of this side.
    role: str
    serial: str
    sequence: int
    #: How many of its recipients were seen, and how many of these have kept it.
    recipients: int
    kept: int
    #: Some of those that have not.
    missing: tuple[RecipientSnapshot, ...]
    #: Whether there was no room for others, which are not counted.
    is_crowded: bool = False


class LiveRelay(Protocol):
    """A relay that may be running. While it does not run, everything is empty, and nothing is found.

    A page has at most `limit` values that come after the position `after`, of one hybrid connection or of all. It
    takes time in proportion to its length.
    """

    @property
    def counters(self) -> RelayCounters:
        """Counters of what has happened since the relay was created."""

    def snapshot(self, *, sees: Sees = lambda _name: True) -> RelaySnapshot:
        """Numbers about the whole relay.

        Args:
            sees: selects `RelaySnapshot.quotas` and `RelaySnapshot.unkept_keys`.
        """

    def listener_count(self, name: str) -> int:
        """Return how many connectors are registered for a hybrid connection."""

    def has_only_unhealthy_listeners(self, name: str) -> bool:
        """Return whether there are connectors of a hybrid connection, and all of them report that their target is
        unhealthy."""

    def connection(self, name: str) -> ConnectionSnapshot:
        """Return numbers about one hybrid connection. Takes time in proportion to the number of its sessions."""

    def listeners(
        self, limit: int, *, after: Position | None = None, connection: str | None = None
    ) -> list[ListenerSnapshot]:
        """Return a page of the registrations of connectors, in order of hybrid connection and instance."""

    def senders(
        self, limit: int, *, after: Position | None = None, connection: str | None = None
    ) -> list[SenderSnapshot]:
        """Return a page of the control channels of clients, in order of hybrid connection and id."""

    def sessions(
        self, limit: int, *, after: Position | None = None, connection: str | None = None
    ) -> list[SessionSnapshot]:
        """Return a page of the pairs of data channels that are joined, in order of hybrid connection and id."""

    def connection_names(self) -> list[str]:
        """Return all hybrid connections that the relay serves."""

    def roll(self, connection: str, rule: str) -> RollSnapshot | None:
        """Return which programs have the new key of a rule that is being rolled; None if the relay does not know of a
        roll."""

    def ended_roll(self, connection: str, rule: str) -> EndedRollSnapshot | None:
        """Return the last roll of a rule's key, if it is over and programs have not stored the new key."""

    def updates(self, connection: str) -> tuple[UpdateSnapshot, ...]:
        """Return which programs have the updates of a hybrid connection."""

    def is_key_in_use(self, key: KeyId) -> bool:
        """Return whether a program that is connected has presented a token made with this key, or a registration or
        session depends on it."""

    def rendezvous_times(self) -> HistogramSnapshot:
        """Return how long rendezvous took, from the offer to the listener until both data channels were ready."""

    def loop_lag(self) -> HistogramSnapshot:
        """Return how late the relay's event loop was, measured once a second."""

    def usage(self, name: str) -> Usage:
        """Return the usage of a hybrid connection, or of all of them (`TOTAL`), in the current period."""

    def period(self) -> Period:
        """Return the current period."""

    async def past_usage(self, name: str) -> list[PastUsage]:
        """Return the usage of a hybrid connection, or of all of them (`TOTAL`), in earlier periods, the latest first.

        Raises:
            StateError: the file cannot be read.
        """

    def last_use(self, key: KeyId) -> float | None:
        """Return when a key was last used (seconds since 1970); None if never."""

    def key_uses(self) -> Mapping[KeyId, float]:
        """Return when keys were last used (seconds since 1970)."""

    def note_use(self, key: KeyId) -> None:
        """Note that a key was used now, for the management API."""

    async def checkpoints(self, query: CheckpointQuery) -> list[KeptCheckpoint]:
        """Return a page of the checkpoints of audit logs that the relay keeps, in the order in which it stored them.

        Raises:
            StateError: the file cannot be read.
        """

    async def delete_checkpoints(self, connection: str, log: str) -> int:
        """Delete the checkpoints of a log that are kept under the name of a hybrid connection. Returns how many.

        Raises:
            StateError: the file cannot be written.
        """

    async def history(self, query: HistoryQuery) -> list[tuple[int, Row]]:
        """Return what happened in some intervals: their beginnings (seconds since 1970) and rows, in order of time.

        Intervals in which nothing happened are left out. Intervals of ten seconds are available for the last hour,
        longer ones up to a minute ago.

        Raises:
            StateError: the history cannot be read.
        """

    def drain(self) -> bool:
        """Accept no new registrations and joins. Returns False if the relay is not running. Sessions continue.

        The relay then asks all peers, in a task of its own, to prefer other relays.
        """

    def undo_drain(self) -> bool:
        """Accept registrations and joins again. Returns False if the relay is not running."""

    def drop_listener(self, connection: str, instance: str) -> bool:
        """End a registration. Returns False if there is none. The connector may register again after a while."""

    def drain_listener(self, connection: str, instance: str, *, on: bool) -> bool:
        """Offer no new sessions to a registered connector, or offer them again. Returns whether this has changed
        anything."""

    def drop_sender(self, connection: str, sender: str) -> bool:
        """End the control channel of a client. Returns False if there is none."""

    def drop_session(self, connection: str, session: str) -> bool:
        """End a pair of data channels. Returns False if there is none."""
