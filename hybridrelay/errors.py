"""The exceptions that hybridrelay raises to its users.

Streams raise Trio's own errors (`trio.BrokenResourceError`, `ClosedResourceError`, `BusyResourceError`) with one of
these as `__cause__`. Everything else raises these directly. All have a `Reason`, and a `remedy` if there is something
that the user can do.
"""

from __future__ import annotations

from typing import Self

import attrs

from .failure import Failure, FailureKind, lost_connection
from .protocol.reasons import Reason


class HybridRelayError(Exception):
    """The base class. `str()` is one line for people; `reason` is for programs; `remedy` says what to do, or is None.

    `brief` is a shorter text for repeated log messages, or None.
    """

    reason: Reason = Reason.INTERNAL_ERROR

    def __init__(
        self, message: str, *, reason: Reason | None = None, remedy: str | None = None, brief: str | None = None
    ) -> None:
        super().__init__(message)
        if remedy is not None:
            self.add_note(f"What to do: {remedy}")  # so that a traceback shows it, too
        if reason is not None:
            self.reason = reason
        self.remedy = remedy
        self.brief = brief


class ConfigurationError(HybridRelayError):
    """Something in the configuration cannot be used: an option, a file, a state directory."""


class DeniedByPolicy(ConfigurationError):
    """The policy of the private network does not allow it. The message names the rule, with file and line."""

    reason = Reason.DENIED_BY_POLICY


class ConnectionStringError(ConfigurationError):
    """A connection string is malformed. `part` names the field (never its value)."""

    def __init__(self, message: str, *, part: str | None = None, remedy: str | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.part = part


class ClaimError(ConfigurationError):
    """A claim code is malformed, or what a claim contains cannot be used. The message contains neither."""


class UpdateError(ConfigurationError):
    """An update of connection strings is not authentic, or cannot be used. The message contains no part of it."""


class StateError(ConfigurationError):
    """The relay's state directory, or a file in it, is unusable: not writable, damaged, owned by another user, or
    from a newer version."""


class ManagementError(HybridRelayError):
    """The management API of a relay cannot be reached, or cannot answer a request now."""


class OutcomeUnknown(ManagementError):
    """A change was requested, and the relay did not answer, or its answer cannot be read: the change may or may not
    have been made."""


class TransportError(HybridRelayError):
    """A transport could not open a connection, or its peer does not speak that transport.

    `failure` describes it for reports. If the connection broke during the transport's handshake, construct the error
    with `lost`.
    """

    failure: Failure

    def __init__(
        self,
        message: str,
        *,
        kind: FailureKind = FailureKind.NOT_A_RELAY,
        remedy: str | None = None,
        http_status: int | None = None,
    ) -> None:
        super().__init__(message, remedy=remedy)
        self.failure = attrs.evolve(Failure.of(kind).with_text(message, remedy), http_status=http_status)

    @classmethod
    def lost(cls, message: str, cause: BaseException | None = None) -> Self:
        """Return the error for a connection that was closed, or broke with `cause`, which need not be the peer's
        fault."""
        kind = FailureKind.CLOSED_EARLY if cause is None else lost_connection(cause).kind
        return cls(message, kind=kind)


class UpgradeRefused(TransportError):
    """The peer speaks HTTP, but did not open the transport's channel. `status` is the HTTP status."""

    def __init__(self, message: str, *, status: int, remedy: str | None = None) -> None:
        super().__init__(message, remedy=remedy, http_status=status)
        self.status = status


class TLSHandshakeError(TransportError):
    """A TLS handshake failed; `__cause__` is the `ssl.SSLError`, if there was one.

    `untrusted` is OpenSSL's message if the peer's certificate could not be verified, otherwise None.
    """

    reason = Reason.TLS_FAILED

    def __init__(
        self, message: str, *, kind: FailureKind = FailureKind.TLS_FAILED, untrusted: str | None = None
    ) -> None:
        super().__init__(message)
        self.failure = Failure.of(kind if untrusted is None else FailureKind.WRONG_IDENTITY)
        self.untrusted = untrusted


class RelayUnreachable(HybridRelayError):
    """No route to the relay works. If one attempt is the cause, `failure` says at which step it failed, and why."""

    reason: Reason = Reason.RELAY_UNREACHABLE

    def __init__(
        self,
        message: str,
        *,
        reason: Reason | None = None,
        remedy: str | None = None,
        brief: str | None = None,
        failure: Failure | None = None,
    ) -> None:
        super().__init__(message, reason=reason, remedy=remedy, brief=brief)
        self.failure = failure


class RelayIdentityError(HybridRelayError):
    """The relay's certificate matches no pin and no trusted authority. Nothing secret was sent."""

    reason: Reason = Reason.WRONG_IDENTITY


class AuthorizationError(HybridRelayError):
    """The relay refused the token. `reason` says why: the key, expiry, right, audience or name."""


class RendezvousError(HybridRelayError):
    """The relay could not connect the two sides: there is no listener, or one side did not open its data channel."""


class PeerIdentityError(HybridRelayError):
    """The end-to-end identity of the peer is not acceptable to us, or ours is not acceptable to the peer."""


class SessionError(HybridRelayError):
    """A session could not be opened, or did not end normally."""


class StreamRefused(HybridRelayError):
    """The other side refused to open a stream. `reason` says why: the target, the policy or a limit."""


class StreamReset(HybridRelayError):
    """A stream was aborted, by the peer or because its session was lost. The data before it may be incomplete."""
