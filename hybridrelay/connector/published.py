"""What a connector publishes, and at which relays."""

from __future__ import annotations

import math

import attrs
import trio

from ..connectivity.control import ControlChannel
from ..connectivity.data import EndToEnd
from ..connectivity.link import RelayLink
from ..errors import HybridRelayError
from ..security import ConnectionString, Secret
from .unproven import Unproven

#: When to ask a relay again that has refused a string for a permanent reason (seconds): somebody may import the
#: hybrid connection there, or correct a certificate, while the other relays keep serving.
ASK_AGAIN_SECONDS = 600.0
#: When nothing else is left, a refusal that is older than this (seconds) is checked again: the problem at that relay
#: may have been fixed before the last relay refused. It is long enough to ask several relays one after the other.
DOUBT_SECONDS = 30.0


class Published:
    """One hybrid connection as this connector publishes it, at every relay of its connection string."""

    def __init__(self, string: ConnectionString) -> None:
        self.string = string
        self.name = string.entity_path
        self.target = string.require_target()
        self.end_to_end = EndToEnd.from_connection_string(string)
        self.registrations: list[Registration] = []
        #: At relays that the connection string names no longer; they stay until another relay has taken over.
        self.retiring: list[Registration] = []

    def use(self, string: ConnectionString) -> None:
        """Go on with another connection string, as `update_string` has made it: the identity is the same."""
        self.string, self.target = string, string.require_target()

    @property
    def has_settled(self) -> bool:
        """Every relay at which it is registered knows it by the present key, and there is one."""
        registered = [one for one in self.registrations if one.is_registered]
        return bool(registered) and all(one.key == self.string.key for one in registered)

    @property
    def is_registered(self) -> bool:
        """Some relay leads clients here."""
        return any(registration.is_registered for registration in self.registrations)

    @property
    def is_refused(self) -> bool:
        """Every relay has refused the string."""
        return all(registration.is_refused for registration in (*self.registrations, *self.retiring))

    def registered_through(self, relay: tuple[str, str]) -> Registration | None:
        """The registration at this relay (`ControlChannel.relay`), whatever the name by which it was reached."""
        return next((one for one in self.registrations if one.is_registered and one.relay == relay), None)


@attrs.define(eq=False)
class Registration:
    """One hybrid connection at one relay."""

    published: Published
    link: RelayLink
    #: The control channel over which it is registered; None where it is not.
    over: ControlChannel | None = None
    #: Why it is not registered; None where nothing has failed.
    failure: HybridRelayError | None = None
    #: The relay has refused the string.
    is_refused: bool = False
    #: Data channels whose other end has not proved its identity; see `MAX_UNPROVEN_CHANNELS`.
    unproven: Unproven = attrs.field(factory=Unproven)
    #: The connection string that the relay accepted last.
    accepted: ConnectionString | None = None
    #: The connection string whose refusal was logged, while an earlier one is in use.
    told: ConnectionString | None = None
    #: The key that authorizes what the relay offers; None where nothing was offered yet.
    key: Secret | None = None
    #: Which relay that was, the last time.
    relay: tuple[str, str] | None = None
    _refused_at: float = -math.inf
    _ask_again_at: float = -math.inf

    @property
    def is_registered(self) -> bool:
        """The relay leads clients here."""
        return self.over is not None

    @property
    def asks_again_in(self) -> float:
        """Seconds until the relay may be asked; 0 where it may be asked now."""
        return max(0.0, self._ask_again_at - trio.current_time()) if self.is_refused else 0.0

    @property
    def is_doubtful(self) -> bool:
        """It was refused so long ago that this may have changed."""
        return self.is_refused and trio.current_time() - self._refused_at > DOUBT_SECONDS

    def earlier(self) -> ConnectionString | None:
        """The connection string that worked before the present one, if that had another key."""
        present = self.published.string
        accepted = self.accepted
        same = accepted is None or (accepted.key_name, accepted.key) == (present.key_name, present.key)
        return None if same else accepted

    @property
    def present_key(self) -> Secret:
        """The key of the connection string that is used at this relay."""
        string = self.published.string
        return (self.accepted if self.told is string and self.accepted is not None else string).key

    def ask_again(self) -> None:
        """The relay is to be asked before its time."""
        self._ask_again_at = trio.current_time()

    def succeeded(self, over: ControlChannel, string: ConnectionString) -> None:
        """The relay has accepted it, by this connection string."""
        self.relay = over.relay
        self.accepted = string
        self.over, self.is_refused, self.failure = over, False, None

    def failed(self, error: HybridRelayError, *, final: bool) -> None:
        """It is not registered, because of `error`."""
        self.over, self.failure, self.is_refused = None, error, final
        if final:
            self._refused_at = trio.current_time()
            self._ask_again_at = self._refused_at + ASK_AGAIN_SECONDS
