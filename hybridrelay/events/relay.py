"""Events of the relay: what its peers do."""

# This module is long because each event has a class.

from __future__ import annotations

from typing import ClassVar

import attrs

from ..protocol.reasons import Reason
from .base import Event, Level

__all__ = [
    "ChannelFailed",
    "ControlChannelDisplaced",
    "ControlChannelSilent",
    "ControlChannelUnread",
    "ForwardedAddressMalformed",
    "ListenerChosen",
    "ListenerDeclined",
    "ListenerDisplaced",
    "ListenerDrainEnded",
    "ListenerDrainStarted",
    "ListenerLeft",
    "ListenerRefused",
    "ListenerRegistered",
    "ListenerSilent",
    "ListenerTargetHealthy",
    "ListenerTargetUnhealthy",
    "ProxyHeaderRefused",
    "RendezvousEnded",
    "RendezvousJoined",
    "RendezvousKept",
    "RendezvousTakenOver",
    "RendezvousTimeout",
    "SenderDropped",
    "SenderJoining",
    "SenderRefused",
    "SenderRevoked",
    "TokenExpired",
    "TokenInvalid",
    "TokenRefused",
    "UnauthenticatedClosed",
]


# --- fields that several events have


@attrs.frozen(kw_only=True)
class _Registration(Event):
    connection: str
    peer: str = ""
    instance: str


@attrs.frozen(kw_only=True)
class _Refusal(Event):
    connection: str
    peer: str = ""
    reason: Reason
    detail: str = ""


@attrs.frozen(kw_only=True)
class _Token(Event):
    connection: str
    peer: str = ""
    #: ``listen`` or ``send``.
    right: str
    reason: Reason
    detail: str


@attrs.frozen(kw_only=True)
class _Offer(Event):
    connection: str
    activity_id: str
    instance: str


@attrs.frozen(kw_only=True)
class _Rendezvous(Event):
    connection: str
    activity_id: str


@attrs.frozen(kw_only=True)
class _Connection(Event):
    peer: str
    port: str


# --- listeners


@attrs.frozen(kw_only=True)
class ListenerRegistered(_Registration):
    """A connector has registered as a listener. Not published when a registration is renewed."""

    name: ClassVar = "listener.registered"
    operation: ClassVar = "NewListenerRegistered"
    level: ClassVar = Level.INFO
    summary: ClassVar = "A listener has registered"


@attrs.frozen(kw_only=True)
class ListenerLeft(_Registration):
    """A registration has ended: its control channel has ended, the listener withdrew it, or the relay ended it."""

    name: ClassVar = "listener.left"
    operation: ClassVar = "ListenerUnregistered"
    level: ClassVar = Level.INFO
    summary: ClassVar = "A listener has left"

    #: `Reason.NO_ERROR` if the listener withdrew the registration, or its control channel has ended.
    reason: Reason


@attrs.frozen(kw_only=True)
class ListenerDisplaced(Event):
    """A hybrid connection had all the listeners that it may have, and one of them was displaced by another."""

    name: ClassVar = "listener.displaced"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A hybrid connection has as many listeners as it may have, and one was displaced by another"

    connection: str
    #: The instance of the listener that was displaced.
    instance: str
    #: The instance of the listener that registered.
    successor: str


@attrs.frozen(kw_only=True)
class ControlChannelDisplaced(Event):
    """A control channel was closed, because another one needed its place.

    Either its key or hybrid connection had as many as it may have; or no place was left, and another hybrid
    connection had fewer. Provisional ones are displaced first.
    """

    name: ClassVar = "control.displaced"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A control channel was closed, because another one needed its place"

    connection: str
    rule: str
    #: The address of the control channel that was closed.
    peer: str
    #: The address of the one that has taken its place; empty if that belongs to another hybrid connection, about
    #: which a reader of this event may not know anything.
    successor: str
    #: Whether it belongs to another hybrid connection.
    by_other: bool


@attrs.frozen(kw_only=True)
class ListenerRefused(_Refusal):
    """A listener with a valid token may not register."""

    name: ClassVar = "listener.refused"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A listener was refused"


@attrs.frozen(kw_only=True)
class ListenerSilent(_Offer):
    """A listener has not answered an offer in time, and another listener is asked."""

    name: ClassVar = "listener.silent"
    operation: ClassVar = "ListenerUnresponsive"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A listener has not answered, and another one is asked"


