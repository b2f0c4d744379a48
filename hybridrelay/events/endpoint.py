"""Events of connector and client: sessions, streams, keys and networks.

``activity_id`` is the session's id in events of sessions. In events of streams, it is the stream's id, which begins
with the id of the session. A connector and its client have the same ids.
"""

# This module is long because connector and client have most of their events in common.

from __future__ import annotations

from typing import ClassVar

import attrs

from ..protocol.reasons import Reason
from .base import Event, Level

__all__ = [
    "BetterRouteFound",
    "EarlierKeyUsed",
    "IdentityExpiresSoon",
    "KeyInUse",
    "NetworkChanged",
    "NewKeyReceived",
    "OlderStringRestored",
    "PreviousStringNotKept",
    "RelayDraining",
    "SessionEnded",
    "SessionOpened",
    "SessionRefused",
    "SessionResumed",
    "StreamClosed",
    "StreamNotConnected",
    "StreamOpened",
    "StreamStillOpen",
    "StringCopyNotUsed",
    "StringCopyRemoved",
    "StringCopyUsed",
    "StringCopyWritten",
    "StringKept",
    "StringNotKept",
    "UpdateNotRemembered",
    "UpdateNotUsed",
    "UpdateReceived",
]


# --- fields that several events have


@attrs.frozen(kw_only=True)
class _Session(Event):
    connection: str
    activity_id: str = ""
    #: The label and serial of the other side's identity, from its certificate. A client knows only the label.
    label: str = ""
    serial: str = ""


@attrs.frozen(kw_only=True)
class _Stream(Event):
    connection: str
    activity_id: str
    #: The application's identity.
    label: str = ""
    serial: str = ""
    #: At the connector, its target. At the client, which does not know it, the name and port under which its machine
    #: knows the target (the local name), if there is one.
    target: str = ""
    #: The relay and the route of the session's data channel, such as ``tcp at relay.example.com``: at the connector,
    #: when the stream was requested; at the client, when it has ended.
    route: str = ""
    #: The address of the client as this relay knows it (for IPv6: its /64). At the connector only.
    client_address: str = ""


# --- sessions


@attrs.frozen(kw_only=True)
class SessionOpened(_Session):
    """A session between client and connector has begun."""

    name: ClassVar = "session.opened"
    level: ClassVar = Level.INFO
    summary: ClassVar = "A session was opened"

    #: The route of the session's data channel: ``tcp at relay.example.com``.
    route: str
    #: At the connector: the address of the client, as the relay knows it (for IPv6: its /64).
    client_address: str = ""
    #: The id of the rendezvous by which the data channel was opened: ``activity_id`` in the relay's events.
    rendezvous: str = ""


@attrs.frozen(kw_only=True)
class SessionRefused(Event):
    """The connector has refused a session, or its resumption, although the policy admits the identity."""

    name: ClassVar = "session.refused"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "A session was refused"

    connection: str
    label: str
    serial: str
    #: `Reason.LIMIT`, or why the session cannot be resumed.
    reason: Reason
    detail: str
    #: Whether the client wanted to resume a session.
    resumes: bool = False


@attrs.frozen(kw_only=True)
class SessionResumed(_Session):
    """A session that had lost its data channel continues over another one."""

    name: ClassVar = "session.resumed"
    level: ClassVar = Level.INFO
    summary: ClassVar = "A session has resumed"

    route: str
    client_address: str = ""
    rendezvous: str = ""


@attrs.frozen(kw_only=True)
class SessionEnded(_Session):
    """A session has ended.

    For every session that was opened, exactly one such event is published, whatever the cause. A client publishes
    `SessionLost` instead if neither side intended the session to end.
    """

    name: ClassVar = "session.ended"
    level: ClassVar = Level.INFO
    summary: ClassVar = "A session has ended"

    #: At the client: ``closed``, ``closed-by-connector`` or ``cancelled``.
    outcome: str = ""
    reason: Reason
    detail: str = ""


# --- streams


@attrs.frozen(kw_only=True)
class StreamOpened(_Stream):
    """The client has opened a stream. Published by the connector only, before it connects to the target."""

    name: ClassVar = "stream.opened"
    level: ClassVar = Level.DEBUG
    summary: ClassVar = "A stream was opened"

    #: The id of the session, and the stream's number in it.
    session: str
    stream: int


@attrs.frozen(kw_only=True)
class StreamNotConnected(_Stream):
    """A stream has ended before it was connected to the target: it was refused or abandoned, or its session ended.

    Published by the connector only.
    """

    name: ClassVar = "stream.not-connected"
    operation: ClassVar = "ListenerRejectedConnection"
    level: ClassVar = Level.DEBUG
    summary: ClassVar = "A stream was not connected to the target"

    reason: Reason
    detail: str = ""
    #: The time since the client opened the stream (seconds).
    seconds: float = 0.0


