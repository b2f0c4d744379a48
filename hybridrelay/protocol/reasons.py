"""Why something ended: the one registry of reasons, on the wire and in every error we raise.

The same numbers appear in REFUSED, RESET, STOP and GOAWAY frames, in the status behind a preamble, and (by
name) in control messages. A number is never reused. An unknown number from a newer peer reads as
`Reason.INTERNAL_ERROR`; it is never an error by itself.
"""

from __future__ import annotations

import enum


class Reason(enum.IntEnum):
    """A named outcome. `describe` says it in a sentence for people."""

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
    #: The name server of the connector did not answer, or said "later".
    TARGET_NAME_SERVICE_FAILED = 0x0A
    #: The acceptor of the stream has not offered the feature that its kind needs.
    KIND_NOT_OFFERED = 0x0B
    #: OPEN has metadata that must not be ignored, of a type that the acceptor does not know.
    METADATA_NOT_UNDERSTOOD = 0x0C

    # --- a session
    SESSION_LOST = 0x10
    GOING_AWAY = 0x11
    INTERNAL_ERROR = 0x12
    PROTOCOL_ERROR = 0x13
    #: The peer fell silent: no byte within the liveness timeout.
    PEER_SILENT = 0x14
    VERSION_MISMATCH = 0x15
    #: An attach named a session that the peer does not have.
    SESSION_UNKNOWN = 0x16
    #: A newer channel or a newer generation took the place of this one.
    SUPERSEDED = 0x17

    # --- end-to-end identities
    IDENTITY_SHUT_OUT = 0x20
    IDENTITY_WRONG_ROLE = 0x21
    IDENTITY_WRONG_CONNECTION = 0x22
    IDENTITY_EXPIRED = 0x23
    IDENTITY_WRONG_AUTHORITY = 0x24
    #: The peer's TLS failed in a way that names none of the above.
    TLS_FAILED = 0x25
    #: A later data channel of a session led to another identity than its first.
    IDENTITY_CHANGED = 0x26

    # --- authorization at the relay
    TOKEN_MALFORMED = 0x30
    TOKEN_EXPIRED = 0x31
    WRONG_KEY = 0x32
    UNKNOWN_RULE = 0x33
    RIGHT_MISSING = 0x34
    UNKNOWN_CONNECTION = 0x35
    WRONG_AUDIENCE = 0x36
    KEY_REVOKED = 0x37

    # --- rendezvous
    NO_LISTENER = 0x40
    #: The listener asked for by instance is not connected now, and may come back.
    LISTENER_ABSENT = 0x41
    #: The listener asked for by instance is known to be dead.
    LISTENER_GONE = 0x42
    #: Listeners are registered, none of them answered.
    LISTENER_SILENT = 0x43
    TICKET_UNKNOWN = 0x44
    #: The other side never came to the rendezvous.
    PEER_ABSENT = 0x45
    #: The listener could not dial its data channel.
    LISTENER_CANNOT_DIAL = 0x46
    #: The listener answered that it does not come, for a reason that is its own.
    LISTENER_DECLINED = 0x47
    #: The ticket names another relay than the one to which it was shown.
    TICKET_OF_ANOTHER_RELAY = 0x48

    # --- a relay's port
    WRONG_PORT = 0x50
    BUSY = 0x51

    @classmethod
    def from_wire(cls, code: int) -> Reason:
        """The reason with this number, or `INTERNAL_ERROR` for one that we do not know yet."""
        try:
            return cls(code)
        except ValueError:
            return cls.INTERNAL_ERROR

    @classmethod
    def from_name(cls, name: str) -> Reason:
        """The reason called `name` (`"no-listener"`), or `INTERNAL_ERROR` for an unknown one."""
        return cls.__members__.get(name.upper().replace("-", "_"), cls.INTERNAL_ERROR)

    @property
    def slug(self) -> str:
        """The name as it appears in control messages, logs and JSON: `"no-listener"`."""
        return self.name.lower().replace("_", "-")

    @property
    def describe(self) -> str:
        """One sentence for people, without a final stop."""
        return _SENTENCES[self]

    @property
    def is_permanent(self) -> bool:
        """True where trying again with the same connection string cannot help."""
        return self in _PERMANENT


