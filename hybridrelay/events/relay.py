"""Events of the relay."""

from __future__ import annotations

from typing import ClassVar

import attrs

from ..protocol.reasons import Reason
from .base import Event, Level

__all__ = [
    "ChannelFailed",
    "ConnectionCreated",
    "ConnectionDeleted",
    "FewDescriptors",
    "FewPairs",
    "KeyChanged",
    "KeyRevoked",
    "ListenerDeclined",
    "ListenerDropped",
    "ListenerLeft",
    "ListenerRefused",
    "ListenerRegistered",
    "ListenerReplaced",
    "ListenerSilent",
    "PublicPortsNotSaved",
    "RelayIdNotSaved",
    "RendezvousEnded",
    "RendezvousJoined",
    "RendezvousTimeout",
    "SenderJoining",
    "SenderRefused",
    "SpliceUnavailable",
    "StoreDiskFull",
    "StoreReadable",
    "StoreUnreadable",
    "TokenExpired",
    "TokenInvalid",
    "TokenRefused",
    "UnauthenticatedClosed",
]


# --- listeners


@attrs.frozen(kw_only=True)
class ListenerRegistered(Event):
    """A connector has registered. Renewing a registration is no event."""

    name: ClassVar = "listener.registered"
    operation: ClassVar = "NewListenerRegistered"
    level: ClassVar = Level.INFO
    summary: ClassVar = "A listener has registered"

    connection: str
    peer: str = ""
    instance: str


@attrs.frozen(kw_only=True)
class ListenerLeft(Event):
    """A registration is over, because its control channel is, or because it was withdrawn or ended."""

    name: ClassVar = "listener.left"
    operation: ClassVar = "ListenerUnregistered"
    level: ClassVar = Level.INFO
    summary: ClassVar = "A listener has left"

    connection: str
    peer: str = ""
    instance: str
    #: `Reason.NO_ERROR`: it left, or its control channel ended.
    reason: Reason


@attrs.frozen(kw_only=True)
class ListenerReplaced(Event):
    """All places of a hybrid connection were taken, and one listener gave way to another."""

    name: ClassVar = "listener.replaced"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "The hybrid connection has too many listeners, and one gave way to another"

    connection: str
    #: That gave way.
    instance: str
    #: That registered.
    successor: str


@attrs.frozen(kw_only=True)
class ListenerRefused(Event):
    """A listener with a valid token may not register."""

    name: ClassVar = "listener.refused"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A listener was refused"

    connection: str
    peer: str = ""
    reason: Reason
    detail: str


@attrs.frozen(kw_only=True)
class ListenerSilent(Event):
    """A listener did not answer an offer in time, and another one is asked."""

    name: ClassVar = "listener.silent"
    operation: ClassVar = "ListenerUnresponsive"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A listener did not answer, and another one is asked"

    connection: str
    activity_id: str
    instance: str


@attrs.frozen(kw_only=True)
class ListenerDropped(Event):
    """A listener that had not answered an offer said nothing afterwards, and its control channel was closed."""

    name: ClassVar = "listener.dropped"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "The control channel of a silent listener was closed"

    peer: str = ""
    instance: str


@attrs.frozen(kw_only=True)
class ListenerDeclined(Event):
    """A listener answered an offer with a refusal."""

    name: ClassVar = "listener.declined"
    level: ClassVar = Level.INFO
    summary: ClassVar = "A listener declined"

    connection: str
    activity_id: str
    instance: str
    reason: Reason


# --- senders and rendezvous


@attrs.frozen(kw_only=True)
class SenderJoining(Event):
    """A sender has asked for a listener, and its token is valid."""

    name: ClassVar = "sender.joining"
    operation: ClassVar = "NewSenderRegistering"
    level: ClassVar = Level.DEBUG
    summary: ClassVar = "A sender asks for a listener"

    connection: str
    peer: str = ""


@attrs.frozen(kw_only=True)
class SenderRefused(Event):
    """A sender with a valid token got no listener."""

    name: ClassVar = "sender.refused"
    level: ClassVar = Level.INFO
    summary: ClassVar = "A sender got no listener"

    connection: str
    peer: str = ""
    reason: Reason
    detail: str = ""


@attrs.frozen(kw_only=True)
class RendezvousJoined(Event):
    """Both data channels have come, and the relay moves bytes between them."""

    name: ClassVar = "rendezvous.joined"
    operation: ClassVar = "SenderListenerConnectionEstablished"
    level: ClassVar = Level.DEBUG
    summary: ClassVar = "Two data channels were joined"

    connection: str
    activity_id: str


@attrs.frozen(kw_only=True)
class RendezvousTimeout(Event):
    """One side, or both, did not open its data channel in time. `RendezvousEnded` follows."""

    name: ClassVar = "rendezvous.timeout"
    operation: ClassVar = "ListenerAcceptingConnectionTimeout"
    level: ClassVar = Level.DEBUG
    summary: ClassVar = "A side of a rendezvous did not open its data channel in time"

    connection: str
    activity_id: str
    #: ``listener`` or ``sender``, those that did not come.
    absent: tuple[str, ...]


@attrs.frozen(kw_only=True)
class RendezvousEnded(Event):
    """A rendezvous is over. There is exactly one such event for every rendezvous, whatever ended it."""

    name: ClassVar = "rendezvous.ended"
    operation: ClassVar = "SenderConnectionClosed"
    level: ClassVar = Level.INFO
    summary: ClassVar = "A rendezvous has ended"

    connection: str
    activity_id: str
    #: How it ended: see docs/events.md.
    outcome: str
    reason: Reason
    #: Bytes that were handed to the operating system for each side.
    bytes_to_client: int
    bytes_to_connector: int
    #: How long the data channels were joined; 0 where they never were.
    seconds: float