@attrs.frozen(kw_only=True)
class StreamClosed(_Stream):
    """A stream has ended.

    For every stream, a connector publishes exactly one event of this class or `StreamNotConnected`. A client
    publishes exactly one event of this class, `StreamFailed` or `StreamNotOpened`.
    """

    name: ClassVar = "stream.closed"
    level: ClassVar = Level.DEBUG
    summary: ClassVar = "A stream was closed"

    #: ``closed``, ``closed-with-reset``, ``unconfirmed`` or ``broken``: see docs/operating.md.
    outcome: str
    reason: Reason
    #: The address that the connector connected to, which its target's name led to; at the connector only.
    address: str = ""
    #: How each direction ended.
    to_target: str
    to_client: str
    bytes_to_target: int
    bytes_to_client: int
    #: For a flow of datagrams: how many were passed on in each direction, and how many this side has dropped.
    datagrams_to_target: int | None = None
    datagrams_to_client: int | None = None
    datagrams_dropped: int | None = None
    seconds: float
    #: At the client: the stream's ``activity_id`` in the connector's events; empty if there never was a session.
    stream_id: str = ""
    #: At a forward: the address of the application.
    application: str = ""


@attrs.frozen(kw_only=True)
class StreamStillOpen(_Stream):
    """A stream is still open. Published by the connector only, once a day for each."""

    name: ClassVar = "stream.still-open"
    level: ClassVar = Level.DEBUG
    summary: ClassVar = "A stream has been open for a long time"

    address: str = ""
    bytes_to_target: int
    bytes_to_client: int
    seconds: float


# --- relays


@attrs.frozen(kw_only=True)
class BetterRouteFound(Event):
    """A route that is better than the one in use works now. The control channel and the sessions move to it."""

    name: ClassVar = "route.better-found"
    level: ClassVar = Level.INFO
    summary: ClassVar = "A better route to a relay works now and is used"

    host: str
    route: str


@attrs.frozen(kw_only=True)
class RelayDraining(Event):
    """A relay has announced that it accepts no new registrations and joins: an administrator drains it, or it is
    about to stop."""

    name: ClassVar = "relay.draining"
    level: ClassVar = Level.INFO
    summary: ClassVar = "A relay accepts no new registrations and joins, because it is draining or about to stop"

    host: str
    #: A connector reconnects no sooner than this after the end of the control channel. A client uses another relay
    #: until then, if there is one.
    retry_seconds: float


# --- keys, identities and networks


@attrs.frozen(kw_only=True)
class EarlierKeyUsed(Event):
    """A relay has refused the changed connection string. The one that it accepted before stays in use there."""

    name: ClassVar = "key.earlier-used"
    level: ClassVar = Level.ERROR
    summary: ClassVar = "A relay refuses the changed connection string; the earlier key stays in use"

    connection: str
    #: The relay.
    host: str
    reason: Reason
    detail: str
    remedy: str = ""


@attrs.frozen(kw_only=True)
class KeyInUse(Event):
    """Nothing depends on an earlier key any more: it can be regenerated or revoked."""

    name: ClassVar = "key.in-use"
    level: ClassVar = Level.INFO
    summary: ClassVar = "Only this key is in use now"

    connection: str
    #: The fingerprint of the key.
    key: str
    #: The hosts of relays that have not accepted the key yet.
    missing: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class NewKeyReceived(Event):
    """A relay has given this program the new key of its rule, and the program uses it from now on."""

    name: ClassVar = "key.received"
    level: ClassVar = Level.INFO
    summary: ClassVar = "A relay has given this program a new key"

    connection: str
    host: str
    #: The fingerprint of the key.
    key: str
    #: Whether it is stored where the program reads its connection string at its next start.
    kept: bool
    #: Why not.
    detail: str = ""


@attrs.frozen(kw_only=True)
class StringNotKept(Event):
    """What this program has received for a connection string is only in memory: after a restart, it would use the
    earlier one, whose key may be revoked by then. Published when this begins, and when the reason changes."""

    name: ClassVar = "connection-string.not-kept"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "What was received for a connection string is only in memory, and a restart would lose it"

    connection: str
    #: ``key``, ``identity``, ``update``.
    parts: tuple[str, ...]
    #: Why it is not stored.
    detail: str
    remedy: str


@attrs.frozen(kw_only=True)
class StringKept(Event):
    """What was only in memory is stored now, or somebody has put it where the connection string comes from."""

    name: ClassVar = "connection-string.kept"
    level: ClassVar = Level.INFO
    summary: ClassVar = "What was received for a connection string is stored now"

    connection: str
    #: What was only in memory.
    parts: tuple[str, ...]