_SENTENCES = {
    Reason.NO_ERROR: "no error",
    Reason.TARGET_REFUSED: "the target refused the connection",
    Reason.TARGET_UNREACHABLE: "the target is unreachable from the connector",
    Reason.TARGET_NAME_NOT_FOUND: "the target's host name is unknown to the connector",
    Reason.TARGET_TIMEOUT: "the target did not answer in time",
    Reason.TARGET_RESET: "the other end reset its connection",
    Reason.DENIED_BY_POLICY: "the connector's policy does not allow it",
    Reason.LIMIT: "a limit of the other side is reached",
    Reason.CANCELLED: "cancelled",
    Reason.OUT_OF_RESOURCES: "the connector has run out of descriptors, local ports, memory or threads",
    Reason.TARGET_NAME_SERVICE_FAILED: "the connector's name server does not answer for the target's host name",
    Reason.KIND_NOT_OFFERED: "the other side does not offer streams of this kind",
    Reason.METADATA_NOT_UNDERSTOOD: "the other side does not understand the metadata of the stream",
    Reason.SESSION_LOST: "the session was lost",
    Reason.GOING_AWAY: "the other side is shutting down",
    Reason.INTERNAL_ERROR: "the other side reports an internal error",
    Reason.PROTOCOL_ERROR: "the protocol was violated",
    Reason.PEER_SILENT: "the other side stopped answering",
    Reason.VERSION_MISMATCH: "the two sides have no protocol version in common",
    Reason.SESSION_UNKNOWN: "the other side does not know this session",
    Reason.SUPERSEDED: "a newer connection took its place",
    Reason.IDENTITY_SHUT_OUT: "this identity has been shut out",
    Reason.IDENTITY_WRONG_ROLE: "the identity is for the other role",
    Reason.IDENTITY_WRONG_CONNECTION: "the identity belongs to another hybrid connection",
    Reason.IDENTITY_EXPIRED: "the identity is expired or not yet valid",
    Reason.IDENTITY_WRONG_AUTHORITY: "the identity was issued by another authority",
    Reason.TLS_FAILED: "TLS failed",
    Reason.IDENTITY_CHANGED: "another identity answered than the one with which the session began",
    Reason.TOKEN_MALFORMED: "the token is malformed",
    Reason.TOKEN_EXPIRED: "the token has expired (check the clocks of both machines)",
    Reason.WRONG_KEY: "the shared access key is wrong",
    Reason.UNKNOWN_RULE: "the shared access key name is unknown",
    Reason.RIGHT_MISSING: "the shared access key does not carry the right that is needed",
    Reason.UNKNOWN_CONNECTION: "the relay has no such hybrid connection",
    Reason.WRONG_AUDIENCE: "the token was made for another address",
    Reason.KEY_REVOKED: "the shared access key was revoked or regenerated",
    Reason.NO_LISTENER: "no connector is listening",
    Reason.LISTENER_ABSENT: "the connector of this session is not connected at the moment",
    Reason.LISTENER_GONE: "the connector of this session is gone",
    Reason.LISTENER_SILENT: "a connector is registered but does not answer",
    Reason.TICKET_UNKNOWN: "the ticket is unknown, used or expired",
    Reason.PEER_ABSENT: "the other side did not arrive in time",
    Reason.LISTENER_CANNOT_DIAL: "the connector could not open its data channel",
    Reason.LISTENER_DECLINED: "a connector is registered but does not accept the connection",
    Reason.TICKET_OF_ANOTHER_RELAY: "the ticket was made by another relay",
    Reason.WRONG_PORT: "this port does not serve that purpose",
    Reason.BUSY: "the relay is busy",
}

_PERMANENT = frozenset(
    {
        Reason.VERSION_MISMATCH,
        Reason.IDENTITY_SHUT_OUT,
        Reason.IDENTITY_WRONG_ROLE,
        Reason.IDENTITY_WRONG_CONNECTION,
        Reason.IDENTITY_EXPIRED,
        Reason.IDENTITY_WRONG_AUTHORITY,
        Reason.IDENTITY_CHANGED,
        Reason.TOKEN_MALFORMED,
        Reason.WRONG_KEY,
        Reason.UNKNOWN_RULE,
        Reason.RIGHT_MISSING,
        Reason.UNKNOWN_CONNECTION,
        Reason.WRONG_AUDIENCE,
        Reason.KEY_REVOKED,
    }
)
