"""The one list of reasons why something ended, for the wire and for every error. SPEC.md, section 4.

The same numbers appear in REFUSED, RESET, STOP and GOAWAY frames, in the status after a preamble, and (by name) in
control messages. A number is never reused. To add a reason, add its number to `Reason` and its line to the table.

Numbers have no meaning, with one exception: each category but *no error* has a range of 16 numbers, whose last one is
its general reason, and a range of 256 numbers for when the first is used up. An unknown number from a peer is read as
the general reason of its category.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

import attrs

from .._value import Value


class Category(enum.Enum):
    """What a reason is about."""

    #: Nothing went wrong.
    NO_ERROR = "no error"
    #: One stream, and its target.
    STREAM = "stream"
    #: A session, and its channel.
    SESSION = "session"
    #: The end-to-end identity of the peer, or our own identity, which the peer refuses.
    IDENTITY = "identity"
    #: A token that was presented to the relay.
    AUTHORIZATION = "authorization"
    #: A join, or the data channels that belong to it.
    RENDEZVOUS = "rendezvous"
    #: A connection to one of the relay's ports.
    RELAY_PORT = "relay port"
    #: A limit that the administrator of the relay has set for a hybrid connection.
    QUOTA = "quota"


class Duration(enum.Enum):
    """How long the condition behind a reason is likely to last."""

    #: It may end by itself within a few seconds.
    PASSING = "passing"
    #: It is the answer to one request. Waiting does not change it, but another request may be answered differently.
    ANSWER = "answer"
    #: Until a person changes something: a key, an identity, a version.
    PERMANENT = "permanent"


class Reason(enum.IntEnum):
    """Why something ended. The table at the end of this file has the category, duration and text of each reason."""

    #: Nothing went wrong.
    NO_ERROR = 0x00

    # --- a stream and its target
    TARGET_REFUSED = 0x01
    TARGET_UNREACHABLE = 0x02
    TARGET_NAME_NOT_FOUND = 0x03
    TARGET_TIMEOUT = 0x04
    #: The target (or the application) reset its TCP connection.
    TARGET_RESET = 0x05
    DENIED_BY_POLICY = 0x06
    #: A limit of the peer: streams, memory, backlog.
    LIMIT = 0x07
    CANCELLED = 0x08
    #: The connector itself has run out of descriptors, local ports, memory or threads.
    OUT_OF_RESOURCES = 0x09
    #: The name server of the connector did not answer, or failed temporarily.
    TARGET_NAME_SERVICE_FAILED = 0x0A
    #: The acceptor of the stream has not offered the feature that its kind needs.
    KIND_NOT_OFFERED = 0x0B
    #: OPEN has critical metadata of a type that the acceptor does not know.
    METADATA_NOT_UNDERSTOOD = 0x0C
    #: The connector cannot write its audit log, and is configured to open no stream without it.
    AUDIT_UNAVAILABLE = 0x0D
    #: The client has asked for a port that the target in the connector's connection string does not have.
    PORT_NOT_PUBLISHED = 0x0E
    STREAM_FAILED = 0x0F

    # --- a session
    SESSION_LOST = 0x10
    GOING_AWAY = 0x11
    INTERNAL_ERROR = 0x12
    PROTOCOL_ERROR = 0x13
    #: The peer did not answer in time: no byte arrived within the liveness timeout, or what was expected did not.
    PEER_SILENT = 0x14
    VERSION_MISMATCH = 0x15
    #: HELLO named a session that the peer does not have.
    SESSION_UNKNOWN = 0x16
    #: A channel with a newer epoch or generation took the place of this one.
    SUPERSEDED = 0x17
    SESSION_FAILED = 0x1F

    # --- end-to-end identities
    IDENTITY_DENIED = 0x20
    IDENTITY_WRONG_ROLE = 0x21
    IDENTITY_WRONG_CONNECTION = 0x22
    IDENTITY_EXPIRED = 0x23
    IDENTITY_WRONG_AUTHORITY = 0x24
    #: TLS with the peer failed for a reason other than the above.
    TLS_FAILED = 0x25
    #: A later data channel of a session led to another identity than the first.
    IDENTITY_CHANGED = 0x26
    #: The claim certificate was used before, for another key.
    CLAIM_USED = 0x27
    #: The connector does not issue the identity that was requested.
    ISSUE_REFUSED = 0x28
    IDENTITY_NOT_ACCEPTED = 0x2F

    # --- authorization at the relay
    TOKEN_MALFORMED = 0x30
    TOKEN_EXPIRED = 0x31
    WRONG_KEY = 0x32
    UNKNOWN_RULE = 0x33
    RIGHT_MISSING = 0x34
    UNKNOWN_CONNECTION = 0x35
    WRONG_AUDIENCE = 0x36
    KEY_REVOKED = 0x37
    #: An administrator has disabled the hybrid connection. Not permanent, so that peers return when it is enabled.
    CONNECTION_DISABLED = 0x38
    #: The relay has no claim with this id, or the proof is wrong.
    CLAIM_UNKNOWN = 0x39
    #: The content of the claim was delivered before: this, or the earlier taker, should not have had the code.
    CLAIM_TAKEN = 0x3A
    CLAIM_EXPIRED = 0x3B
    CLAIM_REVOKED = 0x3C
    #: This taker was sent the content before, and did not receive it. The relay no longer has it.
    CLAIM_LOST = 0x3D
    NOT_AUTHORIZED = 0x3F

    # --- rendezvous
    NO_LISTENER = 0x40
    #: The listener that was requested by its instance is not connected now, and may return.
    LISTENER_ABSENT = 0x41
    #: The listener that was requested by its instance is known to be dead.
    LISTENER_GONE = 0x42
    #: Listeners are registered, but none of them answered.
    LISTENER_SILENT = 0x43
    TICKET_UNKNOWN = 0x44
    #: The other side never opened its data channel for the rendezvous.
    PEER_ABSENT = 0x45
    #: The listener could not dial its data channel.
    LISTENER_CANNOT_DIAL = 0x46
    #: The listener answered that it does not open a data channel, for a reason of its own.
    LISTENER_DECLINED = 0x47
    #: The ticket names another relay than the one to which it was shown.
    TICKET_OF_ANOTHER_RELAY = 0x48
    #: An administrator of the relay has ended it without revoking anything.
    ADMINISTRATOR_DROPPED = 0x49
    #: The relay accepts no new registrations and joins until an administrator ends the drain. Other relays may accept
    #: them.
    RELAY_DRAINING = 0x4A
    RENDEZVOUS_FAILED = 0x4F

    # --- a relay's port
    WRONG_PORT = 0x50
    BUSY = 0x51
    #: No connection to the relay could be opened. Determined locally and never sent.
    RELAY_UNREACHABLE = 0x52
    #: Something other than the relay answers: its certificate is another one. Determined locally and never sent.
    WRONG_IDENTITY = 0x53
    REFUSED_BY_RELAY = 0x5F

    # --- quotas
    LISTENER_QUOTA = 0x60
    SENDER_QUOTA = 0x61
    SESSION_QUOTA = 0x62
    #: The hybrid connection or the relay has used up the bytes of the current period.
    TRANSFER_QUOTA = 0x63
    QUOTA_REACHED = 0x6F

    @classmethod
    def from_wire(cls, code: int) -> Reason:
        """Return the reason with this number, or for an unknown number, the general reason of its category.

        Numbers outside all ranges are read as `INTERNAL_ERROR`.
        """
        try:
            return cls(code)
        except ValueError:
            return _GENERAL.get(code >> 4 if code < 0x100 else (code >> 8) - 1, cls.INTERNAL_ERROR)

    @classmethod
    def from_name(cls, name: str) -> Reason:
        """Return the reason with this name (for example `"no-listener"`), or `INTERNAL_ERROR` if it is unknown."""
        return cls.__members__.get(name.upper().replace("-", "_"), cls.INTERNAL_ERROR)

    @property
    def slug(self) -> str:
        """The name as it appears in control messages, logs and JSON: `"no-listener"`."""
        return self.name.lower().replace("_", "-")

    @property
    def describe(self) -> str:
        """One sentence for people, without a full stop at the end."""
        return _TABLE[self].sentence

    @property
    def category(self) -> Category:
        """What the reason is about."""
        return _TABLE[self].category

    @property
    def duration(self) -> Duration:
        """How long the condition is likely to last."""
        return _TABLE[self].duration

    @property
    def is_permanent(self) -> bool:
        """True if trying again with the same connection string cannot help."""
        return self.duration is Duration.PERMANENT

    @property
    def specificity(self) -> int:
        """How specific the reason is. If several attempts fail, the most specific reason is reported.

        Values are comparable within a category.
        """
        return _TABLE[self].specificity


@attrs.frozen
class _Entry(Value):
    category: Category
    duration: Duration
    sentence: str
    specificity: int = 0


#: The general reason of each category, by the number n of its ranges: 0xn0 to 0xnf, and 256 numbers from 0x(n + 1)00.
_GENERAL: Mapping[int, Reason] = {
    0x0: Reason.STREAM_FAILED,
    0x1: Reason.SESSION_FAILED,
    0x2: Reason.IDENTITY_NOT_ACCEPTED,
    0x3: Reason.NOT_AUTHORIZED,
    0x4: Reason.RENDEZVOUS_FAILED,
    0x5: Reason.REFUSED_BY_RELAY,
    0x6: Reason.QUOTA_REACHED,
}

_C, _D = Category, Duration
#: Everything about each reason but its number.
_TABLE: Mapping[Reason, _Entry] = {
    Reason.NO_ERROR: _Entry(_C.NO_ERROR, _D.ANSWER, "no error"),
    Reason.TARGET_REFUSED: _Entry(_C.STREAM, _D.ANSWER, "the target refused the connection", specificity=5),
    Reason.TARGET_UNREACHABLE: _Entry(
        _C.STREAM, _D.ANSWER, "the target is unreachable from the connector", specificity=1
    ),
    Reason.TARGET_NAME_NOT_FOUND: _Entry(
        _C.STREAM, _D.ANSWER, "the target's host name is unknown to the connector", specificity=3
    ),
    Reason.TARGET_TIMEOUT: _Entry(_C.STREAM, _D.ANSWER, "the target did not answer in time", specificity=4),
    Reason.TARGET_RESET: _Entry(_C.STREAM, _D.ANSWER, "the other end reset its connection"),
    Reason.DENIED_BY_POLICY: _Entry(_C.STREAM, _D.ANSWER, "denied by policy: the private network does not allow it"),
    Reason.LIMIT: _Entry(_C.STREAM, _D.PASSING, "a limit of the other side is reached"),
    Reason.CANCELLED: _Entry(_C.STREAM, _D.PASSING, "cancelled"),
    Reason.OUT_OF_RESOURCES: _Entry(
        _C.STREAM,
        _D.ANSWER,
        "the connector has run out of descriptors, local ports, memory or threads",
        specificity=6,
    ),
    Reason.TARGET_NAME_SERVICE_FAILED: _Entry(
        _C.STREAM, _D.ANSWER, "the connector's name server does not answer for the target's host name", specificity=2
    ),
    Reason.KIND_NOT_OFFERED: _Entry(_C.STREAM, _D.ANSWER, "the other side does not offer streams of this kind"),
    Reason.METADATA_NOT_UNDERSTOOD: _Entry(
        _C.STREAM, _D.ANSWER, "the other side does not understand the metadata of the stream"
    ),
    Reason.AUDIT_UNAVAILABLE: _Entry(
        _C.STREAM, _D.ANSWER, "the connector cannot write its audit log, without which it opens no stream"
    ),
    Reason.PORT_NOT_PUBLISHED: _Entry(
        _C.STREAM, _D.ANSWER, "the hybrid connection does not include this port of the target"
    ),
    Reason.STREAM_FAILED: _Entry(
        _C.STREAM, _D.ANSWER, "the stream failed for a reason that this version does not know"
    ),
    Reason.SESSION_LOST: _Entry(_C.SESSION, _D.PASSING, "the session was lost"),
    Reason.GOING_AWAY: _Entry(_C.SESSION, _D.PASSING, "the other side is shutting down"),
    Reason.INTERNAL_ERROR: _Entry(_C.SESSION, _D.PASSING, "the other side reports an internal error"),
    Reason.PROTOCOL_ERROR: _Entry(_C.SESSION, _D.PASSING, "the protocol was violated"),
    Reason.PEER_SILENT: _Entry(_C.SESSION, _D.PASSING, "the other side stopped answering"),
    Reason.VERSION_MISMATCH: _Entry(_C.SESSION, _D.PERMANENT, "the two sides have no protocol version in common"),
    Reason.SESSION_UNKNOWN: _Entry(_C.SESSION, _D.PASSING, "the other side does not know this session"),
    Reason.SUPERSEDED: _Entry(_C.SESSION, _D.PASSING, "a newer connection has taken the place of this one"),
    Reason.SESSION_FAILED: _Entry(
        _C.SESSION, _D.PASSING, "the session failed for a reason that this version does not know"
    ),
    Reason.IDENTITY_DENIED: _Entry(_C.IDENTITY, _D.PERMANENT, "this identity is on the deny list"),
    Reason.IDENTITY_WRONG_ROLE: _Entry(_C.IDENTITY, _D.PERMANENT, "the identity is for the other role"),
    Reason.IDENTITY_WRONG_CONNECTION: _Entry(
        _C.IDENTITY, _D.PERMANENT, "the identity belongs to another hybrid connection"
    ),
    Reason.IDENTITY_EXPIRED: _Entry(_C.IDENTITY, _D.PERMANENT, "the identity is expired or not yet valid"),
    Reason.IDENTITY_WRONG_AUTHORITY: _Entry(
        _C.IDENTITY, _D.PERMANENT, "the identity was issued by another authority"
    ),
    Reason.TLS_FAILED: _Entry(_C.IDENTITY, _D.PASSING, "TLS failed"),
    Reason.IDENTITY_CHANGED: _Entry(
        _C.IDENTITY, _D.PERMANENT, "an identity answered that is not the one with which the session began"
    ),
    Reason.CLAIM_USED: _Entry(_C.IDENTITY, _D.PERMANENT, "the claim was used before, for another machine"),
    Reason.ISSUE_REFUSED: _Entry(_C.IDENTITY, _D.ANSWER, "the connector does not issue the identity"),
    Reason.IDENTITY_NOT_ACCEPTED: _Entry(
        _C.IDENTITY, _D.PASSING, "the identity is not acceptable for a reason that this version does not know"
    ),
    Reason.TOKEN_MALFORMED: _Entry(_C.AUTHORIZATION, _D.PERMANENT, "the token is malformed"),
    Reason.TOKEN_EXPIRED: _Entry(
        _C.AUTHORIZATION, _D.PASSING, "the token has expired (check the clocks of both machines)"
    ),
    Reason.WRONG_KEY: _Entry(_C.AUTHORIZATION, _D.PERMANENT, "the shared access key is wrong"),
    Reason.UNKNOWN_RULE: _Entry(_C.AUTHORIZATION, _D.PERMANENT, "the shared access key name is unknown"),
    Reason.RIGHT_MISSING: _Entry(
        _C.AUTHORIZATION, _D.PERMANENT, "the shared access key does not have the right that is needed"
    ),
    Reason.UNKNOWN_CONNECTION: _Entry(_C.AUTHORIZATION, _D.PERMANENT, "the relay has no such hybrid connection"),
    Reason.WRONG_AUDIENCE: _Entry(_C.AUTHORIZATION, _D.PERMANENT, "the token was made for another address"),
    Reason.KEY_REVOKED: _Entry(_C.AUTHORIZATION, _D.PERMANENT, "the shared access key was revoked or regenerated"),
    Reason.CONNECTION_DISABLED: _Entry(
        _C.AUTHORIZATION, _D.PASSING, "an administrator of the relay has disabled the hybrid connection"
    ),
    Reason.CLAIM_UNKNOWN: _Entry(_C.AUTHORIZATION, _D.PERMANENT, "the relay has no such claim"),
    Reason.CLAIM_TAKEN: _Entry(_C.AUTHORIZATION, _D.PERMANENT, "the claim was taken before"),
    Reason.CLAIM_EXPIRED: _Entry(_C.AUTHORIZATION, _D.PERMANENT, "the claim has expired"),
    Reason.CLAIM_REVOKED: _Entry(_C.AUTHORIZATION, _D.PERMANENT, "the claim was revoked"),
    Reason.CLAIM_LOST: _Entry(
        _C.AUTHORIZATION, _D.PERMANENT, "what the relay sent for this claim was lost on the way"
    ),
    Reason.NOT_AUTHORIZED: _Entry(
        _C.AUTHORIZATION, _D.PASSING, "the relay does not authorize this for a reason that this version does not know"
    ),
    Reason.NO_LISTENER: _Entry(_C.RENDEZVOUS, _D.PASSING, "no connector is listening"),
    Reason.LISTENER_ABSENT: _Entry(
        _C.RENDEZVOUS, _D.PASSING, "the connector of this session is not connected at the moment"
    ),
    Reason.LISTENER_GONE: _Entry(_C.RENDEZVOUS, _D.PASSING, "the connector of this session is gone"),
    Reason.LISTENER_SILENT: _Entry(_C.RENDEZVOUS, _D.PASSING, "a connector is registered but does not answer"),
    Reason.TICKET_UNKNOWN: _Entry(_C.RENDEZVOUS, _D.PASSING, "the ticket is unknown, used or expired"),
    Reason.PEER_ABSENT: _Entry(_C.RENDEZVOUS, _D.PASSING, "the other side did not open its data channel in time"),
    Reason.LISTENER_CANNOT_DIAL: _Entry(_C.RENDEZVOUS, _D.PASSING, "the connector could not open its data channel"),
    Reason.LISTENER_DECLINED: _Entry(
        _C.RENDEZVOUS, _D.PASSING, "a connector is registered but does not accept the connection"
    ),
    Reason.TICKET_OF_ANOTHER_RELAY: _Entry(_C.RENDEZVOUS, _D.PASSING, "the ticket was made by another relay"),
    Reason.ADMINISTRATOR_DROPPED: _Entry(_C.RENDEZVOUS, _D.PASSING, "an administrator of the relay has ended it"),
    Reason.RELAY_DRAINING: _Entry(
        _C.RENDEZVOUS, _D.PASSING, "the relay is draining: it accepts no new registrations and joins"
    ),
    Reason.RENDEZVOUS_FAILED: _Entry(
        _C.RENDEZVOUS, _D.PASSING, "the rendezvous failed for a reason that this version does not know"
    ),
    Reason.WRONG_PORT: _Entry(_C.RELAY_PORT, _D.ANSWER, "this port does not serve that purpose"),
    Reason.BUSY: _Entry(_C.RELAY_PORT, _D.PASSING, "the relay is busy"),
    Reason.RELAY_UNREACHABLE: _Entry(_C.RELAY_PORT, _D.PASSING, "the relay cannot be reached"),
    Reason.WRONG_IDENTITY: _Entry(_C.RELAY_PORT, _D.PASSING, "the certificate is not the relay's"),
    Reason.REFUSED_BY_RELAY: _Entry(
        _C.RELAY_PORT, _D.PASSING, "the relay refused for a reason that this version does not know"
    ),
    Reason.LISTENER_QUOTA: _Entry(
        _C.QUOTA, _D.PASSING, "the hybrid connection has as many connectors as its quota allows"
    ),
    Reason.SENDER_QUOTA: _Entry(
        _C.QUOTA, _D.PASSING, "the hybrid connection has as many clients as its quota allows"
    ),
    Reason.SESSION_QUOTA: _Entry(
        _C.QUOTA, _D.PASSING, "the hybrid connection has as many sessions as its quota allows"
    ),
    Reason.TRANSFER_QUOTA: _Entry(_C.QUOTA, _D.PASSING, "the bytes that may be moved in this month are used up"),
    Reason.QUOTA_REACHED: _Entry(_C.QUOTA, _D.PASSING, "a quota that this version does not know is used up"),
}

#: Why a stream was refused although the acceptor would have admitted it: there is no connection to the target, so
#: that nothing that was sent on the stream was processed. Another connector may be able to connect to the target.
NOT_CONNECTED = frozenset(
    {
        Reason.TARGET_REFUSED,
        Reason.TARGET_UNREACHABLE,
        Reason.TARGET_NAME_NOT_FOUND,
        Reason.TARGET_NAME_SERVICE_FAILED,
        Reason.TARGET_TIMEOUT,
        Reason.OUT_OF_RESOURCES,
        Reason.AUDIT_UNAVAILABLE,
    }
)
