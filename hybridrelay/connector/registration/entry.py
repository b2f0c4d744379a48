"""One hybrid connection at one relay: its state in the registration machine."""

from __future__ import annotations

import math

import attrs

from ...errors import HybridRelayError
from ...security import ConnectionString, Secret
from .inputs import RelayIdentity

__all__ = ["ASK_AGAIN_SECONDS", "RECHECK_SECONDS", "Registration"]

#: How long after a refusal for a permanent reason to ask the relay again (seconds). While other relays work, an
#: administrator may import the hybrid connection there, or correct a certificate.
ASK_AGAIN_SECONDS = 600.0
#: When all relays have refused, a refusal that is older than this (seconds) is checked again, because the problem at
#: that relay may have been fixed in the meantime. The time suffices to ask several relays one after the other.
RECHECK_SECONDS = 30.0


@attrs.define(eq=False)
class Registration:
    """One hybrid connection at one relay. Only `Machine` changes it. Times are on a monotonic clock."""

    name: str
    #: The current connection string, which is registered now or by the next request.
    string: ConnectionString
    #: The control channel over which it is registered; None if it is not.
    over: int | None = None
    #: Since when it has been registered without interruption; meaningless if it is not registered.
    registered_at: float = 0.0
    #: Why it is not registered; None if nothing has failed.
    failure: HybridRelayError | None = None
    #: The last failure, which may be over by now, and when it occurred.
    last_failure: HybridRelayError | None = None
    failed_at: float = 0.0
    #: Whether the relay has refused it for a permanent reason.
    is_refused: bool = False
    #: The connection string that the relay accepted last.
    accepted: ConnectionString | None = None
    #: The last connection string to which the relay has given an answer, whichever that was.
    answered: ConnectionString | None = None
    #: A connection string that the relay has refused, so that an earlier one is in use.
    rejected: ConnectionString | None = None
    #: The key that authorizes what the relay offers; None if that is not certain.
    key: Secret | None = None
    #: The relay at which it was registered last.
    relay: RelayIdentity | None = None
    #: The connection string that was current when the relay has refused it last.
    _refused: ConnectionString | None = None
    _refused_at: float = -math.inf
    _ask_again_at: float = -math.inf

    @property
    def is_registered(self) -> bool:
        """Whether the relay has registered it, and may choose this connector for clients."""
        return self.over is not None

    @property
    def is_refused_now(self) -> bool:
        """Whether the relay has refused the current connection string for a permanent reason. While it has only
        refused an earlier one, this is false, because its answer may be another one."""
        return self.is_refused and self._refused is self.string

    def asks_again_in(self, now: float) -> float:
        """Seconds until the relay may be asked again; 0 if it may be asked now."""
        return max(0.0, self._ask_again_at - now) if self.is_refused else 0.0

    def may_be_outdated(self, now: float) -> bool:
        """Return whether the refusal is so old that its reason may no longer exist."""
        return self.is_refused and now - self._refused_at > RECHECK_SECONDS

    @property
    def is_untried(self) -> bool:
        """Whether the relay has not yet answered a request with the current connection string, which has replaced
        another one.
        What it says about the other one is then not final."""
        return self.answered is not None and self.answered is not self.string

    @property
    def earlier(self) -> ConnectionString | None:
        """The connection string that the relay accepted last; None if it has the same key as the current one."""
        accepted, current = self.accepted, self.string
        same = accepted is None or (accepted.key_name, accepted.key) == (current.key_name, current.key)
        return None if same else accepted

    @property
    def key_in_use(self) -> Secret:
        """The key that the relay is likely to accept."""
        return (self.accepted if self.rejected is self.string and self.accepted is not None else self.string).key

    def ask_again(self, now: float) -> None:
        """Let the relay be asked again now, even if it has refused."""
        self._ask_again_at = now

    def succeeded(self, over: int, relay: RelayIdentity, string: ConnectionString, now: float) -> None:
        """Note that the relay has registered it with this connection string."""
        if self.over is None:
            self.registered_at = now
        self.relay, self.accepted, self.answered = relay, string, string
        self.over, self.is_refused, self.failure = over, False, None

    def failed(self, error: HybridRelayError, now: float, *, permanent: bool) -> None:
        """Note that it is not registered, because of `error`. `permanent`: whether the relay has refused it for a
        permanent reason."""
        self.over, self.failure, self.is_refused = None, error, permanent
        self.last_failure, self.failed_at = error, now
        if permanent:
            self._refused = self.string
            self._refused_at = now
            self._ask_again_at = now + ASK_AGAIN_SECONDS