@attrs.frozen(kw_only=True)
class StringCopyWritten(Event):
    """A connection string file cannot be written, and what this program has received for it was written into a copy
    in the state directory."""

    name: ClassVar = "connection-string.copy-written"
    level: ClassVar = Level.INFO
    summary: ClassVar = "A connection string file cannot be written, so a copy was written in the state directory"

    connection: str
    file: str
    copy: str
    #: What differs from the file: ``key``, ``identity``, ``update``.
    parts: tuple[str, ...]
    #: Why the file cannot be written.
    detail: str


@attrs.frozen(kw_only=True)
class StringCopyUsed(Event):
    """A connection string file was read, and parts of its copy are used instead, because they are newer."""

    name: ClassVar = "connection-string.copy-used"
    level: ClassVar = Level.INFO
    summary: ClassVar = "Parts of a connection string are taken from its newer copy"

    connection: str
    file: str
    copy: str
    #: ``key``, ``identity``, ``update``.
    parts: tuple[str, ...]


@attrs.frozen(kw_only=True)
class StringCopyRemoved(Event):
    """The copy of a connection string file was removed: the file has its content, or was changed since."""

    name: ClassVar = "connection-string.copy-removed"
    level: ClassVar = Level.INFO
    summary: ClassVar = "The copy of a connection string file is no longer needed, and was removed"

    file: str
    copy: str


@attrs.frozen(kw_only=True)
class StringCopyNotUsed(Event):
    """The copy of a connection string file cannot be read or removed. The file is used without it."""

    name: ClassVar = "connection-string.copy-not-used"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "The copy of a connection string file cannot be used"

    file: str
    copy: str
    detail: str
    remedy: str


@attrs.frozen(kw_only=True)
class UpdateReceived(Event):
    """This program uses an update of its connection string, which the authority has signed, from now on."""

    name: ClassVar = "update.received"
    level: ClassVar = Level.INFO
    summary: ClassVar = "The connection string was changed by an update that its authority has signed"

    connection: str
    #: The relay that has delivered it.
    host: str
    sequence: int
    #: What has changed: ``relays``, ``relay pins``, ``target``.
    changed: tuple[str, ...]
    #: Whether it is stored where the program reads its connection string at its next start.
    kept: bool
    #: Why not.
    detail: str = ""


@attrs.frozen(kw_only=True)
class UpdateNotUsed(Event):
    """An update of the connection string is not used, and the connection string stays as it is."""

    name: ClassVar = "update.not-used"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "An update of the connection string is not used"

    connection: str
    #: The relay that has delivered it.
    host: str
    #: As the relay has stated it.
    sequence: int
    #: ``waiting`` (it may be used later) or ``refused``.
    state: str
    detail: str


@attrs.frozen(kw_only=True)
class PreviousStringNotKept(Event):
    """The connection string from before an update cannot be kept beside the new one."""

    name: ClassVar = "update.previous-not-kept"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "The connection string from before an update cannot be saved"

    file: str
    detail: str


@attrs.frozen(kw_only=True)
class UpdateNotRemembered(Event):
    """The state directory cannot be written, so that after a restored backup an earlier update could be used."""

    name: ClassVar = "update.not-remembered"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "It cannot be recorded that an update was used"

    connection: str
    detail: str


@attrs.frozen(kw_only=True)
class OlderStringRestored(Event):
    """The connection string is older than one that this program has used, perhaps because a backup was restored."""

    name: ClassVar = "update.older-string"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "The connection string is older than the last update that this program has used"

    connection: str
    #: The sequence in the connection string, and that of the last update that was used.
    sequence: int
    used: int


@attrs.frozen(kw_only=True)
class IdentityExpiresSoon(Event):
    """An identity or an issuer in a connection string is about to expire, or has expired. Published once for each
    threshold (such as 60, 30, 14, 7, 3 and 1 days before, and at the end), and at each start of the program."""

    name: ClassVar = "identity.expires-soon"
    level: ClassVar = Level.WARNING
    summary: ClassVar = "An identity or an issuer in a connection string expires soon, or has expired"

    connection: str
    #: ``identity``; ``renewable-identity``, which an issuer has signed, and which is not renewed for some reason; or
    #: ``issuer``.
    what: str
    #: The label of an identity.
    label: str = ""
    serial: str
    #: When it expires (seconds since 1970), and the whole days until then.
    not_after: float
    days: int
    remedy: str


@attrs.frozen(kw_only=True)
class NetworkChanged(Event):
    """The machine was suspended, or has changed networks. All channels check whether their peers still answer."""

    name: ClassVar = "network.changed"
    level: ClassVar = Level.INFO
    summary: ClassVar = "The network may have changed; checking whether peers still answer"

    detail: str