# --- authorization


@attrs.frozen(kw_only=True)
class TokenInvalid(Event):
    """A token is malformed, expired, made for another address, or made with the wrong key."""

    name: ClassVar = "token.invalid"
    operation: ClassVar = "InvalidSasToken"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A token is invalid"

    connection: str
    peer: str = ""
    #: ``listen`` or ``send``.
    right: str
    reason: Reason
    detail: str


@attrs.frozen(kw_only=True)
class TokenRefused(Event):
    """A token gives no right to what was asked for."""

    name: ClassVar = "token.refused"
    operation: ClassVar = "AuthorizationFailed"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A token was refused"

    connection: str
    peer: str = ""
    right: str
    reason: Reason
    detail: str


@attrs.frozen(kw_only=True)
class TokenExpired(Event):
    """A registration ended because its token has expired and was not renewed."""

    name: ClassVar = "token.expired"
    operation: ClassVar = "ListenerClosingFromExpiredToken"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "The token of a listener has expired"

    connection: str
    peer: str = ""
    instance: str


@attrs.frozen(kw_only=True)
class KeyChanged(Event):
    """A key was regenerated, or its rule lost a right. What the earlier key had authorized ends."""

    name: ClassVar = "key.changed"
    level: ClassVar = Level.INFO
    summary: ClassVar = "A key was changed"

    connection: str
    rule: str
    slot: str


@attrs.frozen(kw_only=True)
class KeyRevoked(Event):
    """A key was revoked. What it had authorized ends."""

    name: ClassVar = "key.revoked"
    level: ClassVar = Level.INFO
    summary: ClassVar = "A key was revoked"

    connection: str
    rule: str
    slot: str


@attrs.frozen(kw_only=True)
class ConnectionCreated(Event):
    """A hybrid connection was created or imported while the relay runs."""

    name: ClassVar = "connection.created"
    level: ClassVar = Level.INFO
    summary: ClassVar = "A hybrid connection was created"

    connection: str


@attrs.frozen(kw_only=True)
class ConnectionDeleted(Event):
    """A hybrid connection was deleted. Everything that belonged to it ends."""

    name: ClassVar = "connection.deleted"
    level: ClassVar = Level.INFO
    summary: ClassVar = "A hybrid connection was deleted"

    connection: str


# --- the relay itself


@attrs.frozen(kw_only=True)
class StoreUnreadable(Event):
    """Changes of hybrid connections and keys are not noticed until the store can be read again."""

    name: ClassVar = "store.unreadable"
    level: ClassVar = Level.ERROR
    summary: ClassVar = "Changes of hybrid connections and keys cannot be read"

    detail: str


@attrs.frozen(kw_only=True)
class StoreReadable(Event):
    """It can be read again, and changes act again."""

    name: ClassVar = "store.readable"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "Hybrid connections and keys can be read again"


@attrs.frozen(kw_only=True)
class UnauthenticatedClosed(Event):
    """A connection did not authenticate in time, or was closed to make room for others."""

    name: ClassVar = "unauthenticated.closed"
    level: ClassVar = Level.DEBUG
    summary: ClassVar = "A connection did not authenticate in time, or was closed to make room for others"

    peer: str
    port: str


@attrs.frozen(kw_only=True)
class ChannelFailed(Event):
    """A connection ended with an error that its peer or the network has caused."""

    name: ClassVar = "channel.failed"
    level: ClassVar = Level.DEBUG
    summary: ClassVar = "A connection ended with an error"

    peer: str
    port: str
    detail: str


@attrs.frozen(kw_only=True)
class SpliceUnavailable(Event):
    """The operating system refused to move bytes within the kernel."""

    name: ClassVar = "splice.unavailable"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "Bytes are copied, which takes more processor time, because splice fails"

    detail: str
    #: When it is tried again.
    retry_seconds: float


@attrs.frozen(kw_only=True)
class FewDescriptors(Event):
    """The limit of open files is so low that the relay accepts fewer new connections at a time."""

    name: ClassVar = "descriptors.few"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "The process may open few descriptors: raise the limit (ulimit -Hn, LimitNOFILE)"

    descriptors: int
    #: Connections that may be open at a time and have not authenticated.
    unauthenticated: int


@attrs.frozen(kw_only=True)
class FewPairs(Event):
    """The limit of open files is too low for as many pairs of data channels as were configured."""

    name: ClassVar = "pairs.few"
    level: ClassVar = Level.WARNING
    summary: ClassVar = (
        "The process may open too few descriptors for --max-pairs: raise the limit (ulimit -Hn, LimitNOFILE)"
    )

    descriptors: int
    #: That are possible.
    pairs: int
    #: That were configured.
    wanted: int


@attrs.frozen(kw_only=True)
class PublicPortsNotSaved(Event):
    """The file with the relay's ports cannot be written."""

    name: ClassVar = "public-ports.not-saved"
    level: ClassVar = Level.ERROR
    summary: ClassVar = (
        "The file with the ports of this relay cannot be written, and 'connections create' does not know them; make "
        "room or correct its permissions, then restart the relay"
    )

    file: str
    detail: str


@attrs.frozen(kw_only=True)
class RelayIdNotSaved(Event):
    """The file with the relay's id cannot be written."""

    name: ClassVar = "relay-id.not-saved"
    level: ClassVar = Level.ERROR
    summary: ClassVar = (
        "The id of this relay cannot be written, and it has another one after its next start; make room or correct "
        "the permissions, then restart the relay"
    )

    file: str
    detail: str


@attrs.frozen(kw_only=True)
class StoreDiskFull(Event):
    """The disk of the store is full. Keys and hybrid connections can still be ended, with reserved space."""

    name: ClassVar = "store.disk-full"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "The disk of the store is full"

    file: str
    detail: str