@attrs.frozen(kw_only=True)
class ListenerDrainStarted(Event):
    """An administrator drains a connector: it is offered no new sessions, and those that it has continue."""

    name: ClassVar = "listener.drain-started"
    level: ClassVar = Level.INFO
    summary: ClassVar = "A listener is offered no new sessions"

    connection: str
    instance: str


@attrs.frozen(kw_only=True)
class ListenerDrainEnded(Event):
    """An administrator has ended the drain of a connector."""

    name: ClassVar = "listener.drain-ended"
    level: ClassVar = Level.INFO
    summary: ClassVar = "A listener is offered new sessions again"

    connection: str
    instance: str


@attrs.frozen(kw_only=True)
class ControlChannelSilent(Event):
    """A listener has not answered an offer and has sent nothing afterwards, and its control channel was closed."""

    name: ClassVar = "control.silent"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "The control channel of a silent listener was closed"

    peer: str = ""
    instance: str


@attrs.frozen(kw_only=True)
class ControlChannelUnread(Event):
    """A connector or client has read nothing from its control channel for half a minute, although messages wait, and
    the channel was closed.
    """

    name: ClassVar = "control.unread"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A control channel that its peer does not read was closed"

    peer: str = ""
    instance: str
    #: How many messages waited for room in its queue, besides those in it.
    messages: int


@attrs.frozen(kw_only=True)
class ListenerTargetUnhealthy(_Registration):
    """A listener reports that its target is unhealthy: it cannot connect to the target, or refuses all new streams.
    Others are preferred for new sessions."""

    name: ClassVar = "listener.target-unhealthy"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A listener reports that its target is unhealthy"


@attrs.frozen(kw_only=True)
class ListenerTargetHealthy(_Registration):
    """A listener no longer reports that its target is unhealthy."""

    name: ClassVar = "listener.target-healthy"
    level: ClassVar = Level.INFO
    summary: ClassVar = "A listener no longer reports that its target is unhealthy"


@attrs.frozen(kw_only=True)
class ListenerChosen(_Offer):
    """There are several listeners, and this one is offered a rendezvous."""

    name: ClassVar = "listener.chosen"
    level: ClassVar = Level.DEBUG
    summary: ClassVar = "One of several listeners was chosen"

    #: ``fewest-sessions``, ``random``, ``only-healthy``, or ``drawn`` after others were passed over.
    why: str
    #: How many sessions it had at this relay.
    sessions: int
    #: How many listeners there were to choose from, and how many of them did not report that their target is
    #: unhealthy. If all reported this, one of them was chosen anyway.
    candidates: int
    healthy: int


@attrs.frozen(kw_only=True)
class ListenerDeclined(_Offer):
    """A listener has declined an offer."""

    name: ClassVar = "listener.declined"
    level: ClassVar = Level.INFO
    summary: ClassVar = "A listener has declined an offer"

    reason: Reason


# --- senders and rendezvous


@attrs.frozen(kw_only=True)
class SenderJoining(Event):
    """A sender with a valid token has asked for a listener."""

    name: ClassVar = "sender.joining"
    operation: ClassVar = "NewSenderRegistering"
    level: ClassVar = Level.DEBUG
    summary: ClassVar = "A sender asks for a listener"

    connection: str
    peer: str = ""


@attrs.frozen(kw_only=True)
class SenderRefused(_Refusal):
    """A sender with a valid token got no listener."""

    name: ClassVar = "sender.refused"
    level: ClassVar = Level.INFO
    summary: ClassVar = "A sender got no listener"


@attrs.frozen(kw_only=True)
class SenderDropped(_Registration):
    """An administrator has ended the control channel of a client. Its sessions continue."""

    name: ClassVar = "sender.dropped"
    level: ClassVar = Level.INFO
    summary: ClassVar = "An administrator has ended the control channel of a sender"

    reason: Reason


@attrs.frozen(kw_only=True)
class SenderRevoked(_Registration):
    """A client may no longer join a hybrid connection over its control channel, because none of the keys that it has
    presented gives the right *Send* any more. If it may join no other one either, the relay ends the control channel.
    """

    name: ClassVar = "sender.revoked"
    level: ClassVar = Level.INFO
    summary: ClassVar = "The keys of a sender no longer allow it to join"

    reason: Reason


@attrs.frozen(kw_only=True)
class RendezvousJoined(_Rendezvous):
    """Both data channels are there, and the relay moves bytes between them."""

    name: ClassVar = "rendezvous.joined"
    operation: ClassVar = "SenderListenerConnectionEstablished"
    level: ClassVar = Level.DEBUG
    summary: ClassVar = "Two data channels were joined"


