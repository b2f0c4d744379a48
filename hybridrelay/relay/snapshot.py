"""What a relay holds at one moment, as frozen values: for dashboards, metrics and tests."""

from __future__ import annotations

import attrs

__all__ = ["ListenerSnapshot", "PlacesSnapshot", "RelaySnapshot", "RendezvousSnapshot", "SenderSnapshot"]


@attrs.frozen
class ListenerSnapshot:
    """One registration of a connector."""

    connection: str
    instance: str
    #: The network address of its control channel: an IPv4 address, or the /64 of an IPv6 address.
    peer: str
    #: The rule whose key authorized it.
    rule: str


@attrs.frozen
class SenderSnapshot:
    """The control channel of a client."""

    instance: str
    peer: str
    #: The hybrid connections that it has shown a valid token for.
    connections: tuple[str, ...]


@attrs.frozen
class RendezvousSnapshot:
    """One rendezvous that has not ended."""

    #: ``activity_id`` in events.
    id: str
    connection: str
    #: ``offered``, ``listener waits``, ``sender waits``, ``matched``, ``joined`` or ``stopping``.
    state: str
    #: How long its data channels have been joined; 0 where they are not.
    seconds: float
    #: Bytes that were handed to each side's data channel so far.
    bytes_to_client: int
    bytes_to_connector: int


@attrs.frozen
class PlacesSnapshot:
    """How much of something is taken."""

    taken: int
    total: int


@attrs.frozen
class RelaySnapshot:
    """Everything."""

    listeners: tuple[ListenerSnapshot, ...] = ()
    senders: tuple[SenderSnapshot, ...] = ()
    rendezvous: tuple[RendezvousSnapshot, ...] = ()
    #: Slots for connections that have not authenticated.
    unauthenticated: PlacesSnapshot = PlacesSnapshot(0, 0)
    #: Those of them that wait until they may begin a TLS handshake.
    waiting_handshakes: int = 0
    #: Places for pairs of data channels, including those that are kept for sessions that may resume.
    pairs: PlacesSnapshot = PlacesSnapshot(0, 0)
    #: Places for control channels that have authenticated.
    control_channels: PlacesSnapshot = PlacesSnapshot(0, 0)