@attrs.frozen(kw_only=True)
class RendezvousKept(_Rendezvous):
    """The main process stops, and a worker keeps moving the bytes of the two data channels.

    The next main process publishes `RendezvousTakenOver`, and `RendezvousEnded`. If none starts in time, the worker
    resets the data channels.
    """

    name: ClassVar = "rendezvous.kept"
    level: ClassVar = Level.DEBUG
    summary: ClassVar = "The relay stops, and a worker keeps two joined data channels until the relay starts again"


@attrs.frozen(kw_only=True)
class RendezvousTakenOver(_Rendezvous):
    """The main process has taken over two data channels that were joined by an earlier one, which has stopped or was
    killed."""

    name: ClassVar = "rendezvous.taken-over"
    level: ClassVar = Level.DEBUG
    summary: ClassVar = "Two joined data channels, which a worker had kept, were taken over from it"


@attrs.frozen(kw_only=True)
class RendezvousTimeout(_Rendezvous):
    """One side, or both, did not open its data channel in time. `RendezvousEnded` follows."""

    name: ClassVar = "rendezvous.timeout"
    operation: ClassVar = "ListenerAcceptingConnectionTimeout"
    level: ClassVar = Level.DEBUG
    summary: ClassVar = "A side of a rendezvous did not open its data channel in time"

    #: The sides whose data channel is missing: ``listener``, ``sender`` or both.
    absent: tuple[str, ...]


@attrs.frozen(kw_only=True)
class RendezvousEnded(_Rendezvous):
    """A rendezvous has ended. Exactly one such event is published for it, whatever the cause: by this main process,
    by the one that has taken it over, or by the next one on the same state directory if both the main process and
    the worker that had the pair have ended without publishing it. There may be none if the main process is killed
    before it has noted in its file that the rendezvous was joined, which takes 0.1 s."""

    name: ClassVar = "rendezvous.ended"
    operation: ClassVar = "SenderConnectionClosed"
    level: ClassVar = Level.INFO
    summary: ClassVar = "A rendezvous has ended"

    #: How it ended: see docs/events.md.
    outcome: str
    reason: Reason
    #: The bytes that were passed to the operating system for each side.
    bytes_to_client: int
    bytes_to_connector: int
    #: How long the data channels were joined; 0 if they never were.
    seconds: float


# --- authorization


@attrs.frozen(kw_only=True)
class TokenInvalid(_Token):
    """A token is malformed, expired, made for another address, or made with the wrong key."""

    name: ClassVar = "token.invalid"
    operation: ClassVar = "InvalidSasToken"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A token is invalid"


@attrs.frozen(kw_only=True)
class TokenRefused(_Token):
    """A valid token does not give the right to what was requested."""

    name: ClassVar = "token.refused"
    operation: ClassVar = "AuthorizationFailed"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A token was refused"


@attrs.frozen(kw_only=True)
class TokenExpired(_Registration):
    """A registration has ended, because its token expired and was not renewed."""

    name: ClassVar = "token.expired"
    operation: ClassVar = "ListenerClosingFromExpiredToken"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "The token of a listener has expired"


# --- connections to the relay


@attrs.frozen(kw_only=True)
class ForwardedAddressMalformed(_Connection):
    """A proxy of ``--trusted-proxies`` has stated something that is not an IP address.

    The connection counts for the proxy. ``port`` is ``management`` for a request to the management API.
    """

    name: ClassVar = "forwarded-address.malformed"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A trusted proxy does not say which address a connection comes from"

    detail: str


@attrs.frozen(kw_only=True)
class ProxyHeaderRefused(_Connection):
    """A connection from a proxy of ``--proxy-protocol-from`` began with no valid PROXY header, and was closed."""

    name: ClassVar = "proxy-header.refused"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A proxy has sent no valid PROXY header, and the connection was closed"

    detail: str


@attrs.frozen(kw_only=True)
class UnauthenticatedClosed(_Connection):
    """A connection did not authenticate in time, or was closed to make room for others."""

    name: ClassVar = "unauthenticated.closed"
    level: ClassVar = Level.DEBUG
    summary: ClassVar = "A connection did not authenticate in time, or was closed to make room for others"


@attrs.frozen(kw_only=True)
class ChannelFailed(_Connection):
    """A connection ended with an error that its peer or the network had caused."""

    name: ClassVar = "channel.failed"
    level: ClassVar = Level.DEBUG
    summary: ClassVar = "A connection ended with an error"

    detail: str
